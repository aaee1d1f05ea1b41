package fsm

import (
	"fmt"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// group rebuilds a group and its part of the indices and counters.
func (r *recordReader) group(body []byte) error {
	p, err := decode(body, &logpb.GroupState{})
	if err != nil {
		return err
	}
	_, _, shared, err := topic.ParseShared(p.Filter)
	if err != nil || !shared || p.Filter <= r.lastGroup || len(p.Members) == 0 || p.Next > uint32(len(p.Members)) {
		return fmt.Errorf("%w: group %q", ErrMalformed, p.Filter)
	}
	r.lastGroup = p.Filter
	m := r.m
	g := m.addGroup(p.Filter).g
	clear(m.touched) // the version counts it already
	g.lastItem, g.next, g.dropped = p.LastItem, int(p.Next), p.Dropped
	seen := map[uint64]bool{}
	for _, y := range p.Members {
		if err := r.member(g, y, seen); err != nil {
			return err
		}
	}
	var last uint64
	for _, y := range p.Queue {
		msg, err := r.groupMessage(g, y, &last, seen)
		if err != nil {
			return err
		}
		g.queue = append(g.queue, groupItem{y.Item, msg})
		m.countGroupQueued(g, msg, 1)
	}
	return nil
}

func (r *recordReader) member(g *group, p *logpb.GroupMemberState, seen map[uint64]bool) error {
	if p.Member == nil || p.Member.ClientId == "" || p.Member.Qos > 2 || g.find(p.Home, p.Member.ClientId) >= 0 {
		return fmt.Errorf("%w: member of group %q", ErrMalformed, g.filter)
	}
	x := &member{home: p.Home, client: p.Member.ClientId, assigned: make(map[uint64]*message, len(p.Assigned))}
	x.set(p.Member)
	g.members = append(g.members, x)
	r.m.stats.Members++
	var last uint64
	for _, y := range p.Assigned {
		msg, err := r.groupMessage(g, y, &last, seen)
		if err != nil {
			return err
		}
		x.assigned[y.Item] = msg
		x.bytes += msg.size
		r.m.stats.GroupAssigned++
	}
	return nil
}

// groupMessage finds the message of an item, which is in one place only, in the order
// of items.
func (r *recordReader) groupMessage(g *group, p *logpb.GroupMessage, last *uint64, seen map[uint64]bool) (*message, error) {
	if p.Item <= *last || p.Item > g.lastItem || seen[p.Item] {
		return nil, fmt.Errorf("%w: item %d of group %q", ErrMalformed, p.Item, g.filter)
	}
	*last, seen[p.Item] = p.Item, true
	msg, err := r.find(p.Message)
	if err == nil {
		r.m.keep(msg)
	}
	return msg, err
}

// posted rebuilds an outbox item for groups and members.
func (r *recordReader) posted(p *logpb.OutboxItem) error {
	item := &OutboxItem{Seq: p.Seq, Destination: p.Destination, Group: p.Group}
	r.m.outbox[item.Seq] = item
	for _, it := range p.Group {
		var msg *message
		if a := it.GetAssigned(); a != nil {
			var err error
			if msg, err = r.find(a.MessageNumber); err != nil {
				return err
			}
			a.Message, a.MessageNumber = &msg.pb, 0
		}
		r.m.countPosted(item, msg)
	}
	return nil
}
