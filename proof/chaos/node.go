//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// node is one process, or its data while it is not running.
type node struct {
	c        *cluster
	name, ip string
	dir      string // of its disk
	disk     *disk  // nil: dir is a plain folder
	cg       *cgroup

	mu      sync.Mutex
	cmd     *exec.Cmd     // guarded by mu; nil while it is not running
	exited  chan struct{} // guarded by mu; closed when the process has ended
	mayEnd  bool          // guarded by mu; the end of the process is the fault, or what it leads to
	surely  string        // guarded by mu; what the process ended with, if it ended by itself
	skewed  bool          // guarded by mu; start the binary with the skewed clock
	started int64         // guarded by mu; where its log began
}

const (
	mqttPort, peerPort, gossipPort, httpPort = 1883, 7400, 7401, 7402
)

func (n *node) at(port int) string { return fmt.Sprintf("%s:%d", n.ip, port) }
func (n *node) data() string       { return filepath.Join(n.dir, "data") }
func (n *node) logFile() string    { return filepath.Join(n.c.out, n.name+".log") }
func (n *node) clockFile() string  { return filepath.Join(n.c.out, n.name+".clock") }

func (n *node) args() []string {
	var join []string
	for _, other := range n.c.nodes {
		if other != n {
			join = append(join, other.at(gossipPort))
		}
	}
	return []string{"serve", "--node", n.name, "--data", n.data(), "--mqtt-addr", n.at(mqttPort), "--peer-addr", n.at(peerPort),
		"--gossip-addr", n.at(gossipPort), "--http-addr", n.at(httpPort), "--expect", strconv.Itoa(len(n.c.nodes)),
		"--join", strings.Join(join, ","), "--allow-anonymous", "--log-level", n.c.logLevel,
		// A message that a limit drops would look like a lost one.
		"--queue-max-messages", "10000000", "--queue-max-bytes", "1GiB"}
}

// start starts the process; it does not wait until it is ready.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if info, err := log.Stat(); err == nil {
		n.started = info.Size()
	}
	binary := n.c.binary
	if n.skewed {
		binary = n.c.skewedBinary
	}
	args := append([]string{binary}, n.args()...)
	if n.c.net != nil {
		args = append(n.c.net.inside(n.name), args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "SKEWED_CLOCK="+n.clockFile())
	// It dies with us; Ctrl-C is for us alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = cmd.Start()
	_ = log.Close() // the process has its own handle
	if err != nil {
		return err
	}
	exited := make(chan struct{})
	n.cmd, n.exited, n.mayEnd, n.surely = cmd, exited, false, ""
	n.c.waits.Go(func() { // ends with the process
		defer close(exited)
		_ = cmd.Wait() // how it ended is in ProcessState
		n.ended(cmd)
	})
	if n.cg != nil {
		return wrap("control group", n.cg.add(cmd.Process.Pid))
	}
	return nil
}

// ended notes an end that nobody asked for.
func (n *node) ended(cmd *exec.Cmd) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mayEnd {
		return
	}
	n.surely = fmt.Sprintf("%s ended by itself: %s: %s", n.name, cmd.ProcessState, n.lastWords())
}

// lastWords is the end of the log.
func (n *node) lastWords() string {
	b, err := os.ReadFile(n.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// crashed finds a panic in what the process has logged since it was started.
func (n *node) crashed() string {
	b, err := os.ReadFile(n.logFile())
	n.mu.Lock()
	from := n.started
	n.mu.Unlock()
	if err != nil || int64(len(b)) < from {
		return ""
	}
	if i := bytes.Index(b[from:], []byte("\ngoroutine ")); i >= 0 {
		return fmt.Sprintf("%s panicked: see byte %d of its log", n.name, from+int64(i))
	}
	return ""
}

// may says that the process may end from now on; must, that it may not any more.
func (n *node) may()  { n.setMay(true) }
func (n *node) must() { n.setMay(false) }

func (n *node) setMay(end bool) {
	n.mu.Lock()
	n.mayEnd = end
	n.mu.Unlock()
}

// complaint returns what was wrong with how the process ended, once.
func (n *node) complaint() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.surely
	n.surely = ""
	return s
}

func (n *node) process() (*exec.Cmd, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd, n.exited
}

// running says whether the process is there.
func (n *node) running() bool {
	cmd, exited := n.process()
	if cmd == nil {
		return false
	}
	select {
	case <-exited:
		return false
	default:
		return true
	}
}

// pid is that of the process that runs or ran last.
func (n *node) pid() int {
	cmd, _ := n.process()
	return cmd.Process.Pid
}

func (n *node) signal(s syscall.Signal) error {
	cmd, _ := n.process()
	if cmd == nil {
		return os.ErrProcessDone
	}
	return cmd.Process.Signal(s)
}

// gone waits until the process has ended, and returns its exit code.
func (n *node) gone(limit time.Duration) (int, error) {
	cmd, exited := n.process()
	if cmd == nil {
		return 0, nil
	}
	select {
	case <-exited:
		return cmd.ProcessState.ExitCode(), nil
	case <-time.After(limit):
		return 0, fmt.Errorf("%s does not end within %v", n.name, limit)
	}
}

// kill ends the process as kill -9 does, and waits until it is gone.
func (n *node) kill() error {
	n.may()
	if err := n.signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_, err := n.gone(time.Minute)
	return err
}

// stop ends the process in order.
func (n *node) stop() error {
	n.may()
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	code, err := n.gone(30 * time.Second)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s ended with %d when it was told to stop: %s", n.name, code, n.lastWords())
	}
	return err
}

// stopped says whether the kernel has the process stopped.
func (n *node) stopped() bool { return processState(n.pid()) == "T" }

// anonymous is the process's memory in bytes, without files.
func (n *node) anonymous() uint64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid())) // of a dead one: 0
	return uint64(counters(string(b), rssAnon)) << 10
}

var rssAnon = regexp.MustCompile(`(?m)^RssAnon:\s+([0-9]+) kB`)

// get asks the node's HTTP port; a status other than 200 is an error.
func (n *node) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.at(httpPort)+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := n.c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: %s: %s", n.name, path, resp.Status, bytes.TrimSpace(b))
	}
	return b, err
}

// metric is read with an error taken as 0: the node does not answer.
func (n *node) metric(ctx context.Context, name, with string) float64 {
	sum, _ := n.sum(ctx, name, with)
	return sum
}

// sum adds up a metric's values over all its labels that contain with.
func (n *node) sum(ctx context.Context, name, with string) (sum float64, err error) {
	b, err := n.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if metric, labels, _ := strings.Cut(key, "{"); metric != name || !strings.Contains(labels, with) {
			continue
		}
		if k, err := strconv.ParseFloat(value, 64); err == nil {
			sum += k
		}
	}
	return sum, nil
}

// status is what is needed of /api/v1/status.
type status struct {
	Partitions []struct {
		ID       uint32 `json:"id"`
		Leader   string `json:"leader"`
		Replicas []struct {
			Node  string `json:"node"`
			Voter bool   `json:"voter"`
			Lag   uint64 `json:"lag"`
			State string `json:"state"`
		} `json:"replicas"`
	} `json:"partitions"`
}

// whole says what is missing from full strength, as far as this node knows.
func (n *node) whole(ctx context.Context) error {
	if _, err := n.get(ctx, "/readyz"); err != nil {
		return err
	}
	b, err := n.get(ctx, "/api/v1/status")
	if err != nil {
		return err
	}
	var s status
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s: status: %w", n.name, err)
	}
	const lag = 1000 // entries; a replica that follows is behind by those on their way
	for _, p := range s.Partitions {
		voters := 0
		for _, r := range p.Replicas {
			if r.Voter && r.State != "unreachable" && r.Lag < lag {
				voters++
			}
		}
		if p.Leader == "" || voters < len(n.c.nodes) {
			return fmt.Errorf("%s: partition %d has leader %q and %d replicas that follow: %+v", n.name, p.ID, p.Leader, voters, p.Replicas)
		}
	}
	if len(s.Partitions) == 0 {
		return fmt.Errorf("%s knows no partitions", n.name)
	}
	return nil
}
