package fsm

import (
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// This file is the session's side of shared subscriptions: what a group assigns to a
// stored session becomes a flow of the session, and the group hears what became of it.

func isShared(filter string) bool { return strings.HasPrefix(filter, topic.SharePrefix) }

// subscribeShared makes a session a member of a group, or changes its options. Its
// home partition keeps the subscription, the group's partition hears of it.
func (m *Machine) subscribeShared(sl *slot, sub *logpb.Subscription, r *logpb.SubscribeResult) (code uint32, existed bool) {
	s := sl.s
	_, _, _, err := topic.ParseShared(sub.Filter) // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
	i, existed := s.findSub(sub.Filter)
	limit := m.settings.MaxSubscriptions
	switch {
	case sub.Qos > 2 || err != nil:
		return CodeFilterInvalid, false
	case sub.NoLocal:
		return CodeProtocolError, false // [MQTT-3.8.3-4]
	case existed:
		s.subs[i] = sub // [MQTT-3.8.4-3]
	case limit != 0 && uint32(len(s.subs)) >= limit:
		return CodeQuota, false
	default:
		s.subs = slices.Insert(s.subs, i, sub)
		m.stats.Subscriptions++
	}
	if posted := m.announce(sl, i); posted != nil {
		r.Posted = append(r.Posted, posted)
	}
	return sub.Qos, existed
}

// announce tells the group of the session's i-th subscription how its member stands.
// It returns nil if that was told to this partition itself.
func (m *Machine) announce(sl *slot, i int) *logpb.Posted {
	s := sl.s
	m.lastStamp++
	old := s.subs[i]
	sub := &logpb.Subscription{
		Filter: old.Filter, Qos: old.Qos, RetainAsPublished: old.RetainAsPublished, RetainHandling: old.RetainHandling,
		Id: old.Id, Stamp: m.lastStamp,
	}
	s.subs[i] = sub
	p := &logpb.GroupMember{
		Filter: sub.Filter, ClientId: s.id, Stamp: sub.Stamp, Gateway: s.owner, Epoch: s.epoch, Window: s.window,
		Qos: sub.Qos, RetainAsPublished: sub.RetainAsPublished, Id: sub.Id,
	}
	s.inflight.each(func(x *flight) bool {
		if x.q != nil && x.q.share == sub.Filter {
			p.Kept = append(p.Kept, x.q.item)
		}
		return true
	})
	for j := range s.assigned.n {
		if q := s.assigned.at(j); q.share == sub.Filter {
			p.Kept = append(p.Kept, q.item)
		}
	}
	return m.tellGroup(sub.Filter, &logpb.GroupItem{Body: &logpb.GroupItem_Member{Member: p}})
}

// announceAll tells all groups of a session that its connection has changed.
func (m *Machine) announceAll(sl *slot) {
	for i, sub := range sl.s.subs {
		if isShared(sub.Filter) {
			m.edit(sl)
			m.announce(sl, i)
		}
	}
}

// tellGroup posts to the partition of a group. It returns nil if it is this one.
func (m *Machine) tellGroup(filter string, it *logpb.GroupItem) *logpb.Posted {
	p := PartitionOf(filter, m.partitions)
	if seq := m.post(uint64(p), it, nil); seq != 0 {
		return &logpb.Posted{Partition: p, Seq: seq}
	}
	return nil
}

// leaveGroup tells a group that the session is no member any more.
func (m *Machine) leaveGroup(s *session, filter string) *logpb.Posted {
	return m.tellGroup(filter, &logpb.GroupItem{Body: &logpb.GroupItem_Leave{
		Leave: &logpb.GroupLeave{Filter: filter, ClientId: s.id},
	}})
}

// taken tells the group of a message that it need not care for it any more. A message
// that is no group's is let be.
func (m *Machine) taken(s *session, q *queued) {
	if q.share == "" {
		return
	}
	to := uint64(PartitionOf(q.share, m.partitions))
	if last := m.lastPosted(to).GetTaken(); last != nil && last.Filter == q.share && last.ClientId == s.id {
		last.Items = append(last.Items, q.item)
		return
	}
	m.post(to, &logpb.GroupItem{Body: &logpb.GroupItem_Taken{
		Taken: &logpb.GroupTaken{Filter: q.share, ClientId: s.id, Items: []uint64{q.item}},
	}}, nil)
}

// unsubscribeShared ends a session's membership. What was sent to the client already
// is completed [MQTT-3.10.4-3]; the rest goes back to the group.
func (m *Machine) unsubscribeShared(sl *slot, filter string) *logpb.Posted {
	s := sl.s
	m.stats.Subscriptions--
	s.inflight.each(func(x *flight) bool {
		if x.q != nil && x.q.share == filter {
			m.taken(s, x.q)
			next, q := *x, *x.q
			q.share, q.item = "", 0
			next.q = &q
			s.inflight.replace(x, &next)
		}
		return true
	})
	m.unassign(s, func(q *queued) bool { return q.share == filter })
	return m.leaveGroup(s, filter)
}

// unassign lets go of messages of groups that wait for the window. The groups give
// them to others.
func (m *Machine) unassign(s *session, which func(*queued) bool) {
	var keep queue
	for s.assigned.n > 0 {
		q := m.popAssigned(s)
		if which(q) {
			m.forget(q.msg)
		} else {
			keep.push(q)
			m.stats.Queued++
			m.stats.QueuedBytes += q.msg.size
		}
	}
	s.assigned = keep
}

// popAssigned takes the head of the messages of groups. Its message is still kept.
func (m *Machine) popAssigned(s *session) *queued {
	q := s.assigned.pop()
	m.stats.Queued--
	m.stats.QueuedBytes -= q.msg.size
	return q
}

// groupAssigned takes a message from a group. msg is a copy of its message, with the
// expiry as a deadline. What comes for an earlier stamp is no longer the session's:
// the group takes it back when it hears of the newer one.
func (m *Machine) groupAssigned(p *logpb.GroupAssigned, msg *message) {
	sl := m.slots[p.ClientId]
	if sl == nil {
		return
	}
	i, ok := sl.s.findSub(p.Filter)
	if !ok || sl.s.subs[i].Stamp != p.Stamp || sl.s.owner == 0 {
		return
	}
	s := m.edit(sl)
	q := &queued{msg: msg, qos: p.Qos, retained: p.Retained, share: s.subs[i].Filter, item: p.Item}
	if p.SubscriptionId != 0 {
		q.ids = []uint32{p.SubscriptionId}
	}
	// The group keeps to the window, so that no limit is needed here.
	m.keep(msg)
	s.assigned.push(q)
	m.stats.Queued++
	m.stats.QueuedBytes += msg.size
	m.fill(sl)
}

// endShared ends a session's part in its groups with the session. A QoS 2 message that
// was sent may have reached the client, and goes to nobody else [MQTT-4.8.2-5]; all
// else goes back.
func (m *Machine) endShared(s *session) (lost uint64) {
	s.inflight.each(func(x *flight) bool {
		if x.q != nil && x.q.share != "" && x.q.qos == 2 {
			m.taken(s, x.q)
			lost++
		}
		return true
	})
	m.unassign(s, func(*queued) bool { return true })
	for _, sub := range s.subs {
		if isShared(sub.Filter) {
			m.stats.Subscriptions--
			m.leaveGroup(s, sub.Filter)
		}
	}
	return lost
}
