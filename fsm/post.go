package fsm

import (
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// maxPost is how many bytes of messages there may be until an outbox item is full that collects what one
// entry has to tell one destination.
const maxPost = 256 << 10

// posted is something that this partition tells itself.
type posted struct {
	item *logpb.GroupItem
	msg  *message
}

// post puts something between groups and members into the outbox: what one entry
// has for one destination is one item there. For this partition itself it is carried
// out when the op that it follows from is done (runPosted). msg is the message of a
// GroupAssigned. The result is the number in the outbox; 0: for this partition.
func (m *Machine) post(to uint64, it *logpb.GroupItem, msg *message) (seq uint64) {
	if to == uint64(m.partition) {
		m.local = append(m.local, posted{it, msg})
		return 0
	}
	item := m.posts[to]
	if item == nil || item.size >= maxPost {
		m.outboxSeq++
		item = &OutboxItem{Seq: m.outboxSeq, Destination: to}
		m.posts[to] = item
		m.outbox[item.Seq] = item
		m.effects.Outbox = append(m.effects.Outbox, item)
	}
	item.Group = append(item.Group, it)
	m.countPosted(item, msg)
	return item.Seq
}

// countPosted accounts for the last element of an outbox item's Group.
func (m *Machine) countPosted(item *OutboxItem, msg *message) {
	item.msgs = append(item.msgs, msg)
	if msg != nil {
		m.keep(msg)
		item.size += msg.size
		m.stats.OutboxBytes += msg.size
	}
}

// lastPosted is the last that this entry has posted to a destination, or nil. It may
// be added to.
func (m *Machine) lastPosted(to uint64) *logpb.GroupItem {
	if to == uint64(m.partition) {
		if n := len(m.local); n > 0 {
			return m.local[n-1].item
		}
		return nil
	}
	if item := m.posts[to]; item != nil {
		return item.Group[len(item.Group)-1]
	}
	return nil
}

// runPosted carries out what the partition has told itself. Each may lead to more;
// that ends, since messages are assigned only as far as windows have room.
func (m *Machine) runPosted() {
	for len(m.local) > 0 {
		batch := m.local
		m.local = nil
		for _, p := range batch {
			m.groupItem(uint64(m.partition), p.item, p.msg, nil)
		}
	}
}

// group carries out what a member's home, or a group, tells this partition.
func (m *Machine) group(source uint64, op *logpb.Group) (uint32, []byte) {
	r := &logpb.GroupResult{}
	for _, it := range op.Items {
		var msg *message
		if a := it.GetAssigned(); a != nil {
			msg = m.newMessage(a.Message)
		}
		m.groupItem(source, it, msg, r)
	}
	if len(r.Existed) == 0 || !isGateway(source) {
		return CodeOK, nil // nobody waits for it
	}
	r.Version = m.nextVersion()
	return CodeOK, encode(r)
}

func (m *Machine) groupItem(source uint64, it *logpb.GroupItem, msg *message, r *logpb.GroupResult) {
	switch b := it.Body.(type) {
	case *logpb.GroupItem_Member:
		existed := m.groupMember(source, b.Member)
		if r != nil {
			r.Existed = append(r.Existed, existed)
		}
	case *logpb.GroupItem_Leave:
		existed := m.groupLeave(source, b.Leave)
		if r != nil {
			r.Existed = append(r.Existed, existed)
		}
	case *logpb.GroupItem_Taken:
		m.groupTaken(source, b.Taken)
	case *logpb.GroupItem_Assigned:
		m.groupAssigned(b.Assigned, msg)
	}
}
