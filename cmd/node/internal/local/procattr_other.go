//go:build unix && !linux

package local

import "syscall"

// procAttr puts a node into a process group of its own, so that Ctrl-C in the
// terminal reaches it only by way of Stop.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
