package fsm

import "github.com/flotilla-mqtt/flotilla/proto/logpb"

// handOn delivers a message that this partition has accepted to its own sessions,
// keeps it if it is retained and this is the partition to do so, and puts it
// into the outbox for all other destinations.
func (m *Machine) handOn(msg *message, afterClose uint64, waitClient string, waitPacketID uint16) {
	m.outboxSeq++
	item := &OutboxItem{
		Seq: m.outboxSeq, Message: &msg.pb, AfterClose: afterClose,
		WaitClient: waitClient, WaitPacketID: waitPacketID, msg: msg,
	}
	if msg.pb.Retain && m.responsible(msg) {
		item.Stored = true
		m.store(msg)
	}
	m.addOutbox(item)
	m.effects.Outbox = append(m.effects.Outbox, item)
	if m.match(&msg.pb) {
		m.deliver(msg, false)
	}
}

func (m *Machine) addOutbox(item *OutboxItem) {
	m.keep(item.msg)
	m.outbox[item.Seq] = item
	m.stats.OutboxBytes += item.msg.size
}

// responsible: this partition keeps the retained messages of the topic.
func (m *Machine) responsible(msg *message) bool {
	return PartitionOf(msg.pb.Topic, m.partitions) == m.partition
}

// outboxDone removes items that every destination has taken. The retained
// partition is one of them, so that done means stored as well.
func (m *Machine) outboxDone(op *logpb.OutboxDone) {
	for _, seq := range op.Stored {
		if item := m.outbox[seq]; item != nil && !item.Stored {
			next := *item
			next.Stored, next.WaitClient, next.WaitPacketID = true, "", 0
			m.outbox[seq] = &next
			m.stored(item)
		}
	}
	for _, seq := range op.Done {
		item := m.outbox[seq]
		if item == nil {
			continue
		}
		if item.WaitClient != "" {
			m.stored(item)
		}
		delete(m.outbox, seq)
		if len(item.Group) > 0 {
			m.stats.OutboxBytes -= item.size
			for _, msg := range item.msgs {
				if msg != nil {
					m.forget(msg)
				}
			}
			continue
		}
		m.stats.OutboxBytes -= item.msg.size
		m.forget(item.msg)
	}
}

// Pending is what a new leader has to do, rebuilt from the state: Outbox holds
// all items, Kick all connections that lost their session and are not known to be
// closed, Version the interest's version. Deliveries and PUBCOMPs are not in it:
// gateways ask for them, session by session (Attach, Releasing).
func (m *Machine) Pending() *Effects {
	e := &Effects{Version: m.version}
	for _, seq := range sortedKeys(m.outbox) {
		e.Outbox = append(e.Outbox, m.outbox[seq])
	}
	for _, id := range sortedKeys(m.slots) {
		for _, p := range m.slots[id].s.previous {
			e.Kick = append(e.Kick, Connection{id, p.gateway, p.epoch})
		}
	}
	return e
}
