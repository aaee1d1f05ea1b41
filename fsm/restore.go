package fsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// maxRecord is the most bytes that a record of a snapshot may have.
const maxRecord = 1 << 30

// The kinds of records are the field numbers of logpb.SnapshotRecord.
const (
	recordHeader   = 1
	recordSession  = 2
	recordRetained = 3
	recordOutbox   = 4
	recordMark     = 5
	recordClosed   = 6
	recordTrailer  = 7
	recordMessage  = 8
	recordGroup    = 9
)

// rank is the place of a kind of record among the others: the order of the numbers,
// but for the groups, which came later.
func rank(kind uint64) uint64 {
	if kind == recordGroup {
		return recordRetained
	}
	return kind
}

// Restore reads what Snapshot.WriteTo wrote, to its end. It fails with ErrFormat for
// a version or kind of record that this release does not know, with ErrMalformed for
// anything that WriteTo cannot have written for this partition.
func Restore(partition, partitions uint32, r io.Reader) (*Machine, error) {
	rr := &recordReader{r: bufio.NewReaderSize(r, 1<<16), m: New(partition, partitions)}
	for !rr.done {
		kind, body, err := rr.next()
		if err == nil {
			err = rr.take(kind, body)
		}
		if err != nil {
			return nil, fmt.Errorf("record %d of the snapshot of partition %d: %w", rr.records, partition, err)
		}
	}
	if _, err := rr.r.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: snapshot goes on after its trailer", ErrMalformed)
	}
	return rr.m, nil
}

// recordReader rebuilds a machine from records.
type recordReader struct {
	r         *bufio.Reader
	m         *Machine
	buf       bytes.Buffer
	records   uint64
	last      uint64 // kind of the last record that was no message
	lastID    string // last session
	lastGroup string
	messages  []*message
	done      bool
}

// next reads one record. Its body is valid until the next call.
func (r *recordReader) next() (kind uint64, body []byte, err error) {
	r.records++
	size, err := binary.ReadUvarint(r.r)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if size > maxRecord {
		return 0, nil, fmt.Errorf("%w: record of %d bytes", ErrMalformed, size)
	}
	r.buf.Reset()
	// CopyN grows with what is there, not with what the length claims.
	if _, err := io.CopyN(&r.buf, r.r, int64(size)); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return splitField(r.buf.Bytes())
}

// take adds a record to the machine. Records come in the order of their kinds,
// messages anywhere between the header and the trailer.
func (r *recordReader) take(kind uint64, body []byte) error {
	switch {
	case r.records == 1 && kind != recordHeader, r.records > 1 && kind == recordHeader:
		return fmt.Errorf("%w: the header comes first", ErrMalformed)
	case kind == recordMessage:
		return r.message(body)
	case kind == 0 || kind > recordGroup:
		return fmt.Errorf("%w: record of kind %d", ErrFormat, kind)
	case rank(kind) < r.last:
		return fmt.Errorf("%w: record of kind %d after kind %d", ErrMalformed, kind, r.last)
	}
	r.last = rank(kind)
	switch kind {
	case recordHeader:
		return r.header(body)
	case recordSession:
		return r.session(body)
	case recordGroup:
		return r.group(body)
	case recordRetained:
		return r.retained(body)
	case recordOutbox:
		return r.outbox(body)
	case recordMark:
		return r.mark(body)
	case recordClosed:
		return r.closed(body)
	}
	t, err := decode(body, &logpb.SnapshotTrailer{})
	if err == nil && t.Records != r.records {
		err = fmt.Errorf("%w: %d records instead of %d", ErrMalformed, r.records, t.Records)
	}
	r.done = true
	return err
}

func (r *recordReader) header(body []byte) error {
	h, err := decode(body, &logpb.SnapshotHeader{})
	if err != nil {
		return err
	}
	m := r.m
	switch {
	case h.Format != Format:
		return fmt.Errorf("%w: snapshot format %d", ErrFormat, h.Format)
	case h.Partition != m.partition || h.Partitions != m.partitions:
		return fmt.Errorf("%w: snapshot of partition %d of %d", ErrMalformed, h.Partition, h.Partitions)
	}
	m.applied, m.time, m.lastEpoch = h.Applied, h.Time, h.LastEpoch
	m.outboxSeq, m.version = h.OutboxSeq, h.InterestVersion
	m.lastStamp = h.LastStamp
	if h.Settings != nil {
		m.settings = h.Settings
	}
	return nil
}

func (r *recordReader) message(body []byte) error {
	x := &message{}
	if err := x.pb.UnmarshalVT(body); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	x.size = sizeOf(&x.pb)
	r.messages = append(r.messages, x)
	return checkMessage(&x.pb)
}

func (r *recordReader) find(number uint64) (*message, error) {
	if number == 0 || number > uint64(len(r.messages)) {
		return nil, fmt.Errorf("%w: no message %d", ErrMalformed, number)
	}
	return r.messages[number-1], nil
}

func (r *recordReader) retained(body []byte) error {
	p, err := decode(body, &logpb.RetainedState{})
	if err != nil {
		return err
	}
	x, err := r.find(p.Message)
	if err != nil {
		return err
	}
	if _, twice := r.m.retained.Get(x.pb.Topic); twice || len(x.pb.Payload) == 0 {
		return fmt.Errorf("%w: retained message for %q", ErrMalformed, x.pb.Topic)
	}
	r.m.store(x)
	return nil
}

func (r *recordReader) outbox(body []byte) error {
	p, err := decode(body, &logpb.OutboxItem{})
	if err != nil {
		return err
	}
	if r.m.outbox[p.Seq] != nil || p.Seq == 0 || p.Seq > r.m.outboxSeq || p.WaitPacketId > maxPacketIDs {
		return fmt.Errorf("%w: outbox item %d", ErrMalformed, p.Seq)
	}
	if len(p.Group) > 0 {
		return r.posted(p)
	}
	x, err := r.find(p.Message)
	if err != nil {
		return err
	}
	r.m.addOutbox(&OutboxItem{
		Seq: p.Seq, Message: &x.pb, AfterClose: p.AfterClose, WaitClient: p.WaitClient,
		WaitPacketID: uint16(p.WaitPacketId), Stored: p.Stored, msg: x,
	})
	return nil
}

func (r *recordReader) mark(body []byte) error {
	p, err := decode(body, &logpb.MarkState{})
	if err != nil {
		return err
	}
	if r.m.lanes[p.Source] != nil {
		return fmt.Errorf("%w: two marks of %d", ErrMalformed, p.Source)
	}
	l := &lane{mark: p.Mark}
	var last uint64
	for _, x := range p.Results {
		if x.Seq <= last || x.Seq > p.Mark {
			return fmt.Errorf("%w: result %d of %d", ErrMalformed, x.Seq, p.Source)
		}
		last = x.Seq
		l.results = append(l.results, storedResult{x.Seq, x.Code, x.Result})
	}
	r.m.lanes[p.Source] = l
	return nil
}

func (r *recordReader) closed(body []byte) error {
	p, err := decode(body, &logpb.ClosedNode{})
	if err != nil {
		return err
	}
	if _, twice := r.m.closed[uint64(p.Node)]; twice {
		return fmt.Errorf("%w: node %d twice", ErrMalformed, p.Node)
	}
	r.m.closed[uint64(p.Node)] = p.Incarnation
	return nil
}
