package check

import (
	"errors"
	"fmt"
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
	// Resumes are CONNACKs with Session Present on another node than the last one's.
	Resumes int
	// DupResends are PUBLISH packets that clients sent again.
	DupResends int
	// Ambiguous are operations that were never answered.
	Ambiguous int
	Faults    map[string]int // by kind
	Length    time.Duration
}

// String shows the figures on one line.
func (s Stats) String() string {
	return fmt.Sprintf("%d events in %s: %d connections, %d published, %d acknowledged, %d delivered, %d to groups, %d resumes elsewhere, "+
		"%d resends, %d ambiguous, faults %v", s.Events, s.Length.Round(time.Millisecond), s.Connections, s.Published, s.Acks,
		s.Delivered, s.Shared, s.Resumes, s.DupResends, s.Ambiguous, s.Faults)
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
	faults := 0
	for kind, n := range s.Faults {
		if kind != history.FaultResume && kind != history.FaultStart && kind != history.FaultOver {
			faults += n
		}
	}
	for _, x := range []struct {
		what       string
		have, want int
	}{{"acknowledgements", s.Acks, t.Acks}, {"faults", faults, t.Faults}, {"resumes on another node", s.Resumes, t.Resumes},
		{"DUP resends", s.DupResends, t.DupResends}, {"ambiguous operations", s.Ambiguous, t.Ambiguous}} {
		if x.have < x.want {
			return fmt.Errorf("%w: %d %s, at least %d wanted", ErrVoid, x.have, x.what, x.want)
		}
	}
	return nil
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
	}
	for _, g := range c.crews() {
		s.Shared += len(g.got)
	}
	for i := range events {
		e := &events[i]
		if e.Packet == history.Publish {
			if e.Dir == history.In {
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
