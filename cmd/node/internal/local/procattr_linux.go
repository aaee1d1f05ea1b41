package local

import "syscall"

// procAttr puts a node into a process group of its own, so that Ctrl-C in the
// terminal reaches it only by way of Stop, and has it end with its parent: a
// killed parent would otherwise leave nodes behind that hold the ports.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
