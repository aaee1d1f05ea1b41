//go:build unix

package main

import (
	"os"
	"syscall"
	"testing"
)

// TestHangupReloads: SIGHUP makes the node read its files again, each time, and does not
// end it.
func TestHangupReloads(t *testing.T) {
	b := newFake("n1")
	addr, end := serving(t, b)
	waitReady(t, addr)
	for range 2 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		<-b.reload
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}
