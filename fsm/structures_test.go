package fsm

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

func TestQueue(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var q queue
		var want []*queued
		for range 2000 {
			if grow := rng.IntN(1000) < 600; grow == (len(want) < 300) && rng.IntN(50) > 0 || len(want) == 0 {
				x := &queued{}
				q.push(x)
				want = append(want, x)
			} else {
				if got := q.pop(); got != want[0] {
					t.Fatalf("seed %d: another head", seed)
				}
				want = want[1:]
			}
			if q.n != len(want) || q.n > 0 && (q.at(0) != want[0] || q.at(q.n-1) != want[len(want)-1]) {
				t.Fatalf("seed %d: length %d, want %d", seed, q.n, len(want))
			}
			c := q.clone()
			if c.n != q.n || c.n > 0 && c.at(c.n/2) != q.at(q.n/2) {
				t.Fatalf("seed %d: another clone", seed)
			}
		}
		for q.n > 0 {
			q.pop()
		}
		if len(q.buf) > 64 {
			t.Fatalf("seed %d: an empty queue keeps %d places", seed, len(q.buf))
		}
	})
}

// TestInflight: lookups, order and free ids agree with a plain slice, also when
// some flows stay for long, and packet ids wrap.
func TestInflight(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 4))
		var f inflight
		var want []*flight
		last, seq := uint16(65000), uint64(0)
		for range 3000 {
			if len(want) == 0 || len(want) < 20 && rng.IntN(2) == 0 {
				id := f.freeID(last)
				expected := last + 1
				for expected == 0 || slices.ContainsFunc(want, func(x *flight) bool { return x.packetID == expected }) {
					expected++
				}
				if id != expected {
					t.Fatalf("seed %d: packet id %d, want %d", seed, id, expected)
				}
				last, seq = id, seq+1
				x := &flight{seq: seq, packetID: id}
				f.add(x)
				want = append(want, x)
			} else {
				i := rng.IntN(len(want))
				if i < 3 && rng.IntN(20) > 0 {
					continue // these stay
				}
				x := f.find(uint32(want[i].packetID))
				if x != want[i] {
					t.Fatalf("seed %d: packet id %d is another flow", seed, want[i].packetID)
				}
				if rng.IntN(3) == 0 {
					next := *x
					next.pubrec = true
					f.replace(x, &next)
					want[i] = &next
				} else {
					f.remove(x)
					want = slices.Delete(want, i, i+1)
				}
			}
			var got []*flight
			f.each(func(x *flight) bool { got = append(got, x); return true })
			if !slices.Equal(got, want) || f.len() != len(want) {
				t.Fatalf("seed %d: another order", seed)
			}
			if cap(f.order) > 200 {
				t.Fatalf("seed %d: %d places for %d flows", seed, cap(f.order), f.len())
			}
		}
		if f.find(65536+uint32(last)) != nil {
			t.Fatal("a packet id that is none")
		}
	})
}

// TestPacketIDsExhausted: with all 65535 ids in flight the queue waits.
func TestPacketIDsExhausted(t *testing.T) {
	m, lanes := New(0, 1), laneOps{}
	index := uint64(0)
	apply := func(ops ...*logpb.LaneOp) *Outcome {
		index++
		out, err := m.Apply(index, entryOf(1, ops...))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	publish := func() *logpb.LaneOp {
		return lanes.op(gw(2, 1), &logpb.Publish{Deliver: true, Message: &logpb.Message{Topic: "a", Qos: 2}})
	}
	apply(lanes.op(gw(1, 1), &logpb.Connect{ClientId: "s", Expiry: 9, Window: 65535}),
		lanes.op(gw(1, 1), &logpb.Subscribe{ClientId: "s", Epoch: 1, Subscriptions: []*logpb.Subscription{{Filter: "a", Qos: 2, RetainHandling: 2}}}))
	// The first has been received; after a reconnect its PUBREL takes no window,
	// but its id is taken.
	apply(publish(), lanes.op(gw(1, 1), &logpb.Acks{ClientId: "s", Epoch: 1, Pubrecs: []uint32{1}}))
	apply(lanes.op(gw(1, 1), &logpb.Connect{ClientId: "s", Expiry: 9, Window: 65535}))
	for range 65535 {
		apply(publish())
	}
	if s := m.Stats(); s.Inflight != 65535 || s.Queued != 1 {
		t.Fatalf("%+v", s)
	}
	out := apply(lanes.op(gw(1, 1), &logpb.Acks{ClientId: "s", Epoch: 2, Pubcomps: []uint32{1}}))
	if len(out.Effects.Push) != 1 || out.Effects.Push[0].Items[0].PacketID != 1 {
		t.Fatalf("the freed id is not used: %+v", out.Effects.Push)
	}
}

// TestSnapshotBesideApply is for the race detector: snapshots are written while the
// machine goes on.
func TestSnapshotBesideApply(t *testing.T) {
	d := newDriver(11)
	for range 20 {
		for range 20 {
			d.apply(t)
		}
		s := d.m.Snapshot()
		want := d.m.Snapshot().Digest()
		got := make(chan [32]byte)
		go func() {
			defer s.Release()
			got <- s.Digest()
		}()
		for range 50 {
			d.apply(t)
		}
		if <-got != want {
			t.Fatal("a snapshot has changed while it was written")
		}
	}
}

// TestSharedMessages: a message to many sessions is held once, in memory, in a
// snapshot, and in memory again after a restore.
func TestSharedMessages(t *testing.T) {
	m, lanes := New(0, 1), laneOps{}
	index := uint64(0)
	apply := func(ops ...*logpb.LaneOp) {
		index++
		if _, err := m.Apply(index, entryOf(1, ops...)); err != nil {
			t.Fatal(err)
		}
	}
	const sessions, size = 100, 10_000
	for i := range sessions {
		id := string(rune('A' + i))
		apply(lanes.op(gw(1, 1), &logpb.Connect{ClientId: id, Expiry: neverExpires}),
			lanes.op(gw(1, 1), &logpb.Subscribe{ClientId: id, Epoch: uint64(i + 1), Subscriptions: []*logpb.Subscription{{Filter: "#", Qos: 1, RetainHandling: 2}}}),
			lanes.op(gw(1, 1), &logpb.Disconnect{ClientId: id, Epoch: uint64(i + 1)}))
	}
	empty := m.Bytes()
	apply(lanes.op(gw(1, 1), &logpb.Publish{Deliver: true, Store: true, Message: &logpb.Message{Topic: "a", Payload: make([]byte, size), Qos: 1, Retain: true}}))
	held := m.Bytes() - empty
	if held < size || held > 2*size {
		t.Errorf("%d bytes for a message of %d to %d sessions", held, size, sessions)
	}
	if s := m.Stats(); s.Queued != sessions || s.QueuedBytes < sessions*size {
		t.Errorf("%+v", s)
	}
	var b bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 3*size {
		t.Errorf("a snapshot of %d bytes", b.Len())
	}
	restored, err := Restore(0, 1, &b)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Bytes() != m.Bytes() {
		t.Errorf("%d bytes after a restore, %d before", restored.Bytes(), m.Bytes())
	}
	m = restored
	for i := range sessions {
		apply(leaderOp(&logpb.DeleteSession{ClientId: string(rune('A' + i))}))
	}
	apply(lanes.op(gw(1, 1), &logpb.Publish{Store: true, Message: &logpb.Message{Topic: "a", Retain: true}}))
	if m.Bytes() != 0 {
		t.Errorf("%d bytes held by nothing", m.Bytes())
	}
}
