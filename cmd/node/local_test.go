package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/local"
)

// runningLocal runs a cluster of fake nodes and gives its output line by line.
type runningLocal struct {
	lines *bufio.Scanner
	end   context.CancelFunc
	done  chan error
}

func startLocal(t *testing.T, specs []local.Spec, env ...string) *runningLocal {
	t.Helper()
	r, w := io.Pipe()
	p := &program{stdout: w, stderr: io.Discard, executable: os.Executable,
		env: append(append(os.Environ(), childVar+"=1"), env...)}
	ctx, cancel := context.WithCancel(t.Context())
	run := &runningLocal{lines: bufio.NewScanner(r), end: cancel, done: make(chan error, 1)}
	go func() {
		err := p.runCluster(ctx, specs, nil, time.Minute, 10*time.Second)
		w.Close()
		run.done <- err
	}()
	t.Cleanup(func() { cancel(); io.Copy(io.Discard, r) })
	return run
}

// until collects lines up to one that contains the text.
func (r *runningLocal) until(t *testing.T, text string) []string {
	t.Helper()
	var seen []string
	for r.lines.Scan() {
		seen = append(seen, r.lines.Text())
		if strings.Contains(r.lines.Text(), text) {
			return seen
		}
	}
	t.Fatalf("%q never came; the output was\n%s", text, strings.Join(seen, "\n"))
	return nil
}

// stop ends the run and returns the rest of its output.
func (r *runningLocal) stop(t *testing.T) []string {
	t.Helper()
	r.end()
	rest := []string{}
	for r.lines.Scan() {
		rest = append(rest, r.lines.Text())
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	return rest
}

func planFree(t *testing.T) []local.Spec {
	t.Helper()
	specs, err := local.PlanFree(3, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return specs
}

func TestRunPrintsWhatToDo(t *testing.T) {
	specs := planFree(t)
	// A variable that would win over all three files must not reach the nodes.
	run := startLocal(t, specs, "FLOTILLA_HTTP_ADDR="+specs[0].HTTPAddr)
	text := strings.Join(run.until(t, "Ctrl-C"), "\n")
	for _, s := range specs {
		for _, want := range []string{s.MQTTAddr, "http://" + s.HTTPAddr, s.Data, "serve --config " + s.Config} {
			if !strings.Contains(text, want) {
				t.Errorf("%s is missing in\n%s", want, text)
			}
		}
	}
	for _, want := range []string{"mosquitto_sub", "mosquitto_pub", "kill -9 "} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	run.stop(t)
	for _, s := range specs {
		if _, err := net.DialTimeout("tcp", s.HTTPAddr, time.Second); err == nil {
			t.Errorf("%s still runs", s.Name)
		}
	}
}

func TestRunReportsANodeThatDies(t *testing.T) {
	specs := planFree(t)
	run := startLocal(t, specs)
	text := run.until(t, "Ctrl-C")
	pid := 0
	for _, line := range text {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "kill" {
			pid, _ = strconv.Atoi(f[2])
		}
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
	report := strings.Join(run.until(t, "to start it again"), "\n")
	for _, want := range []string{"node n3 (pid " + strconv.Itoa(pid) + ") has ended: signal: killed", specs[2].Log, "node started", specs[2].Config} {
		if !strings.Contains(report, want) {
			t.Errorf("%q is missing in\n%s", want, report)
		}
	}
	for _, s := range specs[:2] {
		conn, err := net.Dial("tcp", s.HTTPAddr)
		if err != nil {
			t.Errorf("%s does not go on: %v", s.Name, err)
			continue
		}
		conn.Close()
	}
	run.stop(t)
}

func TestRunEndsWhenANodeCannotStart(t *testing.T) {
	run := startLocal(t, planFree(t), "TEST_FLOTILLA_BROKEN=n2")
	run.until(t, "stopping")
	run.end()
	for run.lines.Scan() {
	}
	err := <-run.done
	var ended *local.EndedError
	if !errors.As(err, &ended) || ended.Spec.Name != "n2" || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("got %v", err)
	}
}

func TestRunNamesAPortInUseBeforeStarting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	_, err = runProgram(t, startFake, "run", "--nodes=1", "--dir="+dir, "--mqtt-port="+strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	var in *local.PortInUseError
	if !errors.As(err, &in) || in.Addr != l.Addr().String() || in.Setting != "mqtt-addr" {
		t.Errorf("got %v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("something was started: %v", files)
	}
}

func TestRunRefusesBadFlags(t *testing.T) {
	for _, args := range [][]string{{"run", "--nodes=0"}, {"run", "--set=log-level"}, {"run", "three"}} {
		if _, err := runProgram(t, startFake, args...); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}
