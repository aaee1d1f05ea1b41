package cluster

import (
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// outbox is a leader's work on the messages that its partition has committed to
// hand on. Everything in it can be rebuilt from the state.
type outbox struct {
	lanes    map[uint64]*lane // by destination
	unrouted []*fsm.OutboxItem
	items    map[uint64]*outItem
	done     []uint64 // taken by all destinations, not yet proposed
	stored   []uint64 // stored by the retained partition, not yet proposed
}

// outItem is an item that is on its way.
type outItem struct {
	item *fsm.OutboxItem
	left int // destinations that have not taken it
}

func newOutbox() outbox {
	return outbox{lanes: make(map[uint64]*lane), items: make(map[uint64]*outItem)}
}

func (o *outbox) close() {
	for _, l := range o.lanes {
		l.close()
	}
}

// closeEnded gives up the lanes to gateways that have ended: their items count as
// taken.
func (o *outbox) closeEnded(ended func(uint64) bool) {
	for to, l := range o.lanes {
		if !isPartition(to) && ended(to) {
			delete(o.lanes, to)
			l.close()
		}
	}
}

func (o *outbox) answer(from string, a *peerpb.LaneAnswer) {
	if l := o.lanes[a.Lane.Destination]; l != nil && a.SourceTerm == l.term {
		l.answer(from, a)
	}
}

func (ld *leader) outboxAdd(it *fsm.OutboxItem) {
	ld.out.unrouted = append(ld.out.unrouted, it)
	ld.routeOutbox()
}

// routeOutbox finds the destinations of what is committed, in order. It is done
// after the commit, under a valid lease, and with the interest of every
// destination known: then every subscription whose SUBACK came before the
// PUBLISH is seen (design §5). A node that has just started knows of none.
func (ld *leader) routeOutbox() {
	if len(ld.out.unrouted) == 0 || !ld.n.mayRoute() {
		return
	}
	unrouted := ld.out.unrouted
	ld.out.unrouted = nil
	for _, it := range unrouted {
		ld.routeItem(it)
	}
}

func (ld *leader) routeItem(it *fsm.OutboxItem) {
	if len(it.Group) > 0 {
		ld.routeGroup(it)
		return
	}
	now := ld.clock.now()
	oi := &outItem{item: it, left: 1}
	ld.out.items[it.Seq] = oi
	storeAt := uint64(ld.r.partition) // here: nothing to do
	if it.Message.Retain && !it.Stored {
		storeAt = uint64(partitionOf(it.Message.Topic, ld.n.partitions))
	}
	stored := storeAt == uint64(ld.r.partition)
	if expired := it.Message.HasExpiry && it.Message.Expiry <= now; !expired {
		var buf [8]target
		var encoded []byte
		for _, t := range ld.n.routes.match(it.Message.Topic, buf[:0]) {
			switch {
			case t.end == uint64(ld.r.partition):
				// delivered in the entry that made the item
			case isPartition(t.end) || t.want&flow.WantReliable != 0:
				ld.putItem(oi, t.end, now, true, t.end == storeAt)
				stored = stored || t.end == storeAt
			case t.want&flow.WantDowngraded != 0:
				encoded = ld.n.routeTo(t.end, messageFromLog(remaining(it.Message, now)), encoded)
			}
		}
	}
	if !stored {
		ld.putItem(oi, storeAt, now, false, true)
	}
	ld.itemTaken(oi)
}

// outLane is the lane from this partition to a destination.
func (ld *leader) outLane(to uint64) *lane {
	l := ld.out.lanes[to]
	if l == nil {
		route := func() string { return ld.n.gatewayNode(to) }
		if isPartition(to) {
			route = func() string { return ld.n.leaders.node(uint32(to)) }
		}
		l = newLane(ld.n.pump, uint64(ld.r.partition), to, ld.term, route)
		ld.out.lanes[to] = l
	}
	return l
}

// putItem puts the item on a lane: to be delivered, stored as retained, or both.
func (ld *leader) putItem(oi *outItem, to uint64, now int64, deliver, store bool) {
	it := oi.item
	op := &logpb.Publish{
		Message: remaining(it.Message, now), Deliver: deliver, Store: store, AfterClose: it.AfterClose,
	}
	oi.left++
	ld.outLane(to).put(it.Seq, encodeOp(&logpb.Op{Body: &logpb.Op_Publish{Publish: op}}), func(uint32, []byte, error) {
		ld.box.put(event{call: func() {
			if store && it.WaitClient != "" {
				ld.out.stored = append(ld.out.stored, it.Seq)
			}
			ld.itemTaken(oi)
		}})
	})
}

func (ld *leader) itemTaken(oi *outItem) {
	if oi.left--; oi.left == 0 {
		delete(ld.out.items, oi.item.Seq)
		ld.out.done = append(ld.out.done, oi.item.Seq)
	}
}

// outboxDone proposes what has become of items.
func (ld *leader) outboxDone() {
	if len(ld.out.done)+len(ld.out.stored) == 0 {
		return
	}
	ld.own(&logpb.Op{Body: &logpb.Op_OutboxDone{OutboxDone: &logpb.OutboxDone{Done: ld.out.done, Stored: ld.out.stored}}})
	ld.out.done, ld.out.stored = nil, nil
}
