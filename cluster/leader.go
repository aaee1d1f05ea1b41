package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// Bounds of one log entry, and how many of a partition are on their way at once.
// While they are, ops collect for the next: an idle partition commits at once, a
// busy one batches by itself.
const (
	maxEntryOps   = 4096
	maxEntryBytes = 1 << 20
	maxFlying     = 4
	// minGap is the least time between entries while any is on its way: what costs most
	// is the number of entries, and a busy partition has more to collect.
	minGap = 500 * time.Microsecond

	leaderTick = time.Second // beside what is due at a known time
	// dueRetry is when to look again after a Tick was proposed.
	dueRetry = 100 * time.Millisecond
)

// leader is one leadership of one partition. All its work is rebuilt from the
// state when it starts (barrier), and one goroutine does all of it.
type leader struct {
	r    *replica
	n    *Node
	term uint64

	firstEntry []byte // the encoded Lead entry; written before the entry is proposed
	barrier    bool   // firstEntry is applied; guarded by r.sm.mu

	box      *mailbox[event]
	failed   chan struct{} // closed when an entry was not committed
	failOnce sync.Once
	futures  chan raft.ApplyFuture
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	// All below is owned by the run goroutine.
	led     bool
	ann     *announcer // from led on
	early   []event    // frames that came before the barrier
	clock   stamper
	sources map[uint64]*source
	dirty   []*source // with an answer to send

	pending      []*logpb.LaneOp
	pendingBytes int
	owned        []func(ok bool) // of ops of our own without a result, in order; nil: nobody waits
	confirms     []*logpb.Confirm
	flying       int
	proposed     time.Time // the last entry, while any is flying

	out       outbox
	attached  map[uint64]*attachment // by gateway
	attaching map[uint64][]*peerpb.AttachSession
	pushes    map[uint64][]fsm.Push
	closing   map[uint64]bool // CloseGateway is on its way
	ticked    time.Time       // when Tick was proposed last
	sooner    bool            // something may be due earlier than the timer says
	reads     []readRequest
	verifying bool
	annDirty  bool
	// reannounce: nodes whose gateways must attach again.
	reannounce map[string]bool
	refuse     bool // over the byte budget or the disk reserve

	marksAsked map[markAsked]struct{} // questions that wait for marks
	sharedTurn int                    // counts messages of QoS 0 for groups

	checkpointed time.Time // when Checkpoint was proposed last
	tickBy       time.Time // when tick must come, however busy we are
}

// event is something for the leader to do.
type event struct {
	from    string
	frame   *peerpb.Frame
	outcome *fsm.Outcome
	started *fsm.Effects // with the outcome of the first entry: all pending work
	call    func()
}

func newLeader(r *replica, term uint64) *leader {
	return &leader{
		r: r, n: r.n, term: term,
		box:        newMailbox[event](),
		failed:     make(chan struct{}),
		futures:    make(chan raft.ApplyFuture, maxFlying+1),
		sources:    make(map[uint64]*source),
		out:        newOutbox(),
		attached:   make(map[uint64]*attachment),
		attaching:  make(map[uint64][]*peerpb.AttachSession),
		pushes:     make(map[uint64][]fsm.Push),
		closing:    make(map[uint64]bool),
		reannounce: make(map[string]bool),
		marksAsked: make(map[markAsked]struct{}),

		checkpointed: time.Now(),
	}
}

func (ld *leader) start(ctx context.Context) {
	ctx, ld.cancel = context.WithCancel(ctx)
	ld.wg.Add(2)
	go func() { defer ld.wg.Done(); ld.watchFutures(ctx) }()
	go func() { defer ld.wg.Done(); ld.run(ctx) }()
}

// stop ends the leadership's work and waits for it.
func (ld *leader) stop() {
	ld.r.sm.setLeader(nil)
	ld.cancel()
	ld.wg.Wait()
	ld.r.transport.SetSilent(false)
	ld.out.close()
	if ld.ann != nil {
		ld.ann.fail()
	}
	for _, then := range ld.owned {
		if then != nil {
			then(false)
		}
	}
}

func (ld *leader) fail(err error) {
	ld.failOnce.Do(func() {
		ld.n.log.Debug("leader ends", "partition", ld.r.partition, "term", ld.term, "error", err)
		close(ld.failed)
	})
}

// watchFutures looks for entries that Raft could not commit.
func (ld *leader) watchFutures(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-ld.futures:
			if err := f.Error(); err != nil {
				ld.fail(err)
				return
			}
		}
	}
}

// run waits for everything before this leadership to be applied, proposes Lead,
// and then works off events.
func (ld *leader) run(ctx context.Context) {
	if err := ld.r.raft.Barrier(0).Error(); err != nil {
		ld.fail(err)
		return
	}
	if !ld.lead() {
		return
	}
	tick := time.NewTimer(leaderTick)
	defer tick.Stop()
	var events []event
	for {
		select {
		case <-ctx.Done():
			return
		case <-ld.box.wake:
		case <-tick.C:
			tick.Reset(ld.tick())
		}
		events = ld.box.take(events)
		for i := range events {
			ld.handle(events[i])
		}
		ld.propose()
		ld.flush()
		if ld.sooner {
			ld.sooner = false
			tick.Reset(min(ld.untilDue(), max(0, time.Until(ld.tickBy))))
		}
	}
}

// lead proposes the leader's first entry. Its time is not before any entry's
// that came earlier: those are applied.
func (ld *leader) lead() bool {
	var applied int64
	ld.r.sm.read(func(m *fsm.Machine) { applied = m.Time() })
	ld.clock = newStamper(max(applied, ld.n.clocks.median()))
	op := encodeOp(&logpb.Op{Body: &logpb.Op_Lead{Lead: &logpb.Lead{
		Leader: string(ld.r.id), Nonce: ld.n.nonce(), Settings: ld.n.o.Settings,
	}}})
	e := &logpb.Entry{Format: 1, Time: ld.clock.now(), Ops: []*logpb.LaneOp{{IsLeader: true, Op: op}}}
	data, err := e.MarshalVT()
	if err != nil {
		ld.n.fatal(err)
		return false
	}
	ld.firstEntry = data
	ld.owned = append(ld.owned, nil)
	ld.r.sm.setLeader(ld)
	ld.flying++
	ld.futures <- ld.r.raft.Apply(data, 0)
	return true
}

func (ld *leader) handle(ev event) {
	switch {
	case ev.outcome != nil:
		if ev.started != nil {
			ld.begin(ev.started)
		}
		ld.flying--
		ld.applied(ev.outcome)
	case ev.call != nil:
		ev.call()
	case !ld.led:
		ld.early = append(ld.early, ev)
	default:
		ld.frame(ev.from, ev.frame)
	}
}

// begin takes up the work: the state is complete up to our first entry.
func (ld *leader) begin(pending *fsm.Effects) {
	ld.led = true
	p := uint64(ld.r.partition)
	ld.ann = newAnnouncer(p, ld.term, pending.Version, ld.n.send, ld.wholeInterest, ld.settled)
	for _, it := range pending.Outbox {
		ld.outboxAdd(it)
	}
	ld.kickAll(pending.Kick)
	ld.membersChanged()
	for _, node := range ld.n.memberNodes() {
		ld.announceTo(node)
	}
	early := ld.early
	ld.early = nil
	for _, ev := range early {
		ld.frame(ev.from, ev.frame)
	}
	ld.n.log.Debug("leads", "partition", ld.r.partition, "term", ld.term)
}

// announceTo tells a node who leads; its gateway attaches then.
func (ld *leader) announceTo(node string) {
	ld.n.send(node, &peerpb.Frame{Body: &peerpb.Frame_Leader{Leader: &peerpb.Leader{
		Partition: ld.r.partition, Term: ld.term, Node: ld.n.name,
	}}})
}

func (ld *leader) frame(from string, f *peerpb.Frame) {
	switch b := f.Body.(type) {
	case *peerpb.Frame_LaneItems:
		ld.items(from, b.LaneItems)
	case *peerpb.Frame_LaneAnswer:
		ld.out.answer(from, b.LaneAnswer)
	case *peerpb.Frame_Attach:
		ld.attach(from, b.Attach)
	case *peerpb.Frame_InterestAck:
		ld.ann.ack(from, b.InterestAck)
	case *peerpb.Frame_RetainedRead:
		ld.read(from, b.RetainedRead)
	case *peerpb.Frame_MarkWait:
		ld.markWait(from, b.MarkWait)
	case *peerpb.Frame_SharedRoute:
		ld.sharedRoute(b.SharedRoute)
	}
}

// own queues an op of the leader itself.
func (ld *leader) own(op *logpb.Op) { ld.ownThen(op, nil) }

// ownThen is own; then is called when the op is applied, or with false when the
// leadership ends before.
func (ld *leader) ownThen(op *logpb.Op, then func(ok bool)) {
	b := encodeOp(op)
	ld.owned = append(ld.owned, then)
	ld.pending = append(ld.pending, &logpb.LaneOp{IsLeader: true, Op: b})
	ld.pendingBytes += len(b)
}

// propose puts what has collected into entries.
func (ld *leader) propose() {
	if !ld.led {
		return
	}
	if ld.flying == 0 || len(ld.pending) > 0 {
		ld.outboxDone()
	}
	for ld.mayPropose() && len(ld.pending) > 0 {
		n, size := 0, 0
		for n < len(ld.pending) && n < maxEntryOps && (n == 0 || size+len(ld.pending[n].Op) <= maxEntryBytes) {
			size += len(ld.pending[n].Op)
			n++
		}
		e := &logpb.Entry{Format: 1, Time: ld.clock.now(), Ops: ld.pending[:n], Confirms: ld.confirms}
		data, err := e.MarshalVT()
		if err != nil {
			ld.n.fatal(err)
			return
		}
		clear(ld.pending[:n])
		ld.pending = ld.pending[n:]
		ld.pendingBytes -= size
		ld.confirms = nil
		ld.flying++
		ld.proposed = time.Now()
		ld.futures <- ld.r.raft.Apply(data, 0)
	}
	if len(ld.pending) == 0 {
		ld.pending = nil
	}
}

// mayPropose says whether an entry may follow now. What has to wait goes with one of the
// next events: at the latest with the outcome of an entry on its way.
func (ld *leader) mayPropose() bool {
	return ld.flying == 0 || ld.flying < maxFlying && time.Since(ld.proposed) >= minGap
}

// applied carries out what an entry of ours brought.
func (ld *leader) applied(o *fsm.Outcome) {
	ld.results(o.Results)
	e := &o.Effects
	for _, g := range e.Closed {
		ld.gatewayClosed(g)
	}
	for _, p := range e.Push {
		if ld.attached[p.Gateway] != nil {
			ld.pushes[p.Gateway] = append(ld.pushes[p.Gateway], p)
		}
	}
	for _, it := range e.Outbox {
		ld.outboxAdd(it)
	}
	for _, c := range e.Completed {
		ld.completed(c)
	}
	ld.kickAll(e.Kick)
	ld.ownersGone(e.OwnerGone)
	if len(e.Interest) > 0 {
		ld.ann.change(e.Version, interestChanges(e.Interest))
		ld.annDirty = true
	}
	for _, p := range e.Shared {
		now := ld.clock.now()
		ld.pushShared(p, func(m *logpb.Message) *logpb.Message { return remaining(m, now) })
	}
	ld.answerMarks()
	ld.n.countDropped(e.Dropped)
	ld.sooner = true
}

// flush sends what the pass has collected.
func (ld *leader) flush() {
	ld.flushAnswers()
	ld.flushPushes()
	if ld.annDirty {
		ld.annDirty = false
		ld.ann.flush()
	}
}

// tick does what the clock demands, and says when to come again.
func (ld *leader) tick() time.Duration {
	ld.tickBy = time.Now().Add(leaderTick)
	if !ld.led {
		return leaderTick
	}
	ld.ann.flush()
	ld.checkpoint()
	ld.routeOutbox()
	for node := range ld.reannounce {
		delete(ld.reannounce, node)
		ld.announceTo(node)
	}
	wait := ld.untilDue()
	if wait == 0 {
		ld.ticked = time.Now()
		ld.own(&logpb.Op{Body: &logpb.Op_Tick{Tick: &logpb.Tick{}}})
		wait = dueRetry
	}
	return wait
}

// untilDue is the time until the state has something due, at most leaderTick. On
// the way it finds whether there is room for more messages.
func (ld *leader) untilDue() time.Duration {
	now := ld.clock.now()
	wait := leaderTick
	var bytes int64
	ld.r.sm.read(func(m *fsm.Machine) {
		bytes = m.Bytes()
		if at, ok := m.NextDeadline(); ok {
			wait = min(wait, time.Duration(max(0, at-now))*time.Millisecond)
		}
	})
	ld.refuse = ld.n.mustRefuse(bytes)
	if wait < dueRetry && time.Since(ld.ticked) < dueRetry {
		return dueRetry // a Tick is on its way
	}
	return wait
}

// membersChanged compares the state with what the control group says: which
// gateways have ended, who must know our interest. It is level-triggered: it may
// be called at any time.
func (ld *leader) membersChanged() {
	if !ld.led {
		return
	}
	ld.ann.setMembers(ld.n.liveGateways())
	var ended []uint64
	ld.r.sm.read(func(m *fsm.Machine) {
		m.Owners(func(g uint64, _ int) {
			if !ld.closing[g] && ld.n.gatewayClosed(g) {
				ended = append(ended, g)
			}
		})
	})
	for _, g := range ended {
		ld.closing[g] = true
		ld.own(&logpb.Op{Body: &logpb.Op_CloseGateway{CloseGateway: &logpb.CloseGateway{Gateway: g}}})
	}
	ld.out.closeEnded(ld.n.gatewayClosed)
}

// gatewayClosed forgets a gateway whose end is applied.
func (ld *leader) gatewayClosed(g uint64) {
	delete(ld.closing, g)
	for source := range ld.sources {
		if !isPartition(source) && nodeNumber(source) == nodeNumber(g) && source <= g {
			delete(ld.sources, source)
		}
	}
	for a := range ld.attached {
		if nodeNumber(a) == nodeNumber(g) && a <= g {
			delete(ld.attached, a)
		}
	}
}

// linkUp: what was sent to the node before may be lost. Its gateway attaches when
// it hears from us.
func (ld *leader) linkUp(node string) {
	if !ld.led {
		return
	}
	for g := range ld.attached {
		if ld.n.gatewayNode(g) == node {
			delete(ld.attached, g)
		}
	}
	ld.announceTo(node)
	ld.ann.linkUp(node)
}

// stamper gives the partition's time: what it was at the start plus this
// process's own monotonic elapsed time (design §6).
type stamper struct {
	base  int64
	start time.Time
}

func newStamper(base int64) stamper { return stamper{base, time.Now()} }

func (s stamper) now() int64 { return s.base + time.Since(s.start).Milliseconds() }
