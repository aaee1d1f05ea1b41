//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// result is what a run has found so far.
type result struct {
	rows     map[string]*counts
	gaps     map[string]*gaps // by kind
	stats    check.Stats      // summed over the rounds
	rounds   int
	compared int // states of replicas
	findings []string
}

// counts are those of one row.
type counts struct {
	injected, effective, violations int
	recovery                        []time.Duration // until all nodes served again
}

func newResult() *result {
	return &result{rows: map[string]*counts{}, gaps: map[string]*gaps{}}
}

func (r *result) row(name string) *counts {
	if r.rows[name] == nil {
		r.rows[name] = &counts{}
	}
	return r.rows[name]
}

// done counts a fault.
func (r *result) done(row string, effective bool, recovery time.Duration) {
	c := r.row(row)
	c.injected++
	if effective {
		c.effective++
	}
	c.recovery = append(c.recovery, recovery)
}

// gap adds what the clients saw of a fault.
func (r *result) gap(kind string, g gaps) {
	if r.gaps[kind] == nil {
		r.gaps[kind] = &gaps{}
	}
	r.gaps[kind].Own = append(r.gaps[kind].Own, g.Own...)
	r.gaps[kind].Others = append(r.gaps[kind].Others, g.Others...)
}

// add sums the figures of a round.
func (r *result) add(report *check.Report) {
	s := report.Stats
	r.rounds++
	r.stats.Events += s.Events
	r.stats.Connections += s.Connections
	r.stats.Published += s.Published
	r.stats.Acks += s.Acks
	r.stats.Delivered += s.Delivered
	r.stats.Retained += s.Retained
	r.stats.Shared += s.Shared
	r.stats.Effective += s.Effective
	r.stats.Resumes += s.Resumes
	r.stats.DupResends += s.DupResends
	r.stats.Ambiguous += s.Ambiguous
	r.stats.Length += s.Length
}

// beforeFaults is the row of what no fault went before.
const beforeFaults = "none"

// find notes a broken promise, and counts it at the fault that began last before the client
// saw its last answer of it.
func (r *result) find(faults []injected, events []history.Event, text string) {
	name := beforeFaults
	last := uint64(0)
	for _, e := range events {
		if e.Dir == history.In && e.Packet != history.Connack && e.Packet != history.Close {
			last = max(last, e.Seq)
		}
	}
	for _, f := range faults {
		if last == 0 || f.seq < last {
			name = f.row
		}
	}
	r.row(name).violations++
	r.findings = append(r.findings, name+": "+text)
}

// verdict returns what keeps the run from proving anything, and what it has disproved.
func (r *result) verdict(t check.Thresholds) error {
	if len(r.findings) > 0 {
		return fmt.Errorf("%d violations", len(r.findings))
	}
	return r.stats.Void(t)
}

// table writes the rows in Markdown. skipped says why a row was not injected, if it was not.
func (r *result) table(w io.Writer, rows []row, skipped func(row) string) {
	fmt.Fprintln(w, "| fault | injected | effective | violations | all nodes serve again: p50, max |")
	fmt.Fprintln(w, "|---|---|---|---|---|")
	if c := r.rows[beforeFaults]; c != nil {
		fmt.Fprintf(w, "| (before any fault) | | | %d | |\n", c.violations)
	}
	for _, row := range rows {
		if why := skipped(row); why != "" {
			fmt.Fprintf(w, "| %s | skipped: %s | | | |\n", row.name, why)
			continue
		}
		c := r.row(row.name)
		times := ""
		if len(c.recovery) > 0 {
			slices.Sort(c.recovery)
			times = fmt.Sprintf("%s, %s", seconds(quantile(c.recovery, 0.5)), seconds(c.recovery[len(c.recovery)-1]))
		}
		fmt.Fprintf(w, "| %s | %d | %d | %d | %s |\n", row.name, c.injected, c.effective, c.violations, times)
	}
}

// totals writes the figures of the clients.
func (r *result) totals(w io.Writer) {
	s := r.stats
	fmt.Fprintf(w, "%d rounds, %s of traffic: %d messages published, %d acknowledged for good, %d delivered, %d of them to groups, "+
		"and %d retained copies; %d faults that clients noticed; %d connections, %d resumes on another node, %d resends with DUP, "+
		"%d operations that were never answered; %d digests of replicas compared.\n", r.rounds, s.Length.Round(time.Second),
		s.Published, s.Acks, s.Delivered, s.Shared, s.Retained, s.Effective, s.Connections, s.Resumes, s.DupResends, s.Ambiguous,
		r.compared)
}

// waits writes the distributions of what clients waited.
func (r *result) waits(w io.Writer) {
	fmt.Fprintln(w, "| fault | whose clients | p50 | p99 | max | samples |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|")
	for _, kind := range []string{gapCrash, gapPause, gapStop} {
		g := r.gaps[kind]
		if g == nil {
			continue
		}
		for _, x := range []struct {
			whose   string
			samples []time.Duration
		}{{"of the node", g.Own}, {"of other nodes", g.Others}} {
			slices.Sort(x.samples)
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %d |\n", kind, x.whose, seconds(quantile(x.samples, 0.5)),
				seconds(quantile(x.samples, 0.99)), seconds(quantile(x.samples, 1)), len(x.samples))
		}
	}
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// between replaces what is between two markers of a text; without them it is appended.
func between(text, begin, end, generated string) string {
	section := begin + "\n" + generated + end
	before, rest, ok := strings.Cut(text, begin)
	if !ok {
		return strings.TrimRight(text, "\n") + "\n\n" + section + "\n"
	}
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		return before + section + "\n"
	}
	return before + section + after
}
