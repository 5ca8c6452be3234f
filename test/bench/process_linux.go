package main

import "syscall"

// endsWithUs has the kernel end a program when the bench is killed.
func endsWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
