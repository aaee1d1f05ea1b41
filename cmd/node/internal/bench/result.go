package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// maxErrors bounds the errors of a result: thousands of clients may fail alike.
const maxErrors = 10

// Result is what a run measured.
type Result struct {
	Scenario    Scenario `json:"scenario"`
	Description string   `json:"description"`
	Run         string   `json:"run"`
	Crossed     float64  `json:"crossed"` // share of publisher-subscriber pairs on different nodes
	Seconds     float64  `json:"seconds"` // measured time

	Published          uint64  `json:"published"` // in the measured time: acknowledged, or written at QoS 0
	PublishedPerSecond float64 `json:"published_per_second"`
	Received           uint64  `json:"received"` // in the measured time, duplicates left out
	ReceivedPerSecond  float64 `json:"received_per_second"`
	Ack                Latency `json:"publish_to_ack"`
	Receive            Latency `json:"publish_to_receive"`
	SilenceMS          float64 `json:"longest_silence_ms"` // of any subscriber, while measured

	// Over the whole run.
	Sent       uint64            `json:"sent"`
	Lost       uint64            `json:"lost"` // promised (acknowledged; sent at QoS 0) and not received
	Duplicates uint64            `json:"duplicates"`
	Disordered uint64            `json:"disordered"`
	Strangers  uint64            `json:"strangers"`         // messages that nobody of this run sent
	Refused    map[string]uint64 `json:"refused,omitempty"` // by reason code

	ConnectsPerSecond float64  `json:"connects_per_second,omitempty"`
	Connack           *Latency `json:"connect_to_connack,omitempty"`
	Suback            *Latency `json:"subscribe_to_suback,omitempty"`

	Errors []string `json:"errors,omitempty"`
	more   int      // errors that are not listed
}

func (r *Result) fail(format string, args ...any) {
	if len(r.Errors) == maxErrors {
		r.more++
		return
	}
	r.Errors = append(r.Errors, fmt.Sprintf(format, args...))
}

// Err is not nil if something happened that must not: errors, or at QoS 1 and
// 2 lost messages, or at QoS 2 duplicates.
func (r *Result) Err(qos byte) error {
	switch {
	case len(r.Errors) > 0:
		return fmt.Errorf("%d errors, the first: %s", len(r.Errors)+r.more, r.Errors[0])
	case qos > 0 && r.Lost > 0:
		return fmt.Errorf("%d acknowledged messages were lost", r.Lost)
	case qos == 2 && r.Duplicates > 0:
		return fmt.Errorf("%d messages of QoS 2 came twice", r.Duplicates)
	}
	return nil
}

func (r *run) newResult(s sample) *Result {
	return &Result{
		Scenario: r.opts.Scenario, Description: r.opts.Describe(), Run: r.id,
		Seconds: float64(s.to-s.from) / float64(time.Second),
	}
}

// result sums up after all goroutines have ended.
func (r *run) result(s sample, crossed float64) *Result {
	res := r.newResult(s)
	res.Crossed = crossed
	res.Published, res.Received = s.acked, s.received
	res.PublishedPerSecond, res.ReceivedPerSecond = float64(s.acked)/res.Seconds, float64(s.received)/res.Seconds
	res.Refused = map[string]uint64{}
	var ack, receive histogram
	for _, p := range r.pubs {
		ack.merge(&p.latency)
		res.Sent += p.sent
		for code, n := range p.refused {
			res.Refused[code.String()] += n
		}
		if p.err != nil {
			res.fail("publisher %s: %v", p.role.id, p.err)
		}
	}
	var silence int64
	for _, sub := range r.subs {
		receive.merge(&sub.latency)
		lost, duplicates, disordered := sub.sums()
		res.Lost, res.Duplicates, res.Disordered = res.Lost+lost, res.Duplicates+duplicates, res.Disordered+disordered
		res.Strangers += sub.strangers
		silence = max(silence, sub.silence, s.to-max(s.from, sub.last.Load()))
		if sub.err != nil {
			res.fail("%v: %v", sub, sub.err)
		}
	}
	res.SilenceMS = float64(silence) / float64(time.Millisecond)
	res.Ack, res.Receive = ack.latency(), receive.latency()
	return res
}

// WriteTable prints the result for people.
func (r *Result) WriteTable(w io.Writer) error {
	fmt.Fprintln(w, r.Description)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	latency := func(name string, l Latency) {
		if l.Count > 0 {
			fmt.Fprintf(tw, "  %s\tp50 %s\tp99 %s\tmax %s\n", name, us(l.P50), us(l.P99), us(l.Max))
		}
	}
	if r.ConnectsPerSecond > 0 {
		fmt.Fprintf(tw, "  connects\t%.0f/s\n", r.ConnectsPerSecond)
	}
	if r.Connack != nil {
		latency("connect to CONNACK", *r.Connack)
		latency("SUBSCRIBE to SUBACK", *r.Suback)
	}
	if r.Sent > 0 {
		fmt.Fprintf(tw, "  published\t%.0f/s\t%d in %.1f s\n", r.PublishedPerSecond, r.Published, r.Seconds)
		fmt.Fprintf(tw, "  received\t%.0f/s\t%d\t%.0f %% across nodes\n", r.ReceivedPerSecond, r.Received, 100*r.Crossed)
		latency("publish to ack", r.Ack)
		latency("publish to receive", r.Receive)
		fmt.Fprintf(tw, "  longest silence\t%.1f ms\n", r.SilenceMS)
		fmt.Fprintf(tw, "  whole run\tsent %d\tlost %d\tduplicates %d\tout of order %d\n", r.Sent, r.Lost, r.Duplicates, r.Disordered)
	}
	for code, n := range r.Refused {
		fmt.Fprintf(tw, "  refused\t%d\t%s\n", n, code)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, e := range r.Errors {
		fmt.Fprintf(w, "  error: %s\n", e)
	}
	if r.more > 0 {
		fmt.Fprintf(w, "  and %d more errors\n", r.more)
	}
	return nil
}

// us prints microseconds in the unit that suits them.
func us(v float64) string {
	return time.Duration(v * float64(time.Microsecond)).Round(10 * time.Microsecond).String()
}
