package cluster

import (
	"sort"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const (
	announceLog  = 1 << 16         // changes kept for members that are behind
	announcePart = 4096            // filters in one frame
	announceWait = 1 * time.Second // until an unanswered update is sent again
)

// announcer tells every member the interest of one destination and knows how far
// each has come (design §5): SUBACK waits for it. A destination's announcer lives
// on the node of the gateway, or of the partition's leader.
type announcer struct {
	destination uint64
	generation  uint64
	send        func(node string, f *peerpb.Frame) bool
	// whole reads the complete summary; called without mu.
	whole func() (version uint64, filters []*peerpb.InterestFilter)
	// onSettled is told, without mu, each time every member has come further.
	onSettled func(version uint64)

	mu      sync.Mutex
	version uint64
	base    uint64 // log holds every change after this version
	log     []interestLog
	members map[string]*announced
	ready   bool // the members are known
	settled uint64
	waiters []interestWaiter // in order of version
}

type interestLog struct {
	version uint64
	filter  *peerpb.InterestFilter
}

// announced is how far one member has come.
type announced struct {
	gateway uint64
	have    bool   // it has a complete summary, of version acked
	acked   uint64 //
	sent    uint64 // it was sent everything up to this version
	sentAt  time.Time
	asked   bool // a probe or summary is on its way
}

type interestWaiter struct {
	version uint64
	done    func()
}

// newAnnouncer starts at a version; whole must know at least that one.
func newAnnouncer(destination, generation, version uint64, send func(string, *peerpb.Frame) bool,
	whole func() (uint64, []*peerpb.InterestFilter), onSettled func(uint64)) *announcer {
	return &announcer{
		destination: destination, generation: generation, version: version, base: version,
		send: send, whole: whole, onSettled: onSettled, members: make(map[string]*announced),
	}
}

// change records what a new version brings; members hear of it at the next flush.
func (a *announcer) change(version uint64, filters []*peerpb.InterestFilter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range filters {
		a.log = append(a.log, interestLog{version, f})
	}
	a.version = version
	if len(a.log) > announceLog {
		cut := len(a.log) / 2
		for cut < len(a.log)-1 && a.log[cut].version == a.log[cut-1].version {
			cut++ // a version's changes stay together
		}
		a.base = a.log[cut-1].version
		a.log = append([]interestLog(nil), a.log[cut:]...)
	}
}

// wait calls done when every member routes by the version.
func (a *announcer) wait(version uint64, done func()) {
	a.mu.Lock()
	if a.settled >= version && a.ready || mutant.SubackEarly {
		a.mu.Unlock()
		done()
		return
	}
	i := sort.Search(len(a.waiters), func(i int) bool { return a.waiters[i].version > version })
	a.waiters = append(a.waiters, interestWaiter{})
	copy(a.waiters[i+1:], a.waiters[i:])
	a.waiters[i] = interestWaiter{version, done}
	a.mu.Unlock()
}

// setMembers says whose acknowledgement counts: the live gateway of each node.
func (a *announcer) setMembers(gateways map[string]uint64) {
	a.mu.Lock()
	for node, m := range a.members {
		if gateways[node] != m.gateway {
			delete(a.members, node)
		}
	}
	for node, gateway := range gateways {
		if a.members[node] == nil {
			a.members[node] = &announced{gateway: gateway}
		}
	}
	a.ready = true
	a.mu.Unlock()
	a.flush()
	a.settle()
}

// linkUp: what was sent to the node before may be lost.
func (a *announcer) linkUp(node string) {
	a.mu.Lock()
	if m := a.members[node]; m != nil {
		m.asked, m.sent = false, m.acked
	}
	a.mu.Unlock()
	a.flush()
}

// ack takes a member's word.
func (a *announcer) ack(node string, k *peerpb.InterestAck) {
	a.mu.Lock()
	m := a.members[node]
	if m == nil || m.gateway != k.Gateway || k.Generation != a.generation {
		a.mu.Unlock()
		return
	}
	m.asked = false
	if k.WantFull {
		m.have, m.acked, m.sent = false, 0, 0
		m.asked = true
		m.sentAt = time.Now()
		a.mu.Unlock()
		a.sendWhole(node, m)
		return
	}
	m.have = true
	if k.Version > m.acked {
		m.acked = k.Version
	}
	m.sent = max(m.sent, m.acked)
	if k.Version < a.base {
		m.sent = m.acked
	}
	a.mu.Unlock()
	a.settle()
	a.flush()
}

// flush sends every member what it has not been sent.
func (a *announcer) flush() {
	now := time.Now()
	a.mu.Lock()
	var whole []string
	for node, m := range a.members {
		switch {
		case !m.have:
			if !m.asked || now.Sub(m.sentAt) > announceWait {
				// A probe: who has this version says so, who has none asks for it.
				m.asked = a.send(node, a.update(m, a.version, a.version, nil))
				m.sentAt = now
			}
			continue
		case m.sent > m.acked && now.Sub(m.sentAt) > announceWait:
			m.sent = m.acked
		}
		if m.sent >= a.version {
			continue
		}
		if m.sent < a.base {
			whole = append(whole, node)
			m.sentAt = now
			continue
		}
		if a.sendChanges(node, m) {
			m.sentAt = now
		}
	}
	a.mu.Unlock()
	for _, node := range whole {
		a.mu.Lock()
		m := a.members[node]
		a.mu.Unlock()
		if m != nil {
			a.sendWhole(node, m)
		}
	}
}

// sendChanges sends what the member lacks from the log. Called with mu held.
func (a *announcer) sendChanges(node string, m *announced) bool {
	i := sort.Search(len(a.log), func(i int) bool { return a.log[i].version > m.sent })
	filters := make([]*peerpb.InterestFilter, 0, len(a.log)-i)
	for _, c := range a.log[i:] {
		filters = append(filters, c.filter)
	}
	base := m.sent
	for len(filters) > announcePart {
		// The version moves with the last part only: until then the member
		// has re-stated changes and no new version.
		if !a.send(node, a.update(m, base, base, filters[:announcePart])) {
			return false
		}
		filters = filters[announcePart:]
	}
	if !a.send(node, a.update(m, base, a.version, filters)) {
		return false
	}
	m.sent = a.version
	return true
}

// sendWhole sends the complete summary in parts.
func (a *announcer) sendWhole(node string, m *announced) {
	version, filters := a.whole()
	a.mu.Lock()
	defer a.mu.Unlock()
	for first := true; first || len(filters) > 0; first = false {
		n := min(len(filters), announcePart)
		f := a.update(m, 0, version, filters[:n])
		filters = filters[n:]
		f.GetInterest().More = len(filters) > 0
		if !a.send(node, f) {
			m.asked = false
			return
		}
	}
	m.sent = max(m.sent, version)
}

func (a *announcer) update(m *announced, base, version uint64, filters []*peerpb.InterestFilter) *peerpb.Frame {
	return &peerpb.Frame{Body: &peerpb.Frame_Interest{Interest: &peerpb.InterestUpdate{
		Destination: a.destination, Generation: a.generation, Base: base, Version: version,
		Filters: filters, Member: m.gateway,
	}}}
}

// settle finds how far all members have come and wakes who waits for it.
func (a *announcer) settle() {
	a.mu.Lock()
	if !a.ready {
		a.mu.Unlock()
		return
	}
	settled := a.version
	for _, m := range a.members {
		if !m.have {
			a.mu.Unlock()
			return
		}
		settled = min(settled, m.acked)
	}
	grown := settled > a.settled
	a.settled = max(a.settled, settled)
	n := 0
	for n < len(a.waiters) && a.waiters[n].version <= a.settled {
		n++
	}
	due := a.waiters[:n:n]
	a.waiters = a.waiters[n:]
	a.mu.Unlock()
	for _, w := range due {
		w.done()
	}
	if grown && a.onSettled != nil {
		a.onSettled(settled)
	}
}

// settledVersion is how far all members have come.
func (a *announcer) settledVersion() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.settled
}

// fail wakes everybody who waits; they find out by themselves that it was in vain.
func (a *announcer) fail() {
	a.mu.Lock()
	due := a.waiters
	a.waiters = nil
	a.mu.Unlock()
	for _, w := range due {
		w.done()
	}
}

// interestFilter makes the wire form of a change.
func interestFilter(filter string, want flow.Interest) *peerpb.InterestFilter {
	return &peerpb.InterestFilter{Filter: filter, Want: uint32(want)}
}
