package fsm

import (
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// This file is what planted bugs do, see package proof/mutant: nothing calls it in a build that is
// not made for them.

// forgetInbound forgets the QoS 2 packet ids of sessions and what is stored under them.
func (m *Machine) forgetInbound(of func(*session) bool) {
	for _, sl := range m.places {
		if len(sl.s.inbound) == 0 || !of(sl.s) {
			continue
		}
		s := m.edit(sl)
		for _, in := range s.inbound {
			if in.msg != nil {
				m.forget(in.msg)
			}
		}
		m.stats.Inbound -= len(s.inbound)
		s.inbound = nil
	}
}

// takeUnmarked takes an op whatever came before it. Its mark is that of the first.
func (m *Machine) takeUnmarked(op *logpb.LaneOp) {
	if m.lanes[op.Source] == nil {
		m.lanes[op.Source] = &lane{mark: op.Prev}
	}
}

// renumber gives a flow another packet id.
func (s *session) renumber(x, next *flight) {
	s.lastPacketID = s.inflight.freeID(s.lastPacketID)
	delete(s.inflight.byID, x.packetID)
	next.packetID = s.lastPacketID
}
