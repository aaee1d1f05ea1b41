package control

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
)

// world is a set of nodes on fake time.
type world struct {
	t     *testing.T
	net   *network
	table *discovery.Table
	nodes map[string]*node
	disks uint64 // the last disk incarnation given

	expect int
	tune   func(name string, o *Options)
}

// node is one name: at most one process, and the disk it has.
type node struct {
	w    *world
	name string
	disk *disk
	port *port
	ctl  *Control // nil: not running

	starting atomic.Bool // a StartIncarnation is under way

	mu     sync.Mutex
	leases []bool
	closed []uint64
	fatal  error
}

func newWorld(t *testing.T, expect int, names ...string) *world {
	w := &world{t: t, net: newNetwork(), table: discovery.NewTable(), nodes: make(map[string]*node), expect: expect}
	for _, n := range names {
		w.nodes[n] = &node{w: w, name: n}
		w.wipe(n)
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			if n.ctl != nil {
				n.stop()
			}
		}
		time.Sleep(10 * time.Second) // what is still on the network ends
	})
	return w
}

// wipe gives the node an empty disk.
func (w *world) wipe(name string) {
	w.disks++
	w.nodes[name].disk = newDisk(w.disks)
}

func (w *world) start(names ...string) {
	for _, name := range names {
		w.nodes[name].start()
	}
}

func (n *node) options() Options {
	id := raft.ServerID(fmt.Sprintf("%s#%016x", n.name, n.disk.incarnation))
	n.port = n.w.net.plug(n.name, id)
	return Options{
		Node: n.name, Disk: n.disk.incarnation, ServerID: id, Expect: n.w.expect,
		Store: n.disk, Stable: n.disk, Snapshots: n.disk.snaps, Meta: n.disk,
		Transport: n.port, Conn: n.port.conn, Registrar: n.port, Discovery: n.w.table.Node(n.name),
		Addresses: Addresses{Peer: n.name + ":1"},
		OnLease:   func(v bool) { n.note(func() { n.leases = append(n.leases, v) }) },
		OnClosed:  func(g uint64) { n.note(func() { n.closed = append(n.closed, g) }) },
		Fatal:     func(err error) { n.note(func() { n.fatal = err }) },
		Logger:    testLogger(n.name),
	}
}

// testLogger writes the log if CONTROL_LOG is set.
func testLogger(node string) *slog.Logger {
	if os.Getenv("CONTROL_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
}

func (n *node) note(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *node) start() {
	n.w.t.Helper()
	o := n.options()
	epoch := time.Now()
	o.Boottime = func() time.Duration { return time.Hour + time.Since(epoch) }
	if n.w.tune != nil {
		n.w.tune(n.name, &o)
	}
	n.ctl = nil
	c, err := Open(o)
	if err != nil {
		n.w.t.Fatalf("%s: open: %v", n.name, err)
	}
	n.ctl = c
	if err := c.Start(); err != nil {
		n.w.t.Fatalf("%s: start: %v", n.name, err)
	}
}

// kill ends the process as kill -9 does: nothing it does from now on is seen.
func (n *node) kill() {
	n.disk = n.disk.copy()
	n.port.unplug()
	n.w.table.Remove(n.name)
	n.ctl.Close()
	n.ctl = nil
}

// stop ends the process with everything it has written.
func (n *node) stop() {
	n.w.table.Remove(n.name)
	n.ctl.Close()
	n.port.unplug()
	n.ctl = nil
}

// running lists the nodes that run, by name.
func (w *world) running() []*node {
	var ns []*node
	for _, n := range w.nodes {
		if n.ctl != nil {
			ns = append(ns, n)
		}
	}
	slices.SortFunc(ns, func(a, b *node) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return ns
}

// until waits for a condition on fake time.
func (w *world) until(limit time.Duration, what string, ok func() bool) time.Duration {
	w.t.Helper()
	from := time.Now()
	for !ok() {
		if time.Since(from) > limit {
			for _, n := range w.running() {
				st := n.ctl.Status()
				w.t.Logf("%s: phase %s (%s), role %s term %d, leader %q, gateway %x lease %v, applied %d",
					n.name, st.Phase, st.Detail, st.Role, st.Term, st.Leader, st.Gateway, st.LeaseValid, st.State.Applied)
			}
			w.t.Fatalf("after %v still not: %s", limit, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(from)
}

// ready waits until all running nodes are in one cluster, and returns its id.
func (w *world) ready() string {
	w.t.Helper()
	w.until(30*time.Second, "all nodes in one cluster", func() bool {
		id := ""
		for _, n := range w.running() {
			st := n.ctl.Status()
			if st.Phase != phaseRunning || id != "" && id != st.State.ClusterID {
				return false
			}
			id = st.State.ClusterID
		}
		return id != ""
	})
	return w.running()[0].ctl.State().ClusterID
}

// incarnate starts an incarnation on each node and waits for its lease.
func (w *world) incarnate(names ...string) {
	w.t.Helper()
	for _, name := range names {
		n := w.nodes[name]
		if _, err := n.ctl.StartIncarnation(context.Background()); err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
	}
	w.until(5*time.Second, "leases", func() bool {
		for _, name := range names {
			if c := w.nodes[name].ctl; !c.LeaseValid() || !c.EveryoneKnows() {
				return false
			}
		}
		return true
	})
}

// leader returns the node that leads and may grant.
func (w *world) leader() *node {
	w.t.Helper()
	var l *node
	w.until(5*time.Second, "a leader", func() bool {
		for _, n := range w.running() {
			if n.ctl.leading.Load() != nil {
				l = n
				return true
			}
		}
		return false
	})
	return l
}

// others are the running nodes but this one.
func (w *world) others(but *node) []*node {
	return slices.DeleteFunc(w.running(), func(n *node) bool { return n == but })
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
