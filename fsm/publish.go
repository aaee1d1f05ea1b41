package fsm

import (
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// hit is a session that wants a message.
type hit struct {
	slot *slot
	// sub is the matching subscription, more are further ones.
	sub  *logpb.Subscription
	more []*logpb.Subscription
}

// publish takes a message that came over a lane. A gateway's publisher at QoS 1
// can be told that a queue is full; what a partition hands on was acknowledged to
// its publisher and is never refused.
func (m *Machine) publish(source uint64, p *logpb.Publish) uint32 {
	if p.AfterClose != 0 {
		m.closeGateway(p.AfterClose) // before the will that follows from it
	}
	refusable := isGateway(source) && p.Message.Qos == 1
	wanted := p.Deliver && m.match(p.Message)
	if !wanted && !p.Store {
		return CodeOK
	}
	msg := m.newMessage(p.Message)
	if p.Store {
		m.store(msg)
	}
	if wanted {
		return m.deliver(msg, refusable)
	}
	return CodeOK
}

// match finds the sessions that want a message at QoS 1 or 2, m.hits, and the groups
// that want it, m.groupHits.
func (m *Machine) match(pb *logpb.Message) bool {
	m.hits = m.hits[:0]
	grouped := m.matchGroups(pb)
	if pb.Qos == 0 {
		return grouped
	}
	m.hitSerial++
	m.matching = pb.Publisher
	m.tree.Match(pb.Topic, m.onMatch)
	m.matching = "" // it may refer to the entry
	m.hits = slices.DeleteFunc(m.hits, func(h hit) bool { return effectiveQoS(h, 2) == 0 })
	return len(m.hits) > 0 || grouped
}

// matched is called for each matching subscription. It is kept in m.onMatch
// because a closure made for each message would cost an allocation.
func (m *Machine) matched(_ string, _ uint64, ref subRef) {
	sl := ref.slot
	if ref.sub.NoLocal && m.matching == sl.s.id {
		return // [MQTT-3.8.3-3]
	}
	if sl.hitSerial == m.hitSerial {
		h := &m.hits[sl.hit]
		h.more = append(h.more, ref.sub)
		return
	}
	sl.hitSerial, sl.hit = m.hitSerial, len(m.hits)
	m.hits = append(m.hits, hit{slot: sl, sub: ref.sub})
}

// effectiveQoS is the QoS at which a message of QoS qos goes to a session: the
// lower of that and the highest of the matching subscriptions [MQTT-3.3.4-2],
// [MQTT-3.8.4-8].
func effectiveQoS(h hit, qos uint32) uint32 {
	highest := h.sub.Qos
	for _, sub := range h.more {
		highest = max(highest, sub.Qos)
	}
	return min(highest, qos)
}

// deliver puts a message into the queues of m.hits and m.groupHits.
func (m *Machine) deliver(msg *message, refusable bool) uint32 {
	code := CodeOK
	var plain [3][2]*queued // what sessions without identifiers share
	for _, h := range m.hits {
		if len(h.more) > 0 && m.settings.CopyPerSubscription {
			subs := append(h.more, h.sub)
			slices.SortFunc(subs, byFilter)
			for _, sub := range subs {
				if sub.Qos == 0 {
					continue // goes there without the partition
				}
				if q := share(&plain, hit{h.slot, sub, nil}, msg); !m.enqueue(h.slot, q) && refusable {
					code = CodeQuota
				}
			}
			continue
		}
		if q := share(&plain, h, msg); !m.enqueue(h.slot, q) && refusable {
			code = CodeQuota
		}
	}
	for _, sl := range m.groupHits {
		if !m.offer(sl, msg) && refusable {
			code = CodeQuota
		}
	}
	return code
}

// share returns the message in the form in which a session gets it. Sessions that
// get it in the same way share it.
func share(plain *[3][2]*queued, h hit, msg *message) *queued {
	qos := effectiveQoS(h, msg.pb.Qos)
	retained := msg.pb.Retain && asPublished(h)
	ids := identifiers(h)
	if ids != nil {
		return &queued{msg: msg, qos: qos, retained: retained, ids: ids}
	}
	r := 0
	if retained {
		r = 1
	}
	if plain[qos][r] == nil {
		plain[qos][r] = &queued{msg: msg, qos: qos, retained: retained}
	}
	return plain[qos][r]
}

// asPublished: Retain As Published of any matching subscription keeps the
// RETAIN flag [MQTT-3.3.1-12], [MQTT-3.3.1-13].
func asPublished(h hit) bool {
	return h.sub.RetainAsPublished ||
		slices.ContainsFunc(h.more, func(s *logpb.Subscription) bool { return s.RetainAsPublished })
}

// identifiers of all matching subscriptions, in the order of their filters
// [MQTT-3.3.4-3], [MQTT-3.3.4-4].
func identifiers(h hit) (ids []uint32) {
	if len(h.more) == 0 {
		if h.sub.Id == 0 {
			return nil
		}
		return []uint32{h.sub.Id}
	}
	subs := append([]*logpb.Subscription{h.sub}, h.more...)
	slices.SortFunc(subs, byFilter)
	for _, sub := range subs {
		if sub.Id != 0 {
			ids = append(ids, sub.Id)
		}
	}
	return ids
}

func byFilter(a, b *logpb.Subscription) int { return strings.Compare(a.Filter, b.Filter) }

// enqueue brings a live message on its way to a session. It returns false if there
// is no room and the publisher should hear of it.
func (m *Machine) enqueue(sl *slot, q *queued) bool {
	s := m.edit(sl)
	h := s.holdFor(q.msg.pb.Topic)
	switch {
	case s.hasAnswered(q):
	case m.expired(&q.msg.pb):
		m.countDrop(s, s.class(), Expired, 1) // [MQTT-3.3.2-5]
	case h == nil:
		return m.enqueueNow(sl, q)
	case !m.makeRoom(s, q):
		return m.settings.QueueFull != logpb.QueueFull_REFUSE
	default:
		h.held = append(h.held, q)
		s.held++
		m.countQueued(s, q, 1)
	}
	return true
}

// enqueueNow is enqueue for what waits for no retained message: in flight if the
// window is open, else into the queue.
func (m *Machine) enqueueNow(sl *slot, q *queued) bool {
	s := m.edit(sl)
	switch {
	case s.queue.n == 0 && m.maySend(s):
		if m.fits(s, q) {
			m.keep(q.msg)
			m.send(sl, q)
		}
	case !m.makeRoom(s, q):
		return m.settings.QueueFull != logpb.QueueFull_REFUSE
	default:
		s.queue.push(q)
		m.countQueued(s, q, 1)
		m.fill(sl)
	}
	return true
}

// holdFor returns the oldest hold that a live message has to wait for.
func (s *session) holdFor(name string) *hold {
	for _, h := range s.holds {
		if h.matches(name) {
			return h
		}
	}
	return nil
}

func (h *hold) matches(name string) bool {
	return slices.ContainsFunc(h.filters, func(f string) bool { return topic.Match(f, name) })
}

// makeRoom applies the queue's limits. It returns false if there is no room for q.
func (m *Machine) makeRoom(s *session, q *queued) bool {
	if m.hasRoom(s, q) {
		return true
	}
	class := s.class()
	for s.queue.n > 0 && m.expired(&s.queue.at(0).msg.pb) {
		m.dequeue(s)
		m.countDrop(s, class, Expired, 1)
	}
	limit := m.settings.MaxQueueBytes
	alone := limit != 0 && uint64(q.msg.size) > limit // no use in dropping others for it
	if m.settings.QueueFull == logpb.QueueFull_DROP_OLDEST && !alone {
		var lost uint64
		for s.queue.n > 0 && !m.hasRoom(s, q) {
			m.dequeue(s)
			lost++
		}
		m.countDrop(s, class, QueueFull, lost)
	}
	if m.hasRoom(s, q) {
		return true
	}
	m.countDrop(s, class, QueueFull, 1)
	return false
}

func (m *Machine) hasRoom(s *session, q *queued) bool {
	n, bytes := m.settings.MaxQueueMessages, m.settings.MaxQueueBytes
	return (n == 0 || uint64(s.queue.n+s.held) < uint64(n)) &&
		(bytes == 0 || uint64(s.queuedBytes+q.msg.size) <= bytes)
}

// countQueued accounts for a message that enters (1) or leaves (-1) queue or hold.
func (m *Machine) countQueued(s *session, q *queued, n int) {
	s.queuedBytes += int64(n) * q.msg.size
	m.stats.Queued += n
	m.stats.QueuedBytes += int64(n) * q.msg.size
	if n > 0 {
		m.keep(q.msg)
	} else {
		m.forget(q.msg)
	}
}

// dequeue takes the head of the queue. Its message is no longer kept.
func (m *Machine) dequeue(s *session) *queued {
	q := s.queue.pop()
	m.countQueued(s, q, -1)
	return q
}
