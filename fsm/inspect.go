package fsm

import (
	"container/heap"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// SessionInfo is what an operator is told of a session.
type SessionInfo struct {
	ClientID, Username string
	Protocol           uint32
	Owner              uint64 // gateway; 0: not connected
	Epoch              uint64
	Ephemeral          bool
	Expiry             uint32 // seconds
	ExpiresAt          int64  // partition clock; 0: connected, or never
	Subscriptions      int    // 0 if it is ephemeral: they live in its gateway
	Queued             int    // messages, held ones included
	QueuedBytes        int64
	Inflight           int // outgoing flows
	Inbound            int // QoS 2 packet ids of the client in use
	Dropped            uint64
	Will               bool
}

func (s *session) info() SessionInfo {
	return SessionInfo{
		ClientID: s.id, Username: s.username, Protocol: s.protocol,
		Owner: s.owner, Epoch: s.epoch, Ephemeral: s.ephemeral, Expiry: s.expiry, ExpiresAt: s.expiresAt,
		Subscriptions: len(s.subs), Queued: s.queue.n + s.held, QueuedBytes: s.queuedBytes,
		Inflight: s.inflight.len(), Inbound: len(s.inbound), Dropped: s.dropped, Will: s.will != nil,
	}
}

// alive: the session is not over, whether a Tick has noticed or not.
func (m *Machine) alive(s *session) bool {
	return !s.ghost() && (s.expiresAt == 0 || s.expiresAt > m.time)
}

// Session tells of one session and its subscriptions, which must not be changed.
func (m *Machine) Session(clientID string) (info SessionInfo, subs []*logpb.Subscription, ok bool) {
	sl := m.slots[clientID]
	if sl == nil || !m.alive(sl.s) {
		return SessionInfo{}, nil, false
	}
	return sl.s.info(), sl.s.subs, true
}

// Sessions returns the first sessions by client id that want wants, at most limit of
// them. want is asked of every session, in no order; only its client id, owner and
// ephemeral are filled in.
func (m *Machine) Sessions(limit int, want func(SessionInfo) bool) []SessionInfo {
	var first lastFirst[*session]
	for _, s := range m.list {
		if m.alive(s) && want(SessionInfo{ClientID: s.id, Owner: s.owner, Ephemeral: s.ephemeral}) {
			first.add(s.id, s, limit)
		}
	}
	out := make([]SessionInfo, 0, len(first))
	for _, s := range first.sorted() {
		out = append(out, s.info())
	}
	return out
}

// RetainedAfter returns the first retained messages by topic that match a valid filter,
// have not expired and have a greater topic, at most limit of them. Their expiry is a
// deadline on the partition's clock; they must not be changed.
func (m *Machine) RetainedAfter(filter, after string, limit int) []*logpb.Message {
	var first lastFirst[*logpb.Message]
	m.RetainedMatch(filter, func(msg *logpb.Message) bool {
		if msg.Topic > after {
			first.add(msg.Topic, msg, limit)
		}
		return true
	})
	return first.sorted()
}

// lastFirst is a heap of what is to be sorted by a key, with the last on top.
type lastFirst[T any] []keyed[T]

type keyed[T any] struct {
	key string
	v   T
}

// add keeps v if its key is among the first limit ones.
func (h *lastFirst[T]) add(key string, v T, limit int) {
	if len(*h) == limit {
		if limit == 0 || strings.Compare(key, (*h)[0].key) >= 0 {
			return
		}
		(*h)[0] = keyed[T]{key, v}
		heap.Fix(h, 0)
		return
	}
	heap.Push(h, keyed[T]{key, v})
}

// sorted empties the heap.
func (h *lastFirst[T]) sorted() []T {
	out := make([]T, len(*h))
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = heap.Pop(h).(keyed[T]).v
	}
	return out
}

func (h lastFirst[T]) Len() int           { return len(h) }
func (h lastFirst[T]) Less(i, j int) bool { return h[i].key > h[j].key }
func (h lastFirst[T]) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *lastFirst[T]) Push(x any) { *h = append(*h, x.(keyed[T])) }

// Pop implements heap.Interface.
func (h *lastFirst[T]) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
