// Package discovery finds the nodes of a cluster: by gossip (memberlist) in
// earnest, from a shared table in simulations. What it says is a hint: who is
// seen and where, never who is a member or dead.
package discovery

import (
	"slices"
	"strings"
	"sync"
)

// Peer is what a node tells others about itself.
type Peer struct {
	Name string `json:"n"`
	// Addr is the host:port at which peers reach it.
	Addr string `json:"p,omitempty"`
	HTTP string `json:"h,omitempty"`
	MQTT string `json:"m,omitempty"`
	Zone string `json:"z,omitempty"`
	// Version of the program.
	Version string `json:"v,omitempty"`
	// ClusterID is empty as long as the node has no cluster.
	ClusterID string `json:"c,omitempty"`
	// Disk is its disk incarnation, ServerID its replica of the control group.
	Disk     uint64 `json:"d,omitempty"`
	ServerID string `json:"s,omitempty"`
}

// Table is a network in which every node sees every other at once. It is for
// simulations and tests.
type Table struct {
	mu    sync.Mutex
	peers map[string]*seat // by name
}

type seat struct {
	peer Peer
	cut  bool // unseen, and sees nobody
}

// Static is one node's view of a Table.
type Static struct {
	table *Table
	name  string
}

// NewTable returns an empty Table.
func NewTable() *Table { return &Table{peers: make(map[string]*seat)} }

// Node returns the view of the node with this name.
func (t *Table) Node(name string) *Static { return &Static{table: t, name: name} }

// Cut makes the node invisible and blind, or visible again.
func (t *Table) Cut(name string, cut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.peers[name]; s != nil {
		s.cut = cut
	}
}

// Remove forgets the node until it announces itself again.
func (t *Table) Remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.peers, name)
}

// Announce puts the node into the table.
func (s *Static) Announce(self Peer) {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	cut := s.table.peers[s.name] != nil && s.table.peers[s.name].cut
	s.table.peers[s.name] = &seat{peer: self, cut: cut}
}

// Peers lists all other nodes that are not cut off, by name.
func (s *Static) Peers() []Peer {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	if me := s.table.peers[s.name]; me == nil || me.cut {
		return nil
	}
	var peers []Peer
	for name, other := range s.table.peers {
		if name != s.name && !other.cut {
			peers = append(peers, other.peer)
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return peers
}

// Complete is always true: the table is all there is.
func (s *Static) Complete() bool { return true }

// Resolve returns the address that the node has announced.
func (s *Static) Resolve(node string) (addr string, ok bool) {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	other := s.table.peers[node]
	if other == nil {
		return "", false
	}
	return other.peer.Addr, true
}
