package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// patience bounds every wait of a test: far above what a healthy cluster needs on a
// loaded machine.
const patience = 60 * time.Second

// binary is the broker, built once by TestMain.
var binary string

// TestMain builds the broker.
func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "flotilla-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "flotilla")
	build := exec.Command("go", "build", "-o", binary, "github.com/flotilla-mqtt/flotilla/cmd/node")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the broker:", err)
		return 1
	}
	return m.Run()
}

// Cluster is a set of nodes that belong to one test.
type Cluster struct {
	t     *testing.T
	Nodes []*Node
	// Rec is the history of the test's clients and faults.
	Rec      *history.Recorder
	flags    []string
	founders int
	spare    []*Node // planned, and not started
}

// StartCluster starts n nodes and waits until all are ready. Flags go to every node. The
// nodes are killed at the end of the test, and their logs shown if it failed.
func StartCluster(t *testing.T, n int, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Rec: history.NewRecorder(), flags: flags}
	dir := t.TempDir() // first, so that it is still there when end shows logs
	t.Cleanup(c.end)
	// Ports that were free a moment ago may be taken by now: then again, with others.
	for attempt := range 3 {
		c.plan(n, filepath.Join(dir, fmt.Sprint(attempt)))
		for _, node := range c.Nodes {
			node.start()
		}
		err := c.ready()
		if err == nil {
			return c
		}
		t.Logf("attempt %d: %v", attempt, err)
		for _, node := range c.Nodes {
			node.kill()
		}
	}
	t.Fatal("the cluster did not start")
	return nil
}

func (c *Cluster) plan(n int, dir string) {
	var open []interface{ Close() error }
	addr := func(udp bool) string {
		for {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				c.t.Fatal(err)
			}
			open = append(open, l)
			if !udp {
				return l.Addr().String()
			}
			if p, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
				open = append(open, p)
				return l.Addr().String()
			}
		}
	}
	c.Nodes, c.spare, c.founders = nil, nil, n
	for i := range n + spares {
		name := fmt.Sprintf("n%d", i+1)
		c.spare = append(c.spare, &Node{c: c, Name: name, MQTT: addr(false), Peer: addr(false), HTTP: addr(false),
			WS: addr(false), TLS: addr(false), WSS: addr(false), Admin: addr(false),
			Gossip: addr(true), dir: filepath.Join(dir, name)})
	}
	c.Nodes, c.spare = c.spare[:n:n], c.spare[n:]
	for _, o := range open {
		if err := o.Close(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// spares is how many nodes Grow can add.
const spares = 2

// Grow starts another node, which joins.
func (c *Cluster) Grow() *Node {
	n := c.spare[0]
	c.Nodes, c.spare = append(c.Nodes, n), c.spare[1:]
	n.Start()
	return n
}

func (c *Cluster) ready() error {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for _, node := range c.Nodes {
		if err := node.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end kills what runs, and shows logs if the test failed, as it does when a node has ended
// by itself.
func (c *Cluster) end() {
	for _, node := range c.Nodes {
		if node.Running() && !node.signal(syscall.SIGKILL) {
			c.t.Errorf("%s ended by itself", node.Name)
		}
		node.gone()
		if !c.t.Failed() {
			continue
		}
		b, err := os.ReadFile(node.logFile())
		if err != nil {
			c.t.Log(err)
			continue
		}
		const most = 8 << 10
		if len(b) > most {
			b = b[len(b)-most:]
		}
		c.t.Logf("log of %s:\n%s", node.Name, b)
	}
}

// Status is what these tests need of /api/v1/status.
type Status struct {
	Ready   bool `json:"ready"`
	Members []struct {
		Name        string `json:"name"`
		Incarnation uint64 `json:"incarnation"`
	} `json:"members"`
	Partitions []struct {
		ID        uint32 `json:"id"`
		Leader    string `json:"leader"`
		Connected int    `json:"connected"`
	} `json:"partitions"`
	Connections int `json:"connections"`
}

// counted sums the metrics of all nodes whose name and labels begin with one of the prefixes.
func (c *Cluster) counted(prefixes ...string) (sum float64) {
	c.t.Helper()
	for _, n := range c.Nodes {
		sum += n.counted(prefixes...)
	}
	return sum
}

// incarnation is the newest of a node that anyone knows; 0: none answers.
func (c *Cluster) incarnation(of *Node) (newest uint64) {
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		s, err := n.Status()
		if err != nil {
			continue // it may be the one that is slow, or dying
		}
		for _, m := range s.Members {
			if m.Name == of.Name {
				newest = max(newest, m.Incarnation)
			}
		}
	}
	return newest
}

// Targets returns those of all nodes.
func (c *Cluster) Targets() []client.Target {
	var out []client.Target
	for _, n := range c.Nodes {
		out = append(out, n.Target())
	}
	return out
}

// Node returns a node by its name.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	c.t.Fatalf("no node %q", name)
	return nil
}

// Repair starts every node that is not running and waits until all are ready.
func (c *Cluster) Repair() {
	c.t.Helper()
	for _, n := range c.Nodes {
		if !n.Running() {
			c.Rec.Fault(n.Name, history.FaultStart)
			n.start()
		}
	}
	for _, n := range c.Nodes {
		n.WaitReady()
	}
}

// partitionOf is how the broker maps a client id to a partition, written once more: the
// 64-bit FNV-1a hash with the finalizer of MurmurHash3, modulo the number of partitions.
func partitionOf(key string, partitions uint32) uint32 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return uint32(h % uint64(partitions))
}

// ClientID returns a client id whose session's partition is led by a node that suits.
func (c *Cluster) ClientID(prefix string, suits func(leader *Node) bool) string {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		leaders := c.leaders()
		for i := range 200 {
			id := fmt.Sprintf("%s-%d", prefix, i)
			if len(leaders) > 0 && suits(c.Node(leaders[partitionOf(id, uint32(len(leaders)))])) {
				return id
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("no partition has a leader that suits: %v", leaders)
		}
		time.Sleep(50 * time.Millisecond) // polling
	}
}

// Leader returns the node that leads most partitions.
func (c *Cluster) Leader() *Node {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		count := map[string]int{}
		for _, name := range c.leaders() {
			count[name]++
		}
		var most *Node
		for _, n := range c.Nodes {
			if count[n.Name] > 0 && (most == nil || count[n.Name] > count[most.Name]) {
				most = n
			}
		}
		if most != nil {
			return most
		}
		time.Sleep(50 * time.Millisecond) // polling
	}
	c.t.Fatal("not every partition has a leader")
	return nil
}

// Others returns all nodes but some.
func (c *Cluster) Others(not ...*Node) []*Node {
	var out []*Node
	for _, n := range c.Nodes {
		if !slices.Contains(not, n) {
			out = append(out, n)
		}
	}
	return out
}

// leaders returns each partition's leader, or nil while not all have one on which all
// running nodes agree.
func (c *Cluster) leaders() map[uint32]string {
	var agreed map[uint32]string
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		s, err := n.Status()
		if err != nil || len(s.Partitions) == 0 {
			return nil
		}
		seen := map[uint32]string{}
		for _, p := range s.Partitions {
			if p.Leader == "" || agreed != nil && agreed[p.ID] != p.Leader {
				return nil
			}
			seen[p.ID] = p.Leader
		}
		agreed = seen
	}
	return agreed
}
