package cluster

import (
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// This file is how a leader tells the members what its partition wants.

func (ld *leader) wholeInterest() (uint64, []*peerpb.InterestFilter) {
	var version uint64
	var filters []*peerpb.InterestFilter
	ld.r.sm.read(func(m *fsm.Machine) {
		v, each := m.Interest()
		version = v
		each(func(c fsm.InterestChange) { filters = append(filters, interestChange(c)) })
	})
	return version, filters
}

// settled tells the gateways that every member routes by a version.
func (ld *leader) settled(version uint64) {
	for _, node := range ld.n.memberNodes() {
		ld.sendSettled(node, version)
	}
}

func (ld *leader) sendSettled(node string, version uint64) {
	ld.n.send(node, &peerpb.Frame{Body: &peerpb.Frame_Settled{Settled: &peerpb.Settled{
		Partition: ld.r.partition, Term: ld.term, Version: version,
	}}})
}

func interestChanges(changes []fsm.InterestChange) []*peerpb.InterestFilter {
	out := make([]*peerpb.InterestFilter, len(changes))
	for i, c := range changes {
		out[i] = interestChange(c)
	}
	return out
}

// interestChange makes the wire form of a change. For the lanes to a partition it counts
// only whether it wants a filter; groups want messages of QoS 0 as well.
func interestChange(c fsm.InterestChange) *peerpb.InterestFilter {
	var want flow.Interest
	if c.Added {
		want = flow.WantReliable
	}
	if c.Groups {
		want |= flow.WantShared
	}
	return interestFilter(c.Filter, want)
}
