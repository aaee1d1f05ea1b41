package fsm

import "github.com/flotilla-mqtt/flotilla/proto/logpb"

// receive stores a QoS 2 message under its packet id, before PUBREC. An id that
// is in use stores nothing, whatever the DUP flag says [MQTT-4.3.3-10].
func (m *Machine) receive(op *logpb.Receive) uint32 {
	sl, ok := m.fenced(op.ClientId, op.Epoch)
	switch {
	case !ok:
		return CodeFenced
	case op.PacketId == 0 || op.PacketId > maxPacketIDs: // [MQTT-2.2.1-3]
		return CodeProtocolError
	}
	id := uint16(op.PacketId)
	if _, held := sl.s.inbound[id]; held {
		return CodeOK
	}
	if limit := m.settings.MaxInbound; limit != 0 && uint64(len(sl.s.inbound)) >= uint64(limit) {
		return CodeQuota
	}
	s := m.edit(sl)
	if s.inbound == nil {
		s.inbound = make(map[uint16]inbound)
	}
	msg := m.newMessage(op.Message)
	m.keep(msg)
	s.inbound[id] = inbound{msg: msg}
	m.stats.Inbound++
	return CodeOK
}

// holds reports whether the op is a Receive of a packet id that is held already.
// Such a one is never refused for lack of room: the client would free the id, and
// its next message under it would be taken for the one that is held, and be lost.
func (m *Machine) holds(op any) bool {
	r, ok := op.(*logpb.Receive)
	if !ok {
		return false
	}
	sl, ok := m.fenced(r.ClientId, r.Epoch)
	if !ok || r.PacketId > maxPacketIDs {
		return false
	}
	_, held := sl.s.inbound[uint16(r.PacketId)]
	return held
}

// release hands a stored QoS 2 message on and frees its packet id in one step. A
// retained message keeps its id until the partition that keeps retained messages
// of its topic has it, and PUBCOMP waits for that.
func (m *Machine) release(op *logpb.Release) uint32 {
	sl, ok := m.fenced(op.ClientId, op.Epoch)
	switch {
	case !ok:
		return CodeFenced
	case op.PacketId == 0 || op.PacketId > maxPacketIDs:
		return CodeProtocolError
	}
	id := uint16(op.PacketId)
	in, held := sl.s.inbound[id]
	switch {
	case !held:
		return CodeUnknownPacketID
	case in.waiting != 0:
		return CodePending
	}
	s := m.edit(sl)
	wait := in.msg.pb.Retain && !m.responsible(in.msg)
	if wait {
		s.inbound[id] = inbound{waiting: m.outboxSeq + 1}
		m.handOn(in.msg, 0, s.id, id)
	} else {
		delete(s.inbound, id)
		m.stats.Inbound--
		m.handOn(in.msg, 0, "", 0)
	}
	m.forget(in.msg)
	if wait {
		return CodePending
	}
	return CodeOK
}

// Releasing tells whether a packet id that the owner has released still waits
// for its retained partition: its Completed is still to come.
func (m *Machine) Releasing(clientID string, epoch uint64, packetID uint16) bool {
	sl, ok := m.fenced(clientID, epoch)
	return ok && sl.s.inbound[packetID].waiting != 0
}

// stored frees the packet id that an outbox item's flow waits with.
func (m *Machine) stored(item *OutboxItem) {
	sl := m.slots[item.WaitClient]
	if sl == nil || sl.s.inbound[item.WaitPacketID].waiting != item.Seq {
		return // the session is over
	}
	s := m.edit(sl)
	delete(s.inbound, item.WaitPacketID)
	m.stats.Inbound--
	if s.owner != 0 {
		m.effects.Completed = append(m.effects.Completed,
			Completed{Connection{s.id, s.owner, s.epoch}, item.WaitPacketID})
	}
}
