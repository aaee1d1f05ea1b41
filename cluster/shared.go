package cluster

import (
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// This file carries what shared subscriptions need: between the partitions of groups
// and of sessions, and between groups and the gateways of ephemeral members.

// JoinGroup makes a connection a member of a group, or changes its membership. done
// allows SUBACK: every member of the cluster routes by it.
func (n *Node) JoinGroup(clientID string, epoch uint64, m flow.Membership, done func(existed bool, err error)) {
	g := n.ingress()
	if g == nil {
		done(false, flow.ErrUnavailable)
		return
	}
	p := g.parts[partitionOf(m.Filter, n.partitions)]
	p.askGroup(&logpb.GroupItem{Body: &logpb.GroupItem_Member{Member: &logpb.GroupMember{
		Filter: m.Filter, ClientId: clientID, Stamp: m.Stamp, Gateway: g.id, Epoch: epoch, Window: uint32(m.Window),
		Qos: uint32(m.QoS), RetainAsPublished: m.RetainAsPublished, Id: m.ID, Kept: m.Kept,
	}}}, func(_ uint32, result []byte, err error) {
		r, err := n.groupResult(result, err)
		if err != nil {
			done(false, err)
			return
		}
		p.whenSettled(r.Version, func() {
			if g.hasEnded() {
				done(false, flow.ErrUnavailable)
				return
			}
			g.gate(func(err error) { done(r.Existed[0], err) })
		})
	})
}

// LeaveGroup ends a connection's membership.
func (n *Node) LeaveGroup(clientID, filter string, done func(existed bool, err error)) {
	if done == nil {
		done = func(bool, error) {}
	}
	g := n.ingress()
	if g == nil {
		done(false, flow.ErrUnavailable)
		return
	}
	g.parts[partitionOf(filter, n.partitions)].askGroup(&logpb.GroupItem{Body: &logpb.GroupItem_Leave{
		Leave: &logpb.GroupLeave{Filter: filter, ClientId: clientID},
	}}, func(_ uint32, result []byte, err error) {
		r, err := n.groupResult(result, err)
		if err != nil {
			done(false, err)
			return
		}
		g.gate(func(err error) { done(r.Existed[0], err) })
	})
}

// Taken tells a group that a member needs nobody's help with messages any more.
func (n *Node) Taken(clientID, filter string, items []uint64) {
	if g := n.ingress(); g != nil {
		g.parts[partitionOf(filter, n.partitions)].askGroup(&logpb.GroupItem{Body: &logpb.GroupItem_Taken{
			Taken: &logpb.GroupTaken{Filter: filter, ClientId: clientID, Items: items},
		}}, func(uint32, []byte, error) {})
	}
}

func (p *ingressPart) askGroup(it *logpb.GroupItem, done laneDone) {
	p.ask(&logpb.Op{Body: &logpb.Op_Group{Group: &logpb.Group{Items: []*logpb.GroupItem{it}}}}, done)
}

// groupResult decodes the result of one item.
func (n *Node) groupResult(result []byte, err error) (*logpb.GroupResult, error) {
	if err != nil {
		return nil, flow.ErrUnavailable
	}
	var r logpb.GroupResult
	if err := r.UnmarshalVT(result); err != nil || len(r.Existed) != 1 {
		n.fatal(errUnknownItem)
		return nil, flow.ErrUnavailable
	}
	return &r, nil
}

// assigned hands messages of groups to this gateway's ephemeral members. One whose
// connection is gone has left its groups, which take back what was on its way.
func (e *egress) assigned(op *logpb.Group) {
	for _, it := range op.Items {
		a := it.GetAssigned()
		if a == nil {
			e.n.fatal(errUnknownItem)
			return
		}
		d := flow.Delivery{
			QoS: byte(a.Qos), Retained: a.Retained, Message: messageFromLog(a.Message),
			Group: a.Filter, Stamp: a.Stamp, Item: a.Item,
		}
		if a.SubscriptionId != 0 {
			d.SubscriptionIDs = []uint32{a.SubscriptionId}
		}
		e.n.gateway.Deliver(a.ClientId, a.Epoch, []flow.Delivery{d})
	}
}

// routeGroup sends what the partition has for groups or members elsewhere.
func (ld *leader) routeGroup(it *fsm.OutboxItem) {
	oi := &outItem{item: it, left: 1}
	ld.out.items[it.Seq] = oi
	if !isPartition(it.Destination) && ld.n.gatewayClosed(it.Destination) {
		ld.itemTaken(oi)
		return
	}
	now := ld.clock.now()
	op := &logpb.Group{Items: make([]*logpb.GroupItem, len(it.Group))}
	for i, x := range it.Group {
		if a := x.GetAssigned(); a != nil {
			x = &logpb.GroupItem{Body: &logpb.GroupItem_Assigned{Assigned: &logpb.GroupAssigned{
				Filter: a.Filter, ClientId: a.ClientId, Stamp: a.Stamp, Epoch: a.Epoch, Item: a.Item, Qos: a.Qos,
				Retained: a.Retained, SubscriptionId: a.SubscriptionId, Message: remaining(a.Message, now),
			}}}
		}
		op.Items[i] = x
	}
	b := encodeOp(&logpb.Op{Body: &logpb.Op_Group{Group: op}})
	ld.outLane(it.Destination).put(it.Seq, b, func(uint32, []byte, error) {
		ld.box.put(event{call: func() { ld.itemTaken(oi) }})
	})
}

// pushShared sends the member that a group has chosen a message of QoS 0: once, and
// without an answer.
func (ld *leader) pushShared(p fsm.Push, message func(*logpb.Message) *logpb.Message) {
	for i := range p.Items {
		d := &p.Items[i]
		b, err := message(d.Message).MarshalVT()
		if err != nil {
			ld.n.fatal(err)
			return
		}
		if !ld.n.send(ld.n.gatewayNode(p.Gateway), &peerpb.Frame{Body: &peerpb.Frame_SharedPush{SharedPush: &peerpb.SharedPush{
			Gateway: p.Gateway, ClientId: p.ClientID, Epoch: p.Epoch,
			Item: &peerpb.PushItem{Retained: d.Retained, SubscriptionIds: d.SubscriptionIDs, Message: b},
		}}}) {
			ld.n.metrics.RouteDropped.Add(1)
		}
	}
}

// routeShared hands a message of QoS 0 to a partition whose groups want it. Like all of
// QoS 0 it sees no log: the partition's leader chooses the members.
func (g *ingress) routeShared(partition uint32, m *flow.Message) {
	b, err := messageToLog(m).MarshalVT()
	if err != nil {
		g.n.fatal(err)
		return
	}
	if !g.n.send(g.n.leaders.node(partition), &peerpb.Frame{Body: &peerpb.Frame_SharedRoute{SharedRoute: &peerpb.SharedRoute{
		Partition: partition, Gateway: g.id, Message: b,
	}}}) {
		g.n.metrics.RouteDropped.Add(1)
	}
}

// sharedRoute takes a message of QoS 0 for the partition's groups.
func (ld *leader) sharedRoute(r *peerpb.SharedRoute) {
	msg := &logpb.Message{}
	if err := msg.UnmarshalVT(r.Message); err != nil {
		ld.n.log.Error("message of a peer cannot be decoded", "error", err)
		return
	}
	ld.sharedTurn++
	var pushes []fsm.Push
	ld.r.sm.read(func(m *fsm.Machine) { pushes = m.Shared(msg, ld.sharedTurn) })
	for _, p := range pushes {
		ld.pushShared(p, func(m *logpb.Message) *logpb.Message { return m })
	}
}

func (n *Node) onSharedPush(p *peerpb.SharedPush) {
	if n.ingressOf(p.Gateway) == nil || p.Item == nil {
		n.metrics.RouteDropped.Add(1)
		return
	}
	m, err := decodeMessage(p.Item.Message)
	if err != nil {
		n.log.Error("message of a peer cannot be decoded", "error", err)
		return
	}
	n.gateway.Deliver(p.ClientId, p.Epoch, []flow.Delivery{{
		Retained: p.Item.Retained, SubscriptionIDs: p.Item.SubscriptionIds, Message: m,
	}})
}
