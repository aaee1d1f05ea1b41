package fsm

import (
	"maps"
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// neverExpires is the session expiry interval that means "no expiry"
// [MQTT 5.0 3.1.2.11.2].
const neverExpires = 0xFFFFFFFF

// session is what the partition knows of one client. A session that is ephemeral
// has no queue and no subscriptions here: they live in its gateway. One that is
// ephemeral and has no owner is a ghost: it is over, and only its previous
// owners are still remembered.
//
// A session is changed only through Machine.edit: a frozen snapshot may hold it.
type session struct {
	gen      uint64 // snapshots taken before it was made or copied
	id       string
	username string
	protocol uint32

	epoch     uint64 // of the last Connect
	owner     uint64 // gateway; 0: not connected
	ephemeral bool
	expiry    uint32 // seconds
	expiresAt int64  // partition clock; 0: connected, or never

	will           *logpb.Will // immutable; its message's expiry has not begun
	willAt         int64       // partition clock; 0: no will is due
	willAfterClose uint64

	// previous owners' connections that are not known to be closed, by epoch.
	previous []previous

	subs []*logpb.Subscription // by filter; the elements are immutable

	queue       queue
	queuedBytes int64 // queue and held
	held        int   // messages in holds

	window       uint32 // most PUBLISHes in flight on the current connection
	maxPacket    uint32 // bytes; 0: no limit
	inflight     inflight
	lastPacketID uint16
	lastDelivery uint64
	pushed       uint64 // deliveries up to this one were sent on the current connection
	sending      uint32 // flights sent on the current connection
	sendingBytes int64  // of those, without what the client has already

	inbound map[uint16]inbound

	// assigned are messages of groups that wait for the window; there is a
	// connection then.
	assigned queue

	holds    []*hold // by id
	lastHold uint64
	answered []answered // the newest last

	dropped uint64 // messages, for limits
}

type previous struct {
	gateway, epoch uint64
	// will of the connection; nil: none, or it is not to be published anyhow. It
	// goes when the connection turns out to have ended without a DISCONNECT.
	will *logpb.Will
}

// inbound is a QoS 2 packet id of the client that is in use.
type inbound struct {
	msg     *message // nil once released
	waiting uint64   // outbox number that must be stored; 0: not released
}

// answered is a retained message that a subscription brought, and its QoS. The
// live copy of the same message may still be on its way here: a lane of its
// publisher may be slower than the answer.
type answered struct {
	id    messageID
	qos   uint32
	topic string
}

// maxAnswered bounds how many the session remembers.
const maxAnswered = 64

// hold makes live messages wait for the retained ones of a new subscription,
// which come first.
type hold struct {
	id      uint64
	filters []string
	held    []*queued
}

// slot is the fixed place of a session in the machine; the session itself is
// replaced when it is changed for the first time after a snapshot.
type slot struct {
	s     *session
	order uint64 // key in the subscription tree
	pos   int    // in Machine.list

	at    int64 // in the timer heap; 0: not in it
	timer int   // index in the heap

	pushIndex uint64 // entry of the last push
	push      int    // its position in Effects.Push

	hitSerial uint64 // match that found the session last
	hit       int    // its position in Machine.hits
}

func (s *session) ghost() bool { return s.ephemeral && s.owner == 0 }

func (s *session) class() Class {
	if s.owner != 0 {
		return ConnectedSession
	}
	return OfflineSession
}

func (s *session) findSub(filter string) (int, bool) {
	return slices.BinarySearchFunc(s.subs, filter, func(x *logpb.Subscription, f string) int {
		return strings.Compare(x.Filter, f)
	})
}

func (s *session) clone(gen uint64) *session {
	c := *s
	c.gen = gen
	c.previous = slices.Clone(s.previous)
	c.subs = slices.Clone(s.subs)
	c.queue = s.queue.clone()
	c.assigned = s.assigned.clone()
	c.inflight = s.inflight.clone()
	c.inbound = maps.Clone(s.inbound)
	c.answered = slices.Clone(s.answered)
	c.holds = nil
	for _, h := range s.holds {
		c.holds = append(c.holds, &hold{h.id, slices.Clone(h.filters), slices.Clone(h.held)})
	}
	return &c
}

// edit returns the session for changing. What a snapshot may be reading stays
// as it is: the first change after a snapshot works on a copy.
func (m *Machine) edit(sl *slot) *session {
	if sl.s.gen != m.gen {
		sl.s = sl.s.clone(m.gen)
		m.list[sl.pos] = sl.s
	}
	return sl.s
}

// fenced returns the session if epoch is its current owner's.
func (m *Machine) fenced(clientID string, epoch uint64) (*slot, bool) {
	sl := m.slots[clientID]
	if sl == nil || sl.s.owner == 0 || sl.s.epoch != epoch {
		return nil, false
	}
	return sl, true
}

// addSlot makes room for a client that is not known yet; the result is a ghost.
func (m *Machine) addSlot(s *session) *slot {
	m.lastOrder++
	sl := &slot{s: s, order: m.lastOrder, pos: len(m.list)}
	m.list = append(m.list, s)
	m.places = append(m.places, sl)
	m.slots[s.id] = sl
	return sl
}

// removeGhost forgets a session that is over, once nothing is left of it.
func (m *Machine) removeGhost(sl *slot) {
	if !sl.s.ghost() || len(sl.s.previous) > 0 {
		return
	}
	m.setTimer(sl, 0)
	last := len(m.list) - 1
	m.list[sl.pos], m.places[sl.pos] = m.list[last], m.places[last]
	m.places[sl.pos].pos = sl.pos
	m.list[last], m.places[last] = nil, nil
	m.list, m.places = m.list[:last], m.places[:last]
	delete(m.slots, sl.s.id)
}

// setOwner moves a session between gateways; 0 is none.
func (m *Machine) setOwner(sl *slot, gateway uint64) {
	s := m.edit(sl)
	if s.owner != 0 {
		m.gateway(s.owner, -1, 0)
		m.stats.Connected--
	}
	if gateway != 0 {
		m.gateway(gateway, 1, 0)
		m.stats.Connected++
	}
	s.owner = gateway
}

// supersede makes the current owner a previous one, whose connection must close.
// Its will waits for word of how it ended: a DISCONNECT may be on its way
// [MQTT-3.14.4-3]. A session that is resumed drops a will with a delay, since
// the client is back before its end [MQTT-3.1.3-9].
func (m *Machine) supersede(sl *slot, resumed bool) {
	s := m.edit(sl)
	old := previous{s.owner, s.epoch, s.will}
	if old.will != nil && resumed && old.will.Delay > 0 {
		old.will = nil
	}
	s.will = nil
	s.previous = append(s.previous, old)
	m.gateway(old.gateway, 0, 1)
	m.effects.Kick = append(m.effects.Kick, Connection{s.id, old.gateway, old.epoch})
	m.setOwner(sl, 0)
}

// ownerGone forgets previous owners that complete nothing any more. lost: they
// ended without a DISCONNECT, and their wills are published.
func (m *Machine) ownerGone(sl *slot, gone func(previous) bool, lost bool, afterClose uint64) (found bool) {
	if !slices.ContainsFunc(sl.s.previous, gone) {
		return false
	}
	s := m.edit(sl)
	s.previous = slices.DeleteFunc(s.previous, func(p previous) bool {
		if !gone(p) {
			return false
		}
		m.gateway(p.gateway, 0, -1)
		m.effects.OwnerGone = append(m.effects.OwnerGone, Connection{s.id, p.gateway, p.epoch})
		if lost {
			m.handOnWill(p.will, afterClose)
		}
		return true
	})
	return true
}

// end ends a session: a will that is still to be published goes now at the latest
// [MQTT-3.1.2-8], everything else of its state goes with it. The session must have
// no owner; what is left is a ghost, which the caller removes or uses again.
func (m *Machine) end(sl *slot, reason Reason) {
	if sl.s.will != nil {
		m.publishWill(sl, sl.s.willAfterClose)
	}
	s := m.edit(sl)
	var lost uint64
	m.releaseHolds(sl, nil)
	for s.queue.n > 0 {
		m.dequeue(s)
		lost++
	}
	lost += m.endShared(s)
	s.inflight.each(func(x *flight) bool {
		if x.q != nil {
			m.forget(x.q.msg)
			if x.q.share == "" {
				lost++
			}
		}
		return true
	})
	m.stats.Inflight -= s.inflight.len()
	for _, in := range s.inbound {
		if in.msg != nil {
			m.forget(in.msg)
		}
	}
	m.stats.Inbound -= len(s.inbound)
	for _, sub := range s.subs {
		if !isShared(sub.Filter) {
			m.unlinkSub(sl, sub)
		}
	}
	m.countDrop(s, OfflineSession, reason, lost)
	if s.ephemeral {
		m.stats.Ephemeral--
	}
	m.stats.Sessions--
	g := &session{gen: m.gen, id: s.id, ephemeral: true, previous: s.previous}
	sl.s, m.list[sl.pos] = g, g
	m.setTimer(sl, 0)
}

// countDrop notes n messages of a session as dropped.
func (m *Machine) countDrop(s *session, class Class, reason Reason, n uint64) {
	if n == 0 {
		return
	}
	first := false
	if reason <= TooLarge { // a limit, not the session's own end
		first = s.dropped == 0
		s.dropped += n
	}
	m.stats.Dropped[class][reason] += n
	m.effects.Dropped = append(m.effects.Dropped, Drop{ClientID: s.id, Class: class, Reason: reason, N: n, First: first})
}
