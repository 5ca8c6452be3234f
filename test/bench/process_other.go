//go:build !linux

package main

import "syscall"

// endsWithUs keeps Ctrl-C from the program: the bench ends it.
func endsWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
