package main

import (
	"syscall"
	"time"
)

// endsWithUs has the kernel end a program when the bench is killed.
func endsWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// sleepUntil sleeps until then. Go's own timers wake a process that has nothing
// else to do up to a millisecond late, more than what is measured with it.
func sleepUntil(at time.Time) {
	for {
		left := time.Until(at)
		if left <= 0 {
			return
		}
		ts := syscall.NsecToTimespec(left.Nanoseconds())
		_ = syscall.Nanosleep(&ts, nil) // when interrupted, once more
	}
}
