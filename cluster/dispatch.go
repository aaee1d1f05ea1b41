package cluster

import (
	"sync"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// maxHeldFrames bounds what waits for news of the control group.
const maxHeldFrames = 1024

// onFrame takes a frame of another node, or of this one, in order per sender.
func (n *Node) onFrame(from string, f *peerpb.Frame) {
	if !n.opened.Load() {
		return // whoever sent it sends again
	}
	switch b := f.Body.(type) {
	case *peerpb.Frame_LaneItems:
		n.onLaneItems(from, f, b.LaneItems)
	case *peerpb.Frame_LaneAnswer:
		n.onLaneAnswer(from, f, b.LaneAnswer)
	case *peerpb.Frame_Push:
		n.onPush(from, b.Push)
	case *peerpb.Frame_Interest:
		n.onInterest(from, b.Interest)
	case *peerpb.Frame_InterestAck:
		n.onInterestAck(from, f, b.InterestAck)
	case *peerpb.Frame_Attach:
		n.toLeader(b.Attach.Partition, from, f)
	case *peerpb.Frame_Settled:
		n.onSettled(b.Settled)
	case *peerpb.Frame_Completed:
		if g := n.ingressOf(b.Completed.Gateway); g != nil && b.Completed.Partition < n.partitions {
			g.parts[b.Completed.Partition].completed(b.Completed)
		}
	case *peerpb.Frame_Kick:
		n.onKick(from, b.Kick)
	case *peerpb.Frame_Kicked:
		if g := n.ingress(); g != nil {
			g.kicks.kicked(b.Kicked)
		}
	case *peerpb.Frame_Route:
		n.onRoute(b.Route)
	case *peerpb.Frame_RetainedRead:
		if mutant.RetainedFromFollower {
			n.answerFromReplica(from, b.RetainedRead)
			return
		}
		if !n.toLeader(b.RetainedRead.Partition, from, f) {
			n.send(from, &peerpb.Frame{Body: &peerpb.Frame_RetainedData{RetainedData: &peerpb.RetainedData{
				Partition: b.RetainedRead.Partition, Id: b.RetainedRead.Id, NotLeader: true,
			}}})
		}
	case *peerpb.Frame_RetainedData:
		if g := n.ingress(); g != nil {
			g.reads.data(b.RetainedData)
		}
	case *peerpb.Frame_MarkWait:
		n.toLeader(b.MarkWait.Partition, from, f)
	case *peerpb.Frame_MarkReached:
		if g := n.ingress(); g != nil && b.MarkReached.Partition < n.partitions {
			g.marks.reached(b.MarkReached)
		}
	case *peerpb.Frame_SharedRoute:
		if n.gatewayClosed(b.SharedRoute.Gateway) || !n.toLeader(b.SharedRoute.Partition, from, f) {
			n.metrics.RouteDropped.Add(1)
		}
	case *peerpb.Frame_SharedPush:
		n.onSharedPush(b.SharedPush)
	case *peerpb.Frame_Leader:
		n.onLeader(b.Leader)
	case *peerpb.Frame_Beacon:
		n.clocks.heard(from, b.Beacon.Wall)
		n.positions.heard(from, b.Beacon)
	case *peerpb.Frame_StateDigest:
		n.onDigest(b.StateDigest)
	}
}

// ingressOf is the live ingress if it is the gateway's, or nil.
func (n *Node) ingressOf(gateway uint64) *ingress {
	if g := n.ingress(); g != nil && g.id == gateway {
		return g
	}
	return nil
}

// toLeader hands a frame to the partition's leader if it is here.
func (n *Node) toLeader(partition uint32, from string, f *peerpb.Frame) bool {
	r := n.replicas.at(partition)
	if r == nil {
		return false
	}
	ld := r.leader()
	if ld == nil {
		return false
	}
	ld.box.put(event{from: from, frame: f})
	return true
}

// heldFrames are lane items whose senders know more of the control group than we.
type heldFrames struct {
	mu     sync.Mutex
	frames []event
}

// release hands on what was held; what is still too early is held again.
func (n *Node) releaseHeld() {
	n.held.mu.Lock()
	frames := n.held.frames
	n.held.frames = nil
	n.held.mu.Unlock()
	for _, ev := range frames {
		n.onLaneItems(ev.from, ev.frame, ev.frame.GetLaneItems())
	}
}

func (n *Node) onLaneItems(from string, f *peerpb.Frame, items *peerpb.LaneItems) {
	if items.Knows > n.control.State().Applied {
		n.held.mu.Lock()
		if len(n.held.frames) < maxHeldFrames { // else the source sends again
			n.held.frames = append(n.held.frames, event{from: from, frame: f})
		}
		n.held.mu.Unlock()
		return
	}
	to := items.Lane.Destination
	a := &peerpb.LaneAnswer{Lane: items.Lane, SourceTerm: items.Term}
	if isPartition(to) {
		if n.toLeader(uint32(to), from, f) {
			return
		}
		a.Status = peerpb.LaneAnswer_NOT_LEADER
		a.Leader = n.believedLeader(uint32(to))
	} else {
		if e := n.out.Load(); e != nil && e.id == to {
			e.take(from, items)
			return
		}
		if !n.gatewayClosed(to) {
			return // it has not started here yet; the source sends again
		}
		a.Status = peerpb.LaneAnswer_CLOSED
	}
	n.send(from, &peerpb.Frame{Body: &peerpb.Frame_LaneAnswer{LaneAnswer: a}})
}

func (n *Node) onLaneAnswer(from string, f *peerpb.Frame, a *peerpb.LaneAnswer) {
	to := a.Lane.Destination
	if a.Status == peerpb.LaneAnswer_NOT_LEADER && isPartition(to) && uint32(to) < n.partitions {
		n.leaders.moved(uint32(to), from, a.Leader)
	}
	if isPartition(a.Lane.Source) {
		n.toLeader(uint32(a.Lane.Source), from, f)
		return
	}
	g := n.ingressOf(a.Lane.Source)
	if g == nil {
		return
	}
	if a.Status == peerpb.LaneAnswer_CLOSED && !n.gatewayClosed(to) {
		return // it speaks of our end, of which the control group will tell us
	}
	if l := g.laneOf(to); l != nil {
		l.answer(from, a)
	}
}

func (n *Node) onPush(from string, p *peerpb.Push) {
	g := n.ingressOf(p.Gateway)
	if g == nil || p.Partition >= n.partitions {
		return
	}
	ok, gap := g.parts[p.Partition].inStream(from, p.Nonce, p.Number)
	if gap {
		n.attach(g, p.Partition)
	}
	if !ok {
		return
	}
	for _, s := range p.Sessions {
		ds := make([]flow.Delivery, len(s.Items))
		for i, it := range s.Items {
			ds[i] = flow.Delivery{
				Seq: it.Seq, PacketID: uint16(it.PacketId), QoS: byte(it.Qos), Release: it.Release, Dup: it.Dup,
				Retained: it.Retained, SubscriptionIDs: it.SubscriptionIds,
			}
			if len(it.Message) == 0 {
				continue
			}
			m, err := decodeMessage(it.Message)
			if err != nil {
				n.log.Error("delivery of a peer cannot be decoded", "partition", p.Partition, "from", from, "error", err)
				return
			}
			ds[i].Message = m
		}
		g.push(p.Partition, s.ClientId, s.Epoch, ds)
	}
}

func decodeMessage(b []byte) (*flow.Message, error) {
	var m logpb.Message
	if err := m.UnmarshalVT(b); err != nil {
		return nil, err
	}
	return messageFromLog(&m), nil
}

func (n *Node) onRoute(r *peerpb.Route) {
	if n.ingress() == nil || n.gatewayClosed(r.Gateway) {
		n.metrics.RouteDropped.Add(uint64(len(r.Messages)))
		return
	}
	for _, b := range r.Messages {
		m, err := decodeMessage(b)
		if err != nil {
			n.log.Error("message of a peer cannot be decoded", "error", err)
			return
		}
		n.gateway.Route(m, false)
	}
}

func (n *Node) onInterest(from string, u *peerpb.InterestUpdate) {
	if !isPartition(u.Destination) && n.gatewayClosed(u.Destination) {
		return
	}
	ack := n.routes.update(u)
	if ack == nil {
		return // more parts follow
	}
	if g := n.ingress(); g != nil {
		ack.Gateway = g.id
	}
	n.send(from, &peerpb.Frame{Body: &peerpb.Frame_InterestAck{InterestAck: ack}})
}

func (n *Node) onInterestAck(from string, f *peerpb.Frame, a *peerpb.InterestAck) {
	if isPartition(a.Destination) {
		n.toLeader(uint32(a.Destination), from, f)
		return
	}
	if g := n.ingressOf(a.Destination); g != nil {
		g.interest.ack(from, a)
	}
}

func (n *Node) onSettled(s *peerpb.Settled) {
	g := n.ingress()
	if g == nil || s.Partition >= n.partitions {
		return
	}
	g.parts[s.Partition].settle(s.Version)
}

// onLeader: a partition has a leader. Whatever waits for it goes on.
func (n *Node) onLeader(l *peerpb.Leader) {
	if l.Partition >= n.partitions || !n.leaders.set(l.Partition, l.Term, l.Node) {
		return
	}
	n.pump.rerouted(uint64(l.Partition))
	if g := n.ingress(); g != nil {
		n.attach(g, l.Partition)
		g.reads.retry(l.Partition, true)
		g.marks.retryAt(l.Partition)
	}
}

// attach tells the partition's leader where our connections stand, after frames of
// it may have been lost.
func (n *Node) attach(g *ingress, partition uint32) { n.sendAttach(g, partition, true) }

func (n *Node) sendAttach(g *ingress, partition uint32, lost bool) {
	node := n.leaders.node(partition)
	for _, a := range g.parts[partition].attach(g.id, n.nonce(), lost) {
		n.send(node, &peerpb.Frame{Body: &peerpb.Frame_Attach{Attach: a}})
	}
}

// onLink: our stream to a node came up, or broke: then what was sent is in doubt.
func (n *Node) onLink(node string, up bool) {
	if !up {
		n.control.Suspect(node)
		if n.opened.Load() {
			for _, r := range n.replicas.all() {
				r.suspect(node)
			}
		}
		return
	}
	n.clocks.due()
	if !n.opened.Load() {
		return
	}
	n.pump.linkUp(node)
	if g := n.ingress(); g != nil {
		g.interest.linkUp(node)
		g.kicks.retry(node)
	}
	for _, r := range n.replicas.all() {
		if ld := r.leader(); ld != nil {
			ld.box.put(event{call: func() { ld.linkUp(node) }})
		}
	}
}
