package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

func TestApplyErrors(t *testing.T) {
	unknown := []byte{99<<3&0x7f | 0x80 | 2, 99 >> 4, 0} // field 99, empty
	tests := []struct {
		name  string
		index uint64
		entry []byte
		want  error
	}{
		{"unknown format", 6, marshal(&logpb.Entry{Format: 2, Time: 10}), ErrFormat},
		{"no format", 6, marshal(&logpb.Entry{Time: 10}), ErrFormat},
		{"not an entry", 6, []byte{0xff}, ErrMalformed},
		{"time going back", 6, entryOf(9), ErrOrder},
		{"index going back", 5, entryOf(10), ErrOrder},
		{"unknown op", 6, entryOf(10, &logpb.LaneOp{Source: 1, Seq: 1, Op: unknown}), ErrUnknownOp},
		{"unknown op of a leader", 6, entryOf(10, &logpb.LaneOp{IsLeader: true, Op: unknown}), ErrUnknownOp},
		{"unknown op that is not even taken", 6, entryOf(10, &logpb.LaneOp{Source: 1, Seq: 0, Op: unknown}), ErrUnknownOp},
		{"op of a leader on a lane", 6, entryOf(10, &logpb.LaneOp{Source: 1, Seq: 1, Op: opOf(&logpb.Tick{})}), ErrUnknownOp},
		{"empty op", 6, entryOf(10, &logpb.LaneOp{Source: 1, Seq: 1}), ErrMalformed},
		{"two fields", 6, entryOf(10, &logpb.LaneOp{IsLeader: true, Op: append(opOf(&logpb.Tick{}), opOf(&logpb.Tick{})...)}), ErrMalformed},
		{"connect from a partition", 6, entryOf(10, laneOps{}.op(3, &logpb.Connect{ClientId: "a"})), ErrMalformed},
		{"connect without client id", 6, entryOf(10, laneOps{}.op(gw(1, 1), &logpb.Connect{})), ErrMalformed},
		{"publish without message", 6, entryOf(10, laneOps{}.op(gw(1, 1), &logpb.Publish{})), ErrMalformed},
		{"will without topic", 6, entryOf(10, laneOps{}.op(gw(1, 1), &logpb.Connect{ClientId: "a", Will: &logpb.Will{}})), ErrMalformed},
		{"group of no shared subscription", 6, entryOf(10, laneOps{}.op(1, &logpb.Group{Items: []*logpb.GroupItem{{Body: &logpb.GroupItem_Leave{Leave: &logpb.GroupLeave{Filter: "x"}}}}})), ErrMalformed},
		{"member at another gateway", 6, entryOf(10, laneOps{}.op(gw(1, 1), &logpb.Group{Items: []*logpb.GroupItem{{Body: &logpb.GroupItem_Member{Member: &logpb.GroupMember{Filter: "$share/g/x", ClientId: "a", Gateway: gw(2, 1)}}}}})), ErrMalformed},
		{"unknown item of a group", 6, entryOf(10, laneOps{}.op(1, &logpb.Group{Items: []*logpb.GroupItem{{}}})), ErrUnknownOp},
		{"close of a partition", 6, entryOf(10, leaderOp(&logpb.CloseGateway{Gateway: 3})), ErrMalformed},
	}
	for _, x := range tests {
		m := New(0, 1)
		if _, err := m.Apply(5, entryOf(10)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Apply(x.index, x.entry); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
		if _, err := m.Apply(7, entryOf(10)); !errors.Is(err, ErrBroken) || !errors.Is(err, x.want) {
			t.Errorf("%s: goes on with %v", x.name, err)
		}
	}
}

// TestValidate: what Validate accepts, Apply accepts, and the other way round.
func TestValidate(t *testing.T) {
	good := opOf(&logpb.Tick{})
	if err := Validate(good, 0, true); err != nil {
		t.Error(err)
	}
	if err := Validate(good, gw(1, 1), false); !errors.Is(err, ErrUnknownOp) {
		t.Error(err)
	}
	if err := Validate(opOf(&logpb.Connect{ClientId: "a"}), 3, false); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// FuzzApply: whatever the bytes, an error or an outcome, and a state that survives
// its snapshot.
func FuzzApply(f *testing.F) {
	d := newDriver(1)
	for range 40 {
		op := d.randomOp()
		d.model.apply(1, []*logpb.LaneOp{op}, []any{d.bodies[op]}, nil)
		f.Add(entryOf(1, op), uint64(gw(1, 1)), false)
		f.Add(op.Op, op.Source, op.IsLeader)
	}
	near := "$share/near/job" // belongs to partition 0 of 2
	f.Add(opOf(&logpb.Subscribe{ClientId: "a", Epoch: 1, Subscriptions: []*logpb.Subscription{{Filter: near, Qos: 2}, {Filter: "$share/far/job"}}}), gw(1, 1), false)
	f.Add(opOf(&logpb.Group{Items: []*logpb.GroupItem{
		{Body: &logpb.GroupItem_Member{Member: &logpb.GroupMember{Filter: near, ClientId: "b", Stamp: 1, Gateway: gw(1, 1), Epoch: 1, Window: 2, Qos: 2, Kept: []uint64{3}}}},
		{Body: &logpb.GroupItem_Taken{Taken: &logpb.GroupTaken{Filter: near, ClientId: "b", Items: []uint64{1}}}},
		{Body: &logpb.GroupItem_Leave{Leave: &logpb.GroupLeave{Filter: near, ClientId: "b"}}},
	}}), gw(1, 1), false)
	f.Add(opOf(&logpb.Group{Items: []*logpb.GroupItem{{Body: &logpb.GroupItem_Assigned{Assigned: &logpb.GroupAssigned{
		Filter: near, ClientId: "a", Stamp: 1, Item: 1, Qos: 1, Message: &logpb.Message{Topic: "job", Qos: 1},
	}}}}}), uint64(1), false)
	f.Fuzz(func(t *testing.T, data []byte, source uint64, isLeader bool) {
		m := New(0, 2)
		if _, err := m.Apply(1, entryOf(0, laneOps{}.op(gw(1, 1), &logpb.Connect{ClientId: "a", Expiry: 9}))); err != nil {
			t.Fatal(err)
		}
		// As an entry, and as an op of a well-formed one.
		if _, err := m.Apply(2, data); err != nil {
			m = New(0, 2)
		}
		mark, closed := m.Mark(source)
		_, err := m.Apply(3, entryOf(m.Time(), &logpb.LaneOp{Source: source, Seq: mark + 1, Prev: mark, IsLeader: isLeader, Op: data}))
		if valid := Validate(data, source, isLeader); (err == nil) != (valid == nil) {
			t.Fatalf("Validate says %v, Apply %v (closed %v)", valid, err, closed)
		}
		if err != nil {
			return
		}
		if _, err := m.Apply(4, entryOf(m.Time()+1<<40, leaderOp(&logpb.Tick{}))); err != nil && !errors.Is(err, ErrOrder) {
			t.Fatal(err)
		} else if err != nil {
			return
		}
		var b bytes.Buffer
		if _, err := m.Snapshot().WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		restored, err := Restore(0, 2, &b)
		if err != nil {
			t.Fatal(err)
		}
		if restored.Snapshot().Digest() != m.Snapshot().Digest() {
			t.Fatal("another state after a restore")
		}
	})
}

// FuzzRestore: whatever the bytes, an error or a machine that can go on.
func FuzzRestore(f *testing.F) {
	for seed := range uint64(5) {
		d := newDriver(seed)
		for range 60 {
			d.apply(f)
		}
		var b bytes.Buffer
		if _, err := d.m.Snapshot().WriteTo(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
		f.Add(sharedSnapshot(f, seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Restore(0, 2, bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrFormat) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		var b bytes.Buffer
		if _, err := m.Snapshot().WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		again, err := Restore(0, 2, &b)
		if err != nil {
			t.Fatal(err)
		}
		if m.Snapshot().Digest() != again.Snapshot().Digest() {
			t.Fatal("another state after a second restore")
		}
		d := newDriver(1)
		d.m, d.time, d.index = m, m.Time(), m.Applied()
		for range 20 {
			if d.apply(t) != nil {
				return // e.g. at the end of time
			}
		}
	})
}

// FuzzRestoreRecord puts any record among good ones.
func FuzzRestoreRecord(f *testing.F) {
	d := newDriver(9)
	for range 100 {
		d.apply(f)
	}
	var b bytes.Buffer
	if _, err := d.m.Snapshot().WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	b.Write(sharedSnapshot(f, 9))
	for b.Len() > 0 {
		size, err := binary.ReadUvarint(&b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(b.Next(int(size))))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		var b []byte
		add := func(record []byte) {
			b = append(binary.AppendUvarint(b, uint64(len(record))), record...)
		}
		add(marshal(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Header{Header: &logpb.SnapshotHeader{
			Format: Format, Partitions: 2, Applied: 9, Time: 9, LastEpoch: 1 << 20, OutboxSeq: 1 << 20, LastStamp: 1 << 20}}}))
		for range 50 { // for references
			add(marshal(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Message{Message: &logpb.Message{Topic: "x/1", Payload: []byte("p"), Qos: 2}}}))
		}
		add(record)
		add(marshal(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Trailer{Trailer: &logpb.SnapshotTrailer{Records: 53}}}))
		m, err := Restore(0, 2, bytes.NewReader(b))
		if err != nil {
			return
		}
		digest := m.Snapshot().Digest()
		var again bytes.Buffer
		if _, err := m.Snapshot().WriteTo(&again); err != nil {
			t.Fatal(err)
		}
		m2, err := Restore(0, 2, &again)
		if err != nil {
			t.Fatal(err)
		}
		if m2.Snapshot().Digest() != digest {
			t.Fatal("another state after a second restore")
		}
		d := newDriver(1)
		d.m, d.time, d.index = m, m.Time(), m.Applied()
		d.model.time = d.time
		for range 20 {
			if d.apply(t) != nil {
				return
			}
		}
	})
}

// sharedSnapshot is of a partition in the middle of TestSharedWorld.
func sharedSnapshot(f *testing.F, seed uint64) []byte {
	w := newWorld(f, seed)
	for range 100 {
		w.step()
	}
	var b bytes.Buffer
	if _, err := w.parts[w.group()].m.Snapshot().WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// apply gives a random op to the machine only.
func (d *driver) apply(t testing.TB) error {
	t.Helper()
	op := d.randomOp()
	d.model.apply(d.time, []*logpb.LaneOp{op}, []any{d.bodies[op]}, nil)
	d.index++
	_, err := d.m.Apply(d.index, entryOf(d.time, op))
	if err != nil && !errors.Is(err, ErrOrder) {
		t.Fatal(err)
	}
	return err
}

func TestRestoreErrors(t *testing.T) {
	d := newDriver(3)
	for range 100 {
		d.apply(t)
	}
	var b bytes.Buffer
	if _, err := d.m.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	if _, err := Restore(0, 2, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	for n := range whole { // a snapshot that ends early is never taken for a whole one
		if _, err := Restore(0, 2, bytes.NewReader(whole[:n])); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	if _, err := Restore(0, 2, bytes.NewReader(append(bytes.Clone(whole), 0))); !errors.Is(err, ErrMalformed) {
		t.Errorf("goes on after the trailer: %v", err)
	}
	if _, err := Restore(1, 2, bytes.NewReader(whole)); !errors.Is(err, ErrMalformed) {
		t.Errorf("another partition: %v", err)
	}
	if _, err := Restore(0, 3, bytes.NewReader(whole)); !errors.Is(err, ErrMalformed) {
		t.Errorf("another number of partitions: %v", err)
	}
}

func TestPartitionOf(t *testing.T) {
	// Part of the format: these never change.
	for key, want := range map[string]uint32{"": 6, "a": 11, "client-1": 13, "sensors/1/temperature": 14} {
		if got := PartitionOf(key, 16); got != want {
			t.Errorf("%q: %d, was %d", key, got, want)
		}
	}
	if PartitionOf("x", 1) != 0 || PartitionOf("x", 0) != 0 {
		t.Error("one partition")
	}
	var count [16]int
	for i := range 16_000 {
		count[PartitionOf(fmt.Sprint("c", i), 16)]++
	}
	for p, n := range count {
		if n < 800 || n > 1200 {
			t.Errorf("partition %d has %d of 16000", p, n)
		}
	}
}
