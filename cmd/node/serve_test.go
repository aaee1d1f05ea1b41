package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// serving runs serve with the given broker until the returned function is called.
func serving(t *testing.T, b *fakeBroker) (addr string, end func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	started := make(chan struct{})
	p := &program{stdout: io.Discard, stderr: io.Discard, free: roomy, executable: os.Executable,
		start: func(context.Context, *config.Config, string, *slog.Logger, *slog.LevelVar) (broker, error) {
			close(started)
			return b, nil
		}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx, []string{"serve", "--node=n1", "--http-addr=" + addr}) }()
	select {
	case <-started:
	case err := <-done:
		t.Fatal(err)
	}
	return addr, func() error { cancel(); return <-done }
}

// waitReady asks until the node is ready: SetNode comes a moment after start.
func waitReady(t *testing.T, addr string) {
	t.Helper()
	for {
		err := admin.GetReady(t.Context(), addr)
		var not *admin.NotReadyError
		if errors.As(err, &not) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	b := newFake("n1")
	addr, end := serving(t, b)
	waitReady(t, addr)
	if err := end(); err != nil {
		t.Error(err)
	}
	select {
	case <-b.closed:
	default:
		t.Error("the broker was not closed")
	}
}

func TestServeEndsWhenTheNodeFails(t *testing.T) {
	b := newFake("n1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b.err = errors.New("fsync failed")
	close(b.done)
	start := func(context.Context, *config.Config, string, *slog.Logger, *slog.LevelVar) (broker, error) {
		return b, nil
	}
	_, err = runProgram(t, start, "serve", "--node=n1", "--http-addr="+l.Addr().String())
	if !errors.Is(err, b.err) {
		t.Errorf("got %v, want %v", err, b.err)
	}
}

func TestServeReportsAPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = runProgram(t, startFake, "serve", "--node=n1", "--http-addr="+l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "http-addr") || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestServeReportsBadSettings(t *testing.T) {
	_, err := runProgram(t, startFake, "serve", "--mqtt-addr=1883")
	var e *config.Error
	if !errors.As(err, &e) {
		t.Errorf("got %v", err)
	}
}

func TestStatus(t *testing.T) {
	addr, end := serving(t, newFake("n1"))
	waitReady(t, addr)
	out, err := runProgram(t, startFake, "status", "--http-addr", addr)
	if err != nil || !strings.Contains(out, "node n1") || !strings.Contains(out, "PARTITION") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = runProgram(t, startFake, "status", "--http-addr", addr, "--json")
	if err != nil || !strings.Contains(out, `"version": 1`) {
		t.Errorf("%v\n%s", err, out)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if _, err := runProgram(t, startFake, "status", "--http-addr", addr, "--timeout", time.Second.String()); err == nil {
		t.Error("status of a node that is gone")
	}
}
