package discovery

import (
	"context"
	"encoding/json"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/memberlist"
)

// delegate tells memberlist what we tell others. Its methods are called while
// memberlist holds its locks: they call nothing of it.
type delegate struct{ g *Gossip }

// NodeMeta is our Peer, without what does not fit.
func (d delegate) NodeMeta(limit int) []byte {
	d.g.mu.Lock()
	p := d.g.self
	d.g.mu.Unlock()
	p.Name = "" // memberlist has it
	for _, drop := range []func(){
		func() {},
		func() { p.MQTT = "" },
		func() { p.HTTP = "" },
		func() { p.Zone = "" },
		func() { p.Version = "" },
	} {
		drop()
		if b, err := json.Marshal(p); err == nil && len(b) <= limit {
			return b
		}
	}
	d.g.log.Error("discovery: names and addresses of this node are too long to be told", "limit", limit)
	return nil
}

func (d delegate) NotifyMsg([]byte)                    {}
func (d delegate) GetBroadcasts(int, int) [][]byte     { return nil }
func (d delegate) LocalState(bool) []byte              { return nil }
func (d delegate) MergeRemoteState(b []byte, own bool) {}

// peerOf is what a node tells about itself.
func peerOf(n *memberlist.Node) (Peer, bool) {
	var p Peer
	if err := json.Unmarshal(n.Meta, &p); err != nil {
		return p, false // says nothing, or is of another program
	}
	p.Name = n.Name
	return p, true
}

// events keep Gossip.seen. They too are called under memberlist's locks.
type events struct{ g *Gossip }

func (e events) NotifyJoin(n *memberlist.Node) {
	if n.Name != e.g.opt.Self.Name {
		e.g.log.Info("discovery: node seen", "node", n.Name, "gossip", n.Address())
	}
	e.saw(n)
}

func (e events) NotifyUpdate(n *memberlist.Node) { e.saw(n) }

func (e events) saw(n *memberlist.Node) {
	p, ok := peerOf(n)
	e.g.mu.Lock()
	e.g.seen[n.Name] = node{gossip: n.Address(), peer: p, ok: ok}
	e.g.mu.Unlock()
	kick(e.g.wake)
}

func (e events) NotifyLeave(n *memberlist.Node) {
	e.g.log.Info("discovery: node not seen any more", "node", n.Name)
	e.g.mu.Lock()
	defer e.g.mu.Unlock()
	if n.Name != e.g.opt.Self.Name {
		delete(e.g.seen, n.Name)
	}
}

type conflicts struct{ g *Gossip }

func (c conflicts) NotifyConflict(existing, other *memberlist.Node) {
	c.g.log.Error("discovery: two nodes have the same name", "node", existing.Name,
		"one", existing.Address(), "other", other.Address())
}

// stdLogger lets memberlist log by slog. Its warnings are a developer's.
func stdLogger(l *slog.Logger) *log.Logger { return log.New(logWriter{l}, "", 0) }

type logWriter struct{ l *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	if strings.HasPrefix(line, "[ERR]") || strings.HasPrefix(line, "[WARN]") {
		level = slog.LevelInfo
	}
	if _, rest, ok := strings.Cut(line, "] "); ok {
		line = rest
	}
	w.l.Log(context.Background(), level, line)
	return len(b), nil
}
