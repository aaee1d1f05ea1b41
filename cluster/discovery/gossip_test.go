package discovery

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// metaMap is a MetaStore in memory.
type metaMap struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *metaMap) Meta(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.m[key]
	return b, ok
}

func (s *metaMap) SetMeta(key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[string][]byte)
	}
	s.m[key] = value
	return nil
}

// open starts a node on loopback.
func open(t *testing.T, o Options) *Gossip {
	t.Helper()
	o.Bind = "127.0.0.1:0"
	g, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// until waits for a condition that gossip brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}

func names(peers []Peer) string {
	var ns []string
	for _, p := range peers {
		ns = append(ns, p.Name)
	}
	return strings.Join(ns, " ")
}

func TestGossip(t *testing.T) {
	meta := &metaMap{}
	a := open(t, Options{Self: Peer{Name: "a", Addr: "127.0.0.1:1", Disk: 1<<63 + 1, ServerID: "a#1"}, Meta: meta})
	if !a.Complete() {
		t.Error("a node with nowhere to join does not trust what it sees")
	}
	b := open(t, Options{Self: Peer{Name: "b", Addr: "127.0.0.1:2"}, Join: []string{a.Addr()}})
	c := open(t, Options{Self: Peer{Name: "c", Addr: "127.0.0.1:3"}, Join: []string{a.Addr()}})
	until(t, "all see all", func() bool {
		return names(a.Peers()) == "b c" && names(b.Peers()) == "a c" && names(c.Peers()) == "a b" && b.Complete() && c.Complete()
	})
	if p := b.Peers()[0]; p != (Peer{Name: "a", Addr: "127.0.0.1:1", Disk: 1<<63 + 1, ServerID: "a#1"}) {
		t.Errorf("a is seen as %+v", p)
	}
	c.Announce(Peer{Addr: "127.0.0.1:33", ClusterID: "x"})
	until(t, "c's new address", func() bool {
		addr, ok := a.Resolve("c")
		return ok && addr == "127.0.0.1:33"
	})
	until(t, "stored", func() bool {
		v, _ := meta.Meta(keyCache)
		return bytes.Contains(v, []byte("127.0.0.1:33"))
	})
	// Nodes of another cluster are none of ours.
	a.Announce(Peer{Addr: "127.0.0.1:1", ClusterID: "y"})
	if got := names(a.Peers()); got != "b" {
		t.Errorf("sees %q", got)
	}
	if _, ok := a.Resolve("c"); ok {
		t.Error("found a node of another cluster")
	}
	// A node that is gone is found where it was, also by a successor.
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	until(t, "b is gone", func() bool { return names(a.Peers()) == "" })
	again := open(t, Options{Self: Peer{Name: "a2"}, Meta: meta, Join: []string{"127.0.0.1:1"}})
	if addr, ok := again.Resolve("b"); !ok || addr != "127.0.0.1:2" {
		t.Errorf("b was last at %q", addr)
	}
	// The address to join at answers nobody, but c is where it was.
	until(t, "c is seen again", func() bool { return strings.Contains(names(again.Peers()), "c") })
	if !again.Complete() {
		t.Error("it has reached a node that it knew, and does not trust what it sees")
	}
}

// Our own address says nothing about others, and an address that does not
// answer says nothing at all.
func TestComplete(t *testing.T) {
	a := open(t, Options{Self: Peer{Name: "a"}})
	a.cancel() // no loop of its own reads what is changed here
	a.wg.Wait()
	a.opt.Join = []string{a.Addr()}
	if addrs, sure := a.seeds(t.Context()); len(addrs) != 0 || !sure {
		t.Errorf("our own address counts: %v %v", addrs, sure)
	}
	b := open(t, Options{Self: Peer{Name: "b"}, Join: []string{"127.0.0.1:1"}})
	if b.joinOnce(t.Context()) || b.Complete() {
		t.Error("trusts what it sees although nobody answers")
	}
	c := open(t, Options{Self: Peer{Name: "c"}, Join: []string{"127.0.0.1:1", b.Addr()}})
	until(t, "c is complete", c.Complete)
}

// What does not fit is left out, the least needed first.
func TestLongMeta(t *testing.T) {
	long := strings.Repeat("x", 150)
	g := &Gossip{log: slog.New(slog.DiscardHandler), self: Peer{
		Name: "a", Addr: long + ":1", HTTP: long, MQTT: long, Zone: "z", ClusterID: "c", ServerID: "a#1", Disk: 1,
	}}
	b := delegate{g}.NodeMeta(memberlist.MetaMaxSize)
	p, ok := peerOf(&memberlist.Node{Name: "a", Meta: b})
	if !ok || p.Addr != g.self.Addr || p.ServerID != "a#1" || p.Disk != 1 || p.ClusterID != "c" || p.MQTT != "" || p.Zone != "z" {
		t.Errorf("%d bytes: %+v", len(b), p)
	}
}

func TestTable(t *testing.T) {
	table := NewTable()
	a, b := table.Node("a"), table.Node("b")
	a.Announce(Peer{Name: "a", Addr: "1"})
	if len(b.Peers()) != 0 {
		t.Error("a node that has not announced itself sees others")
	}
	b.Announce(Peer{Name: "b"})
	if names(b.Peers()) != "a" || names(a.Peers()) != "b" {
		t.Error("nodes do not see each other")
	}
	table.Cut("a", true)
	if len(b.Peers()) != 0 || len(a.Peers()) != 0 {
		t.Error("a node that is cut off is seen, or sees")
	}
	if addr, ok := b.Resolve("a"); !ok || addr != "1" {
		t.Error("its address is forgotten")
	}
}
