package fsm

import (
	"fmt"
	"io"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// BenchmarkPublish: QoS 1 messages of 256 B to one subscriber, and its
// acknowledgements, in entries of as many ops as a busy leader collects. One
// operation is one message and its PUBACK.
func BenchmarkPublish(b *testing.B) {
	for _, batch := range []int{1, 32} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			m, lanes := New(0, 1), laneOps{}
			index := uint64(0)
			apply := func(data []byte) {
				index++
				if _, err := m.Apply(index, data); err != nil {
					b.Fatal(err)
				}
			}
			apply(entryOf(1,
				lanes.op(gw(1, 1), &logpb.Connect{ClientId: "sub", Expiry: 1000, Window: 1000, Protocol: 5}),
				lanes.op(gw(1, 1), &logpb.Subscribe{ClientId: "sub", Epoch: 1, Subscriptions: []*logpb.Subscription{{Filter: "sensors/+/temperature", Qos: 1, RetainHandling: 2}}})))
			entries := make([][]byte, 0, b.N/batch+1)
			id := uint32(0)
			for range cap(entries) {
				var ops []*logpb.LaneOp
				acks := &logpb.Acks{ClientId: "sub", Epoch: 1}
				for range batch {
					id = id%65535 + 1
					acks.Pubacks = append(acks.Pubacks, id)
					ops = append(ops, lanes.op(gw(2, 1), &logpb.Publish{Deliver: true, Message: &logpb.Message{
						IdSource: gw(2, 1), IdSeq: uint64(id), Topic: "sensors/17/temperature", Payload: make([]byte, 256), Qos: 1, Publisher: "pub-17",
					}}))
				}
				entries = append(entries, entryOf(1, append(ops, lanes.op(gw(1, 1), acks))...))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, e := range entries {
				apply(e)
			}
			b.StopTimer()
			if s := m.Stats(); s.Inflight != 0 || s.UnknownAcks != 0 {
				b.Fatalf("%+v", s)
			}
		})
	}
}

// BenchmarkFanOut: one QoS 1 message to 1000 connected sessions; acknowledged by all.
func BenchmarkFanOut(b *testing.B) {
	const subscribers = 1000
	m, lanes := New(0, 1), laneOps{}
	index := uint64(0)
	apply := func(ops ...*logpb.LaneOp) {
		data := entryOf(1, ops...)
		index++
		b.StartTimer()
		if _, err := m.Apply(index, data); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
	}
	for i := range subscribers {
		id := fmt.Sprint("sub", i)
		apply(lanes.op(gw(1, 1), &logpb.Connect{ClientId: id, Expiry: 1000, Window: 100}),
			lanes.op(gw(1, 1), &logpb.Subscribe{ClientId: id, Epoch: uint64(i + 1), Subscriptions: []*logpb.Subscription{{Filter: "all/#", Qos: 1, RetainHandling: 2}}}))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		apply(lanes.op(gw(2, 1), &logpb.Publish{Deliver: true, Message: &logpb.Message{Topic: "all/1", Payload: make([]byte, 256), Qos: 1}}))
		var acks []*logpb.LaneOp
		for i := range subscribers {
			acks = append(acks, lanes.op(gw(1, 1), &logpb.Acks{ClientId: fmt.Sprint("sub", i), Epoch: uint64(i + 1), Pubacks: []uint32{uint32(n%65535) + 1}}))
		}
		apply(acks...)
	}
	if s := m.Stats(); s.Inflight != 0 {
		b.Fatalf("%+v", s)
	}
}

// BenchmarkSnapshot: how long Apply stands still for a snapshot of 20,000 sessions
// with ten messages each, and how long writing takes beside it.
func BenchmarkSnapshot(b *testing.B) {
	m, lanes := New(0, 1), laneOps{}
	index := uint64(0)
	apply := func(ops ...*logpb.LaneOp) {
		index++
		if _, err := m.Apply(index, entryOf(1, ops...)); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 20_000 {
		id := fmt.Sprint("sub", i)
		apply(lanes.op(gw(1, 1), &logpb.Connect{ClientId: id, Expiry: 1000}),
			lanes.op(gw(1, 1), &logpb.Subscribe{ClientId: id, Epoch: uint64(i + 1), Subscriptions: []*logpb.Subscription{{Filter: "all", Qos: 1, RetainHandling: 2}}}),
			lanes.op(gw(1, 1), &logpb.Disconnect{ClientId: id, Epoch: uint64(i + 1)}))
	}
	for range 10 {
		apply(lanes.op(gw(2, 1), &logpb.Publish{Deliver: true, Message: &logpb.Message{Topic: "all", Payload: make([]byte, 256), Qos: 1}}))
	}
	b.Run("freeze", func(b *testing.B) {
		for b.Loop() {
			m.Snapshot()
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n, err := m.Snapshot().WriteTo(io.Discard)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n)
		}
	})
}
