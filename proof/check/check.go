// Package check decides from a history whether a broker kept its promises. It knows the
// standard and nothing of the broker: sessions, subscriptions and deliveries are derived
// from the packets. An operation without an answer may or may not have happened, for
// ever; a violation is reported only where no such choice explains the history.
//
// What a workload must keep to: every PUBLISH of an application has its own Message;
// filters of one client do not overlap; live messages with RETAIN set reach only
// subscriptions without Retain As Published, so RETAIN marks retained copies.
package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// The invariants, by their numbers in the list of promises to prove.
const (
	Loss           = 1  // acknowledged, but missing at a surely active subscription
	ExactlyOnce    = 2  // a QoS 2 message delivered twice to the application
	Duplicate      = 3  // QoS 1 twice without a broken connection, QoS 0 twice
	Order          = 4  // order, redelivery and content
	PacketID       = 5  // packet identifier flow
	SessionPresent = 6  // Session Present contradicts the facts
	Unsubscribed   = 7  // arrived after UNSUBACK or after its expiry
	Takeover       = 8  // an old connection completed something after takeover
	Retained       = 9  // retained messages are not a linearizable register
	Wills          = 10 // will twice, missing or unwarranted
	Shared         = 11 // a group's message went to two members, or to none
	Drain          = 13 // not delivered or answered within the bound
)

var names = map[int]string{Loss: "loss", ExactlyOnce: "exactly once", Duplicate: "duplicate", Order: "order",
	PacketID: "packet id", SessionPresent: "session present", Unsubscribed: "unsubscribed or expired", Takeover: "takeover",
	Retained: "retained", Wills: "will", Shared: "shared", Drain: "drain"}

// Options are the tolerances of a run; see Defaults.
type Options struct {
	// Bound is how long after its acknowledgement, the last Heal and the last CONNACK of
	// its receiver a message may take, and an operation after its start and the last Heal.
	Bound time.Duration
	// EarlyExpiry and LateExpiry are how much too early or late a session may expire:
	// clocks drift, and a broker may see the end of a connection late.
	EarlyExpiry, LateExpiry time.Duration
	// MessageExpiry is how late after its expiry a message may arrive.
	MessageExpiry time.Duration
	// Transit is how long a packet that the old connection's broker sent before a
	// takeover may take to be read after it.
	Transit time.Duration
	// RetainedWait is how long after SUBACK a subscription without a retained copy proves
	// that there was none. 0: never.
	RetainedWait time.Duration
	// RetainedTimeout bounds the search for a linearization of each topic.
	RetainedTimeout time.Duration
}

// Defaults are the tolerances for real processes on one machine.
func Defaults() Options {
	return Options{Bound: 30 * time.Second, EarlyExpiry: time.Second, LateExpiry: 30 * time.Second,
		MessageExpiry: 10 * time.Second, Transit: 500 * time.Millisecond, RetainedTimeout: 10 * time.Second}
}

// Violation is one broken promise with the lines of the history that show it.
type Violation struct {
	Invariant int
	Text      string
	Events    []history.Event
}

// String shows the violation and its lines.
func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "invariant %d (%s): %s", v.Invariant, names[v.Invariant], v.Text)
	for _, e := range v.Events {
		fmt.Fprintf(&b, "\n    %s", e)
	}
	return b.String()
}

// Report is the verdict on a history.
type Report struct {
	Violations []Violation
	// Undecided are searches that ran out of time; they prove nothing.
	Undecided []string
	Stats     Stats
}

// String shows at most ten violations, and the figures of the run.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d violations; %s", len(r.Violations), r.Stats)
	for i, v := range r.Violations {
		if i == 10 {
			fmt.Fprintf(&b, "\n... and %d more", len(r.Violations)-i)
			break
		}
		fmt.Fprintf(&b, "\n%s", v)
	}
	for _, u := range r.Undecided {
		fmt.Fprintf(&b, "\nundecided: %s", u)
	}
	return b.String()
}

// Run checks a history. It does not change events.
func Run(events []history.Event, o Options) *Report {
	c := &checker{opts: o, report: &Report{}}
	c.build(events)
	c.presence()
	c.flows()
	c.losses()
	c.arrivals()
	c.takeovers()
	c.retained()
	c.wills()
	c.shares()
	c.answers()
	c.report.Stats = c.stats(events)
	return c.report
}

func (c *checker) violate(invariant int, events []*history.Event, format string, args ...any) {
	v := Violation{Invariant: invariant, Text: fmt.Sprintf(format, args...)}
	for _, e := range events {
		if e != nil {
			v.Events = append(v.Events, *e)
		}
	}
	c.report.Violations = append(c.report.Violations, v)
}

func lines(e ...*history.Event) []*history.Event { return e }

// matches says whether a topic filter matches a topic name [MQTT-4.7.1-2, 4.7.1-3, 4.7.2-1].
func matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "#") || strings.HasPrefix(filter, "+")) {
		return false
	}
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i >= len(t) || level != "+" && level != t[i] {
			return false
		}
	}
	return len(f) == len(t)
}
