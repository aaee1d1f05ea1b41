package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// ingress is one incarnation of this node's gateway as the source of lanes: what
// clients ask goes out here, and nothing is answered to them that was not
// answered by its destination. When the cluster ends the incarnation, the ingress
// ends with it and a new one begins with empty lanes.
type ingress struct {
	n       *Node
	id      uint64 // the gateway's id
	parts   []*ingressPart
	nextMsg atomic.Uint64

	mu       sync.Mutex
	gateways map[uint64]*lane // to other nodes' gateways; guarded by mu
	gated    []func(error)    // what waits for the lease, in order; guarded by mu
	draining bool             // leaseRenewed is at work; guarded by mu
	ended    bool             // guarded by mu

	interest *announcer // of this gateway
	filters  *filterSet
	kicks    *kicks
	reads    *reads
	marks    *marks
}

// ingressPart is what the ingress keeps for one partition.
type ingressPart struct {
	partition uint32
	lane      *lane

	mu         sync.Mutex
	attached   string                   // the leader's node that has answered our Attach
	nonce      uint64                   // of our last Attach
	nextPush   uint64                   // number of the next frame in its stream
	connecting map[string]int           // Connects without a result, by client id
	sessions   map[connection]*position // by connection
	settled    uint64                   // every member routes by this interest version
	waiting    []settledWaiter
}

// connection names one connection of a session.
type connection struct {
	client string
	epoch  uint64
}

// position is how far deliveries to a connection have come.
type position struct {
	seq       uint64
	releasing map[uint16]*releasing
	fenced    bool // a newer connection owns the session: nothing is waited for any more
}

// releasing is a PUBREL without an answer.
type releasing struct {
	done []func(error)
	// pending: the Release is committed, and PUBCOMP waits for the retained
	// partition to store the message.
	pending bool
	// unsure: an Attach went out before the Release was known to be committed, so
	// that its answer, Completed, may have been missed.
	unsure bool
}

func (r *releasing) finish(err error) {
	for _, done := range r.done {
		done(err)
	}
}

type settledWaiter struct {
	version uint64
	done    func()
}

func newIngress(n *Node, id uint64) *ingress {
	g := &ingress{n: n, id: id, gateways: make(map[uint64]*lane), filters: newFilterSet()}
	g.kicks = newKicks(n)
	g.reads = newReads(n)
	g.marks = newMarks(n)
	g.interest = newAnnouncer(id, 0, 0, n.send, g.filters.whole, nil)
	for p := range n.partitions {
		p := p
		g.parts = append(g.parts, &ingressPart{
			partition:  p,
			lane:       newLane(n.pump, id, uint64(p), 0, func() string { return n.leaders.node(p) }),
			connecting: make(map[string]int),
			sessions:   make(map[connection]*position),
		})
	}
	return g
}

// part is what is kept for the partition of a client's session.
func (g *ingress) part(clientID string) *ingressPart {
	return g.parts[partitionOf(clientID, uint32(len(g.parts)))]
}

// gate calls fn when the node's lease is valid, in the order of the calls:
// without it nothing is acknowledged, and nothing that a client sends goes
// anywhere (design §5). If the incarnation ends first fn gets ErrUnavailable.
func (g *ingress) gate(fn func(error)) {
	g.mu.Lock()
	switch {
	case g.ended:
		g.mu.Unlock()
		fn(flow.ErrUnavailable)
	case !g.n.leaseValid() || len(g.gated) > 0 || g.draining:
		g.gated = append(g.gated, fn)
		g.mu.Unlock()
	default:
		g.mu.Unlock()
		fn(nil)
	}
}

// passable reports whether gate would let a call pass at once.
func (g *ingress) passable() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.ended && len(g.gated) == 0 && !g.draining && g.n.leaseValid()
}

// leaseRenewed lets go of what waited, in order.
func (g *ingress) leaseRenewed() {
	g.mu.Lock()
	if g.draining {
		g.mu.Unlock()
		return
	}
	g.draining = true
	for len(g.gated) > 0 && g.n.leaseValid() {
		fn := g.gated[0]
		g.gated = g.gated[1:]
		g.mu.Unlock()
		fn(nil)
		g.mu.Lock()
	}
	g.draining = false
	g.mu.Unlock()
}

// end fails everything that is asked and not answered. The gateway has closed
// all its connections before.
func (g *ingress) end() {
	g.mu.Lock()
	g.ended = true
	due := g.gated
	g.gated = nil
	lanes := make([]*lane, 0, len(g.gateways))
	for _, l := range g.gateways {
		lanes = append(lanes, l)
	}
	g.mu.Unlock()
	for _, answer := range due {
		answer(flow.ErrUnavailable)
	}
	for _, l := range lanes {
		l.close()
	}
	for _, p := range g.parts {
		p.lane.close()
		p.fail()
	}
	g.interest.fail()
	g.kicks.fail()
	g.reads.fail()
	g.marks.fail()
}

// fail ends what waits at a partition for something else than a lane.
func (p *ingressPart) fail() {
	p.mu.Lock()
	waiting := p.waiting
	p.waiting = nil
	var open []*releasing
	for _, s := range p.sessions {
		for _, r := range s.releasing {
			open = append(open, r)
		}
	}
	clear(p.sessions)
	p.mu.Unlock()
	for _, w := range waiting {
		w.done()
	}
	for _, r := range open {
		r.finish(flow.ErrUnavailable)
	}
}

func (g *ingress) hasEnded() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

// gatewayLane is the lane to another node's gateway.
func (g *ingress) gatewayLane(to uint64) *lane {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.gateways[to]
	if l == nil {
		l = newLane(g.n.pump, g.id, to, 0, func() string { return g.n.gatewayNode(to) })
		if g.ended {
			l.close()
		}
		g.gateways[to] = l
	}
	return l
}

// dropGateway closes the lane to a gateway that has ended: nobody there waits
// for anything any more.
func (g *ingress) dropGateway(to uint64) {
	g.mu.Lock()
	l := g.gateways[to]
	delete(g.gateways, to)
	g.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// gatewayLanes lists the destinations of lanes to gateways.
func (g *ingress) gatewayLanes() []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	ends := make([]uint64, 0, len(g.gateways))
	for end := range g.gateways {
		ends = append(ends, end)
	}
	return ends
}

// laneOf is the lane that an answer speaks of, or nil.
func (g *ingress) laneOf(destination uint64) *lane {
	if isPartition(destination) {
		if destination < uint64(len(g.parts)) {
			return g.parts[destination].lane
		}
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gateways[destination]
}

// ask puts an op on the lane to a partition.
func (p *ingressPart) ask(op *logpb.Op, done laneDone) {
	p.lane.put(0, encodeOp(op), done)
}

// encodeOp encodes an op. Ops are built here from plain values, so that a failure
// is a broken invariant.
func encodeOp(op *logpb.Op) []byte {
	b, err := op.MarshalVT()
	if err != nil {
		panic(fmt.Sprintf("cluster: encoding an op: %v", err))
	}
	return b
}

// opError is the error that a result code stands for; nil for CodeOK.
func opError(code uint32, err error) error {
	switch {
	case err != nil:
		return flow.ErrUnavailable
	case code == fsm.CodeOK:
		return nil
	case code == fsm.CodeFenced:
		return flow.ErrFenced
	case code == fsm.CodeQuota:
		return flow.ErrQuota
	case code == fsm.CodeUnknownPacketID:
		return flow.ErrUnknownPacketID
	}
	return fmt.Errorf("cluster: the partition refused with code %#x", code)
}

// inStream takes the next frame of the stream of pushes from the partition's
// leader. false: it is of another stream, or one before it is missing; gap: the
// gateway must attach again.
func (p *ingressPart) inStream(from string, nonce, number uint64) (ok, gap bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if nonce != p.nonce {
		return false, false // of an Attach that was given up
	}
	if number == 0 {
		p.attached, p.nextPush = from, 0
	}
	if number != p.nextPush {
		p.attached = ""
		return false, true
	}
	p.nextPush++
	return true, false
}

// push hands on what is new of the deliveries to a connection.
func (g *ingress) push(partition uint32, clientID string, epoch uint64, ds []flow.Delivery) {
	p := g.parts[partition]
	p.mu.Lock()
	defer p.mu.Unlock()
	key := connection{clientID, epoch}
	s := p.sessions[key]
	if s == nil {
		if p.connecting[clientID] == 0 {
			return // a connection of the past
		}
		s = &position{}
		p.sessions[key] = s
	}
	n := 0
	for i := range ds {
		if ds[i].Seq == 0 || ds[i].Seq > s.seq {
			ds[n] = ds[i]
			n++
		}
		s.seq = max(s.seq, ds[i].Seq)
	}
	if n > 0 {
		g.n.gateway.Deliver(clientID, epoch, ds[:n])
	}
}

// settle learns that every member routes by a version of a partition's interest.
func (p *ingressPart) settle(version uint64) {
	p.mu.Lock()
	p.settled = max(p.settled, version)
	var due []func()
	keep := p.waiting[:0]
	for _, w := range p.waiting {
		if w.version <= p.settled {
			due = append(due, w.done)
		} else {
			keep = append(keep, w)
		}
	}
	p.waiting = keep
	p.mu.Unlock()
	for _, done := range due {
		done()
	}
}

// whenSettled calls done when every member routes by the version.
func (p *ingressPart) whenSettled(version uint64, done func()) {
	p.mu.Lock()
	if p.settled < version && !mutant.SubackEarly {
		p.waiting = append(p.waiting, settledWaiter{version, done})
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	done()
}

// attach lists where every connection of the partition stands. lost: frames of the
// leader may have been lost before.
func (p *ingressPart) attach(gateway, nonce uint64, lost bool) []*peerpb.Attach {
	const perFrame = 2048
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nonce, p.attached = nonce, ""
	frames := []*peerpb.Attach{{Partition: p.partition, Gateway: gateway, Nonce: nonce}}
	for c, s := range p.sessions {
		last := frames[len(frames)-1]
		if len(last.Sessions) == perFrame {
			last.More = true
			last = &peerpb.Attach{Partition: p.partition, Gateway: gateway, Nonce: nonce}
			frames = append(frames, last)
		}
		as := &peerpb.AttachSession{ClientId: c.client, Epoch: c.epoch, Position: s.seq}
		for id, r := range s.releasing {
			// A partition that has not seen the Release yet has nothing to complete
			// either, and would say that it is done.
			if r.pending {
				as.Releasing = append(as.Releasing, uint32(id))
			} else if lost {
				r.unsure = true
			}
		}
		last.Sessions = append(last.Sessions, as)
	}
	return frames
}

// isAttached reports whether the leader on this node has answered our Attach.
func (p *ingressPart) isAttached(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.attached == node
}
