package fsm

import (
	"slices"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// fill sends what the client's window has room for: first the flows of earlier
// connections, in their order [MQTT-4.4.0-1], then the queue.
func (m *Machine) fill(sl *slot) {
	s := m.edit(sl)
	if s.owner == 0 {
		return
	}
	if !m.caughtUp(s) {
		m.resend(sl)
	}
	for s.queue.n+s.assigned.n > 0 && m.maySend(s) {
		if s.assigned.n > 0 && (s.queue.n == 0 || s.lastDelivery&1 == 0) { // in turn
			m.sendAssigned(sl)
			continue
		}
		q := s.queue.at(0)
		if !m.fits(s, q) {
			m.dequeue(s)
			continue
		}
		m.keep(q.msg) // before the queue lets go of it
		m.dequeue(s)
		m.send(sl, q)
	}
}

// sendAssigned sends the first of the messages that groups have assigned.
func (m *Machine) sendAssigned(sl *slot) {
	s := sl.s
	q := m.popAssigned(s)
	if m.fits(s, q) {
		m.send(sl, q)
		return
	}
	m.taken(s, q)
	m.forget(q.msg)
}

// maySend: the client is there, has been sent every flow of earlier connections,
// and has room for one more.
func (m *Machine) maySend(s *session) bool {
	return s.owner != 0 && m.caughtUp(s) && m.windowOpen(s) && s.inflight.len() < maxPacketIDs
}

// caughtUp: every flow has been sent on the current connection.
func (m *Machine) caughtUp(s *session) bool { return s.pushed == s.lastDelivery }

// windowOpen: one more PUBLISH may be in flight [MQTT-3.3.4-9]. The limit in bytes
// always leaves room for one.
func (m *Machine) windowOpen(s *session) bool {
	window := s.window
	if limit := m.settings.MaxInflight; limit != 0 {
		window = min(window, limit)
	}
	if s.sending >= window {
		return false
	}
	limit := m.settings.MaxInflightBytes
	return limit == 0 || s.sending == 0 || uint64(s.sendingBytes) < limit
}

// fits drops, and counts, a message that need not or cannot be sent.
func (m *Machine) fits(s *session, q *queued) bool {
	if m.expired(&q.msg.pb) {
		m.countDrop(s, s.class(), Expired, 1) // [MQTT-3.3.2-5]
		return false
	}
	return m.small(s, q)
}

// small drops, and counts, a message that is larger than the client accepts
// [MQTT-3.1.2-24], [MQTT-3.1.2-25]. The gateway knows the exact size of the packet
// and looks again.
func (m *Machine) small(s *session, q *queued) bool {
	if s.maxPacket == 0 || q.minPacket(s.protocol) <= int64(s.maxPacket) {
		return true
	}
	m.countDrop(s, s.class(), TooLarge, 1)
	return false
}

// send puts a message in flight: its packet id is chosen here, so that it is
// replicated before the client sees it. The message is kept already.
func (m *Machine) send(sl *slot, q *queued) {
	s := sl.s
	if mutant.PacketIDOutsideApply {
		s.lastPacketID = uint16(mutant.Outside())
	}
	s.lastPacketID = s.inflight.freeID(s.lastPacketID)
	s.lastDelivery++
	x := &flight{seq: s.lastDelivery, packetID: s.lastPacketID, q: q, epoch: s.epoch, sent: s.epoch}
	s.inflight.add(x)
	m.stats.Inflight++
	s.sent(x)
	m.push(sl, s.delivery(x))
}

// sent accounts for a flow that was sent on the current connection.
func (s *session) sent(x *flight) {
	s.pushed = x.seq
	if !x.pubrec {
		s.sending++
		s.sendingBytes += x.q.msg.size
	}
}

// resend sends flows of earlier connections, as far as the window allows: the
// client may have come back with a smaller Receive Maximum. A PUBREL needs no
// window.
func (m *Machine) resend(sl *slot) {
	s, stalled := sl.s, false
	s.inflight.each(func(x *flight) bool {
		if x.seq <= s.pushed {
			return true
		}
		if mutant.PubrelStateLost && x.pubrec {
			m.drop(s, x)
			return true
		}
		if !x.pubrec {
			if !m.small(s, x.q) {
				m.drop(s, x)
				return true
			}
			if stalled = !m.windowOpen(s); stalled {
				return false
			}
			next := *x
			next.sent = s.epoch
			if mutant.NewIDOnRedelivery {
				s.renumber(x, &next)
			}
			s.inflight.replace(x, &next)
			x = &next
		}
		s.sent(x)
		m.push(sl, s.delivery(x))
		return true
	})
	if !stalled {
		s.pushed = s.lastDelivery // also if the last flows have ended
	}
}

func (s *session) delivery(x *flight) Delivery {
	if x.pubrec {
		return Delivery{Seq: x.seq, PacketID: x.packetID, QoS: 2, Release: true}
	}
	return Delivery{
		Seq: x.seq, PacketID: x.packetID, QoS: byte(x.q.qos), Dup: x.epoch < s.epoch, // [MQTT-3.3.1-1]
		Retained: x.q.retained, SubscriptionIDs: x.q.ids, Message: &x.q.msg.pb,
	}
}

// push adds a delivery to the entry's effects.
func (m *Machine) push(sl *slot, d Delivery) {
	if sl.pushIndex != m.applied || sl.push >= len(m.effects.Push) || m.effects.Push[sl.push].Epoch != sl.s.epoch {
		sl.pushIndex, sl.push = m.applied, len(m.effects.Push)
		m.effects.Push = append(m.effects.Push, Push{Connection: Connection{sl.s.id, sl.s.owner, sl.s.epoch}})
	}
	p := &m.effects.Push[sl.push]
	p.Items = append(p.Items, d)
}

// acks carries out what a subscriber acknowledged. Unknown packet ids are
// counted and ignored: the client may acknowledge twice.
func (m *Machine) acks(op *logpb.Acks) uint32 {
	sl, ok := m.fenced(op.ClientId, op.Epoch)
	if !ok {
		return CodeFenced
	}
	s := m.edit(sl)
	for _, id := range op.Pubacks {
		m.endFlight(s, id, func(x *flight) bool { return x.q != nil && x.q.qos == 1 })
	}
	for _, id := range op.FailedPubrecs { // [MQTT-4.3.3-4]
		m.endFlight(s, id, func(x *flight) bool { return x.q != nil && x.q.qos == 2 })
	}
	for _, id := range op.Pubrecs {
		m.pubrec(s, id)
	}
	for _, id := range op.Pubcomps {
		m.endFlight(s, id, func(x *flight) bool { return x.pubrec })
	}
	m.fill(sl)
	return CodeOK
}

func (m *Machine) endFlight(s *session, id uint32, expected func(*flight) bool) {
	x := s.inflight.find(id)
	if x == nil || !expected(x) {
		m.stats.UnknownAcks++
		return
	}
	m.drop(s, x)
}

// drop forgets a flow.
func (m *Machine) drop(s *session, x *flight) {
	if x.q != nil {
		if x.sent == s.epoch {
			s.sendingBytes -= x.q.msg.size
		}
		m.taken(s, x.q) // [MQTT-4.8.2-6] also if the client has refused it
		m.forget(x.q.msg)
	}
	if x.sent == s.epoch {
		s.sending--
	}
	s.inflight.remove(x)
	m.stats.Inflight--
}

// pubrec: the client has the message. Its id stays until PUBCOMP [MQTT-4.3.3-6].
func (m *Machine) pubrec(s *session, id uint32) {
	x := s.inflight.find(id)
	if x == nil || x.q != nil && x.q.qos != 2 {
		m.stats.UnknownAcks++
		return
	}
	if x.pubrec {
		return // again: the gateway may answer with PUBREL
	}
	if x.sent == s.epoch {
		s.sendingBytes -= x.q.msg.size
	}
	m.taken(s, x.q)
	m.forget(x.q.msg)
	next := *x
	next.pubrec, next.q = true, nil
	s.inflight.replace(x, &next)
}

// Attach returns what a gateway has to send again for a session after a change of
// leader: the deliveries after the position it has taken. ok is false if epoch is
// not the current owner's.
func (m *Machine) Attach(clientID string, epoch, position uint64) (push []Push, ok bool) {
	sl, ok := m.fenced(clientID, epoch)
	if !ok {
		return nil, false
	}
	s := sl.s
	p := Push{Connection: Connection{s.id, s.owner, s.epoch}}
	s.inflight.each(func(x *flight) bool {
		if x.seq > position && x.seq <= s.pushed {
			p.Items = append(p.Items, s.delivery(x))
		}
		return x.seq <= s.pushed
	})
	if len(p.Items) > 0 {
		push = []Push{p}
	}
	return push, true
}

// releaseHolds lets messages go that waited for the answer to one hold, or to all
// (nil). What another hold has to do with goes on waiting for that.
func (m *Machine) releaseHolds(sl *slot, one *hold) {
	if len(sl.s.holds) == 0 {
		return
	}
	s := m.edit(sl)
	released := s.holds
	if one != nil {
		released = []*hold{one}
		s.holds = slices.DeleteFunc(s.holds, func(h *hold) bool { return h == one })
	} else {
		s.holds = nil
	}
	for _, h := range released {
		for _, q := range h.held {
			if other := s.holdFor(q.msg.pb.Topic); other != nil {
				other.held = append(other.held, q)
				continue
			}
			s.held--
			s.queue.push(q)
		}
	}
}
