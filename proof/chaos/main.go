//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/check"
)

// options are those of a run.
type options struct {
	binary, skewed string // skewed "": no faults of clocks
	out            string
	report         string // file to write the results to; "": none
	logLevel       string
	length, round  time.Duration
	seed           uint64
	publishers     int
	think          time.Duration
	// limit is within what time all nodes must serve again when a fault is over, and what was
	// acknowledged must be delivered. Replicas may take three times as long to follow.
	limit      time.Duration
	rows       []row
	thresholds check.Thresholds
	stdout     io.Writer
}

func defaults(stdout io.Writer) options {
	return options{logLevel: "info", length: 5 * time.Minute, round: 75 * time.Second, seed: 1, publishers: 8, think: 10 * time.Millisecond,
		limit: time.Minute, rows: table(), thresholds: check.Full(), stdout: stdout}
}

func (o options) say(format string, args ...any) {
	fmt.Fprintf(o.stdout, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o := defaults(stdout)
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.SetOutput(stdout)
	f.StringVar(&o.binary, "binary", "bin/flotilla", "the broker")
	f.StringVar(&o.skewed, "skewed", "", "the broker built with -tags skewedclock, for faults of clocks")
	f.StringVar(&o.out, "out", "bin/chaos-out", "folder for the nodes' logs, and histories that show violations")
	f.StringVar(&o.report, "report", "", "Markdown file whose section between the markers gets the results")
	f.StringVar(&o.logLevel, "log-level", o.logLevel, "of the nodes")
	f.DurationVar(&o.length, "length", o.length, "for how long faults are injected")
	f.DurationVar(&o.round, "round", o.round, "length of a round, after which its history is checked")
	f.Uint64Var(&o.seed, "seed", o.seed, "of faults and workload; what happens then depends on real time, too")
	f.DurationVar(&o.limit, "limit", o.limit, "within what time all nodes must serve again when a fault is over")
	f.IntVar(&o.publishers, "publishers", o.publishers, "clients that publish")
	f.DurationVar(&o.think, "think", o.think, "mean time between two actions of a client")
	only := f.String("only", "", "inject only the rows with one of these words, separated by commas")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *only != "" {
		if o.rows = selected(o.rows, strings.Split(*only, ",")); len(o.rows) == 0 {
			return fmt.Errorf("no row has one of the words %q", *only)
		}
	}
	began := time.Now()
	r, c, err := play(ctx, o)
	if r == nil {
		return err
	}
	r.table(stdout, o.rows, c.skipped)
	r.waits(stdout)
	r.totals(stdout)
	for _, text := range r.findings {
		fmt.Fprintln(stdout, text)
	}
	if err == nil && o.report != "" {
		err = document(o, c, r, began)
	}
	return errors.Join(err, r.verdict(o.thresholds))
}

// selected keeps the rows whose names contain one of some words.
func selected(rows []row, words []string) (out []row) {
	for _, r := range rows {
		for _, word := range words {
			if strings.Contains(r.name, strings.TrimSpace(word)) {
				out = append(out, r)
				break
			}
		}
	}
	return out
}

// play runs rounds until the length is over. Without a result there was no cluster. The
// cluster that it returns is closed.
func play(ctx context.Context, o options) (r *result, c *cluster, err error) {
	var abs error
	for _, path := range []*string{&o.binary, &o.skewed, &o.out} {
		if *path != "" && abs == nil {
			*path, abs = filepath.Abs(*path)
		}
	}
	if abs != nil {
		return nil, nil, abs
	}
	c, err = newCluster(3, o)
	defer func() { err = errors.Join(err, c.close()) }()
	if err != nil {
		return nil, c, err
	}
	k := &chaos{o: o, c: c, rng: rand.New(rand.NewPCG(o.seed, 0xc4a05)), result: newResult()}
	if err := k.startAll(); err != nil {
		return nil, c, err
	}
	if err := c.await(ctx); err != nil {
		return nil, c, err
	}
	o.say("three nodes serve; seed %d, logs in %s", o.seed, o.out)
	end := time.Now().Add(o.length)
	for number := 1; ; number++ {
		until := time.Now().Add(o.round)
		if until.After(end) {
			until = end
		}
		if err := k.round(ctx, number, until); err != nil {
			return k.result, c, err
		}
		if !time.Now().Before(end) {
			return k.result, c, nil
		}
	}
}
