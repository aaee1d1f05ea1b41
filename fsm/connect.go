package fsm

import (
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// connect makes a gateway the owner of a session (design §5, takeover).
func (m *Machine) connect(gateway uint64, c *logpb.Connect) (uint32, []byte) {
	sl := m.slots[c.ClientId]
	if sl != nil {
		sl = m.catchUp(sl) // Session Present must be true to the facts
	}
	present := sl != nil && !sl.s.ephemeral && !c.CleanStart
	if sl == nil {
		sl = m.addSlot(&session{gen: m.gen, id: c.ClientId, ephemeral: true})
	} else {
		m.takeOver(sl, present, c.CleanStart)
	}
	if mutant.DedupeClearedAtConnect {
		m.forgetInbound(func(s *session) bool { return s.id == c.ClientId })
	}
	s := m.edit(sl)
	m.lastEpoch++
	s.epoch = m.lastEpoch
	s.username, s.protocol = c.Username, c.Protocol
	s.expiry, s.expiresAt = m.capExpiry(c.Expiry), 0
	s.window, s.maxPacket = min(c.Window, 65535), c.MaxPacket
	if s.window == 0 {
		s.window = 65535 // the default of Receive Maximum
	}
	s.will, s.willAt, s.willAfterClose = c.Will, 0, 0
	if !present {
		s.ephemeral = s.expiry == 0
		m.stats.Sessions++
		if s.ephemeral {
			m.stats.Ephemeral++
		}
	}
	m.setOwner(sl, gateway)
	m.retime(sl)
	s.pushed, s.sending, s.sendingBytes = 0, 0, 0
	m.unassign(s, func(*queued) bool { return true }) // the groups give them again, in order
	m.announceAll(sl)
	m.fill(sl)

	r := &logpb.ConnectResult{Epoch: s.epoch, Present: present, Ephemeral: s.ephemeral}
	for _, p := range s.previous {
		r.Previous = append(r.Previous, &logpb.Owner{Gateway: p.gateway, Epoch: p.epoch})
	}
	if present {
		r.Subscriptions = s.subs
	}
	return CodeOK, encode(r)
}

// catchUp does what was due for a session before the entry, if no Tick has done it.
// It returns nil if nothing is left of the session.
func (m *Machine) catchUp(sl *slot) *slot {
	if w := sl.s.willAt; w != 0 && w <= m.time {
		m.publishWill(sl, sl.s.willAfterClose)
		m.retime(sl)
	}
	if e := sl.s.expiresAt; e != 0 && e <= m.time {
		m.end(sl, SessionExpired)
		m.removeGhost(sl)
		return m.slots[sl.s.id]
	}
	return sl
}

// takeOver ends the part of the owner there was, or of a connection that is
// gone already, and the session itself if it is not resumed: it is a ghost then.
func (m *Machine) takeOver(sl *slot, resumed, clean bool) {
	connected := sl.s.owner != 0
	if connected {
		m.supersede(sl, resumed)
		m.releaseHolds(sl, nil)
	}
	if resumed {
		return
	}
	if sl.s.ephemeral && !connected {
		return // a ghost
	}
	reason := SessionExpired
	if clean {
		reason = CleanStart // [MQTT-3.1.2-4]
	}
	m.end(sl, reason)
}

func (m *Machine) capExpiry(seconds uint32) uint32 {
	if limit := m.settings.MaxExpiry; limit != 0 && seconds > limit {
		return limit
	}
	return seconds
}

// disconnect ends an ownership at the word of its gateway.
func (m *Machine) disconnect(d *logpb.Disconnect) uint32 {
	sl := m.slots[d.ClientId]
	if sl == nil {
		return CodeFenced
	}
	if sl.s.owner != 0 && sl.s.epoch == d.Epoch {
		s := m.edit(sl)
		// An interval of 0 at CONNECT cannot be raised [MQTT-3.14.2-2].
		if d.SetExpiry && s.expiry != 0 {
			s.expiry = m.capExpiry(d.Expiry)
		}
		m.leave(sl, d.Lost, 0)
		return CodeOK
	}
	if !m.ownerGone(sl, func(p previous) bool { return p.epoch == d.Epoch }, d.Lost, 0) {
		return CodeFenced
	}
	m.removeGhost(sl)
	return CodeOK
}

// leave ends the connection of a session. lost: its will is published, after
// the will delay or at the session's end, whichever comes first [MQTT-3.1.3-9].
func (m *Machine) leave(sl *slot, lost bool, afterClose uint64) {
	m.setOwner(sl, 0)
	m.releaseHolds(sl, nil)
	s := m.edit(sl)
	m.unassign(s, func(*queued) bool { return true }) // others may be there for them
	switch {
	case s.will == nil:
	case !lost:
		s.will = nil // [MQTT-3.1.2-10]
	case s.will.Delay == 0 || s.expiry == 0:
		m.publishWill(sl, afterClose)
	default:
		s.willAt = after(m.time, int64(s.will.Delay)*1000)
		s.willAfterClose = afterClose
	}
	if s.expiry == 0 {
		m.end(sl, SessionExpired)
		m.removeGhost(sl)
		return
	}
	m.announceAll(sl)
	if s.expiry != neverExpires {
		s.expiresAt = after(m.time, int64(s.expiry)*1000) // takes a will along, if it comes first
	}
	m.retime(sl)
}

// publishWill hands a session's will on. It has its number in the outbox as id.
func (m *Machine) publishWill(sl *slot, afterClose uint64) {
	s := m.edit(sl)
	w := s.will
	s.will, s.willAt, s.willAfterClose = nil, 0, 0
	m.handOnWill(w, afterClose)
}

func (m *Machine) handOnWill(w *logpb.Will, afterClose uint64) {
	if w == nil || w.Message == nil {
		return
	}
	msg := m.newMessage(w.Message)
	msg.pb.IdSource, msg.pb.IdSeq = uint64(m.partition), m.outboxSeq+1
	m.handOn(msg, afterClose, "", 0)
}

// closeGateway ends all connections of a node's incarnations up to this one.
func (m *Machine) closeGateway(gateway uint64) {
	node, incarnation := gateway>>incarnationBits, gateway&incarnationMask
	if old, ok := m.closed[node]; ok && old >= incarnation {
		return
	}
	m.closed[node] = incarnation
	m.effects.Closed = append(m.effects.Closed, gateway)
	for source := range m.lanes {
		if isGateway(source) && m.isClosed(source) {
			delete(m.lanes, source)
		}
	}
	m.closeMembers()
	for _, sl := range m.slotsOf(m.isClosed) {
		m.ownerGone(sl, func(p previous) bool { return m.isClosed(p.gateway) }, true, gateway)
		if sl.s.owner != 0 && m.isClosed(sl.s.owner) {
			m.leave(sl, !mutant.WillDroppedWithNode, gateway)
		} else {
			m.removeGhost(sl)
		}
	}
	if mutant.MarksForgotten {
		delete(m.closed, node)
	}
}

// deleteSession removes a session as if it had expired. Its connection, if
// there is one, must be closed by the leader.
func (m *Machine) deleteSession(clientID string) uint32 {
	sl := m.slots[clientID]
	if sl == nil || sl.s.ghost() {
		return CodeOK
	}
	if sl.s.owner != 0 {
		m.supersede(sl, false)
	}
	m.end(sl, SessionDeleted)
	m.removeGhost(sl)
	return CodeOK
}

// ownersClosed removes previous owners at the leader's word.
func (m *Machine) ownersClosed(o *logpb.OwnerClosed) {
	sl := m.slots[o.ClientId]
	if sl == nil {
		return
	}
	m.ownerGone(sl, func(p previous) bool {
		for _, x := range o.Owners {
			if x.Gateway == p.gateway && x.Epoch == p.epoch {
				return true
			}
		}
		return false
	}, true, 0)
	m.removeGhost(sl)
}
