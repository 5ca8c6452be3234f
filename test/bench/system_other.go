//go:build !linux

package main

import (
	"syscall"
	"time"
)

// endsWithUs keeps Ctrl-C from the program: the bench ends it.
func endsWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func sleepUntil(at time.Time) { time.Sleep(time.Until(at)) }
