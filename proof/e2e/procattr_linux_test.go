package e2e

import "syscall"

// procAttr has a node die with the tests, however they end.
func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
