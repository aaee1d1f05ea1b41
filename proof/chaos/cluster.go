//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
)

// cluster is the machinery of a run: nodes, and what of it this machine allows.
type cluster struct {
	nodes                []*node
	binary, skewedBinary string // skewedBinary "": there is none
	out                  string // folder of logs and histories
	logLevel             string
	limit                time.Duration // see options
	net                  *network      // nil: the nodes are on loopback addresses
	missing              map[need]string
	http                 *http.Client
	waits                sync.WaitGroup // for processes
}

// need is what a fault needs of the machine.
type need string

const (
	networks need = "network namespaces"
	disks    need = "loop-mounted ext4"
	groups   need = "control groups"
	skew     need = "a binary with a skewed clock"
)

// newCluster sets up what the machine allows for n nodes and starts none. It is to be closed
// also after an error.
func newCluster(n int, o options) (*cluster, error) {
	c := &cluster{binary: o.binary, skewedBinary: o.skewed, out: o.out, logLevel: o.logLevel, limit: o.limit, missing: map[need]string{},
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if err := sweep(dead); err != nil {
		return c, err
	}
	us := tag(os.Getpid())
	dir := filepath.Join(os.TempDir(), us)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.MkdirAll(o.out, 0o755)); err != nil {
		return c, err
	}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("n%d", i+1))
		c.nodes = append(c.nodes, &node{c: c, name: names[i], ip: fmt.Sprintf("127.%d.%d.%d", 1+os.Getpid()/250%250, os.Getpid()%250, i+1),
			dir: filepath.Join(dir, names[i])})
		for _, old := range []string{c.nodes[i].logFile(), c.nodes[i].clockFile()} {
			if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
				return c, err
			}
		}
	}
	if c.skewedBinary == "" {
		c.missing[skew] = "there is none: build with -tags skewedclock"
	}
	if os.Geteuid() != 0 {
		c.missing[networks], c.missing[disks], c.missing[groups] = "not root", "not root", "not root"
	}
	return c, errors.Join(c.setNetwork(us, names), c.setDisks(), c.setGroups(us))
}

// setNetwork has the nodes in namespaces if it can.
func (c *cluster) setNetwork(us string, names []string) error {
	if c.missing[networks] != "" {
		return nil
	}
	w, err := newNetwork(us, names)
	if err != nil {
		c.missing[networks] = err.Error()
		return nil
	}
	c.net = w
	for i, n := range c.nodes {
		n.ip = w.ip(i)
	}
	return nil
}

func (c *cluster) setDisks() error {
	for _, n := range c.nodes {
		if c.missing[disks] == "" {
			d, err := newDisk(n.dir)
			if err == nil {
				n.disk = d
				continue
			}
			c.missing[disks] = err.Error()
		}
		if err := os.MkdirAll(n.dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) setGroups(us string) error {
	for _, n := range c.nodes {
		if c.missing[groups] == "" {
			g, err := newCgroup(cgroupRoot, us+n.name)
			if err == nil {
				n.cg = g
				continue
			}
			c.missing[groups] = err.Error()
		}
		n.cg = nil
	}
	return nil
}

// close kills the nodes and removes everything.
func (c *cluster) close() error {
	var errs []error
	for _, n := range c.nodes {
		if n.disk != nil {
			_ = n.thaw() // it is frozen only if the run was cut short
		}
		if n.running() {
			errs = append(errs, n.kill())
		}
	}
	c.waits.Wait()
	c.http.CloseIdleConnections()
	return errors.Join(append(errs, sweep(func(pid int) bool { return pid == os.Getpid() }))...)
}

func (n *node) thaw() error { return n.disk.thaw() }

// others returns all nodes but one.
func (c *cluster) others(not *node) (out []*node) {
	for _, n := range c.nodes {
		if n != not {
			out = append(out, n)
		}
	}
	return out
}

// targets are where clients connect.
func (c *cluster) targets() (out []client.Target) {
	for _, n := range c.nodes {
		out = append(out, client.Target{Node: n.name, Addr: n.at(mqttPort)})
	}
	return out
}

// await polls until every node says that the cluster has its full strength.
func (c *cluster) await(ctx context.Context) error {
	limit := 3 * c.limit
	run := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var err error
		for _, n := range c.nodes {
			if err = n.whole(ctx); err != nil {
				break
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-run.Done():
			return run.Err()
		case <-ctx.Done():
			return fmt.Errorf("not whole within %v: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// drained says what the nodes still have to deliver.
func (c *cluster) drained(ctx context.Context) error {
	for _, n := range c.nodes {
		for _, metric := range []string{"flotilla_queued_messages", "flotilla_inflight_messages", "flotilla_outbox_messages",
			"flotilla_gateway_queued_messages", "flotilla_lane_items", "flotilla_shared_queued_messages",
			"flotilla_shared_assigned_messages"} {
			if k, err := n.sum(ctx, metric, ""); err != nil || k > 0 {
				return errors.Join(fmt.Errorf("%s: %s is %g", n.name, metric, k), err)
			}
		}
	}
	return nil
}

// ready polls until all nodes serve clients.
func (c *cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	for _, n := range c.nodes {
		for {
			_, err := n.get(ctx, "/readyz")
			if err == nil {
				break
			}
			if !n.running() {
				return fmt.Errorf("%s has ended: %s", n.name, n.lastWords())
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready within %v: %w", n.name, c.limit, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}
