package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// holder is the side of the lease that holds it: it starts incarnations,
// renews, and tells when the lease or the incarnation ends.
type holder struct {
	c *Control

	gateway atomic.Uint64         // our live gateway; 0: none. Written under mu.
	lease   atomic.Pointer[lease] // nil: none. Written under mu.

	mu      sync.Mutex
	ended   uint64            // a gateway that the cluster ended and OnClosed was not yet told of
	known   map[uint64]uint64 // gateway → index it acts on; only grows
	everyup bool              // EveryoneKnows as last announced
	starts  sync.Mutex        // one StartIncarnation at a time

	renew chan struct{} // cap 1: renew now
	event chan struct{} // cap 1: look for what changed
}

type lease struct {
	gateway uint64
	until   time.Duration // by boottime
}

func newHolder(c *Control) *holder {
	return &holder{
		c: c, known: make(map[uint64]uint64),
		renew: make(chan struct{}, 1), event: make(chan struct{}, 1),
	}
}

// Gateway is the id of our live incarnation; 0 before StartIncarnation and
// after the cluster has ended it.
func (c *Control) Gateway() uint64 { return c.holder.gateway.Load() }

// LeaseValid reports whether this node may acknowledge anything now. It takes
// no lock and costs about as much as time.Now.
func (c *Control) LeaseValid() bool {
	l := c.holder.lease.Load()
	return l != nil && (c.clock.now() < l.until || mutant.ExpiredLeaseTrusted)
}

// StartIncarnation ends this node's last incarnation, if there is one, and
// starts the next. The caller has dropped all clients of the last one. It tries
// until ctx ends or the node cannot have one: ErrRetired. When it returns, State
// shows the incarnation; the lease follows.
func (c *Control) StartIncarnation(ctx context.Context) (gateway uint64, err error) {
	h := c.holder
	h.starts.Lock()
	defer h.starts.Unlock()
	ctx, cancel := c.within(ctx)
	defer cancel()
	h.drop()
	for {
		// A counter of this disk makes the request one of its kind: if it arrives
		// twice, or late, it starts nothing a second time.
		start, err := c.nextStart()
		if err != nil {
			return 0, err
		}
		gateway, err := h.start(ctx, start)
		if errors.Is(err, errEndedMeanwhile) {
			continue
		}
		return gateway, err
	}
}

// errEndedMeanwhile: the incarnation was given and ended before we knew.
var errEndedMeanwhile = errors.New("control: the incarnation was ended while it started")

// keyStart counts StartIncarnations of this disk.
const keyStart = "control/start"

func (c *Control) nextStart() (uint64, error) {
	var n uint64
	if b, ok := c.opt.Meta.Meta(keyStart); ok {
		if len(b) != 8 {
			return 0, fmt.Errorf("control: %s has %d bytes, want 8", keyStart, len(b))
		}
		n = binary.BigEndian.Uint64(b)
	}
	n++
	if err := c.opt.Meta.SetMeta(keyStart, binary.BigEndian.AppendUint64(nil, n)); err != nil {
		c.opt.Fatal(err)
		return 0, err
	}
	return n, nil
}

// start asks for the incarnation until it is there.
func (h *holder) start(ctx context.Context, start uint64) (uint64, error) {
	c := h.c
	req := &ctlpb.StartRequest{Start: &ctlpb.StartIncarnation{
		Node: c.opt.Node, Disk: c.opt.Disk, Start: start, ServerId: string(c.opt.ServerID),
		Zone: c.opt.Zone, Version: c.opt.Version, Addresses: c.opt.Addresses.pb(),
	}}
	rep, err := c.ask(ctx, func(ctx context.Context, l ctlpb.ControlClient) (*ctlpb.ProposeReply, error) {
		return l.Start(ctx, req)
	})
	switch {
	case err != nil:
		return 0, err
	case rep.Code == ctlpb.Code_CLOSED:
		return 0, errEndedMeanwhile
	case rep.Code != ctlpb.Code_OK:
		return 0, codeError(rep.Code, rep.Detail)
	}
	if err := c.waitApplied(ctx, rep.Index); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.State().Closed(rep.Gateway) {
		return 0, errEndedMeanwhile
	}
	h.gateway.Store(rep.Gateway)
	h.everyup = false
	kick(h.renew)
	kick(h.event)
	c.log.Info("incarnation started", "gateway", rep.Gateway)
	return rep.Gateway, nil
}

// StopIncarnation gives up our lease and ends our incarnation at once, for a
// planned stop. The caller has dropped all clients.
func (c *Control) StopIncarnation(ctx context.Context) error {
	h := c.holder
	h.starts.Lock()
	defer h.starts.Unlock()
	ctx, cancel := c.within(ctx)
	defer cancel()
	gateway := h.drop()
	if gateway == 0 {
		return nil
	}
	return c.end(ctx, &ctlpb.EndRequest{Gateway: gateway, Reason: "stopped", ByHolder: true})
}

// EndIncarnation ends another node's incarnation, for instance because it answers
// nothing: it gets no new lease, and when the last is over it is closed. It is
// refused (ErrConflict) when our own incarnation is being ended, or has been: of two
// that do not hear each other one goes on.
func (c *Control) EndIncarnation(ctx context.Context, gateway uint64, reason string) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	return c.end(ctx, &ctlpb.EndRequest{Gateway: gateway, Reason: reason, By: c.Gateway()})
}

func (c *Control) end(ctx context.Context, req *ctlpb.EndRequest) error {
	rep, err := c.ask(ctx, func(ctx context.Context, l ctlpb.ControlClient) (*ctlpb.ProposeReply, error) {
		return l.End(ctx, req)
	})
	return c.outcome(ctx, rep, err)
}

// drop forgets our incarnation and lease, and returns the incarnation.
func (h *holder) drop() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	gateway := h.gateway.Swap(0)
	h.lease.Store(nil)
	kick(h.event)
	return gateway
}

// dropEnded is drop for a gateway that the cluster has ended.
func (h *holder) dropEnded(gateway uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if gateway == 0 || h.gateway.Load() != gateway {
		return
	}
	h.gateway.Store(0)
	h.lease.Store(nil)
	h.ended = gateway
	kick(h.event)
}

// wake makes both loops look again. It does not block.
func (h *holder) wake() {
	kick(h.renew)
	kick(h.event)
}

// renewLoop renews the lease of the live incarnation.
func (h *holder) renewLoop() {
	pace := h.c.opt.LeaseTTL / 4
	for {
		asked := h.c.opt.Boottime()
		ok := h.renewOnce()
		wait := pace - (h.c.opt.Boottime() - asked)
		switch {
		case h.gateway.Load() == 0:
			wait = time.Hour // until woken
		case !ok:
			wait = pace / 8 // a leader may appear at any moment
		case !h.c.EveryoneKnows():
			wait = pace / 4 // clients are waiting for the others' word
		}
		// Wakes come in swarms (each op of the log): look at most this often.
		if !h.c.pause(min(wait, pace/8), nil) || !h.c.pause(wait-pace/8, h.renew) {
			return
		}
	}
}

// pause waits for d, for ch, or for the Control's end: then it returns false.
func (c *Control) pause(d time.Duration, ch <-chan struct{}) bool {
	if d <= 0 {
		return c.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ch:
	case <-c.ctx.Done():
		return false
	}
	return true
}

// renewOnce asks the leader for a lease, counted from before the question.
func (h *holder) renewOnce() bool {
	c := h.c
	gateway, r := h.gateway.Load(), c.raft.Load()
	if gateway == 0 || r == nil {
		return false
	}
	leader, name, ok := c.leaderClient()
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.opt.LeaseTTL/3)
	defer cancel()
	knows := c.knows()
	sent := c.opt.Boottime()
	rep, err := leader.Renew(ctx, &ctlpb.RenewRequest{
		Node: c.opt.Node, ServerId: string(c.opt.ServerID), Gateway: gateway, Knows: knows,
		Term: r.CurrentTerm(), // after sent: see the package's rule 2
	})
	if err != nil {
		c.unreachable(name, err)
		return false
	}
	switch rep.Code {
	case ctlpb.Code_OK:
		h.granted(gateway, sent+c.opt.LeaseTTL, rep.Known)
		return true
	case ctlpb.Code_CLOSED:
		h.dropEnded(gateway)
	}
	return false
}

func (h *holder) granted(gateway uint64, until time.Duration, known []*ctlpb.Known) {
	h.mu.Lock()
	if h.gateway.Load() != gateway {
		h.mu.Unlock()
		return // dropped meanwhile
	}
	// Event loop must be woken for a new lease only; it re-reads until when its
	// timer runs out.
	old := h.lease.Swap(&lease{gateway: gateway, until: until})
	for _, k := range known {
		h.known[k.Gateway] = max(h.known[k.Gateway], k.Index)
	}
	h.mu.Unlock()
	everyone := h.c.EveryoneKnows()
	h.mu.Lock()
	up := everyone && !h.everyup
	h.everyup = everyone
	h.mu.Unlock()
	if up {
		h.c.watchers.wake()
	}
	if old == nil || old.until <= h.c.opt.Boottime() {
		kick(h.event)
	}
}

// knows is the index up to which this node acts on the group.
func (c *Control) knows() uint64 {
	if c.opt.Knows != nil {
		return c.opt.Knows()
	}
	return c.State().Applied
}

// KnownBy is the index of the group's log up to which the member's live
// incarnation is known to act; 0: nothing is known.
func (c *Control) KnownBy(member string) uint64 {
	m := c.State().Member(member)
	if m == nil {
		return 0
	}
	c.holder.mu.Lock()
	defer c.holder.mu.Unlock()
	return c.holder.known[m.Live()]
}

// EveryoneKnows reports whether every live member acts on our live
// incarnation: the condition for serving clients.
func (c *Control) EveryoneKnows() bool {
	s, gateway := c.State(), c.Gateway()
	me := s.Member(c.opt.Node)
	if gateway == 0 || me == nil || me.Live() != gateway {
		return false
	}
	h := c.holder
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range s.Members {
		if m == me || m.Live() == 0 {
			continue
		}
		if h.known[m.Live()] < me.StartedIndex {
			return false
		}
	}
	return c.knows() >= me.StartedIndex
}

// eventLoop tells the owner when the lease begins and ends, and when the
// incarnation was ended.
func (h *holder) eventLoop() {
	c, valid := h.c, false
	for {
		if g := h.gateway.Load(); g != 0 && c.State().Closed(g) {
			h.dropEnded(g)
		}
		h.forget()
		if v := c.LeaseValid(); v != valid {
			valid = v
			c.opt.OnLease(v)
			c.watchers.wake()
		}
		if g := h.takeEnded(); g != 0 {
			c.log.Warn("the cluster has ended our incarnation", "gateway", g)
			c.opt.OnClosed(g)
		}
		wait := time.Hour
		if l := h.lease.Load(); l != nil && valid {
			wait = max(l.until-c.clock.now(), time.Millisecond)
		}
		if !c.pause(wait, h.event) {
			return
		}
	}
}

func (h *holder) takeEnded() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.ended
	h.ended = 0
	return g
}

// forget drops what is known of closed gateways.
func (h *holder) forget() {
	s := h.c.State()
	h.mu.Lock()
	defer h.mu.Unlock()
	for g := range h.known {
		if s.Closed(g) {
			delete(h.known, g)
		}
	}
}
