package suite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/local"
)

// readyTime bounds the start of a contestant.
const readyTime = time.Minute

// stopTime bounds its end; a node gives up by itself before that.
const stopTime = 15 * time.Second

// contestant is what is measured. Only one runs at a time, since all share the
// machine.
type contestant interface {
	name() string
	// start returns when clients can be served.
	start(ctx context.Context) error
	stop() error
	addrs() []string
	pids() []int
}

// cluster is three nodes of Flotilla.
type cluster struct {
	binary string
	env    []string
	specs  []local.Spec
	nodes  *local.Cluster
}

func newCluster(binary string, env []string, dir string) (*cluster, error) {
	specs, err := local.PlanFree(3, dir)
	return &cluster{binary: binary, env: env, specs: specs}, err
}

func (c *cluster) name() string { return "Flotilla" }

func (c *cluster) start(ctx context.Context) error {
	var err error
	c.nodes, err = local.Start(c.specs, local.Options{Binary: c.binary, Env: c.env})
	if err != nil {
		return err
	}
	if err := c.ready(ctx); err != nil {
		return errors.Join(err, c.stop())
	}
	return nil
}

func (c *cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return c.nodes.WaitReady(ctx)
}

func (c *cluster) stop() error { return c.nodes.Stop(stopTime) }
func (c *cluster) pids() []int { return c.nodes.PIDs() }
func (c *cluster) addrs() []string {
	var list []string
	for _, s := range c.specs {
		list = append(list, s.MQTTAddr)
	}
	return list
}

// mosquitto is one Mosquitto.
type mosquitto struct {
	binary string
	dir    string
	addr   string
	cmd    *exec.Cmd
	ended  chan error
}

// mosquittoConf switches off what would hold Mosquitto back: its limits on
// messages in flight and queued. It writes nothing to disk.
const mosquittoConf = `listener %s 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes 0
set_tcp_nodelay true
log_type error
log_type warning
user root
`

func newMosquitto(binary, dir string) (*mosquitto, error) {
	ports, err := local.FreePorts(1)
	if err != nil {
		return nil, err
	}
	return &mosquitto{binary: binary, dir: dir, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))}, nil
}

func (m *mosquitto) name() string    { return "Mosquitto" }
func (m *mosquitto) addrs() []string { return []string{m.addr} }
func (m *mosquitto) pids() []int     { return []int{m.cmd.Process.Pid} }

func (m *mosquitto) start(ctx context.Context) error {
	_, port, err := net.SplitHostPort(m.addr)
	if err != nil {
		return err
	}
	conf := filepath.Join(m.dir, "mosquitto.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, mosquittoConf, port), 0o644); err != nil {
		return err
	}
	// It takes the limit of open files as it finds it, which is often 1024.
	m.cmd = exec.Command("/bin/sh", "-c", `ulimit -n "$(ulimit -H -n)"; exec "$0" -c "$1"`, m.binary, conf)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		return err
	}
	m.ended = make(chan error, 1)
	go func() { m.ended <- m.cmd.Wait() }()
	if err := m.ready(ctx); err != nil {
		return errors.Join(err, m.stop())
	}
	return nil
}

func (m *mosquitto) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		nc, err := net.Dial("tcp", m.addr)
		if err == nil {
			return nc.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("mosquitto does not listen: %w", err)
		case err := <-m.ended:
			m.ended <- err
			return fmt.Errorf("mosquitto has ended: %w", err)
		case <-tick.C:
		}
	}
}

func (m *mosquitto) stop() error {
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-m.ended // how it ended does not matter
	return nil
}

// mosquittoVersion is what the binary says of itself.
func mosquittoVersion(binary string) string {
	out, _ := exec.Command(binary, "-h").Output() // it exits with an error after its help
	line, _, _ := strings.Cut(string(out), "\n")
	if line == "" {
		return "unknown version"
	}
	return line
}
