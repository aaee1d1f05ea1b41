package fsm

import (
	"container/heap"
	"slices"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// retained is the place of a topic's retained message.
type retained struct {
	msg   *message
	pos   int // in Machine.retainedList
	timer int // in the heap of expiries; -1: not in it
}

// store makes a message the retained one of its topic; an empty payload removes
// it [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7].
func (m *Machine) store(msg *message) {
	old, existed := m.retained.Get(msg.pb.Topic)
	switch {
	case len(msg.pb.Payload) == 0 && existed:
		m.removeRetained(old)
	case len(msg.pb.Payload) == 0:
	case existed:
		m.countRetained(old.msg, -1)
		m.unschedule(old)
		old.msg = msg
		m.retainedList[old.pos] = msg
		m.countRetained(msg, 1)
		m.schedule(old)
	default:
		r := &retained{msg: msg, pos: len(m.retainedList), timer: -1}
		m.retained.Put(msg.pb.Topic, r)
		m.retainedList = append(m.retainedList, msg)
		m.retainedAt = append(m.retainedAt, r)
		m.countRetained(msg, 1)
		m.schedule(r)
	}
}

func (m *Machine) removeRetained(r *retained) {
	m.unschedule(r)
	m.retained.Delete(r.msg.pb.Topic)
	last := len(m.retainedList) - 1
	m.retainedList[r.pos], m.retainedAt[r.pos] = m.retainedList[last], m.retainedAt[last]
	m.retainedAt[r.pos].pos = r.pos
	m.retainedList[last], m.retainedAt[last] = nil, nil
	m.retainedList, m.retainedAt = m.retainedList[:last], m.retainedAt[:last]
	m.countRetained(r.msg, -1)
}

func (m *Machine) countRetained(msg *message, n int) {
	m.stats.Retained += n
	m.stats.RetainedBytes += int64(n) * msg.size
	if n > 0 {
		m.keep(msg)
	} else {
		m.forget(msg)
	}
}

func (m *Machine) schedule(r *retained) {
	if r.msg.pb.HasExpiry {
		heap.Push(&m.expiries, r)
	}
}

func (m *Machine) unschedule(r *retained) {
	if r.timer >= 0 {
		heap.Remove(&m.expiries, r.timer)
	}
}

// RetainedMatch calls fn for the retained messages that match a valid filter and
// have not expired, until fn returns false. The order depends on the topics alone.
// The messages' expiry is a deadline on the partition's clock; they must not be
// changed.
func (m *Machine) RetainedMatch(filter string, fn func(*logpb.Message) bool) {
	m.retained.MatchFilter(filter, func(_ string, r *retained) bool {
		return m.expired(&r.msg.pb) || fn(&r.msg.pb)
	})
}

type messageID struct{ source, seq uint64 }

func idOf(pb *logpb.Message) messageID { return messageID{pb.IdSource, pb.IdSeq} }

// retainedAnswer brings a session retained messages that it waits for. A message
// that has come live meanwhile is not sent as retained too. The last answer lets
// the live messages go that waited behind.
func (m *Machine) retainedAnswer(op *logpb.RetainedAnswer) uint32 {
	sl, ok := m.fenced(op.ClientId, op.Epoch)
	if !ok {
		return CodeFenced
	}
	s := m.edit(sl)
	var h *hold
	live := map[messageID]bool{}
	for _, x := range s.holds {
		if x.id == op.Hold {
			h = x
		}
		for _, q := range x.held {
			live[idOf(&q.msg.pb)] = true
		}
	}
	if h == nil {
		return CodeOK // answered already, or nothing is left to wait for
	}
	for _, pb := range op.Messages {
		if pb.HasExpiry && pb.Expiry <= 0 || live[idOf(pb)] && idOf(pb) != (messageID{}) {
			continue
		}
		m.enqueueRetained(sl, h, pb)
	}
	if !op.More {
		m.releaseHolds(sl, h)
		m.fill(sl)
	}
	return CodeOK
}

// enqueueRetained sends a retained message because of the hold's subscriptions, as
// they are now, with the RETAIN flag [MQTT-3.3.1-8].
func (m *Machine) enqueueRetained(sl *slot, h *hold, pb *logpb.Message) {
	s := sl.s
	var found hit
	for _, f := range h.filters {
		i, ok := s.findSub(f)
		if !ok || !topic.Match(f, pb.Topic) || s.subs[i].NoLocal && pb.Publisher == s.id {
			continue
		}
		if m.settings.CopyPerSubscription && found.sub != nil {
			m.sendRetained(sl, found, pb)
			found.sub = nil
		}
		if found.sub == nil {
			found.sub = s.subs[i]
		} else {
			found.more = append(found.more, s.subs[i])
		}
	}
	if found.sub != nil {
		m.sendRetained(sl, found, pb)
	}
}

// sendRetained sends one copy of a retained message for the subscriptions of a hit.
func (m *Machine) sendRetained(sl *slot, found hit, pb *logpb.Message) {
	s := sl.s
	q := &queued{msg: m.newMessage(pb), qos: effectiveQoS(found, pb.Qos), retained: true, ids: identifiers(found)}
	if q.qos == 0 {
		m.push(sl, Delivery{Retained: true, SubscriptionIDs: q.ids, Message: &q.msg.pb})
		return
	}
	s.answered = append(s.answered, answered{idOf(pb), q.qos, q.msg.pb.Topic})
	if len(s.answered) > maxAnswered {
		s.answered = slices.Delete(s.answered, 0, 1)
	}
	m.enqueueNow(sl, q)
}

// hasAnswered: the live message has come as a retained one already, at no lower
// QoS; it is not sent twice. But where an older message of the same source comes
// between, the newer one is sent again after it: the last word on a topic stays
// the last.
func (s *session) hasAnswered(q *queued) bool {
	if len(s.answered) == 0 {
		return false
	}
	id := idOf(&q.msg.pb)
	same := func(a answered) bool {
		return a.topic == q.msg.pb.Topic && a.id.source == id.source && a.id != messageID{}
	}
	if slices.ContainsFunc(s.answered, func(a answered) bool { return same(a) && a.id.seq == id.seq && a.qos >= q.qos }) {
		return true
	}
	s.answered = slices.DeleteFunc(s.answered, func(a answered) bool { return same(a) && a.id.seq > id.seq })
	return false
}
