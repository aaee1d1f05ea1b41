package discovery

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// A node without the right key sees nobody and is seen by nobody, and both sides count it.
func TestKeys(t *testing.T) {
	var log syncBuffer
	a := open(t, Options{Self: Peer{Name: "a", Addr: "127.0.0.1:1"}, Keys: [][]byte{key(1)}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b := open(t, Options{Self: Peer{Name: "b", Addr: "127.0.0.1:2"}, Keys: [][]byte{key(1)}, Join: []string{a.Addr()}})
	until(t, "they see each other", func() bool { return names(a.Peers()) == "b" && names(b.Peers()) == "a" })
	if a.Refused()+b.Refused() != 0 {
		t.Error("friends were refused")
	}
	wrong := open(t, Options{Self: Peer{Name: "wrong"}, Keys: [][]byte{key(2)}, Join: []string{a.Addr()}})
	until(t, "the wrong key is refused, twice", func() bool { return a.Refused() >= 2 && wrong.Refused() >= 1 })
	before := a.Refused()
	plain := open(t, Options{Self: Peer{Name: "plain"}, Join: []string{a.Addr()}})
	until(t, "no key is refused", func() bool { return a.Refused() >= before+4 })
	if names(a.Peers()) != "b" || len(wrong.Peers()) != 0 || len(plain.Peers()) != 0 || wrong.Complete() || plain.Complete() {
		t.Errorf("seen: %q %q %q", names(a.Peers()), names(wrong.Peers()), names(plain.Peers()))
	}
	if !strings.Contains(log.String(), "check=gossip_key") {
		t.Errorf("not logged:\n%s", log.String())
	}
	if _, err := plain.SetKeys([][]byte{key(1)}); !errors.Is(err, errPlain) {
		t.Errorf("got %v", err)
	}
}

// The key is replaced node by node while they gossip.
func TestKeyRotation(t *testing.T) {
	older, newer := key(1), key(2)
	a := open(t, Options{Self: Peer{Name: "a", Addr: "127.0.0.1:1"}, Keys: [][]byte{older}})
	b := open(t, Options{Self: Peer{Name: "b", Addr: "127.0.0.1:2"}, Keys: [][]byte{older}, Join: []string{a.Addr()}})
	nodes := []*Gossip{a, b}
	n := 0
	hear := func() {
		t.Helper()
		for i, from := range nodes {
			n++
			addr := fmt.Sprintf("127.0.0.1:%d", 100+n)
			from.Announce(Peer{Addr: addr})
			until(t, "news at "+addr, func() bool { got, _ := nodes[1-i].Resolve(from.opt.Self.Name); return got == addr })
		}
	}
	hear()
	for _, keys := range [][][]byte{{older, newer}, {newer, older}, {newer}} {
		for _, g := range nodes {
			for i := range 2 {
				if changed, err := g.SetKeys(keys); err != nil || changed != (i == 0) {
					t.Fatal(changed, err)
				}
			}
			hear()
		}
	}
	if a.Refused()+b.Refused() != 0 {
		t.Errorf("refused %d and %d", a.Refused(), b.Refused())
	}
	late := open(t, Options{Self: Peer{Name: "late"}, Keys: [][]byte{older}, Join: []string{a.Addr()}})
	until(t, "the old key is refused", func() bool { return a.Refused() > 0 })
	if len(late.Peers()) != 0 {
		t.Error("the old key still opens")
	}
}

func TestReadKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	good := base64.StdEncoding.EncodeToString(key(1))
	for _, tc := range []struct {
		text string
		keys int
		err  error
	}{
		{"# ours\n" + good + " # now\n\n" + base64.StdEncoding.EncodeToString(key(2)), 2, nil},
		{"\n# nothing\n", 0, errNoKeys},
		{base64.StdEncoding.EncodeToString([]byte("short")), 0, errKeySize},
		{"?", 0, base64.CorruptInputError(0)},
	} {
		if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if keys, err := ReadKeys(file); len(keys) != tc.keys || !errors.Is(err, tc.err) {
			t.Errorf("%q: %d keys, %v", tc.text, len(keys), err)
		}
	}
	if _, err := ReadKeys(file + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// syncBuffer may be written and read at once.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
