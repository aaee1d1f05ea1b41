package suite

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// keepMark separates what is written anew from what people have written.
const keepMark = "<!-- What follows is written by hand and kept when the report is written again. -->"

// WriteFile writes the report, keeping what stands behind keepMark in the file.
func (r *Report) WriteFile(file string) error {
	kept := "\n"
	if old, err := os.ReadFile(file); err == nil {
		if _, tail, ok := strings.Cut(string(old), keepMark); ok {
			kept = tail
		}
	}
	return os.WriteFile(file, []byte(r.Markdown()+"\n"+keepMark+kept), 0o644)
}

// Markdown is the report as text.
func (r *Report) Markdown() string {
	w := &writer{}
	w.line("# Benchmarks")
	w.line("")
	w.line("Written by `make bench`. Three Flotilla nodes run as processes of one machine, with fsync on, three replicas")
	w.line("of each of 16 partitions, and the load generator (`flotilla bench`) on the same machine.")
	if r.Mosquitto != "" {
		w.line("Beside it runs Mosquitto (%s) as one node, with nothing replicated, persistence off, and its limits on", r.Mosquitto)
		w.line("messages in flight and queued switched off. The two take turns; only one runs at a time.")
	}
	w.line("")
	w.line("- Machine: %s, %d cores, %s, %s", r.Machine.CPU, r.Machine.Cores, r.Machine.OS, r.Machine.Go)
	w.line("- Disk: %v for writing and fsyncing 4 KiB (median)", r.Machine.Fsync.Round(time.Microsecond))
	w.line("- Each scenario: %d rounds of %v after %v of warmup; the median by rate is shown, the range in brackets.",
		r.Options.Rounds, r.Options.Duration, r.Options.Warmup)
	w.line("- CPU: user and system time of all broker processes, per message delivered (per connect where connects are counted).")
	w.line("- Latency: p50 / p99 / max of the median round, measured by the load generator while it offers as much as the windows allow.")
	r.rates(w)
	r.latencies(w)
	r.topologies(w)
	r.others(w)
	if len(r.Failures) > 0 {
		w.line("\n## What failed\n")
	}
	for _, f := range r.Failures {
		w.line("- %s", strings.Join(strings.Fields(f), " "))
	}
	return w.b.String()
}

type writer struct{ b strings.Builder }

func (w *writer) line(format string, args ...any) { fmt.Fprintf(&w.b, format+"\n", args...) }

func (r *Report) rates(w *writer) {
	if len(r.Rows) == 0 {
		return
	}
	w.line("\n## Rates\n")
	w.line("| scenario | | Flotilla | CPU | Mosquitto | CPU | ratio | wanted | |")
	w.line("|---|---|--:|--:|--:|--:|--:|---|---|")
	for _, row := range r.Rows {
		own := row.Sides[0]
		other, cpu, ratio := "–", "–", math.NaN()
		if len(row.Sides) > 1 {
			other, cpu = rateOf(row.Sides[1]), micros(row.Sides[1].Median().CPU)
			ratio = own.Median().Rate / row.Sides[1].Median().Rate
		}
		wanted, verdict := row.verdict(ratio)
		w.line("| %s | %s/s | %s | %s | %s | %s | %s | %s | %s |", row.scenario.title, row.scenario.unit,
			rateOf(own), micros(own.Median().CPU), other, cpu, times(ratio), wanted, verdict)
	}
}

// verdict compares with what is wanted.
func (row Row) verdict(ratio float64) (wanted, verdict string) {
	s, m := row.scenario, row.Sides[0].Median()
	var list []string
	met := true
	if s.target > 0 {
		list = append(list, fmt.Sprintf("≥ %.0f/s", s.target))
		met = met && m.Rate >= s.target
	}
	if s.cpu > 0 {
		list = append(list, fmt.Sprintf("≤ %.0f µs", s.cpu))
		met = met && m.CPU <= s.cpu
	}
	if s.floor > 0 && !math.IsNaN(ratio) {
		list = append(list, fmt.Sprintf("≥ %.1f ×", s.floor))
		met = met && ratio >= s.floor
	}
	if len(list) == 0 {
		return "", ""
	}
	return strings.Join(list, ", "), yes(met)
}

func (r *Report) latencies(w *writer) {
	var rows []string
	for _, row := range r.Rows {
		for _, side := range row.Sides {
			res := side.Median().Result
			first, second := res.Ack, res.Receive
			if res.Connack != nil {
				first, second = *res.Connack, *res.Suback
			}
			rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %.0f ms | %d | %d |", row.scenario.title, side.Name,
				latency(first.P50, first.P99, first.Max, first.Count), latency(second.P50, second.P99, second.Max, second.Count),
				res.SilenceMS, res.Lost, res.Duplicates))
		}
	}
	if len(rows) == 0 {
		return
	}
	w.line("\n## Latencies under full load\n")
	w.line("| scenario | | publish to ack (connect to CONNACK) | publish to receive (SUBSCRIBE to SUBACK) | longest silence | lost | duplicates |")
	w.line("|---|---|---|---|--:|--:|--:|")
	for _, row := range rows {
		w.line("%s", row)
	}
}

func (r *Report) topologies(w *writer) {
	if len(r.Rows) == 0 {
		return
	}
	w.line("\n## What each scenario is\n")
	for _, row := range r.Rows {
		crossed := ""
		if c := row.Sides[0].Median().Result.Crossed; c > 0 {
			crossed = fmt.Sprintf(" %.0f %% of the pairs of publisher and subscriber are on different Flotilla nodes.", 100*c)
		}
		w.line("- %s (`%s`): %s.%s", row.scenario.title, row.scenario.name, row.opts.Describe(), crossed)
	}
}

func (r *Report) others(w *writer) {
	if r.Idle == nil && len(r.Conns) == 0 && r.Kill == nil {
		return
	}
	w.line("\n## At rest, and when a node dies\n")
	w.line("| what | measured | wanted | |")
	w.line("|---|---|---|---|")
	if i := r.Idle; i != nil {
		w.line("| CPU of an idle cluster, all nodes together | %.1f %% of a core | ≤ %.0f %% | %s |", i.CPU, targetIdleCPU, yes(i.CPU <= targetIdleCPU))
		w.line("| memory of its nodes (RSS) | %v MiB | ≤ %d MiB each | %s |", mib(i.RSS), targetIdleRSS>>20, yes(slices.Max(i.RSS) <= targetIdleRSS))
	}
	for _, c := range r.Conns {
		wanted, verdict := "", ""
		if c.Name == (*cluster)(nil).name() {
			wanted, verdict = fmt.Sprintf("≤ %d KiB", targetConnection>>10), yes(c.Bytes <= targetConnection)
		}
		w.line("| %s: memory per idle connection, %d of them with one subscription each | %.1f KiB | %s | %s |", c.Name, idleCount, c.Bytes/1024, wanted, verdict)
	}
	if r.Kill != nil {
		var silences []string
		worst, lost, duplicates := 0.0, uint64(0), uint64(0)
		for _, res := range r.Kill.Rounds {
			silences = append(silences, fmt.Sprintf("%.0f", res.SilenceMS))
			worst, lost, duplicates = max(worst, res.SilenceMS), lost+res.Lost, duplicates+res.Duplicates
		}
		w.line("| kill -9 of a node: longest silence of any of %d subscribers on another node, a round each | %s ms | ≤ %d ms | %s |",
			killPairs, strings.Join(silences, ", "), targetSilence.Milliseconds(), yes(worst <= float64(targetSilence.Milliseconds())))
		w.line("| the same: acknowledged messages lost, duplicates (QoS 1, %d messages/s) | %d, %d | 0 lost | %s |", killRate, lost, duplicates, yes(lost == 0))
	}
}

func rateOf(s Side) string {
	low, high := s.Rounds[0].Rate, s.Rounds[len(s.Rounds)-1].Rate
	if len(s.Rounds) == 1 {
		return fmt.Sprintf("%.0f", low)
	}
	return fmt.Sprintf("%.0f (%.0f–%.0f)", s.Median().Rate, low, high)
}

func micros(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.1f µs", v)
}

func times(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.2f ×", v)
}

// latency prints microseconds as milliseconds.
func latency(p50, p99, most float64, count uint64) string {
	if count == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f / %.1f / %.1f ms", p50/1000, p99/1000, most/1000)
}

func yes(met bool) string {
	if met {
		return "met"
	}
	return "**missed**"
}
