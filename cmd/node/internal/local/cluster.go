package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// Options say how to run the nodes.
type Options struct {
	Binary   string    // the flotilla binary
	Env      []string  // environment of the nodes
	Settings []Setting // for all nodes, besides those that Spec implies
	// OnExit, if set, hears of every node that ends without Stop. It is called
	// from a goroutine of the cluster and must not call back into it.
	OnExit func(Exit)
}

// Exit is a node's end.
type Exit struct {
	Spec Spec
	PID  int
	How  string   // "exit status 1", "signal: killed"
	Tail []string // last lines of its log
}

// Cluster is the nodes as running processes.
type Cluster struct {
	specs []Spec
	opts  Options
	wg    sync.WaitGroup // one per running process

	mu       sync.Mutex
	procs    []*process // by node; guarded by mu
	stopping bool       // guarded by mu
}

// process is one run of one node.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after the process has ended and exit is set
	exit Exit
}

// Start writes the nodes' configuration and starts them. It does not wait for
// them to be ready.
func Start(specs []Spec, opts Options) (*Cluster, error) {
	if err := CheckPorts(specs); err != nil {
		return nil, err
	}
	c := &Cluster{specs: specs, opts: opts, procs: make([]*process, len(specs))}
	for i := range specs {
		if err := c.Restart(i); err != nil {
			return nil, errors.Join(err, c.Stop(time.Second))
		}
	}
	return c, nil
}

// Specs are the nodes.
func (c *Cluster) Specs() []Spec { return c.specs }

// Restart starts a node that is not running.
func (c *Cluster) Restart(i int) error {
	s := c.specs[i]
	if err := os.MkdirAll(s.Data, 0o755); err != nil {
		return err
	}
	list, err := s.writeConfig(c.specs, c.opts.Settings)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(c.opts.Binary, "serve", "--config", s.Config)
	cmd.Env = share(without(c.opts.Env, list), len(c.specs))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = procAttr()

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return errors.New("the local cluster is stopping")
	}
	if p := c.procs[i]; p != nil && !p.ended() {
		return fmt.Errorf("node %s is running already", s.Name)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting node %s: %w", s.Name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	c.procs[i] = p
	c.wg.Go(func() { c.watch(s, p) })
	return nil
}

// without drops variables that would win over what the files say.
func without(env []string, list []Setting) []string {
	var out []string
next:
	for _, e := range env {
		for _, s := range list {
			if strings.HasPrefix(e, config.EnvName(s.Name)+"=") {
				continue next
			}
		}
		out = append(out, e)
	}
	return out
}

// share gives each of the nodes its part of the processors, unless the environment
// has said how many: each would take all of them for its own, and they would
// spend a third of them on handing work around.
func share(env []string, nodes int) []string {
	const name = "GOMAXPROCS="
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name) }) {
		return env
	}
	return append(env, name+strconv.Itoa(max(1, runtime.NumCPU()/nodes)))
}

func (c *Cluster) watch(s Spec, p *process) {
	// Wait's error is the way the process ended, which its state tells as well.
	_ = p.cmd.Wait()
	p.exit = Exit{Spec: s, PID: p.cmd.Process.Pid, How: p.cmd.ProcessState.String(), Tail: tail(s.Log, 10)}
	close(p.done)
	c.mu.Lock()
	stopping := c.stopping
	c.mu.Unlock()
	if !stopping && c.opts.OnExit != nil {
		c.opts.OnExit(p.exit)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// PIDs are the processes, 0 for a node that is not running.
func (c *Cluster) PIDs() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := make([]int, len(c.procs))
	for i, p := range c.procs {
		if p != nil && !p.ended() {
			pids[i] = p.cmd.Process.Pid
		}
	}
	return pids
}

// Running counts the nodes that are running.
func (c *Cluster) Running() int {
	n := 0
	for _, pid := range c.PIDs() {
		if pid != 0 {
			n++
		}
	}
	return n
}

// Kill ends a node as power loss would (SIGKILL) and waits for its end.
func (c *Cluster) Kill(i int) error {
	c.mu.Lock()
	p := c.procs[i]
	c.mu.Unlock()
	if p == nil || p.ended() {
		return fmt.Errorf("node %s is not running", c.specs[i].Name)
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// EndedError is a node that ended before it was ready.
type EndedError struct{ Exit }

func (e *EndedError) Error() string {
	return fmt.Sprintf("node %s (pid %d) ended before it was ready: %s; its log %s ends with\n  %s",
		e.Spec.Name, e.PID, e.How, e.Spec.Log, strings.Join(e.Tail, "\n  "))
}

// WaitReady waits until every node that was started answers /readyz with yes.
func (c *Cluster) WaitReady(ctx context.Context) error {
	c.mu.Lock()
	procs := append([]*process(nil), c.procs...)
	c.mu.Unlock()
	for i, p := range procs {
		if err := waitReady(ctx, c.specs[i], p); err != nil {
			return err
		}
	}
	return nil
}

func waitReady(ctx context.Context, s Spec, p *process) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// A node that accepts connections and answers nothing must not hold
		// up the report of another one that has ended.
		ask, cancel := context.WithTimeout(ctx, time.Second)
		err := admin.GetReady(ask, s.HTTPAddr)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return &EndedError{p.exit}
		case <-ctx.Done():
			return fmt.Errorf("node %s did not become ready: %w; last answer: %w; its log is %s", s.Name, context.Cause(ctx), err, s.Log)
		case <-tick.C:
		}
	}
}

// Stop asks all nodes to end (SIGTERM), kills those that have not ended after
// the grace time and waits for all.
func (c *Cluster) Stop(grace time.Duration) error {
	c.mu.Lock()
	c.stopping = true
	procs := append([]*process(nil), c.procs...)
	c.mu.Unlock()
	for _, p := range procs {
		if p != nil {
			// An error means that it has ended, which is what is wanted.
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	var errs []error
	late := false
	for i, p := range procs {
		if p == nil {
			continue
		}
		if !late {
			select {
			case <-p.done:
				continue
			case <-deadline.C:
				late = true
			}
		}
		if !p.ended() {
			errs = append(errs, fmt.Errorf("node %s did not end within %v and was killed", c.specs[i].Name, grace))
			_ = p.cmd.Process.Kill()
		}
	}
	c.wg.Wait()
	return errors.Join(errs...)
}

// tail is the last lines of a log.
func tail(file string, lines int) []string {
	f, err := os.Open(file)
	if err != nil {
		return []string{err.Error()}
	}
	defer f.Close()
	const most = 16 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return []string{err.Error()}
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return []string{err.Error()}
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return all[max(0, len(all)-lines):]
}
