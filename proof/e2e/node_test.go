package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Node is one process, or its data while it is not running.
type Node struct {
	c                               *Cluster
	Name                            string
	MQTT, Peer, Gossip, HTTP, Admin string
	WS, TLS, WSS                    string // TLS and WSS are served if the flags have --cert
	dir                             string

	mu     sync.Mutex
	cmd    *exec.Cmd     // guarded by mu; nil while it is not running
	exited chan struct{} // guarded by mu; closed when the process has ended
}

func (n *Node) logFile() string { return n.dir + ".log" }

func (n *Node) args() []string {
	args := []string{"serve", "--node", n.Name, "--data", n.dir, "--mqtt-addr", n.MQTT, "--peer-addr", n.Peer,
		"--gossip-addr", n.Gossip, "--http-addr", n.HTTP, "--expect", fmt.Sprint(n.c.founders), "--log-level", "debug",
		"--ws-addr", n.WS, "--admin-addr", n.Admin}
	if slices.Contains(n.c.flags, "--cert") {
		args = append(args, "--tls-addr", n.TLS, "--wss-addr", n.WSS)
	}
	var join []string
	for _, other := range n.c.Nodes {
		if other != n {
			join = append(join, other.Gossip)
		}
	}
	if len(join) > 0 {
		args = append(args, "--join", strings.Join(join, ","))
	}
	return append(args, n.c.flags...)
}

// start starts the process; it does not wait until it is ready.
func (n *Node) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		n.c.t.Fatal(err)
	}
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.c.t.Fatal(err)
	}
	cmd := exec.Command(binary, n.args()...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = procAttr()
	if err := cmd.Start(); err != nil {
		n.c.t.Fatal(err)
	}
	_ = log.Close() // the process has its own handle
	exited := make(chan struct{})
	n.cmd, n.exited = cmd, exited
	go func() { // ends with the process, which end kills
		defer close(exited)
		_ = cmd.Wait() // how it ended is in its log
	}()
}

func (n *Node) signal(s syscall.Signal) bool {
	n.mu.Lock()
	cmd := n.cmd
	n.mu.Unlock()
	if cmd == nil {
		return false
	}
	err := cmd.Process.Signal(s)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.c.t.Errorf("%s to %s: %v", s, n.Name, err)
	}
	return err == nil
}

// gone waits until the process has ended.
func (n *Node) gone() {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	if exited == nil {
		return
	}
	select {
	case <-exited:
	case <-time.After(patience):
		n.c.t.Errorf("%s does not end", n.Name)
		n.signal(syscall.SIGKILL)
		<-exited
	}
	n.mu.Lock()
	n.cmd, n.exited = nil, nil
	n.mu.Unlock()
}

func (n *Node) kill() {
	if n.signal(syscall.SIGKILL) {
		n.gone()
	}
}

// Kill9 kills the node as kill -9 does and waits until it is gone.
func (n *Node) Kill9() {
	n.c.Rec.Fault(n.Name, history.FaultKill)
	n.kill()
}

// Pause stops the node's process where it is.
func (n *Node) Pause() {
	n.c.Rec.Fault(n.Name, history.FaultPause)
	n.signal(syscall.SIGSTOP)
}

// Resume lets a paused node go on.
func (n *Node) Resume() {
	n.c.Rec.Fault(n.Name, history.FaultResume)
	n.signal(syscall.SIGCONT)
}

// Stop ends the node in an orderly way and waits for it.
func (n *Node) Stop() {
	n.c.Rec.Fault(n.Name, history.FaultStop)
	n.signal(syscall.SIGTERM)
	n.gone()
}

// Start starts a node that is not running and waits until it is ready.
func (n *Node) Start() {
	n.c.Rec.Fault(n.Name, history.FaultStart)
	n.start()
	n.WaitReady()
}

// Restart is Stop and Start.
func (n *Node) Restart() {
	n.Stop()
	n.Start()
}

// Running says whether the process is running.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// WaitReady waits until the node says that it is ready.
func (n *Node) WaitReady() {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.t.Context(), patience)
	defer cancel()
	if err := n.waitReady(ctx); err != nil {
		n.c.t.Fatal(err)
	}
}

func (n *Node) waitReady(ctx context.Context) error {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	var last error
	for {
		if last = n.get(ctx, "/readyz", nil); last == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s ended before it was ready", n.Name)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", n.Name, last)
		case <-time.After(20 * time.Millisecond): // polling
		}
	}
}

// get fetches a page; a status other than 200 is an error with its text.
func (n *Node) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into != nil && resp.StatusCode == http.StatusOK {
		return json.NewDecoder(resp.Body).Decode(into)
	}
	text := make([]byte, 500)
	k, _ := resp.Body.Read(text) // only for the message
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s: %s: %s", n.Name, path, resp.Status, text[:k])
	}
	return nil
}

// Status asks the node.
func (n *Node) Status() (s Status, err error) {
	err = n.get(n.c.t.Context(), "/api/v1/status", &s)
	return s, err
}

// counted is that of one node.
func (n *Node) counted(prefixes ...string) (sum float64) {
	n.c.t.Helper()
	resp, err := http.Get("http://" + n.HTTP + "/metrics")
	if err != nil {
		n.c.t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) }) {
			continue
		}
		value := line[strings.LastIndexByte(line, ' ')+1:]
		k, err := strconv.ParseFloat(value, 64)
		if err != nil {
			n.c.t.Fatalf("%q: %v", line, err)
		}
		sum += k
	}
	if err := errors.Join(lines.Err(), resp.Body.Close()); err != nil {
		n.c.t.Fatal(err)
	}
	return sum
}

// Target is where clients connect to the node.
func (n *Node) Target() client.Target { return client.Target{Node: n.Name, Addr: n.MQTT} }
