package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// childVar makes the test binary behave as flotilla with a fake broker, so
// that tests have processes to start and kill.
const childVar = "TEST_FLOTILLA_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	p := &program{env: os.Environ(), stdout: os.Stdout, stderr: os.Stderr, start: startFake, free: roomy, executable: os.Executable}
	err := p.run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flotilla:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// fakeBroker is ready at once and does nothing.
type fakeBroker struct {
	admin.Operator // what the tests do not ask for
	node           string
	done           chan struct{}
	err            error
	closed         chan struct{}
	reload         chan struct{}
}

func startFake(_ context.Context, cfg *config.Config, _ string, _ *slog.Logger, _ *slog.LevelVar) (broker, error) {
	if os.Getenv("TEST_FLOTILLA_BROKEN") == cfg.Node {
		return nil, errors.New("this node was told to fail")
	}
	return newFake(cfg.Node), nil
}

func newFake(node string) *fakeBroker {
	return &fakeBroker{node: node, done: make(chan struct{}), closed: make(chan struct{}), reload: make(chan struct{})}
}

func (f *fakeBroker) Ready() (bool, []string, []string) { return true, nil, nil }
func (f *fakeBroker) Status() admin.Status              { return admin.Status{Node: f.node, Ready: true} }
func (f *fakeBroker) Metrics() admin.Metrics            { return admin.Metrics{} }
func (f *fakeBroker) Reload()                           { f.reload <- struct{}{} }
func (f *fakeBroker) Done() <-chan struct{}             { return f.done }
func (f *fakeBroker) Err() error                        { return f.err }
func (f *fakeBroker) Close(context.Context) error       { close(f.closed); return nil }

func roomy(string) (uint64, error) { return startSpace, nil }

// runProgram runs a subcommand with a fake broker and returns what it printed.
func runProgram(t *testing.T, start starter, args ...string) (string, error) {
	t.Helper()
	var out, logs bytes.Buffer
	p := &program{stdout: &out, stderr: &logs, start: start, free: roomy, executable: os.Executable}
	err := p.run(t.Context(), args)
	return out.String(), err
}

func TestHelpListsSubcommands(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"--help"}} {
		out, err := runProgram(t, startFake, args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands() {
			if !strings.Contains(out, c.name) || !strings.Contains(out, c.summary) {
				t.Errorf("%q does not list %s:\n%s", args, c.name, out)
			}
		}
	}
	for _, c := range commands() {
		if c.name == "version" || c.name == "help" {
			continue
		}
		out, err := runProgram(t, startFake, "help", c.name)
		if err != nil || !strings.Contains(out, "Usage: flotilla "+c.name) {
			t.Errorf("help of %s: %v\n%s", c.name, err, out)
		}
	}
}

func TestUnknownSubcommand(t *testing.T) {
	if _, err := runProgram(t, startFake, "sevre"); err == nil || !strings.Contains(err.Error(), "sevre") {
		t.Errorf("got %v", err)
	}
}

func TestVersion(t *testing.T) {
	out, err := runProgram(t, startFake, "version")
	if err != nil || !strings.HasPrefix(out, "flotilla ") {
		t.Errorf("%q %v", out, err)
	}
}
