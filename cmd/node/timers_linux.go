package main

import (
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// timerSlack is how late the kernel may wake a thread that sleeps. Nothing in a node
// is planned to less than ten times that.
const timerSlack = 2_000_000 // ns

// lazyTimers starts the program again with a larger timer slack if it has a smaller
// one. Go's monitor thread sleeps 20 µs between two looks at a process that was idle
// a moment ago, and a node under a light or middling load always was: that cost a
// fifth of its CPU. The slack is a property of a thread that new threads and new
// programs inherit, so the monitor, which is older than main, has it only from the
// start. Where something does not work out, the program goes on as it is.
func lazyTimers() {
	const tried = "FLOTILLA_INTERNAL_TIMERS" // by which process
	pid := strconv.Itoa(os.Getpid())
	if os.Getenv(tried) == pid {
		_ = os.Unsetenv(tried)
		return
	}
	runtime.LockOSThread() // the slack is this thread's, and so must be the exec
	defer runtime.UnlockOSThread()
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || slack >= timerSlack {
		return
	}
	self, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(self, os.Args, append(os.Environ(), tried+"="+pid))
}
