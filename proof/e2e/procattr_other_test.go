//go:build !linux

package e2e

import "syscall"

// procAttr is for Linux: elsewhere only the tests' own end kills the nodes.
func procAttr() *syscall.SysProcAttr { return nil }
