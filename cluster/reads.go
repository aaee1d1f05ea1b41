package cluster

import (
	"strings"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const (
	readRetry = 200 * time.Millisecond
	readLimit = 5 * time.Second // a partition that is silent for longer is not waited for
)

// reads asks partitions for retained messages. Reading changes nothing, so an
// unanswered question is simply asked again.
type reads struct {
	n *Node

	mu    sync.Mutex
	next  uint64
	open  map[uint64]*partRead
	ended bool
}

// read is one question to one or all partitions.
type read struct {
	left       int
	incomplete int
	msgs       []*logpb.Message
	done       func(msgs []*logpb.Message, incomplete int, err error)
}

// partRead is the part of it that one partition answers.
type partRead struct {
	read      *read
	partition uint32
	filters   []string
	started   time.Time
	sentAt    time.Time
	msgs      []*logpb.Message
}

func newReads(n *Node) *reads { return &reads{n: n, open: make(map[uint64]*partRead)} }

// read asks for the retained messages that match the filters. A filter without
// wildcards concerns one partition only.
func (r *reads) read(filters []string, done func([]*logpb.Message, int, error)) {
	byPart := make(map[uint32][]string)
	for _, f := range filters {
		if !strings.ContainsAny(f, "+#") {
			p := partitionOf(f, r.n.partitions)
			byPart[p] = append(byPart[p], f)
			continue
		}
		for p := range r.n.partitions {
			byPart[p] = append(byPart[p], f)
		}
	}
	now := time.Now()
	r.mu.Lock()
	if r.ended || len(byPart) == 0 {
		ended := r.ended
		r.mu.Unlock()
		if ended {
			done(nil, 0, flow.ErrUnavailable)
		} else {
			done(nil, 0, nil)
		}
		return
	}
	q := &read{left: len(byPart), done: done}
	asked := make(map[uint64]*partRead, len(byPart))
	for p, fs := range byPart {
		r.next++
		pr := &partRead{read: q, partition: p, filters: fs, started: now}
		r.open[r.next] = pr
		asked[r.next] = pr
	}
	for id, pr := range asked {
		r.ask(id, pr, now)
	}
	r.mu.Unlock()
}

// ask sends the question to the partition's leader. Called with mu held.
func (r *reads) ask(id uint64, pr *partRead, now time.Time) {
	pr.sentAt = now
	pr.msgs = nil
	node := r.n.leaders.node(pr.partition)
	if mutant.RetainedFromFollower {
		node = r.n.name
	}
	if node != "" {
		r.n.send(node, &peerpb.Frame{Body: &peerpb.Frame_RetainedRead{RetainedRead: &peerpb.RetainedRead{
			Partition: pr.partition, Id: id, Filters: pr.filters,
		}}})
	}
}

// retry asks again what is due, or everything of a partition with a new leader.
func (r *reads) retry(partition uint32, force bool) {
	now := time.Now()
	var over []func()
	r.mu.Lock()
	for id, pr := range r.open {
		switch {
		case force && pr.partition == partition:
			r.ask(id, pr, now)
		case force:
		case now.Sub(pr.started) > readLimit:
			pr.msgs = nil
			pr.read.incomplete++
			r.n.metrics.RetainedIncomplete.Add(1)
			if done := r.answered(id, pr); done != nil {
				over = append(over, done)
			}
		case now.Sub(pr.sentAt) > readRetry:
			r.ask(id, pr, now)
		}
	}
	r.mu.Unlock()
	for _, done := range over {
		done()
	}
}

// answered closes a part; the returned function, if any, is to be called without
// the lock. Called with mu held.
func (r *reads) answered(id uint64, pr *partRead) func() {
	delete(r.open, id)
	q := pr.read
	q.msgs = append(q.msgs, pr.msgs...)
	if q.left--; q.left > 0 {
		return nil
	}
	return func() { q.done(q.msgs, q.incomplete, nil) }
}

// data takes an answer.
func (r *reads) data(d *peerpb.RetainedData) {
	r.mu.Lock()
	pr := r.open[d.Id]
	if pr == nil || pr.partition != d.Partition || d.NotLeader {
		r.mu.Unlock()
		return // the next retry finds the leader
	}
	for _, b := range d.Messages {
		m := &logpb.Message{}
		if err := m.UnmarshalVT(b); err != nil {
			r.mu.Unlock()
			r.n.log.Error("retained answer of a peer cannot be decoded", "partition", d.Partition, "error", err)
			return
		}
		pr.msgs = append(pr.msgs, m)
	}
	var done func()
	if !d.More {
		done = r.answered(d.Id, pr)
	}
	r.mu.Unlock()
	if done != nil {
		done()
	}
}

// fail ends all questions.
func (r *reads) fail() {
	r.mu.Lock()
	r.ended = true
	failed := make(map[*read]bool)
	for _, pr := range r.open {
		failed[pr.read] = true
	}
	clear(r.open)
	r.mu.Unlock()
	for q := range failed {
		q.done(nil, 0, flow.ErrUnavailable)
	}
}

// readFlow is read for the gateway.
func (r *reads) readFlow(filters []string, done func([]*flow.Message, int, error)) {
	r.read(filters, func(msgs []*logpb.Message, incomplete int, err error) {
		out := make([]*flow.Message, len(msgs))
		for i, m := range msgs {
			out[i] = messageFromLog(m)
		}
		done(out, incomplete, err)
	})
}
