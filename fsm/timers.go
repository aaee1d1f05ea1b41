package fsm

import (
	"container/heap"
	"strings"
)

// timers is a heap of sessions by deadline, then client id, so that replicas
// carry out what falls due in the same order.
type timers []*slot

func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	if t[i].at != t[j].at {
		return t[i].at < t[j].at
	}
	return strings.Compare(t[i].s.id, t[j].s.id) < 0
}
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i, j
}

// Push implements heap.Interface.
func (t *timers) Push(x any) {
	sl := x.(*slot)
	sl.timer = len(*t)
	*t = append(*t, sl)
}

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	last := len(*t) - 1
	sl := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	return sl
}

// setTimer makes the session due at a time; 0: never.
func (m *Machine) setTimer(sl *slot, at int64) {
	switch {
	case sl.at == at:
	case sl.at == 0:
		sl.at = at
		heap.Push(&m.timers, sl)
	case at == 0:
		heap.Remove(&m.timers, sl.timer)
		sl.at = 0
	default:
		sl.at = at
		heap.Fix(&m.timers, sl.timer)
	}
}

// retime sets the session's timer to the earliest of its deadlines.
func (m *Machine) retime(sl *slot) {
	at := sl.s.expiresAt
	if w := sl.s.willAt; w != 0 && (at == 0 || w < at) {
		at = w
	}
	m.setTimer(sl, at)
}

// expiries is a heap of retained messages by deadline.
type expiries []*retained

func (e expiries) Len() int { return len(e) }
func (e expiries) Less(i, j int) bool {
	return e[i].msg.pb.Expiry < e[j].msg.pb.Expiry
}
func (e expiries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].timer, e[j].timer = i, j
}

// Push implements heap.Interface.
func (e *expiries) Push(x any) {
	r := x.(*retained)
	r.timer = len(*e)
	*e = append(*e, r)
}

// Pop implements heap.Interface.
func (e *expiries) Pop() any {
	last := len(*e) - 1
	r := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	r.timer = -1
	return r
}

// tick does everything that is due at the entry's time.
func (m *Machine) tick() {
	for len(m.timers) > 0 && m.timers[0].at <= m.time {
		sl := m.timers[0]
		if w := sl.s.willAt; w != 0 && w <= m.time {
			m.publishWill(sl, sl.s.willAfterClose)
			m.retime(sl)
			continue
		}
		m.end(sl, SessionExpired)
		m.removeGhost(sl)
	}
	for len(m.expiries) > 0 && m.expiries[0].msg.pb.Expiry <= m.time {
		m.removeRetained(m.expiries[0])
	}
}

// NextDeadline is the time on the partition's clock at which the next Tick has
// something to do: a session ends, a will is due, a retained message expires.
// Messages in queues that expire wait for nobody's tick.
func (m *Machine) NextDeadline() (at int64, ok bool) {
	if len(m.timers) > 0 {
		at, ok = m.timers[0].at, true
	}
	if len(m.expiries) > 0 && (!ok || m.expiries[0].msg.pb.Expiry < at) {
		at, ok = m.expiries[0].msg.pb.Expiry, true
	}
	return at, ok
}
