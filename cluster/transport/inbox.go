package transport

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// inboundRPC is a request for our raft.
type inboundRPC struct {
	cmd     any
	reader  *snapshotReader           // of a snapshot, else nil
	ctx     context.Context           // ends with the stream it came on
	expires time.Time                 // zero: never
	respond func(resp any, err error) // called exactly once
}

// inbox holds requests until raft takes them. Heartbeats and votes overtake log
// entries; otherwise the order is kept. Its length is bounded by what peers
// have in flight and wait for.
type inbox struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	urgent  []*inboundRPC // mu
	entries []*inboundRPC // mu
	closed  bool          // mu
}

// enqueue returns false if the group is closed.
func (g *RaftTransport) enqueue(in *inboundRPC, urgent bool) bool {
	b := &g.inbox
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	q := &b.entries
	if urgent {
		q = &b.urgent
	}
	// While raft is stuck its peers time out and try again: what they have
	// given up must not pile up here.
	late := 0
	for late < len(*q) && (*q)[late].over() {
		late++
	}
	dropped := append([]*inboundRPC(nil), (*q)[:late]...)
	*q = append(slices.Delete(*q, 0, late), in)
	b.mu.Unlock()
	for _, d := range dropped {
		g.t.stats.raftExpired.Add(1)
		d.respond(nil, ErrTimeout)
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// over tells that the sender has given up.
func (in *inboundRPC) over() bool {
	return in.ctx.Err() != nil || !in.expires.IsZero() && time.Now().After(in.expires)
}

func (b *inbox) next() *inboundRPC {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := &b.urgent
	if len(*q) == 0 {
		q = &b.entries
	}
	if len(*q) == 0 {
		return nil
	}
	in := (*q)[0]
	*q = slices.Delete(*q, 0, 1) // short queues: keep the array
	return in
}

// close returns what was queued and refuses everything later.
func (b *inbox) close() []*inboundRPC {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	rest := append(b.urgent, b.entries...)
	b.urgent, b.entries = nil, nil
	return rest
}

// serve hands requests to raft one at a time: raft's main loop handles them one
// at a time anyway, and so answers keep their order. It runs until Close.
func (g *RaftTransport) serve() {
	answer := make(chan raft.RPCResponse, 1)
	defer func() {
		for _, in := range g.inbox.close() {
			in.respond(nil, ErrClosed)
		}
	}()
	for {
		in := g.inbox.next()
		if in == nil {
			select {
			case <-g.inbox.wake:
			case <-g.closed:
				return
			}
			continue
		}
		if err := g.offer(in, answer); err != nil {
			in.respond(nil, err)
			continue
		}
		select {
		case r := <-answer:
			in.respond(r.Response, r.Error)
		case <-g.closed: // raft may have gone without an answer
			in.respond(nil, ErrClosed)
			return
		}
	}
}

// offer gives a request to raft unless its sender gives up first.
func (g *RaftTransport) offer(in *inboundRPC, answer chan<- raft.RPCResponse) error {
	if in.over() {
		g.t.stats.raftExpired.Add(1)
		return ErrTimeout
	}
	rpc := raft.RPC{Command: in.cmd, RespChan: answer}
	if in.reader != nil {
		rpc.Reader = in.reader
	}
	g.noteTerm(in.cmd)
	select {
	case g.consumer <- rpc: // the usual case, without a timer
		return nil
	default:
	}
	var expired <-chan time.Time
	if !in.expires.IsZero() {
		timer := time.NewTimer(time.Until(in.expires))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case g.consumer <- rpc:
		return nil
	case <-expired:
	case <-in.ctx.Done():
	case <-g.closed:
		return ErrClosed
	}
	g.t.stats.raftExpired.Add(1)
	return ErrTimeout
}

// noteTerm looks for a newer leader or candidate in what comes in. Pre-votes
// prove nothing.
func (g *RaftTransport) noteTerm(cmd any) {
	switch c := cmd.(type) {
	case *raft.AppendEntriesRequest:
		g.sawTerm(c.Term)
	case *raft.RequestVoteRequest:
		g.sawTerm(c.Term)
	case *raft.InstallSnapshotRequest:
		g.sawTerm(c.Term)
	}
}
