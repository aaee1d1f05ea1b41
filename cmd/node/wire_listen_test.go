//go:build unix

package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestListenUnix: what may be at the path where a socket is to be.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	first, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a socket in use: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as when the process is killed
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := listenUnix(path)
	if err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path); !errors.Is(err, errNoSocket) {
		t.Errorf("another file: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("it is now %q, %v", data, err)
	}
	if _, err := listenUnix(filepath.Join(path, "below")); err == nil {
		t.Error("a path below a file")
	}
}
