package cluster

import "sync"

// mailbox hands values from many goroutines to one. It never blocks the sender:
// what bounds it is said where it is used.
type mailbox[T any] struct {
	mu    sync.Mutex
	items []T // guarded by mu
	wake  chan struct{}
}

func newMailbox[T any]() *mailbox[T] {
	return &mailbox[T]{wake: make(chan struct{}, 1)}
}

func (m *mailbox[T]) put(v T) {
	m.mu.Lock()
	m.items = append(m.items, v)
	m.mu.Unlock()
	m.nudge()
}

// nudge wakes the receiver though there may be nothing for it.
func (m *mailbox[T]) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take swaps out all that has come; buf is the slice of an earlier take, for reuse.
func (m *mailbox[T]) take(buf []T) []T {
	clear(buf)
	m.mu.Lock()
	items := m.items
	m.items = buf[:0]
	m.mu.Unlock()
	return items
}
