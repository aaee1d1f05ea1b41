package check

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Stats are the figures of a run.
type Stats struct {
	Events, Connections int
	// Published counts application messages, Acks the PUBACKs and PUBCOMPs for them.
	Published, Acks, Delivered int
	// Shared counts messages that came to a member of a group, once for each group.
	Shared int
	// Retained are copies of retained messages for new subscriptions; Delivered has none.
	Retained int
	// Resumes are CONNACKs with Session Present on another node than the last one's.
	Resumes int
	// DupResends are PUBLISH packets that clients sent again.
	DupResends int
	// Ambiguous are operations that were never answered.
	Ambiguous int
	Faults    map[string]int // by kind
	// Effective are the faults that some client noticed: soon after one a connection broke, or
	// an answer took long.
	Effective int
	Length    time.Duration
}

// String shows the figures on one line.
func (s Stats) String() string {
	return fmt.Sprintf("%d events in %s: %d connections, %d published, %d acknowledged, %d delivered, %d retained, %d to groups, "+
		"%d resumes elsewhere, %d resends, %d ambiguous, %d effective faults of %v", s.Events, s.Length.Round(time.Millisecond),
		s.Connections, s.Published, s.Acks, s.Delivered, s.Retained, s.Shared, s.Resumes, s.DupResends, s.Ambiguous, s.Effective, s.Faults)
}

// Thresholds are what a run must have seen to prove anything.
type Thresholds struct {
	Acks, Faults, Resumes, DupResends, Ambiguous int
}

// Full are the thresholds of a run that counts.
func Full() Thresholds {
	return Thresholds{Acks: 1000, Faults: 3, Resumes: 20, DupResends: 10, Ambiguous: 1}
}

// ErrVoid is returned for a run that proves nothing because too little happened in it.
var ErrVoid = errors.New("void run")

// Void returns an error that wraps ErrVoid when s is below t.
func (s Stats) Void(t Thresholds) error {
	for _, x := range []struct {
		what       string
		have, want int
	}{{"acknowledgements", s.Acks, t.Acks}, {"effective faults", s.Effective, t.Faults}, {"resumes on another node", s.Resumes, t.Resumes},
		{"DUP resends", s.DupResends, t.DupResends}, {"ambiguous operations", s.Ambiguous, t.Ambiguous}} {
		if x.have < x.want {
			return fmt.Errorf("%w: %d %s, at least %d wanted", ErrVoid, x.have, x.what, x.want)
		}
	}
	return nil
}

// A fault is felt when soon after it an answer takes longer than noticed, or a
// connection breaks that its client did not close.
const (
	noticed = 100 * time.Millisecond
	within  = 3 * time.Second
)

// span is a time from one moment to another, as Event.Time.
type span struct{ from, to int64 }

// felt says whether clients noticed a fault.
func (c *checker) felt(f *history.Event) bool {
	return slices.ContainsFunc(c.trouble, func(t span) bool { return t.to >= f.Time && t.from <= f.Time+int64(within) })
}

func (c *checker) stats(events []history.Event) Stats {
	s := Stats{Events: len(events), Connections: len(c.conns), Faults: map[string]int{}, Length: time.Duration(c.end)}
	for _, m := range c.inOrder {
		s.Published++
		if m.ack != nil {
			s.Acks++
		}
	}
	for _, f := range c.faults {
		s.Faults[f.Detail]++
		if f.Detail != history.FaultResume && f.Detail != history.FaultStart && f.Detail != history.FaultOver && c.felt(f) {
			s.Effective++
		}
	}
	for _, g := range c.crews() {
		s.Shared += len(g.got)
	}
	for i := range events {
		e := &events[i]
		if e.Packet == history.Publish {
			if e.Dir == history.In && e.Retain {
				s.Retained++
			} else if e.Dir == history.In {
				s.Delivered++
			} else if e.Dup {
				s.DupResends++
			}
		}
	}
	for _, cl := range c.clients {
		var previous *conn
		for _, n := range byConnack(cl.conns) {
			if previous != nil && n.connack.SessionPresent && n.node != previous.node {
				s.Resumes++
			}
			previous = n
		}
		for _, n := range cl.conns {
			if n.connack == nil && n.refused == nil {
				s.Ambiguous++
			}
			for _, waiting := range n.sent {
				s.Ambiguous += len(waiting)
			}
		}
	}
	return s
}
