package cluster

import (
	"sync"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// filterSet is the interest of this node's gateway: the filters of its local
// subscriptions, with a version that every change moves.
type filterSet struct {
	mu      sync.Mutex
	version uint64
	filters map[string]flow.Interest
}

func newFilterSet() *filterSet { return &filterSet{filters: make(map[string]flow.Interest)} }

func (s *filterSet) whole() (uint64, []*peerpb.InterestFilter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	filters := make([]*peerpb.InterestFilter, 0, len(s.filters))
	for f, want := range s.filters {
		filters = append(filters, interestFilter(f, want))
	}
	return s.version, filters
}

// SetInterest changes this gateway's interest. done is called when every member
// routes by it.
func (n *Node) SetInterest(changes []flow.InterestChange, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	g := n.ingress()
	if g == nil {
		done(flow.ErrUnavailable)
		return
	}
	s := g.filters
	s.mu.Lock()
	if len(changes) > 0 {
		s.version++
	}
	version := s.version
	wire := make([]*peerpb.InterestFilter, len(changes))
	for i, c := range changes {
		if c.Want == 0 {
			delete(s.filters, c.Filter)
		} else {
			s.filters[c.Filter] = c.Want
		}
		wire[i] = interestFilter(c.Filter, c.Want)
	}
	if len(changes) > 0 {
		g.interest.change(version, wire) // under s.mu: versions in order
	}
	s.mu.Unlock()
	g.interest.wait(version, func() {
		if g.hasEnded() {
			done(flow.ErrUnavailable)
			return
		}
		g.gate(done)
	})
	n.announceSoon()
}

// Retained reads the retained messages that match the filters.
func (n *Node) Retained(filters []string, done func([]*flow.Message, int, error)) {
	g := n.ingress()
	if g == nil {
		done(nil, 0, flow.ErrUnavailable)
		return
	}
	g.reads.readFlow(filters, done)
}
