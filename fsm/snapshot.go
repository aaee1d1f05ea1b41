package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// Snapshot is the frozen state of a machine. It is for one goroutine at a time,
// which may be another than the machine's.
type Snapshot struct {
	header   *logpb.SnapshotHeader
	sessions []*session
	groups   []*group
	retained []*message
	outbox   []*OutboxItem
	lanes    map[uint64]lane
	closed   map[uint64]uint64
}

// Snapshot freezes the state. It copies pointers only; the machine copies a
// session before it changes it for the first time afterwards. A further Snapshot
// may be taken at any time.
func (m *Machine) Snapshot() *Snapshot {
	m.gen++
	s := &Snapshot{
		header: &logpb.SnapshotHeader{
			Format: Format, Partition: m.partition, Partitions: m.partitions,
			Applied: m.applied, Time: m.time, LastEpoch: m.lastEpoch,
			OutboxSeq: m.outboxSeq, InterestVersion: m.version, Settings: m.settings, LastStamp: m.lastStamp,
		},
		sessions: slices.Clone(m.list),
		retained: slices.Clone(m.retainedList),
		outbox:   slices.Collect(maps.Values(m.outbox)),
		lanes:    make(map[uint64]lane, len(m.lanes)),
		closed:   maps.Clone(m.closed),
	}
	for source, l := range m.lanes {
		s.lanes[source] = *l
	}
	for _, sl := range m.groups {
		s.groups = append(s.groups, sl.g)
	}
	return s
}

// Applied is the index of the last entry in the snapshot.
func (s *Snapshot) Applied() uint64 { return s.header.Applied }

// Release lets go of the state. Nothing else may be called afterwards.
func (s *Snapshot) Release() { *s = Snapshot{} }

// Digest is the SHA-256 of what WriteTo writes: equal on all replicas that have
// applied the same log.
func (s *Snapshot) Digest() [32]byte {
	h := sha256.New()
	if _, err := s.WriteTo(h); err != nil {
		panic(err) // a hash takes everything
	}
	return [32]byte(h.Sum(nil))
}

// WriteTo writes the state as a stream of records (log.proto), which depends on the
// state alone. It may run while the machine goes on applying.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	rw := &recordWriter{w: w, numbers: map[*message]uint64{}}
	rw.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Header{Header: s.header}})
	slices.SortFunc(s.sessions, func(a, b *session) int { return strings.Compare(a.id, b.id) })
	for _, x := range s.sessions {
		rw.session(x)
	}
	slices.SortFunc(s.groups, func(a, b *group) int { return strings.Compare(a.filter, b.filter) })
	for _, x := range s.groups {
		rw.group(x)
	}
	slices.SortFunc(s.retained, func(a, b *message) int { return strings.Compare(a.pb.Topic, b.pb.Topic) })
	for _, x := range s.retained {
		rw.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Retained{
			Retained: &logpb.RetainedState{Message: rw.number(x)}}})
	}
	slices.SortFunc(s.outbox, func(a, b *OutboxItem) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
	for _, x := range s.outbox {
		rw.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Outbox{Outbox: &logpb.OutboxItem{
			Seq: x.Seq, Message: rw.number(x.msg), AfterClose: x.AfterClose,
			WaitClient: x.WaitClient, WaitPacketId: uint32(x.WaitPacketID), Stored: x.Stored,
			Destination: x.Destination, Group: rw.posted(x),
		}}})
	}
	for _, source := range sortedKeys(s.lanes) {
		if mutant.SnapshotWithoutMarks {
			continue
		}
		rw.lane(source, s.lanes[source])
	}
	for _, node := range sortedKeys(s.closed) {
		rw.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Closed{
			Closed: &logpb.ClosedNode{Node: uint32(node), Incarnation: s.closed[node]}}})
	}
	rw.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Trailer{
		Trailer: &logpb.SnapshotTrailer{Records: rw.records + 1}}})
	return rw.n, rw.err
}

// recordWriter writes length-delimited records. Its first error sticks.
type recordWriter struct {
	w       io.Writer
	buf     []byte
	n       int64
	records uint64
	numbers map[*message]uint64
	err     error
}

func (w *recordWriter) write(r *logpb.SnapshotRecord) {
	if w.err != nil {
		return
	}
	size := r.SizeVT()
	w.buf = slices.Grow(w.buf[:0], size+binary.MaxVarintLen64)
	b := binary.AppendUvarint(w.buf, uint64(size))
	n, err := r.MarshalToSizedBufferVT(b[len(b) : len(b)+size])
	if err == nil && n != size {
		err = fmt.Errorf("fsm: record of %d bytes took %d", size, n)
	}
	if err == nil {
		n, err = w.w.Write(b[:len(b)+size])
		w.n += int64(n)
	}
	w.buf, w.err = b, err
	w.records++
}

// number returns a message's number, writing its record before its first use.
func (w *recordWriter) number(x *message) uint64 {
	if x == nil {
		return 0
	}
	n, ok := w.numbers[x]
	if !ok {
		n = uint64(len(w.numbers)) + 1
		w.numbers[x] = n
		w.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Message{Message: &x.pb}})
	}
	return n
}

func (w *recordWriter) queued(q *queued) *logpb.QueuedMessage {
	if q == nil {
		return nil
	}
	return &logpb.QueuedMessage{
		Message: w.number(q.msg), Qos: q.qos, Retained: q.retained, SubscriptionIds: q.ids,
		Share: q.share, Item: q.item,
	}
}

func (w *recordWriter) session(s *session) {
	r := &logpb.SessionState{
		ClientId: s.id, Username: s.username, Protocol: s.protocol,
		Epoch: s.epoch, Owner: s.owner, Ephemeral: s.ephemeral,
		Expiry: s.expiry, ExpiresAt: s.expiresAt, Window: s.window, MaxPacket: s.maxPacket,
		Will: s.will, WillAt: s.willAt, WillAfterClose: s.willAfterClose,
		Subscriptions: s.subs,
		LastPacketId:  uint32(s.lastPacketID), LastDelivery: s.lastDelivery, Pushed: s.pushed,
		LastHold: s.lastHold, Dropped: s.dropped,
	}
	for _, p := range s.previous {
		r.Previous = append(r.Previous, &logpb.Owner{Gateway: p.gateway, Epoch: p.epoch, Will: p.will})
	}
	for i := range s.queue.n {
		r.Queue = append(r.Queue, w.queued(s.queue.at(i)))
	}
	for i := range s.assigned.n {
		r.Assigned = append(r.Assigned, w.queued(s.assigned.at(i)))
	}
	s.inflight.each(func(x *flight) bool {
		r.Inflight = append(r.Inflight, &logpb.InflightMessage{
			Delivery: x.seq, PacketId: uint32(x.packetID), Epoch: x.epoch, Pubrec: x.pubrec,
			Message: w.queued(x.q), SentEpoch: x.sent,
		})
		return true
	})
	for _, id := range sortedKeys(s.inbound) {
		if mutant.SnapshotWithoutInbound {
			continue
		}
		in := s.inbound[id]
		r.Inbound = append(r.Inbound, &logpb.InboundMessage{
			PacketId: uint32(id), Message: w.number(in.msg), Waiting: in.waiting,
		})
	}
	for _, a := range s.answered {
		r.Answered = append(r.Answered, &logpb.AnsweredMessage{IdSource: a.id.source, IdSeq: a.id.seq, Qos: a.qos, Topic: a.topic})
	}
	for _, h := range s.holds {
		p := &logpb.Hold{Id: h.id, Filters: h.filters}
		for _, q := range h.held {
			p.Held = append(p.Held, w.queued(q))
		}
		r.Holds = append(r.Holds, p)
	}
	w.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Session{Session: r}})
}

func (w *recordWriter) lane(source uint64, l lane) {
	r := &logpb.MarkState{Source: source, Mark: l.mark}
	for _, x := range l.results {
		r.Results = append(r.Results, &logpb.StoredResult{Seq: x.seq, Code: x.code, Result: x.bytes})
	}
	w.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Mark{Mark: r}})
}
