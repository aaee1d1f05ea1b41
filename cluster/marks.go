package cluster

import (
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const markRetry = 500 * time.Millisecond // until an unanswered question is asked again

// marks waits until partitions have taken what another has posted to them: a SUBACK for
// a shared subscription of a stored session promises what the partition of the group
// must know, and its UNSUBACK as well. The question changes nothing, and what was taken
// stays taken, so any leader's word is good, and it is asked again at will.
type marks struct {
	n *Node

	mu    sync.Mutex
	open  map[mark]*markWait
	ended bool
}

// mark is an item of a source, at the partition that is to take it.
type mark struct {
	partition   uint32
	source, seq uint64
}

type markWait struct {
	done   []func(version uint64)
	sentAt time.Time
}

func newMarks(n *Node) *marks { return &marks{n: n, open: make(map[mark]*markWait)} }

// wait calls done when the partition has taken the item, with the version of its
// interest by then; at the end of the incarnation with 0.
func (k *marks) wait(key mark, done func(version uint64)) {
	k.mu.Lock()
	if k.ended {
		k.mu.Unlock()
		done(0)
		return
	}
	w := k.open[key]
	if w == nil {
		w = &markWait{}
		k.open[key] = w
	}
	w.done = append(w.done, done)
	k.ask(key, w, time.Now())
	k.mu.Unlock()
}

// ask sends the question to the partition's leader. Called with mu held.
func (k *marks) ask(key mark, w *markWait, now time.Time) {
	w.sentAt = now
	k.n.send(k.n.leaders.node(key.partition), &peerpb.Frame{Body: &peerpb.Frame_MarkWait{MarkWait: &peerpb.MarkWait{
		Partition: key.partition, Source: key.source, Seq: key.seq,
	}}})
}

// retry asks again what is due.
func (k *marks) retry() {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, w := range k.open {
		if now.Sub(w.sentAt) >= markRetry {
			k.ask(key, w, now)
		}
	}
}

// retryAt asks a partition's new leader.
func (k *marks) retryAt(partition uint32) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, w := range k.open {
		if key.partition == partition {
			k.ask(key, w, now)
		}
	}
}

func (k *marks) reached(m *peerpb.MarkReached) {
	key := mark{m.Partition, m.Source, m.Seq}
	k.mu.Lock()
	w := k.open[key]
	delete(k.open, key)
	k.mu.Unlock()
	if w != nil {
		for _, done := range w.done {
			done(m.Version)
		}
	}
}

func (k *marks) fail() {
	k.mu.Lock()
	k.ended = true
	open := k.open
	k.open = nil
	k.mu.Unlock()
	for _, w := range open {
		for _, done := range w.done {
			done(0)
		}
	}
}

// awaitPosted calls done when all that a session's partition has posted for an op is
// taken, and every member routes by it.
func (g *ingress) awaitPosted(source uint32, posted []*logpb.Posted, done func()) {
	left := len(posted) + 1
	var mu sync.Mutex
	one := func() {
		mu.Lock()
		left--
		last := left == 0
		mu.Unlock()
		if last {
			done()
		}
	}
	for _, x := range posted {
		g.marks.wait(mark{x.Partition, uint64(source), x.Seq}, func(version uint64) {
			g.parts[x.Partition].whenSettled(version, one)
		})
	}
	one()
}

// markAsked is a gateway's question for a mark, at a leader.
type markAsked struct {
	node        string
	source, seq uint64
}

func (ld *leader) markWait(from string, q *peerpb.MarkWait) {
	ld.marksAsked[markAsked{from, q.Source, q.Seq}] = struct{}{}
	ld.answerMarks()
}

// answerMarks answers the questions whose mark the state has reached.
func (ld *leader) answerMarks() {
	if len(ld.marksAsked) == 0 {
		return
	}
	ld.r.sm.read(func(m *fsm.Machine) {
		version, _ := m.Interest()
		for q := range ld.marksAsked {
			if reached, _ := m.Mark(q.source); reached < q.seq {
				continue
			}
			delete(ld.marksAsked, q)
			ld.n.send(q.node, &peerpb.Frame{Body: &peerpb.Frame_MarkReached{MarkReached: &peerpb.MarkReached{
				Partition: ld.r.partition, Source: q.source, Seq: q.seq, Version: version,
			}}})
		}
	})
}
