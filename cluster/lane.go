package cluster

import (
	"errors"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// Bounds of one frame of lane items, and of what may be on its way unanswered on
// one lane; what is beyond waits in the lane.
const (
	maxFrameItems  = 1024
	maxFrameBytes  = 256 << 10
	maxWindowItems = 16384
	maxWindowBytes = 16 << 20

	resendAfter = time.Second // without any answer; covers answers lost with a link
)

// errLaneClosed: the source's or the destination's incarnation has ended.
var errLaneClosed = errors.New("cluster: the lane is closed")

// laneDone receives the outcome of one item, once: the destination's code and
// result, or errLaneClosed.
type laneDone func(code uint32, result []byte, err error)

type laneItem struct {
	seq, prev uint64
	op        []byte
	done      laneDone
}

// lane is the source's end of a lane (design §4): a strict FIFO of items that
// are not answered yet. Items are sent in order and kept until the destination
// says that it has taken them; after an error or a change of leader sending
// starts again from the oldest. The destination's marks make that harmless.
type lane struct {
	id    peerpb.Lane
	term  uint64        // of the leader that sends for a source partition; 0 for gateways
	route func() string // the node where the destination is now; "" if unknown
	pump  *pump
	dirty bool // queued at the pump; guarded by pump.mu

	mu       sync.Mutex
	items    []laneItem // not answered, oldest first
	sent     int        // how many of items are on their way via via
	inFlight int        // bytes of those
	last     uint64     // number of the newest item ever put
	answered uint64     // all items up to this one are answered
	via      string
	closed   bool
	progress time.Time // of the last answer or (re)start of sending
	rewound  time.Time
}

func newLane(p *pump, source, destination, term uint64, route func() string) *lane {
	l := &lane{id: peerpb.Lane{Source: source, Destination: destination}, term: term, route: route, pump: p}
	p.add(l)
	return l
}

// put appends an item. seq 0 takes the next number of the lane itself.
func (l *lane) put(seq uint64, op []byte, done laneDone) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		done(0, nil, errLaneClosed)
		return
	}
	if seq == 0 {
		seq = l.last + 1
	}
	l.items = append(l.items, laneItem{seq: seq, prev: l.last, op: op, done: done})
	l.last = seq
	l.mu.Unlock()
	l.pump.mark(l)
}

// flush sends what the window allows. Called by the pump only.
func (l *lane) flush(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.items) == 0 {
		return
	}
	to := l.route()
	if to == "" {
		l.via, l.sent, l.inFlight = "", 0, 0
		return
	}
	if to != l.via {
		l.via, l.sent, l.inFlight = to, 0, 0
	}
	if l.sent == 0 {
		l.progress = now
	}
	for l.sent < len(l.items) && l.sent < maxWindowItems && l.inFlight < maxWindowBytes {
		n, size := l.frameLen()
		if !l.pump.send(to, l.frame(l.items[l.sent:l.sent+n])) {
			return // the link's return, or the resend timer, starts it again
		}
		l.sent += n
		l.inFlight += size
	}
}

// frameLen is how many of the unsent items go into the next frame.
func (l *lane) frameLen() (n, size int) {
	for _, it := range l.items[l.sent:] {
		if n > 0 && (n == maxFrameItems || size+len(it.op) > maxFrameBytes) {
			break
		}
		n++
		size += len(it.op)
	}
	return n, size
}

func (l *lane) frame(items []laneItem) *peerpb.Frame {
	vals := make([]peerpb.LaneItem, len(items))
	ptrs := make([]*peerpb.LaneItem, len(items))
	for i, it := range items {
		vals[i].Seq, vals[i].Prev, vals[i].Op = it.seq, it.prev, it.op
		ptrs[i] = &vals[i]
	}
	return &peerpb.Frame{Body: &peerpb.Frame_LaneItems{LaneItems: &peerpb.LaneItems{
		Lane:      &peerpb.Lane{Source: l.id.Source, Destination: l.id.Destination},
		Term:      l.term,
		Items:     ptrs,
		Confirmed: l.answered,
		Knows:     l.pump.knows(),
	}}}
}

// answer takes a destination's word from a node.
func (l *lane) answer(from string, a *peerpb.LaneAnswer) {
	switch a.Status {
	case peerpb.LaneAnswer_TAKEN:
		l.taken(a)
	case peerpb.LaneAnswer_CLOSED:
		l.close()
	default: // GAP, NOT_LEADER: back to the oldest unanswered item
		l.rewind(from)
	}
}

func (l *lane) taken(a *peerpb.LaneAnswer) {
	l.mu.Lock()
	if l.closed || a.Mark <= l.answered {
		l.mu.Unlock()
		return // an old answer, or one of a deposed leader
	}
	if a.Base > l.answered {
		// An answer before this one was lost, and with it results that we need:
		// resending brings the stored ones.
		l.sent, l.inFlight = 0, 0
		l.mu.Unlock()
		l.pump.mark(l)
		return
	}
	n := 0
	for n < len(l.items) && l.items[n].seq <= a.Mark {
		l.inFlight -= len(l.items[n].op)
		n++
	}
	done := l.items[:n:n]
	l.items = l.items[n:]
	l.sent = max(0, l.sent-n)
	if l.sent == 0 {
		l.inFlight = 0
	}
	l.answered = a.Mark
	l.progress = time.Now()
	more := l.sent < len(l.items)
	l.mu.Unlock()
	if more {
		l.pump.mark(l)
	}
	settle(done, a.Results)
}

// settle calls the items' done functions; results are in order of seq and hold
// only what differs from the default.
func settle(items []laneItem, results []*peerpb.LaneResult) {
	r := 0
	for i := range items {
		it := &items[i]
		for r < len(results) && results[r].Seq < it.seq {
			r++
		}
		if r < len(results) && results[r].Seq == it.seq {
			it.done(results[r].Code, results[r].Result, nil)
		} else {
			it.done(0, nil, nil)
		}
		*it = laneItem{}
	}
}

// rewind starts sending again from the oldest unanswered item, if node is where
// items are sent to now ("": wherever). Answers to frames that were on their way
// together ask for it many times over: within a short time once is enough, and
// the resend timer covers the rest.
func (l *lane) rewind(node string) {
	now := time.Now()
	l.mu.Lock()
	if l.closed || (node != "" && node != l.via) || now.Sub(l.rewound) < 10*time.Millisecond {
		l.mu.Unlock()
		return
	}
	l.rewound = now
	l.sent, l.inFlight = 0, 0
	l.mu.Unlock()
	l.pump.mark(l)
}

// linkUp: what was sent to node before may be lost.
func (l *lane) linkUp(node string) {
	l.mu.Lock()
	if l.via == node || l.via == "" {
		l.sent, l.inFlight = 0, 0
	}
	l.mu.Unlock()
	l.pump.mark(l)
}

// overdue reports whether the lane has items at all, and whether it should be
// flushed by the clock: the route changed or was unknown, or no answer came for
// long.
func (l *lane) overdue(now time.Time) (waits, overdue bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.items) == 0 {
		return false, false
	}
	if l.sent > 0 && now.Sub(l.progress) > resendAfter {
		l.sent, l.inFlight = 0, 0
		return true, true
	}
	return true, l.sent == 0 || l.route() != l.via
}

// close ends the lane: every unanswered item is done with errLaneClosed.
func (l *lane) close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	items := l.items
	l.items, l.sent = nil, 0
	l.mu.Unlock()
	l.pump.remove(l)
	for i := range items {
		items[i].done(0, nil, errLaneClosed)
	}
}

// waiting is the number of unanswered items, and their bytes.
func (l *lane) waiting() (items int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.items {
		bytes += int64(len(l.items[i].op))
	}
	return len(l.items), bytes
}
