package transport

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// raftService takes the Raft requests of peers.
type raftService struct {
	peerpb.UnimplementedRaftServer
	t *Transport
}

// answers collects the responses of one stream; the stream's handler writes
// them.
type answers struct {
	ctx  context.Context // ends with the stream
	wake chan struct{}   // capacity 1

	mu      sync.Mutex
	queue   []*peerpb.RaftResponse // mu
	patient bool                   // mu; all of queue may wait for company
	beats   int                    // mu; heartbeats that raft has not answered: the company
}

// expect announces a heartbeat (or, while a message is being dispatched, the
// heartbeats that it may still hold).
func (a *answers) expect() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.beats++
}

// expectNoMore takes back an expect.
func (a *answers) expectNoMore() {
	a.mu.Lock()
	a.beats--
	hurry := a.beats == 0 && a.patient
	a.patient = a.patient && !hurry
	a.mu.Unlock()
	if hurry {
		a.poke()
	}
}

func (a *answers) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// put queues an answer. That to a heartbeat waits, for a moment, while others
// are being worked on.
func (a *answers) put(r *peerpb.RaftResponse, beat bool) {
	a.mu.Lock()
	if beat {
		a.beats--
	}
	first := len(a.queue) == 0
	patient := beat && a.beats > 0
	hurry := !patient && a.patient
	a.queue = append(a.queue, r)
	a.patient = patient && (first || a.patient)
	a.mu.Unlock()
	if first || hurry {
		a.poke()
	}
}

// Exchange implements peerpb.RaftServer: one goroutine reads requests and hands
// them to their groups, this one writes the answers.
func (s raftService) Exchange(stream peerpb.Raft_ExchangeServer) error {
	t := s.t
	node, err := t.checkStream(stream.Context())
	if err != nil {
		return err
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil { // the peer counts the link as up
		return err
	}
	t.Nudge(node)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	a := &answers{ctx: ctx, wake: make(chan struct{}, 1)}
	if !t.goIfOpen(func() {
		for {
			batch, err := stream.Recv()
			if err != nil {
				cancel(err)
				return
			}
			a.expect()
			for _, r := range batch.GetRequests() {
				t.dispatch(a, r)
			}
			a.expectNoMore()
		}
	}) {
		return status.Error(codes.Unavailable, ErrClosed.Error())
	}
	return flowStatus(s.write(ctx, stream, a))
}

// write sends answers, and signs of life when there are none: the peer drops a
// link that says nothing.
func (s raftService) write(ctx context.Context, stream peerpb.Raft_ExchangeServer, a *answers) error {
	t := s.t
	tick := time.NewTicker(t.opts.Silence / 4)
	defer tick.Stop()
	gather := time.NewTimer(time.Hour)
	defer gather.Stop()
	var batch peerpb.RaftResponseBatch
	idle := true
	for {
		select {
		case <-a.wake:
			if wait := a.waits(t.opts.Gather); wait > 0 {
				gather.Reset(wait)
				select {
				case <-gather.C:
				case <-a.wake: // somebody is in a hurry
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			a.mu.Lock()
			batch.Responses, a.queue = a.queue, batch.Responses[:0]
			a.patient = false
			a.mu.Unlock()
			idle = false
		case <-tick.C:
			if !idle {
				idle = true
				continue
			}
			batch.Responses = batch.Responses[:0]
		case <-t.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := stream.Send(&batch); err != nil {
			return err
		}
		clear(batch.Responses)
	}
}

func (a *answers) waits(gather time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.patient {
		return gather
	}
	return 0
}

// dispatch hands a request to its group, or refuses it.
func (t *Transport) dispatch(a *answers, r *peerpb.RaftRequest) {
	t.stats.raftIn.Add(1)
	id := r.GetId()
	reason := peerpb.RefuseReason_NONE
	g := t.group(r.GetGroup())
	cmd, urgent, vote := command(r)
	switch {
	case g == nil:
		reason = peerpb.RefuseReason_UNKNOWN_GROUP
	case r.GetTarget() != string(g.self):
		reason = peerpb.RefuseReason_WRONG_TARGET
	case vote && !g.admitted.Load():
		reason = peerpb.RefuseReason_NOT_ADMITTED
	case cmd == nil:
		reason = peerpb.RefuseReason_FAILED
	}
	if reason == peerpb.RefuseReason_NONE {
		beat := urgent && !vote
		in := &inboundRPC{
			cmd: cmd, ctx: a.ctx,
			respond: func(resp any, err error) {
				m := response(resp, err)
				m.Id = id
				a.put(m, beat)
			},
		}
		if p := r.GetPatience(); p > 0 {
			in.expires = time.Now().Add(time.Duration(p) * time.Millisecond)
		}
		if beat {
			a.expect()
		}
		if g.enqueue(in, urgent) {
			return
		}
		if beat {
			a.expectNoMore()
		}
		reason = peerpb.RefuseReason_UNKNOWN_GROUP // just closed
	}
	t.stats.raftRefused.Add(1)
	a.put(&peerpb.RaftResponse{Id: id, Refused: reason}, false)
}
