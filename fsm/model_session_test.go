package fsm

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

func (m *model) connect(source uint64, op *logpb.Connect) []byte {
	s := m.sessions[op.ClientId]
	if s == nil {
		s = &mSession{id: op.ClientId}
		m.sessions[op.ClientId] = s
	}
	if s.willAt != 0 && s.willAt <= m.time {
		m.will(s)
	}
	if s.expiresAt != 0 && s.expiresAt <= m.time {
		m.end(s, SessionExpired)
		m.sessions[s.id] = s
	}
	present := s.exists && !s.ephemeral && !op.CleanStart
	connected := s.owner != 0
	m.kick(s, present)
	if connected {
		m.releaseAll(s)
	}
	if s.exists && !present {
		reason := SessionExpired
		if op.CleanStart {
			reason = CleanStart
		}
		m.end(s, reason)
		m.sessions[s.id] = s
	}
	m.lastEpoch++
	s.c, s.exists, s.owner, s.epoch = op, true, source, m.lastEpoch
	s.will, s.willAt, s.willAfterClose, s.expiresAt = op.Will, 0, 0, 0
	s.expiry = m.cap(op.Expiry)
	if !present {
		s.ephemeral = s.expiry == 0
		s.subs, s.inbound = map[string]*logpb.Subscription{}, map[uint16]*mInbound{}
	}
	for _, f := range s.inflight {
		f.counts = false
	}
	m.fill(s)
	r := &logpb.ConnectResult{Epoch: s.epoch, Present: present, Ephemeral: s.ephemeral}
	for _, p := range s.previous {
		r.Previous = append(r.Previous, &logpb.Owner{Gateway: p.Gateway, Epoch: p.Epoch})
	}
	if present {
		for _, f := range slices.Sorted(maps.Keys(s.subs)) {
			r.Subscriptions = append(r.Subscriptions, s.subs[f])
		}
	}
	return marshal(r)
}

func (m *model) cap(expiry uint32) uint32 {
	if m.set.MaxExpiry != 0 {
		return min(expiry, m.set.MaxExpiry)
	}
	return expiry
}

// kick makes the owner, if there is one, a previous one.
func (m *model) kick(s *mSession, resumed bool) {
	if s.owner == 0 {
		return
	}
	if s.will != nil && !(resumed && s.will.Delay > 0) {
		if m.oldWills == nil {
			m.oldWills = map[Connection]*logpb.Will{}
		}
		m.oldWills[Connection{s.id, s.owner, s.epoch}] = s.will
	}
	s.will = nil
	c := Connection{s.id, s.owner, s.epoch}
	s.previous = append(s.previous, c)
	m.e.Kick = append(m.e.Kick, c)
	s.owner = 0
}

func (m *model) gone(s *mSession, which func(Connection) bool, lost bool, closed uint64) (found bool) {
	for _, c := range s.previous {
		if which(c) {
			found = true
			m.e.OwnerGone = append(m.e.OwnerGone, c)
			if w := m.oldWills[c]; w != nil && lost {
				m.publishWill(w, closed)
			}
			delete(m.oldWills, c)
		}
	}
	s.previous = slices.DeleteFunc(s.previous, which)
	m.tidy(s)
	return found
}

func (m *model) tidy(s *mSession) {
	if !s.exists && len(s.previous) == 0 {
		delete(m.sessions, s.id)
	}
}

func (m *model) disconnect(op *logpb.Disconnect) uint32 {
	s := m.sessions[op.ClientId]
	switch {
	case s == nil:
		return CodeFenced
	case s.owner != 0 && s.epoch == op.Epoch:
		if op.SetExpiry && s.expiry != 0 {
			s.expiry = m.cap(op.Expiry)
		}
		m.leave(s, op.Lost, 0)
	case !m.gone(s, func(c Connection) bool { return c.Epoch == op.Epoch }, op.Lost, 0):
		return CodeFenced
	}
	return CodeOK
}

func (m *model) leave(s *mSession, lost bool, closed uint64) {
	s.owner = 0
	m.releaseAll(s)
	s.willAfterClose = closed
	if !lost {
		s.will = nil
	}
	end := int64(1<<63 - 1)
	if s.expiry != 0xFFFFFFFF {
		end = m.time + int64(s.expiry)*1000
		s.expiresAt = end
	}
	if s.will != nil {
		s.willAt = min(m.time+int64(s.will.Delay)*1000, end)
		if s.willAt == m.time {
			m.will(s)
		}
	}
	if s.expiry == 0 {
		m.end(s, SessionExpired)
	}
}

func (m *model) end(s *mSession, reason Reason) {
	if s.will != nil {
		m.will(s)
	}
	lost := uint64(len(s.queue))
	for _, h := range s.holds {
		lost += uint64(len(h.held))
	}
	for _, f := range s.inflight {
		if !f.pubrec {
			lost++
		}
	}
	m.drop(s, OfflineSession, reason, lost)
	before := m.interest()
	*s = mSession{id: s.id, previous: s.previous}
	m.note(before)
	m.tidy(s)
}

func (m *model) drop(s *mSession, class Class, reason Reason, n uint64) {
	if n == 0 {
		return
	}
	limit := reason == QueueFull || reason == Expired || reason == TooLarge
	m.e.Dropped = append(m.e.Dropped, Drop{ClientID: s.id, Class: class, Reason: reason, N: n, First: limit && s.dropped == 0})
	if limit {
		s.dropped += n
	}
}

func (m *model) will(s *mSession) {
	w, closed := s.will, s.willAfterClose
	s.will, s.willAt, s.willAfterClose = nil, 0, 0
	m.publishWill(w, closed)
}

func (m *model) publishWill(w *logpb.Will, closed uint64) {
	msg := m.deadline(w.Message)
	msg.IdSource, msg.IdSeq = uint64(m.partition), m.outboxSeq+1
	m.handOn(msg, closed, "", 0)
}

func (m *model) deadline(pb *logpb.Message) *logpb.Message {
	c := proto.Clone(pb).(*logpb.Message)
	if c.HasExpiry {
		c.Expiry += m.time
	} else {
		c.Expiry = 0
	}
	return c
}

func (m *model) closeGateway(g uint64) {
	if m.isClosed(g) {
		return
	}
	m.closed[g>>40] = g & (1<<40 - 1)
	m.e.Closed = append(m.e.Closed, g)
	for source := range m.marks {
		if m.isClosed(source) {
			delete(m.marks, source)
			delete(m.results, source)
		}
	}
	for _, id := range m.ids() {
		s := m.sessions[id]
		m.gone(s, func(c Connection) bool { return m.isClosed(c.Gateway) }, true, g)
		if s.owner != 0 && m.isClosed(s.owner) {
			m.leave(s, true, g)
		}
	}
}

// tick carries out what is due one by one: the earliest first, then by client id.
func (m *model) tick() {
	for {
		at, s := m.due()
		if s == nil || at > m.time {
			break
		}
		if s.willAt != 0 && s.willAt <= m.time {
			m.will(s)
		} else {
			m.end(s, SessionExpired)
		}
	}
	for name, msg := range m.retained {
		if msg.HasExpiry && msg.Expiry <= m.time {
			delete(m.retained, name)
		}
	}
}

func (m *model) due() (at int64, due *mSession) {
	for _, id := range m.ids() {
		s := m.sessions[id]
		for _, t := range []int64{s.willAt, s.expiresAt} {
			if t != 0 && (due == nil || t < at) {
				at, due = t, s
			}
		}
	}
	return at, due
}

func (m *model) deadlineOf() (at int64, ok bool) {
	at, s := m.due()
	ok = s != nil
	for _, msg := range m.retained {
		if msg.HasExpiry && (!ok || msg.Expiry < at) {
			at, ok = msg.Expiry, true
		}
	}
	return at, ok
}

func (m *model) subscribe(s *mSession, op *logpb.Subscribe) []byte {
	r := &logpb.SubscribeResult{}
	for _, sub := range op.Subscriptions {
		before := m.interest()
		_, existed := s.subs[sub.Filter]
		code := sub.Qos
		switch {
		case topic.ValidFilter(sub.Filter) != nil:
			code, existed = CodeFilterInvalid, false
		case !existed && m.set.MaxSubscriptions != 0 && len(s.subs) >= int(m.set.MaxSubscriptions):
			code = CodeQuota
		default:
			s.subs[sub.Filter] = sub
			if (sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed) && !slices.Contains(r.Retained, sub.Filter) {
				r.Retained = append(r.Retained, sub.Filter)
			}
		}
		m.note(before)
		r.Codes, r.Existed = append(r.Codes, code), append(r.Existed, existed)
	}
	if len(r.Retained) > 0 {
		s.lastHold++
		r.Hold = s.lastHold
		s.holds = append(s.holds, &mHold{id: r.Hold, filters: slices.Clone(r.Retained)})
	}
	r.Version = m.version
	if len(m.touched) > 0 {
		r.Version++
	}
	return marshal(r)
}

func (m *model) unsubscribe(s *mSession, op *logpb.Unsubscribe) []byte {
	r := &logpb.UnsubscribeResult{}
	for _, f := range op.Filters {
		before := m.interest()
		_, existed := s.subs[f]
		delete(s.subs, f)
		m.note(before)
		r.Existed = append(r.Existed, existed)
		for _, h := range slices.Clone(s.holds) {
			if i := slices.Index(h.filters, f); existed && i >= 0 {
				h.filters = slices.Delete(h.filters, i, i+1)
				if len(h.filters) == 0 {
					m.releaseHold(s, h)
				}
			}
		}
	}
	m.fill(s)
	return marshal(r)
}

// holds: a packet id that is held is never refused for lack of room.
func (m *model) holds(body any) bool {
	op, ok := body.(*logpb.Receive)
	if !ok || op.PacketId == 0 || op.PacketId > 65535 {
		return false
	}
	s := m.sessions[op.ClientId]
	return s != nil && s.owner != 0 && s.epoch == op.Epoch && s.inbound[uint16(op.PacketId)] != nil
}

func (m *model) receive(s *mSession, op *logpb.Receive) uint32 {
	id := uint16(op.PacketId)
	switch {
	case op.PacketId == 0 || op.PacketId > 65535:
		return CodeProtocolError
	case s.inbound[id] != nil:
		return CodeOK
	case m.set.MaxInbound != 0 && len(s.inbound) >= int(m.set.MaxInbound):
		return CodeQuota
	}
	s.inbound[id] = &mInbound{msg: m.deadline(op.Message)}
	return CodeOK
}

func (m *model) release(s *mSession, op *logpb.Release) uint32 {
	id := uint16(op.PacketId)
	in := s.inbound[id]
	switch {
	case op.PacketId == 0 || op.PacketId > 65535:
		return CodeProtocolError
	case in == nil:
		return CodeUnknownPacketID
	case in.waiting != 0:
		return CodePending
	case in.msg.Retain && PartitionOf(in.msg.Topic, m.partitions) != m.partition:
		in.waiting = m.outboxSeq + 1
		m.handOn(in.msg, 0, s.id, id)
		return CodePending
	}
	delete(s.inbound, id)
	m.handOn(in.msg, 0, "", 0)
	return CodeOK
}

func (s *mSession) class() Class {
	if s.owner != 0 {
		return ConnectedSession
	}
	return OfflineSession
}
