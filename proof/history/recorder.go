package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Recorder collects events in memory in one total order. Its methods may be called by
// any goroutine.
type Recorder struct {
	start time.Time

	mu     sync.Mutex
	events []Event // guarded by mu
	conns  uint64  // guarded by mu
	last   int64   // guarded by mu
}

// NewRecorder returns an empty history whose clock starts now.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// NewConn returns a connection number that was not given before.
func (r *Recorder) NewConn() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns++
	return r.conns
}

// Record appends e, setting Seq and Time, and returns its Seq.
func (r *Recorder) Record(e Event) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Since(r.start).Nanoseconds()
	if now < r.last {
		now = r.last
	}
	r.last = now
	e.Time = now
	e.Seq = uint64(len(r.events)) + 1
	r.events = append(r.events, e)
	return e.Seq
}

// Fault records an injected fault. The caller records it before it injects it.
func (r *Recorder) Fault(node, kind string) {
	r.Record(Event{Type: Info, Packet: Fault, Node: node, Detail: kind})
}

// Heal records that no fault is active any more.
func (r *Recorder) Heal() { r.Record(Event{Type: Info, Packet: Heal}) }

// Quiet records that nothing more is expected.
func (r *Recorder) Quiet() { r.Record(Event{Type: Info, Packet: Quiet}) }

// Len returns the number of events so far.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// Events returns a copy of the history so far.
func (r *Recorder) Events() []Event { return r.Since(0) }

// Since returns a copy of the events with Seq greater than seq.
func (r *Recorder) Since(seq uint64) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq >= uint64(len(r.events)) {
		return nil
	}
	return append([]Event(nil), r.events[seq:]...)
}

// Write writes events as NDJSON.
func Write(w io.Writer, events []Event) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			return fmt.Errorf("event %d: %w", events[i].Seq, err)
		}
	}
	return b.Flush()
}

// ErrOrder is returned by Read for a history whose Seq or Time goes back.
var ErrOrder = errors.New("history: events out of order")

// Read reads NDJSON up to the end of r and checks that Seq grows and Time never falls.
func Read(r io.Reader) ([]Event, error) {
	var out []Event
	dec := json.NewDecoder(bufio.NewReader(r))
	dec.DisallowUnknownFields()
	for {
		var e Event
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", len(out)+1, err)
		}
		if n := len(out); n > 0 && (e.Seq <= out[n-1].Seq || e.Time < out[n-1].Time) {
			return nil, fmt.Errorf("%w: seq %d after %d", ErrOrder, e.Seq, out[n-1].Seq)
		}
		out = append(out, e)
	}
}

// String shows an event on one line, as it appears in violations.
func (e Event) String() string {
	s := fmt.Sprintf("#%d %.6fs", e.Seq, float64(e.Time)/1e9)
	if e.Packet == Fault || e.Packet == Heal || e.Packet == Quiet {
		return fmt.Sprintf("%s %s %s %s", s, e.Packet, e.Node, e.Detail)
	}
	arrow := map[Direction]string{Out: "->", In: "<-", None: "--"}[e.Dir]
	s += fmt.Sprintf(" %s/c%d %s %s %s", e.Client, e.Conn, arrow, e.Node, e.Packet)
	if e.Packet == Connack || e.Packet == Connect {
		s += e.connectString()
	}
	if e.ID != 0 {
		s += fmt.Sprintf(" id=%d", e.ID)
	}
	if e.Packet == Publish {
		s += fmt.Sprintf(" q%d", e.QoS)
		if e.Dup {
			s += " dup"
		}
		if e.Retain {
			s += " retain"
		}
		s += fmt.Sprintf(" %q message=%q", e.Topic, e.Message)
	}
	for _, f := range e.Filters {
		s += fmt.Sprintf(" %q@%d", f.Filter, f.QoS)
	}
	if len(e.Codes) > 0 {
		s += fmt.Sprintf(" codes=%x", e.Codes)
	}
	if e.Reason != 0 {
		s += fmt.Sprintf(" reason=%#02x", e.Reason)
	}
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	return s
}

func (e Event) connectString() string {
	if e.Packet == Connack {
		return fmt.Sprintf(" present=%t", e.SessionPresent)
	}
	s := fmt.Sprintf(" v%d clean=%t expiry=%d", e.Version, e.Clean, e.Expiry)
	if e.Will != nil {
		s += fmt.Sprintf(" will=%q on %q", e.Will.Message, e.Will.Topic)
	}
	return s
}
