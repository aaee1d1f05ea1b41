package fsm

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run the random tests with this seed only")
	seedsFlag = flag.Uint64("seeds", 100, "number of seeds of the random tests")
)

func seeds(t *testing.T, run func(t *testing.T, seed uint64)) {
	if *seedFlag != 0 {
		run(t, *seedFlag)
		return
	}
	for seed := uint64(1); seed <= *seedsFlag && !t.Failed(); seed++ {
		run(t, seed)
	}
}

// TestModel applies random ops to the machine, to a naive model, and to a second
// machine that is restored from a snapshot again and again. All must agree: the
// outcome of every entry, the whole state now and then, and the snapshots byte by byte.
func TestModel(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		d := newDriver(seed)
		for step := range 300 {
			if !d.step(t) || step%10 == 9 && !d.compare(t) {
				t.Logf("seed %d, step %d, entry %d: go test ./fsm -run %s -seed %d", seed, step, d.index, t.Name(), seed)
				t.FailNow()
			}
		}
	})
}

type driver struct {
	rng   *rand.Rand
	m     *Machine
	m2    *Machine // restored again and again
	model *model
	index uint64
	time  int64
	lanes laneOps
	ids   uint64 // of messages

	frozen      *Snapshot // taken some entries ago, not written yet
	frozenBytes []byte    // what was to be written then
	history     []*logpb.LaneOp
	bodies      map[*logpb.LaneOp]any
}

func newDriver(seed uint64) *driver {
	return &driver{
		rng: rand.New(rand.NewPCG(seed, 1)), m: New(0, 2), m2: New(0, 2), model: newModel(0, 2),
		time: 1, lanes: laneOps{}, bodies: map[*logpb.LaneOp]any{},
	}
}

// step applies one random entry everywhere.
func (d *driver) step(t *testing.T) bool {
	e := &logpb.Entry{Format: Format}
	var bodies []any
	d.time += int64(d.rng.IntN(3)) * int64(d.rng.IntN(2000))
	for range 1 + d.rng.IntN(4) {
		op := d.randomOp()
		e.Ops, bodies = append(e.Ops, op), append(bodies, d.bodies[op])
	}
	if d.chance(5) {
		source := d.gateway()
		e.Confirms = []*logpb.Confirm{{Source: source, Seq: d.model.marks[source]}}
	}
	e.Time = d.time
	d.index += 1 + uint64(d.rng.IntN(2))
	want := d.model.apply(d.time, e.Ops, bodies, e.Confirms)
	data := marshal(e)
	before := d.m.version
	got, err := d.m.Apply(d.index, data)
	if err != nil {
		t.Error(err)
		return false
	}
	got2, err := d.m2.Apply(d.index, data)
	if err != nil {
		t.Error(err)
		return false
	}
	a, b, c := formatOutcome(want, before), formatOutcome(got, before), formatOutcome(got2, before)
	if a != b || b != c {
		t.Errorf("entry %v\nmodel:\n%s\nmachine:\n%s\nrestored:\n%s", e, a, b, c)
		return false
	}
	return true
}

func formatOutcome(o *Outcome, version uint64) string {
	var b strings.Builder
	for _, r := range o.Results {
		fmt.Fprintf(&b, "%d %d %d %d %x\n", r.Source, r.Seq, r.Status, r.Code, r.Bytes)
	}
	return b.String() + formatEffects(&o.Effects, version)
}

// compare looks at the whole state.
func (d *driver) compare(t *testing.T) bool {
	var b1, b2, b3 bytes.Buffer
	s1, s2 := d.m.Snapshot(), d.m2.Snapshot()
	write(t, s1, &b1)
	write(t, s2, &b2)
	if !bytes.Equal(b1.Bytes(), b2.Bytes()) || s1.Digest() != s2.Digest() {
		t.Error("the snapshots of the running and the restored machine differ")
	}
	if d.frozen != nil {
		write(t, d.frozen, &b3)
		if !bytes.Equal(b3.Bytes(), d.frozenBytes) {
			t.Error("a snapshot has changed after it was taken")
		}
	}
	d.frozen, d.frozenBytes = d.m.Snapshot(), b1.Bytes()
	m, err := Restore(0, 2, bytes.NewReader(b1.Bytes()))
	if err != nil {
		t.Error(err)
		return false
	}
	want := d.m.Stats()
	want.UnknownAcks, want.Dropped = 0, [Classes][Reasons]uint64{}
	if got := m.Stats(); got != want {
		t.Errorf("counters\nkept:      %+v\nrecounted: %+v", want, got)
	}
	d.m2 = m
	if got, want := describe(t, d.m, d.model), d.model.describe(d.m); got != want {
		t.Errorf("state\nmodel:\n%s\nmachine:\n%s", want, got)
	}
	return !t.Failed()
}

func write(t testing.TB, s *Snapshot, b *bytes.Buffer) {
	if n, err := s.WriteTo(b); err != nil || n != int64(b.Len()) {
		t.Errorf("wrote %d, says %d: %v", b.Len(), n, err)
	}
}

// describe tells all that the machine's queries tell.
func describe(t *testing.T, m *Machine, clients *model) string {
	var b strings.Builder
	version, filters := m.Interest()
	fmt.Fprintf(&b, "version %d", version)
	filters(func(c InterestChange) { fmt.Fprintf(&b, " %s", c.Filter) })
	at, ok := m.NextDeadline()
	fmt.Fprintf(&b, "\ndeadline %d %v\n", at, ok)
	var all []string
	for _, f := range []string{"#", "$a/#"} {
		m.RetainedMatch(f, func(pb *logpb.Message) bool {
			all = append(all, formatMessage(pb))
			return true
		})
	}
	slices.Sort(all)
	fmt.Fprintln(&b, all)
	p := m.Pending()
	b.WriteString(formatEffects(p, p.Version))
	for _, id := range clients.ids() {
		s := clients.sessions[id]
		for _, position := range []uint64{0, s.lastSeq / 2} {
			push, ok := m.Attach(id, s.epoch, position)
			for _, p := range push {
				b.WriteString(formatPush(p))
			}
			fmt.Fprintln(&b, ok)
		}
		for packetID := uint16(1); packetID < 8; packetID++ {
			fmt.Fprint(&b, m.Releasing(id, s.epoch, packetID), " ")
		}
	}
	m.Owners(func(g uint64, n int) {
		fmt.Fprintf(&b, "%s:%d ", formatGateway(g), n)
		mark, closed := m.Mark(g)
		fmt.Fprintln(&b, mark, closed, len(m.StoredResults(g, 0)))
	})
	s := m.Stats()
	s.QueuedBytes, s.RetainedBytes, s.OutboxBytes, s.Bytes, s.Dropped = 0, 0, 0, 0, [Classes][Reasons]uint64{}
	fmt.Fprintf(&b, "%+v", s)
	return b.String()
}

func (m *model) describe(real *Machine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d", m.version)
	for _, f := range sortedKeys(m.interest()) {
		fmt.Fprintf(&b, " %s", f)
	}
	at, ok := m.deadlineOf()
	fmt.Fprintf(&b, "\ndeadline %d %v\n", at, ok)
	var all []string
	for _, msg := range m.retained {
		if !msg.HasExpiry || msg.Expiry > m.time {
			all = append(all, formatMessage(msg))
		}
	}
	slices.Sort(all)
	fmt.Fprintln(&b, all)
	p := &Effects{Version: m.version}
	for _, id := range m.ids() {
		p.Kick = append(p.Kick, m.sessions[id].previous...)
	}
	for _, seq := range sortedKeys(m.outbox) {
		p.Outbox = append(p.Outbox, m.outbox[seq])
	}
	b.WriteString(formatEffects(p, p.Version))
	owners := map[uint64]int{}
	s := Stats{Outbox: len(m.outbox), Retained: len(m.retained), Filters: len(m.interest()), UnknownAcks: m.unknownAcks}
	for _, id := range m.ids() {
		x := m.sessions[id]
		for _, position := range []uint64{0, x.lastSeq / 2} {
			push, ok := m.attach(id, x.epoch, position)
			for _, p := range push {
				b.WriteString(formatPush(p))
			}
			fmt.Fprintln(&b, ok)
		}
		for packetID := uint16(1); packetID < 8; packetID++ {
			in := x.inbound[packetID]
			fmt.Fprint(&b, x.owner != 0 && in != nil && in.waiting != 0, " ")
		}
		x.count(&s)
		for _, c := range x.previous {
			owners[c.Gateway] += 0
		}
		if x.owner != 0 {
			owners[x.owner]++
		}
	}
	for source := range m.marks {
		if isGateway(source) {
			owners[source] += 0
		}
	}
	for _, g := range sortedKeys(owners) {
		fmt.Fprintf(&b, "%s:%d ", formatGateway(g), owners[g])
		fmt.Fprintln(&b, m.marks[g], m.isClosed(g), len(m.results[g]))
	}
	fmt.Fprintf(&b, "%+v", s)
	return b.String()
}

func (s *mSession) count(n *Stats) {
	if !s.exists {
		return
	}
	n.Sessions++
	if s.ephemeral {
		n.Ephemeral++
	}
	if s.owner != 0 {
		n.Connected++
	}
	n.Queued += len(s.queue)
	for _, h := range s.holds {
		n.Queued += len(h.held)
	}
	n.Inflight += len(s.inflight)
	n.Inbound += len(s.inbound)
	n.Subscriptions += len(s.subs)
}

// TestReplicas: two machines with the same log have the same state and give the same
// outcomes, also if one of them writes snapshots all the time.
func TestReplicas(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		d := newDriver(seed + 1_000_000)
		other := New(0, 2)
		for range 100 {
			op := d.randomOp()
			d.index++
			d.model.apply(d.time, []*logpb.LaneOp{op}, []any{d.bodies[op]}, nil)
			data := entryOf(d.time, op)
			a, err := d.m.Apply(d.index, data)
			if err != nil {
				t.Fatal(seed, err)
			}
			b, err := other.Apply(d.index, bytes.Clone(data))
			if err != nil {
				t.Fatal(seed, err)
			}
			clear(data) // the machine does not keep the entry
			if d.m.Snapshot().Digest() != other.Snapshot().Digest() {
				t.Fatalf("seed %d, entry %d: the replicas differ", seed, d.index)
			}
			if !reflect.DeepEqual(a.Results, b.Results) || formatEffects(&a.Effects, 0) != formatEffects(&b.Effects, 0) {
				t.Fatalf("seed %d, entry %d: the outcomes differ", seed, d.index)
			}
		}
	})
}
