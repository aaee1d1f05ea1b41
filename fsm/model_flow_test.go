package fsm

import (
	"maps"
	"slices"
	"sort"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

func (m *model) answer(s *mSession, op *logpb.RetainedAnswer) {
	var h *mHold
	held := map[messageID]bool{}
	for _, x := range s.holds {
		if x.id == op.Hold {
			h = x
		}
		for _, q := range x.held {
			held[idOf(q.msg)] = true
		}
	}
	if h == nil {
		return
	}
	for _, pb := range op.Messages {
		if pb.HasExpiry && pb.Expiry <= 0 || held[idOf(pb)] {
			continue
		}
		subs := map[string]*logpb.Subscription{}
		for _, f := range h.filters {
			if s.subs[f] == nil {
				continue
			}
			if m.set.CopyPerSubscription {
				m.sendRetained(s, map[string]*logpb.Subscription{f: s.subs[f]}, pb)
			} else {
				subs[f] = s.subs[f]
			}
		}
		m.sendRetained(s, subs, pb)
	}
	if !op.More {
		m.releaseHold(s, h)
		m.fill(s)
	}
}

func (m *model) sendRetained(s *mSession, subs map[string]*logpb.Subscription, pb *logpb.Message) {
	q, ok := combine(subs, s.id, pb)
	if !ok {
		return
	}
	q.msg, q.retained = m.deadline(pb), true
	if q.qos == 0 {
		m.push(s, Delivery{Retained: true, SubscriptionIDs: q.ids, Message: q.msg})
		return
	}
	s.answered = append(s.answered, q)
	s.answered = s.answered[max(0, len(s.answered)-64):]
	m.enqueue(s, q)
}

// combine is what a session gets of a message by some of its subscriptions.
func combine(subs map[string]*logpb.Subscription, client string, pb *logpb.Message) (q mQueued, ok bool) {
	q.msg = pb
	for _, f := range slices.Sorted(maps.Keys(subs)) {
		sub := subs[f]
		if !topic.Match(f, pb.Topic) || sub.NoLocal && pb.Publisher == client {
			continue
		}
		ok = true
		q.qos = max(q.qos, min(sub.Qos, pb.Qos))
		q.retained = q.retained || sub.RetainAsPublished && pb.Retain
		if sub.Id != 0 {
			q.ids = append(q.ids, sub.Id)
		}
	}
	return q, ok
}

func (m *model) deliver(msg *logpb.Message) (full bool) {
	for _, id := range m.ids() {
		s := m.sessions[id]
		var copies []mQueued
		if m.set.CopyPerSubscription {
			for _, f := range slices.Sorted(maps.Keys(s.subs)) {
				if q, ok := combine(map[string]*logpb.Subscription{f: s.subs[f]}, s.id, msg); ok {
					copies = append(copies, q)
				}
			}
		} else if q, ok := combine(s.subs, s.id, msg); ok {
			copies = append(copies, q)
		}
		for _, q := range copies {
			if q.qos == 0 {
				continue
			}
			if s.overtaken(q) {
				continue
			}
			if msg.HasExpiry && msg.Expiry <= m.time {
				m.drop(s, s.class(), Expired, 1)
				continue
			}
			if h := s.holdFor(msg.Topic); h != nil {
				if m.room(s, q) {
					h.held = append(h.held, q)
				} else {
					full = true
				}
				continue
			}
			full = !m.enqueue(s, q) || full
		}
	}
	return full
}

// overtaken: the session has this message already, as a retained one, and nothing
// older of its source on the topic since.
func (s *mSession) overtaken(q mQueued) bool {
	var keep []mQueued
	for _, a := range s.answered {
		same := a.msg.Topic == q.msg.Topic && a.msg.IdSource == q.msg.IdSource
		if same && a.msg.IdSeq == q.msg.IdSeq && a.qos >= q.qos {
			return true
		}
		if !same || a.msg.IdSeq <= q.msg.IdSeq {
			keep = append(keep, a)
		}
	}
	s.answered = keep
	return false
}

func (s *mSession) holdFor(name string) *mHold {
	for _, h := range s.holds {
		for _, f := range h.filters {
			if topic.Match(f, name) {
				return h
			}
		}
	}
	return nil
}

func (m *model) releaseHold(s *mSession, h *mHold) {
	s.holds = slices.DeleteFunc(s.holds, func(x *mHold) bool { return x == h })
	for _, q := range h.held {
		if other := s.holdFor(q.msg.Topic); other != nil {
			other.held = append(other.held, q)
		} else {
			s.queue = append(s.queue, q)
		}
	}
}

func (m *model) releaseAll(s *mSession) {
	holds := s.holds
	s.holds = nil
	for _, h := range holds {
		s.queue = append(s.queue, h.held...)
	}
}

// enqueue: a message that can be sent at once needs no room in the queue.
func (m *model) enqueue(s *mSession, q mQueued) bool {
	if len(s.queue) == 0 && m.open(s) {
		s.queue = append(s.queue, q)
		m.fill(s)
		return true
	}
	if !m.room(s, q) {
		return false
	}
	s.queue = append(s.queue, q)
	m.fill(s)
	return true
}

func (m *model) room(s *mSession, q mQueued) bool {
	fits := func() bool {
		n, bytes := len(s.queue), sizeOf(q.msg)
		for _, x := range s.queue {
			bytes += sizeOf(x.msg)
		}
		for _, h := range s.holds {
			for _, x := range h.held {
				n, bytes = n+1, bytes+sizeOf(x.msg)
			}
		}
		return (m.set.MaxQueueMessages == 0 || n < int(m.set.MaxQueueMessages)) &&
			(m.set.MaxQueueBytes == 0 || bytes <= int64(m.set.MaxQueueBytes))
	}
	if fits() {
		return true
	}
	for len(s.queue) > 0 && s.queue[0].msg.HasExpiry && s.queue[0].msg.Expiry <= m.time {
		s.queue = s.queue[1:]
		m.drop(s, s.class(), Expired, 1)
	}
	if m.set.QueueFull == logpb.QueueFull_DROP_OLDEST && (m.set.MaxQueueBytes == 0 || sizeOf(q.msg) <= int64(m.set.MaxQueueBytes)) {
		n := len(s.queue)
		for len(s.queue) > 0 && !fits() {
			s.queue = s.queue[1:]
		}
		m.drop(s, s.class(), QueueFull, uint64(n-len(s.queue)))
	}
	if fits() {
		return true
	}
	m.drop(s, s.class(), QueueFull, 1)
	return false
}

// windowOpen counts what was sent on this connection and is not acknowledged.
func (m *model) windowOpen(s *mSession) bool {
	var n, bytes int64
	for _, f := range s.inflight {
		if f.counts {
			n++
			if !f.pubrec {
				bytes += sizeOf(f.msg)
			}
		}
	}
	window := int64(65535)
	if s.c.Window != 0 {
		window = int64(s.c.Window)
	}
	if m.set.MaxInflight != 0 {
		window = min(window, int64(m.set.MaxInflight))
	}
	return n < window && (m.set.MaxInflightBytes == 0 || n == 0 || bytes < int64(m.set.MaxInflightBytes))
}

// open: all old flows are sent again and there is room for a new one.
func (m *model) open(s *mSession) bool {
	return s.owner != 0 && !slices.ContainsFunc(s.inflight, func(f *mFlight) bool { return f.sent != s.epoch }) && m.windowOpen(s)
}

func (m *model) tooLarge(s *mSession, q mQueued) bool {
	size := 6 + len(q.msg.Topic) + len(q.msg.Payload)
	if s.c.Protocol >= 5 {
		size += 1 + len(q.msg.Props)
	}
	return s.c.MaxPacket != 0 && size > int(s.c.MaxPacket)
}

func (m *model) fill(s *mSession) {
	if s.owner == 0 {
		return
	}
	for _, f := range slices.Clone(s.inflight) {
		if f.sent == s.epoch {
			continue
		}
		if !f.pubrec && m.tooLarge(s, f.mQueued) {
			m.drop(s, s.class(), TooLarge, 1)
			s.inflight = slices.DeleteFunc(s.inflight, func(x *mFlight) bool { return x == f })
			continue
		}
		if !f.pubrec && !m.windowOpen(s) {
			break
		}
		f.sent, f.counts = s.epoch, !f.pubrec
		m.push(s, m.delivery(s, f))
	}
	for len(s.queue) > 0 && m.open(s) {
		q := s.queue[0]
		s.queue = s.queue[1:]
		switch {
		case q.msg.HasExpiry && q.msg.Expiry <= m.time:
			m.drop(s, s.class(), Expired, 1)
			continue
		case m.tooLarge(s, q):
			m.drop(s, s.class(), TooLarge, 1)
			continue
		}
		for used := true; used; {
			s.lastID++
			used = s.lastID == 0 || slices.ContainsFunc(s.inflight, func(f *mFlight) bool { return f.id == s.lastID })
		}
		s.lastSeq++
		f := &mFlight{mQueued: q, seq: s.lastSeq, id: s.lastID, first: s.epoch, sent: s.epoch, counts: true}
		s.inflight = append(s.inflight, f)
		m.push(s, m.delivery(s, f))
	}
}

func (m *model) delivery(s *mSession, f *mFlight) Delivery {
	if f.pubrec {
		return Delivery{Seq: f.seq, PacketID: f.id, QoS: 2, Release: true}
	}
	return Delivery{
		Seq: f.seq, PacketID: f.id, QoS: byte(f.qos), Dup: f.first != s.epoch,
		Retained: f.retained, SubscriptionIDs: f.ids, Message: f.msg,
	}
}

func (m *model) push(s *mSession, d Delivery) {
	c := Connection{s.id, s.owner, s.epoch}
	for i := range m.e.Push {
		if m.e.Push[i].Connection == c {
			m.e.Push[i].Items = append(m.e.Push[i].Items, d)
			return
		}
	}
	m.e.Push = append(m.e.Push, Push{c, []Delivery{d}})
}

func (m *model) acks(s *mSession, op *logpb.Acks) {
	remove := func(ids []uint32, ok func(*mFlight) bool) {
		for _, id := range ids {
			n := len(s.inflight)
			s.inflight = slices.DeleteFunc(s.inflight, func(f *mFlight) bool { return uint32(f.id) == id && ok(f) })
			if len(s.inflight) == n {
				m.unknownAcks++
			}
		}
	}
	remove(op.Pubacks, func(f *mFlight) bool { return f.qos == 1 })
	remove(op.FailedPubrecs, func(f *mFlight) bool { return f.qos == 2 && !f.pubrec })
	for _, id := range op.Pubrecs {
		i := slices.IndexFunc(s.inflight, func(f *mFlight) bool { return uint32(f.id) == id && f.qos == 2 })
		if i < 0 {
			m.unknownAcks++
			continue
		}
		s.inflight[i].pubrec = true
	}
	remove(op.Pubcomps, func(f *mFlight) bool { return f.pubrec })
	m.fill(s)
}

func (m *model) attach(id string, epoch, position uint64) (push []Push, ok bool) {
	s := m.sessions[id]
	if s == nil || s.owner == 0 || s.epoch != epoch {
		return nil, false
	}
	var items []Delivery
	for _, f := range s.inflight {
		if f.sent == s.epoch && f.seq > position {
			items = append(items, m.delivery(s, f))
		}
	}
	sort.Slice(items, func(i, j int) bool { return items[i].Seq < items[j].Seq })
	if items != nil {
		push = []Push{{Connection{id, s.owner, epoch}, items}}
	}
	return push, true
}
