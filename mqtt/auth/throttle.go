package auth

import (
	"container/list"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The delays of repeated failures.
const (
	freeFailures = 2 // that cost no time
	firstDelay   = 250 * time.Millisecond
	longestDelay = 8 * time.Second
	// forgetAfter is when failures count no more.
	forgetAfter = 10 * time.Minute
	// remembered bounds the pairs of source and user with failures; beyond it the one
	// that failed longest ago is forgotten.
	remembered = 16384
)

// throttle slows down guessing: after some failures each further attempt of the same
// source on the same user must wait, twice as long each time. Attempts at the same time
// queue up behind each other.
type throttle struct {
	seed maphash.Seed

	mu    sync.Mutex
	m     map[uint64]*list.Element // mu; by source and user
	order list.List                // mu; of *suspect, the latest failure first
}

type suspect struct {
	key      uint64
	failures int
	last     time.Time // failure
	next     time.Time // when the next attempt may go on
}

func newThrottle() *throttle {
	return &throttle{seed: maphash.MakeSeed(), m: map[uint64]*list.Element{}}
}

// key names a source and a user. A source of IPv6 is its /64, which one machine has
// whole.
func (t *throttle) key(remote net.Addr, user string) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	if remote != nil {
		source := remote.String()
		if ap, err := netip.ParseAddrPort(source); err == nil {
			a := ap.Addr().Unmap().WithZone("")
			if a.Is6() {
				if p, err := a.Prefix(64); err == nil {
					a = p.Addr()
				}
			}
			source = a.String()
		}
		h.WriteString(source)
	}
	h.WriteByte(0)
	h.WriteString(user)
	return h.Sum64()
}

// attempt says how long an attempt must wait, which it books; ok is false if that is
// more than it can.
func (t *throttle) attempt(key uint64, longest time.Duration) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[key]
	if e == nil {
		return 0, true
	}
	s := e.Value.(*suspect)
	now := time.Now()
	if now.Sub(s.last) > forgetAfter {
		t.order.Remove(e)
		delete(t.m, key)
		return 0, true
	}
	if wait = max(s.next.Sub(now), 0); wait > longest {
		return wait, false
	}
	s.next = now.Add(wait + delay(s.failures))
	return wait, true
}

func delay(failures int) time.Duration {
	if failures <= freeFailures {
		return 0
	}
	return min(firstDelay<<min(failures-freeFailures-1, 10), longestDelay)
}

// failed notes a failure.
func (t *throttle) failed(key uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[key]
	if e == nil {
		if len(t.m) >= remembered {
			oldest := t.order.Back()
			t.order.Remove(oldest)
			delete(t.m, oldest.Value.(*suspect).key)
		}
		e = t.order.PushFront(&suspect{key: key})
		t.m[key] = e
	}
	t.order.MoveToFront(e)
	s := e.Value.(*suspect)
	now := time.Now()
	s.failures++
	s.last = now
	if next := now.Add(delay(s.failures)); next.After(s.next) {
		s.next = next
	}
}

// succeeded forgets the failures.
func (t *throttle) succeeded(key uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[key]; e != nil {
		t.order.Remove(e)
		delete(t.m, key)
	}
}
