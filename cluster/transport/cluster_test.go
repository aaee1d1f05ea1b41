package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// listFSM remembers what was applied.
type listFSM struct {
	mu  sync.Mutex
	log []string
}

func (f *listFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, string(l.Data))
	return nil
}

func (f *listFSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return listSnapshot(strings.Join(f.log, "\n")), nil
}

func (f *listFSM) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = nil
	if len(b) > 0 {
		f.log = strings.Split(string(b), "\n")
	}
	return nil
}

func (f *listFSM) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

type listSnapshot string

func (s listSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := io.Copy(sink, strings.NewReader(string(s))); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}
func (listSnapshot) Release() {}

// member is one replica of a group on one node.
type member struct {
	id    raft.ServerID
	fsm   *listFSM
	logs  raft.LogStore
	meta  *raft.InmemStore
	snaps raft.SnapshotStore
	rt    *transport.RaftTransport
	r     *raft.Raft
}

type testNode struct {
	name   string
	addr   string
	tr     *transport.Transport
	groups map[uint32]*member
}

func (n *testNode) id() raft.ServerID { return raft.ServerID(n.name + "#00000000000000aa") }

// testCluster is n nodes in one process.
type testCluster struct {
	t        testing.TB
	faults   *faults
	cfg      func(*raft.Config)
	opts     func(*transport.Options)
	mu       sync.Mutex
	nodes    map[string]*testNode
	names    []string
	wrapLogs func(raft.LogStore) raft.LogStore
	listen   func(name string) (net.Listener, error)
	dial     func(name string) func(ctx context.Context, addr string) (net.Conn, error)
}

func newCluster(t testing.TB, n int) *testCluster {
	c := &testCluster{t: t, nodes: map[string]*testNode{}, faults: newFaults()}
	c.listen = func(string) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	c.dial = func(name string) func(context.Context, string) (net.Conn, error) {
		return c.faults.dialer(name, c.nodeAt)
	}
	for i := range n {
		c.names = append(c.names, fmt.Sprintf("node-%d", i+1))
	}
	return c
}

func (c *testCluster) nodeAt(addr string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.addr == addr {
			return n.name
		}
	}
	return ""
}

func (c *testCluster) resolve(node string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[node]
	if n == nil {
		return "", false
	}
	return n.addr, true
}

func (c *testCluster) startNode(name string) *testNode {
	c.t.Helper()
	l, err := c.listen(name)
	if err != nil {
		c.t.Fatal(err)
	}
	o := transport.Options{
		Hello:    func() *peerpb.Hello { return &peerpb.Hello{ClusterId: "c", Node: name, Disk: 0xaa} },
		Listener: l,
		Dial:     c.dial(name),
		Resolve:  c.resolve,
		Logger:   slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if c.opts != nil {
		c.opts(&o)
	}
	tr, err := transport.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	n := &testNode{name: name, addr: l.Addr().String(), tr: tr, groups: map[uint32]*member{}}
	c.mu.Lock()
	c.nodes[name] = n
	c.mu.Unlock()
	if err := tr.Start(); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// startGroup starts the replicas of a group on all nodes and bootstraps it.
func (c *testCluster) startGroup(group uint32) {
	c.t.Helper()
	var conf raft.Configuration
	for _, name := range c.names {
		id := c.nodes[name].id()
		conf.Servers = append(conf.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
	}
	for _, name := range c.names {
		n := c.nodes[name]
		m := &member{
			id: n.id(), fsm: &listFSM{}, meta: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore(),
		}
		m.logs = m.meta
		if c.wrapLogs != nil {
			m.logs = c.wrapLogs(m.meta)
		}
		m.rt = n.tr.Raft(group, m.id)
		m.rt.SetAdmitted(true)
		if err := raft.BootstrapCluster(c.config(m.id), m.logs, m.meta, m.snaps, m.rt, conf); err != nil {
			c.t.Fatal(err)
		}
		n.groups[group] = m
		c.startRaft(m)
	}
}

func (c *testCluster) startRaft(m *member) {
	c.t.Helper()
	r, err := raft.NewRaft(c.config(m.id), m.fsm, m.logs, m.meta, m.snaps, m.rt)
	if err != nil {
		c.t.Fatal(err)
	}
	m.r = r
}

func (c *testCluster) config(id raft.ServerID) *raft.Config {
	cfg := raft.DefaultConfig()
	cfg.LocalID = id
	cfg.HeartbeatTimeout, cfg.ElectionTimeout = 250*time.Millisecond, 250*time.Millisecond
	cfg.LeaderLeaseTimeout = 125 * time.Millisecond
	cfg.CommitTimeout = 50 * time.Millisecond
	cfg.Logger = hclog.New(&hclog.LoggerOptions{Output: testWriter{c.t}, Level: raftLevel})
	if c.cfg != nil {
		c.cfg(cfg)
	}
	return cfg
}

// close stops everything.
func (c *testCluster) close() {
	c.faults.healAll()
	for _, n := range c.nodes {
		for _, m := range n.groups {
			_ = m.rt.Close()
		}
	}
	for _, n := range c.nodes {
		for _, m := range n.groups {
			if err := m.r.Shutdown().Error(); err != nil {
				c.t.Error(err)
			}
		}
	}
	for _, n := range c.nodes {
		n.tr.Close()
	}
}

// eventually polls: what it waits for happens on goroutines of raft that give
// no signal.
func eventually(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leader waits for a leader of the group that is none of the given nodes and
// can commit.
func (c *testCluster) leader(group uint32, but ...string) *testNode {
	c.t.Helper()
	var found *testNode
	eventually(c.t, time.Minute, "a leader", func() bool {
		for _, n := range c.nodes {
			skip := false
			for _, b := range but {
				skip = skip || n.name == b
			}
			if !skip && n.groups[group].r.State() == raft.Leader &&
				n.groups[group].r.Barrier(time.Second).Error() == nil {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func (c *testCluster) others(name string) (out []*testNode) {
	for _, n := range c.names {
		if n != name {
			out = append(out, c.nodes[n])
		}
	}
	return out
}

// apply proposes until it is committed somewhere. Entries may be applied twice.
func (c *testCluster) apply(group uint32, data string, but ...string) {
	c.t.Helper()
	eventually(c.t, time.Minute, "commit of "+data, func() bool {
		l := c.leader(group, but...)
		return l.groups[group].r.Apply([]byte(data), 2*time.Second).Error() == nil
	})
}

// sameLogs waits until all nodes have applied the same, ending with last.
func (c *testCluster) sameLogs(group uint32, last string) {
	c.t.Helper()
	defer func() {
		if c.t.Failed() {
			for _, name := range c.names {
				m := c.nodes[name].groups[group]
				c.t.Logf("%s: %v %v applied %q", name, m.r, m.r.Stats(), m.fsm.list())
			}
		}
	}()
	eventually(c.t, time.Minute, "equal logs", func() bool {
		want := c.nodes[c.names[0]].groups[group].fsm.list()
		if len(want) == 0 || want[len(want)-1] != last {
			return false
		}
		for _, name := range c.names[1:] {
			got := c.nodes[name].groups[group].fsm.list()
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				return false
			}
		}
		return true
	})
}

// raftLevel is what of raft's own log a test shows.
const raftLevel = hclog.Off

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}

// noLeaks fails if goroutines of gRPC, raft or the transport are left. Call its
// result last.
func noLeaks(t testing.TB) func() {
	return func() {
		t.Helper()
		var stacks string
		for range 400 {
			buf := make([]byte, 4<<20)
			stacks = string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(stacks, "google.golang.org/grpc") &&
				!strings.Contains(stacks, "hashicorp/raft.") &&
				!strings.Contains(stacks, "cluster/transport.(") {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("goroutines left:\n%s", stacks)
	}
}
