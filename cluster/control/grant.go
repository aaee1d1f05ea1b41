package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// leadership is the side of the lease that grants it: one term of this node as
// the group's leader, from the moment it has applied all that came before.
type leadership struct {
	c     *Control
	term  uint64
	since time.Duration // boottime at which this node knew that it leads
	done  <-chan struct{}
	kick  chan struct{} // cap 1: look for incarnations to close

	mu       sync.Mutex
	grantees map[uint64]*grantee // by gateway
	next     *round              // quorum check that has not begun; nil: none is wanted
	checking bool                // a goroutine works through rounds

	rejoins sync.Mutex // one change of the configuration at a time
}

// grantee is what the leader knows of one incarnation, by its own boottime.
type grantee struct {
	seen    time.Duration // when it began; suspicions from before do not count
	heard   time.Duration // last request for a lease; 0: none in this term
	granted time.Duration // last lease; 0: none in this term
	knows   uint64
	// ending: no more leases; closed when the last is over.
	ending string
}

// round is one quorum check, shared by all who asked before it began.
type round struct {
	done chan struct{}
	ok   bool // valid after done
}

// overAfter is how long after a grant the lease is surely over: clocks of
// holder and granter may drift apart by a tenth.
func (l *leadership) overAfter() time.Duration { return l.c.opt.LeaseTTL * 11 / 10 }

// leaderLoop follows raft's word on whether this node leads.
func (c *Control) leaderLoop() {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case leads := <-c.leaderCh:
			stop()
			stop = func() {}
			c.leading.Store(nil)
			if leads {
				ctx, cancel := context.WithCancel(c.ctx)
				ended := make(chan struct{})
				c.goFunc(func() { defer close(ended); c.lead(ctx) })
				stop = func() { cancel(); <-ended }
			}
			c.changed()
		case <-c.ctx.Done():
			return
		}
	}
}

// lead is one term as leader.
func (c *Control) lead(ctx context.Context) {
	r := c.raft.Load()
	term := r.CurrentTerm()
	l := &leadership{
		c: c, term: term, since: c.opt.Boottime(), done: ctx.Done(),
		kick: make(chan struct{}, 1), grantees: make(map[uint64]*grantee),
	}
	for !l.caughtUp() {
		// A transfer of the leadership that fails may have been in the way.
		if r.State() != raft.Leader || !c.pause(barrierRetry, ctx.Done()) || ctx.Err() != nil {
			return
		}
	}
	for _, id := range c.State().LiveGateways() {
		l.grantees[id] = &grantee{seen: l.since - maxSuspicion}
	}
	c.log.Info("leads the control group", "term", term)
	c.leading.Store(l)
	c.changed()
	defer c.leading.CompareAndSwap(l, nil)
	for {
		l.expel()
		wait := l.closeDue()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-l.kick:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// caughtUp applies here what earlier leaders committed (rule 4), and founds the
// cluster if that is still to be done. The term is the same before and after, so
// it was ours meanwhile.
func (l *leadership) caughtUp() bool {
	r := l.c.raft.Load()
	if err := r.Barrier(0).Error(); err != nil {
		return false
	}
	if l.c.State().ClusterID == "" && !l.c.foundCluster() {
		return false
	}
	return r.CurrentTerm() == l.term && r.State() == raft.Leader
}

// barrierRetry is how soon a leader that could not catch up tries again.
const barrierRetry = 20 * time.Millisecond

// foundCluster commits the founding that this node has promised.
func (c *Control) foundCluster() bool {
	found := c.founder.founding()
	if found == nil {
		c.log.Error("leads a control group without a cluster, and has no founding promise")
		return false
	}
	rep := c.commit(&ctlpb.Op{Body: &ctlpb.Op_Found{Found: found}})
	return rep.Code == ctlpb.Code_OK || rep.Code == ctlpb.Code_FOUNDED
}

func (l *leadership) wake() { kick(l.kick) }

// grantee returns the entry of a live gateway. Callers hold mu.
func (l *leadership) grantee(gateway uint64) *grantee {
	g := l.grantees[gateway]
	if g == nil {
		g = &grantee{seen: l.c.opt.Boottime()}
		l.grantees[gateway] = g
	}
	return g
}

// over is when the leases that g may hold are surely over: rule 3.
func (l *leadership) over(g *grantee) time.Duration {
	return max(g.granted, l.since) + l.overAfter()
}

// closeDue closes the incarnations whose lease is over and whose node seems to
// be gone, and returns how long to wait before looking again.
func (l *leadership) closeDue() time.Duration {
	type closing struct {
		node        string
		incarnation uint64
		reason      string
	}
	var due []closing
	c, s := l.c, l.c.State()
	l.mu.Lock()
	now := c.opt.Boottime()
	wait := c.opt.SilenceTimeout
	live := make(map[uint64]bool)
	for _, m := range s.Members {
		id := m.Live()
		if id == 0 {
			continue
		}
		live[id] = true
		g := l.grantee(id)
		at, reason := l.closeAt(m.Name, g, now)
		if at > now {
			wait = min(wait, at-now)
			continue
		}
		g.ending = reason // before the lock is given up: no grant may follow
		due = append(due, closing{m.Name, m.Incarnation, reason})
	}
	for id := range l.grantees {
		if !live[id] && s.Closed(id) {
			delete(l.grantees, id)
		}
	}
	l.mu.Unlock()
	for _, d := range due {
		c.log.Warn("closing an incarnation", "node", d.node, "incarnation", d.incarnation, "reason", d.reason)
		rep := l.close(d.node, d.incarnation, d.reason)
		if rep.Code != ctlpb.Code_OK {
			wait = min(wait, 50*time.Millisecond)
		}
	}
	return max(wait, time.Millisecond)
}

// closeAt is when g's incarnation is to be closed if nothing is heard until
// then, and why. Callers hold mu.
func (l *leadership) closeAt(node string, g *grantee, now time.Duration) (time.Duration, string) {
	over := l.over(g)
	if g.ending != "" {
		return over, g.ending
	}
	silent := max(g.heard, g.seen, l.since) + l.c.opt.SilenceTimeout
	// A suspicion counts until the node is heard again.
	if at, ok := l.c.suspects.last(node); ok && at > max(g.heard, g.seen) {
		return over, "connection lost"
	}
	return max(over, silent), "silent"
}

// maxSuspicion is how old a suspicion may be when a leader begins: more than an
// election takes. An older one is from another time, the node has long been back.
const maxSuspicion = 5 * time.Second

// renew answers a request for a lease.
func (l *leadership) renew(ctx context.Context, req *ctlpb.RenewRequest) *ctlpb.RenewReply {
	code := l.admit(req)
	if code != ctlpb.Code_OK {
		return &ctlpb.RenewReply{Code: code}
	}
	if !l.quorum(ctx, raft.ServerID(req.ServerId), req.Term) {
		return &ctlpb.RenewReply{Code: ctlpb.Code_NOT_READY}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.grantees[req.Gateway]
	if g == nil || g.ending != "" || l.c.State().Closed(req.Gateway) || l.ended() {
		return &ctlpb.RenewReply{Code: ctlpb.Code_NOT_READY}
	}
	g.granted = l.c.opt.Boottime()
	rep := &ctlpb.RenewReply{}
	for id, g := range l.grantees {
		if g.knows > 0 {
			rep.Known = append(rep.Known, &ctlpb.Known{Gateway: id, Index: g.knows})
		}
	}
	return rep
}

// admit notes the request, and refuses it if its incarnation can have no lease.
func (l *leadership) admit(req *ctlpb.RenewRequest) ctlpb.Code {
	s := l.c.State()
	m := s.Member(req.Node)
	switch {
	case s.Closed(req.Gateway):
		return ctlpb.Code_CLOSED
	case m == nil:
		return ctlpb.Code_NOT_MEMBER
	case m.Live() != req.Gateway:
		return ctlpb.Code_NOT_READY
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.grantee(req.Gateway)
	g.heard = l.c.opt.Boottime()
	g.knows = max(g.knows, req.Knows)
	if g.ending != "" {
		return ctlpb.Code_NOT_READY
	}
	return ctlpb.Code_OK
}

func (l *leadership) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// end closes an incarnation: at once if its holder asks, otherwise when its last
// lease is over.
func (l *leadership) end(ctx context.Context, req *ctlpb.EndRequest) *ctlpb.ProposeReply {
	s := l.c.State()
	number, incarnation := SplitGateway(req.Gateway)
	m := s.MemberByNumber(number)
	switch {
	case s.Closed(req.Gateway):
		return &ctlpb.ProposeReply{Index: s.Applied}
	case m == nil || m.Live() != req.Gateway:
		return &ctlpb.ProposeReply{Code: ctlpb.Code_CONFLICT, Detail: "no such gateway"}
	}
	l.mu.Lock()
	if by := l.grantees[req.By]; !req.ByHolder && (by == nil || by.ending != "" || s.Closed(req.By)) {
		l.mu.Unlock()
		return &ctlpb.ProposeReply{Code: ctlpb.Code_CONFLICT, Detail: "who asks is being ended"}
	}
	g := l.grantee(req.Gateway)
	g.ending = req.Reason
	if g.ending == "" {
		g.ending = "ended"
	}
	reason, over := g.ending, l.over(g)
	l.mu.Unlock()
	if !req.ByHolder {
		if err := l.sleepUntil(ctx, over); err != nil {
			return &ctlpb.ProposeReply{Code: ctlpb.Code_NOT_READY, Detail: "its lease is not over"}
		}
	}
	return l.close(m.Name, incarnation, reason)
}

// close commits the end of an incarnation that is marked as ending and whose
// lease is over.
func (l *leadership) close(node string, incarnation uint64, reason string) *ctlpb.ProposeReply {
	return l.c.commit(&ctlpb.Op{Body: &ctlpb.Op_Close{Close: &ctlpb.CloseIncarnation{
		Node: node, Incarnation: incarnation, Reason: reason, Term: l.term,
	}}})
}

var errDeposed = errors.New("control: no longer the leader")

// sleepUntil waits until boottime has come to at.
func (l *leadership) sleepUntil(ctx context.Context, at time.Duration) error {
	for {
		d := at - l.c.opt.Boottime()
		if d <= 0 {
			return nil
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-l.done:
			t.Stop()
			return errDeposed
		}
	}
}

// start gives a node its next incarnation.
func (l *leadership) start(r *ctlpb.StartIncarnation) *ctlpb.ProposeReply {
	if rep := l.evict(r.Node, r.Disk); rep != nil {
		return rep
	}
	rep := l.c.commit(&ctlpb.Op{Body: &ctlpb.Op_Start{Start: r}})
	if rep.Code == ctlpb.Code_OK {
		l.mu.Lock()
		l.grantee(rep.Gateway)
		l.mu.Unlock()
		l.wake()
	}
	return rep
}

// evict closes the incarnation that another disk holds under the name, or says
// why it cannot. The old process may live on, so only a lease that nobody has
// renewed proves that it is gone.
func (l *leadership) evict(node string, disk uint64) *ctlpb.ProposeReply {
	m := l.c.State().Member(node)
	if m == nil || m.Live() == 0 || m.Disk == disk {
		return nil
	}
	l.mu.Lock()
	g := l.grantee(m.Live())
	over := l.over(g) <= l.c.opt.Boottime()
	if over {
		g.ending = "disk replaced"
	}
	l.mu.Unlock()
	if !over {
		return &ctlpb.ProposeReply{Code: ctlpb.Code_NAME_IN_USE, Detail: node}
	}
	if rep := l.close(node, m.Incarnation, "disk replaced"); rep.Code != ctlpb.Code_OK {
		return rep
	}
	return nil
}
