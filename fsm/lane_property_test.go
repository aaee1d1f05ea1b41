package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// TestLaneProperty: a source partition hands its outbox on to three destinations, at
// first by one leader, then by another while the first does not know yet that it is
// deposed. Each leader has its own view of who wants what. The network loses,
// duplicates and reorders; destinations restart from snapshots. Then everything a
// destination is owed has arrived, once, in order (design §4).
func TestLaneProperty(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		w := newLaneWorld(t, seed)
		for range 400 {
			w.step()
		}
		w.drain()
		for i, d := range w.destinations {
			if !slices.IsSorted(d.got) || len(slices.Compact(slices.Clone(d.got))) != len(d.got) {
				t.Fatalf("seed %d: destination %d got %v: twice or out of order", seed, i, d.got)
			}
			for seq := d.owedFrom; seq < d.owedTo && seq <= w.created; seq++ {
				if !slices.Contains(d.got, seq) {
					t.Fatalf("seed %d: destination %d was owed %d to %d, but has no %d: %v", seed, i, d.owedFrom, d.owedTo, seq, d.got)
				}
			}
		}
	})
}

const laneSource = 1 // a partition

type laneWorld struct {
	t            *testing.T
	rng          *rand.Rand
	destinations []*laneDestination
	leaders      []*laneLeader // the last one is the real one
	created      uint64        // items that are committed, by number
	done         map[uint64]bool
	ops          []laneOnWire
	answers      []answerOnWire
}

type laneDestination struct {
	m     *Machine
	index uint64
	got   []uint64
	// Every leader knows of the interest from owedFrom on, and none stops before
	// owedTo: all items in [owedFrom, owedTo) are owed.
	owedFrom, owedTo uint64
}

type laneLeader struct {
	items []uint64 // that are not done, as far as it knows
	lanes []*leaderLane
}

// leaderLane is one leader's end of the lane to one destination.
type leaderLane struct {
	from, to uint64 // its view of the interest
	next     int    // position in items of the next one to look at
	last     uint64 // number of the item before on this lane
	mark     uint64 // highest that the destination has answered
}

type laneOnWire struct {
	leader, destination int
	op                  *logpb.LaneOp
}

type answerOnWire struct {
	leader, destination int
	status              Status
	mark                uint64
}

func newLaneWorld(t *testing.T, seed uint64) *laneWorld {
	w := &laneWorld{t: t, rng: rand.New(rand.NewPCG(seed, 2)), done: map[uint64]bool{}}
	for range 3 {
		d := &laneDestination{m: New(0, 2), owedFrom: 1 + uint64(w.rng.IntN(20)), owedTo: uint64(30 + w.rng.IntN(80))}
		lanes := laneOps{}
		w.apply(d, lanes.op(gw(1, 1), &logpb.Connect{ClientId: "sub", Expiry: 1000}),
			lanes.op(gw(1, 1), &logpb.Subscribe{ClientId: "sub", Epoch: 1, Subscriptions: []*logpb.Subscription{{Filter: "t", Qos: 2, RetainHandling: 2}}}))
		w.destinations = append(w.destinations, d)
	}
	w.lead()
	return w
}

// lead makes a new leader: it has what is not done, and a view of its own.
func (w *laneWorld) lead() {
	l := &laneLeader{}
	for seq := uint64(1); seq <= w.created; seq++ {
		if !w.done[seq] {
			l.items = append(l.items, seq)
		}
	}
	for _, d := range w.destinations {
		l.lanes = append(l.lanes, &leaderLane{from: d.owedFrom - min(d.owedFrom, uint64(w.rng.IntN(5))), to: d.owedTo + uint64(w.rng.IntN(20))})
	}
	w.leaders = append(w.leaders, l)
}

func (w *laneWorld) apply(d *laneDestination, ops ...*logpb.LaneOp) *Outcome {
	d.index++
	out, err := d.m.Apply(d.index, entryOf(1, ops...))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range out.Effects.Push {
		for _, x := range p.Items {
			var seq uint64
			if _, err := fmt.Sscan(string(x.Message.Payload), &seq); err != nil {
				w.t.Fatal(err)
			}
			d.got = append(d.got, seq)
		}
	}
	return out
}

func (w *laneWorld) step() {
	leader := w.rng.IntN(len(w.leaders))
	switch n := w.rng.IntN(100); {
	case n < 20:
		w.created++
		real := w.leaders[len(w.leaders)-1]
		real.items = append(real.items, w.created)
	case n < 50:
		w.send(leader, w.rng.IntN(3))
	case n < 75 && len(w.ops) > 0:
		w.arrive(w.rng.IntN(len(w.ops)), w.rng.IntN(10))
	case n < 90 && len(w.answers) > 0:
		w.answer(w.rng.IntN(len(w.answers)))
	case n < 94: // a timeout: back to the oldest unanswered item
		w.rewind(leader, w.rng.IntN(3))
	case n < 96:
		w.restart(w.destinations[w.rng.IntN(3)])
	case n < 97 && len(w.leaders) < 2:
		w.lead()
	}
}

// send puts the next item of a lane on the wire.
func (w *laneWorld) send(leader, destination int) bool {
	l := w.leaders[leader]
	lane := l.lanes[destination]
	for lane.next < len(l.items) {
		seq := l.items[lane.next]
		lane.next++
		if seq < lane.from || seq >= lane.to {
			continue
		}
		msg := &logpb.Message{Topic: "t", Payload: fmt.Append(nil, seq), Qos: 2}
		w.ops = append(w.ops, laneOnWire{leader, destination, &logpb.LaneOp{
			Source: laneSource, Seq: seq, Prev: lane.last, Op: opOf(&logpb.Publish{Message: msg, Deliver: true}),
		}})
		lane.last = seq
		return true
	}
	return false
}

// arrive delivers what is on the wire in any order; fate 0 loses it, 1 and 2
// keep a copy.
func (w *laneWorld) arrive(i, fate int) {
	x := w.ops[i]
	if fate != 1 && fate != 2 {
		w.ops = slices.Delete(w.ops, i, i+1)
	}
	if fate == 0 {
		return
	}
	d := w.destinations[x.destination]
	r := w.apply(d, x.op).Results[0]
	mark, _ := d.m.Mark(laneSource)
	w.answers = append(w.answers, answerOnWire{x.leader, x.destination, r.Status, mark})
}

func (w *laneWorld) answer(i int) {
	x := w.answers[i]
	w.answers = slices.Delete(w.answers, i, i+1)
	lane := w.leaders[x.leader].lanes[x.destination]
	if x.mark < lane.mark {
		return // late, or from a deposed leader
	}
	lane.mark = x.mark
	if x.status == Gap {
		w.rewind(x.leader, x.destination)
	}
	w.finish()
}

// rewind goes back to the oldest item that is not answered.
func (w *laneWorld) rewind(leader, destination int) {
	l := w.leaders[leader]
	lane := l.lanes[destination]
	lane.next, lane.last = 0, 0
	for lane.next < len(l.items) && l.items[lane.next] <= lane.mark {
		if seq := l.items[lane.next]; seq >= lane.from && seq < lane.to {
			lane.last = seq
		}
		lane.next++
	}
}

// finish lets the real leader commit which items are done.
func (w *laneWorld) finish() {
	l := w.leaders[len(w.leaders)-1]
	for len(l.items) > 0 {
		seq := l.items[0]
		for _, lane := range l.lanes {
			if seq >= lane.from && seq < lane.to && lane.mark < seq {
				return
			}
		}
		w.done[seq] = true
		l.items = l.items[1:]
		for _, lane := range l.lanes {
			lane.next = max(0, lane.next-1)
		}
	}
}

func (w *laneWorld) restart(d *laneDestination) {
	var b bytes.Buffer
	if _, err := d.m.Snapshot().WriteTo(&b); err != nil {
		w.t.Fatal(err)
	}
	m, err := Restore(0, 2, &b)
	if err != nil {
		w.t.Fatal(err)
	}
	d.m = m
}

// drain lets the real leader finish over a good network, with the old copies still
// arriving.
func (w *laneWorld) drain() {
	leader := len(w.leaders) - 1
	for range 20 {
		for len(w.ops) > 0 {
			w.arrive(w.rng.IntN(len(w.ops)), 9)
		}
		for len(w.answers) > 0 {
			w.answer(0)
		}
		for destination := range w.destinations {
			w.rewind(leader, destination)
			for w.send(leader, destination) {
				w.arrive(len(w.ops)-1, 9)
				w.answer(len(w.answers) - 1)
			}
		}
	}
	if n := len(w.leaders[leader].items); n > 0 {
		w.t.Fatalf("%d items are never done", n)
	}
}
