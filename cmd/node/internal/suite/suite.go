package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/bench"
)

// Options say what to measure.
type Options struct {
	Binary    string // the flotilla binary
	Env       []string
	Dir       string // where a folder for the data is made; it must be on the disk that is to be measured
	Mosquitto string // its binary; empty: measure without
	Duration  time.Duration
	Warmup    time.Duration
	Rounds    int      // how often each scenario is measured; the median counts
	Only      []string // names of scenarios; empty: all
	Progress  func(line string)
}

// Report is everything that was measured.
type Report struct {
	Machine   Machine
	Mosquitto string // version; empty: measured without
	Options   Options
	Rows      []Row
	Idle      *IdleCluster
	Conns     []Connections
	Kill      *Kill
	Failures  []string // measurements that failed, and why
}

// Row is a scenario with its measurements.
type Row struct {
	scenario scenario
	opts     bench.Options
	Sides    []Side
}

// Side is one contestant's part of a row: all rounds in order of their rate.
type Side struct {
	Name   string
	Rounds []Measured
}

// Measured is one round.
type Measured struct {
	Result *bench.Result
	Rate   float64
	CPU    float64 // µs of broker CPU per unit; NaN: unknown
}

// Median is the round with the median rate.
func (s Side) Median() Measured { return s.Rounds[len(s.Rounds)/2] }

// IdleCluster is what nodes use that have nothing to do.
type IdleCluster struct {
	CPU float64 // % of a core, all nodes together
	RSS []int64 // bytes, by node
}

// Connections is what idle connections cost.
type Connections struct {
	Name  string
	Bytes float64 // of all processes together, per connection
}

// Kill is what subscribers notice of a node that is killed.
type Kill struct{ Rounds []*bench.Result }

// runner measures.
type runner struct {
	opts  Options
	dir   string
	sides []contestant
	own   *cluster
}

// Run measures all that is asked for. It takes several minutes. What failed
// among them is in the report.
func Run(ctx context.Context, opts Options) (*Report, error) {
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opts.Dir, "suite-")
	if err != nil {
		return nil, err
	}
	r := &runner{opts: opts, dir: dir}
	rep, err := r.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w; the nodes' logs are in %s", err, dir)
	}
	if len(rep.Failures) > 0 {
		opts.Progress("something failed; the nodes' logs are in " + dir)
		return rep, nil
	}
	return rep, os.RemoveAll(dir)
}

// Err is not nil if a measurement failed.
func (r *Report) Err() error {
	if len(r.Failures) > 0 {
		return fmt.Errorf("%d measurements failed, the first: %s", len(r.Failures), r.Failures[0])
	}
	return nil
}

func (r *runner) wants(name string) bool {
	return len(r.opts.Only) == 0 || slices.Contains(r.opts.Only, name)
}

func (r *runner) run(ctx context.Context) (*Report, error) {
	rep := &Report{Options: r.opts}
	var err error
	if rep.Machine, err = inspect(r.dir); err != nil {
		return nil, err
	}
	if r.own, err = newCluster(r.opts.Binary, r.opts.Env, r.dir); err != nil {
		return nil, err
	}
	r.sides = []contestant{r.own}
	if r.opts.Mosquitto != "" {
		m, err := newMosquitto(r.opts.Mosquitto, r.dir)
		if err != nil {
			return nil, err
		}
		r.sides = append(r.sides, m)
		rep.Mosquitto = mosquittoVersion(r.opts.Mosquitto)
	}
	for _, s := range scenarios() {
		err := r.step(ctx, rep, s.name, func() error {
			row, err := r.scenario(ctx, s)
			if err == nil {
				rep.Rows = append(rep.Rows, row)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, m := range []struct {
		name    string
		measure func(context.Context, *Report) error
	}{{idleCluster, r.idle}, {idleConnections, r.connections}, {killedNode, r.kill}} {
		if err := r.step(ctx, rep, m.name, func() error { return m.measure(ctx, rep) }); err != nil {
			return nil, err
		}
	}
	return rep, nil
}

// step carries out a measurement if it is wanted. One that fails is reported
// and does not cost the others, which take minutes. The error is the end of ctx.
func (r *runner) step(ctx context.Context, rep *Report, name string, measure func() error) error {
	if !r.wants(name) {
		return nil
	}
	err := measure()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		rep.Failures = append(rep.Failures, fmt.Sprintf("%s: %v", name, err))
		r.opts.Progress(fmt.Sprintf("%-12s failed: %v", name, err))
	}
	return nil
}

// with runs f while a contestant runs.
func with(ctx context.Context, c contestant, f func() error) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	err := f()
	if err == nil {
		err = ctx.Err() // a measurement that was cut short is none
	}
	return errors.Join(err, c.stop())
}

func (r *runner) options() bench.Options {
	o := bench.Default()
	o.Duration, o.Warmup = r.opts.Duration, r.opts.Warmup
	return o
}

// scenario measures the contestants in turn.
func (r *runner) scenario(ctx context.Context, s scenario) (Row, error) {
	o := r.options()
	s.opts(&o)
	row := Row{scenario: s, opts: o}
	for _, c := range r.sides {
		row.Sides = append(row.Sides, Side{Name: c.name()})
	}
	for round := range r.opts.Rounds {
		for i, c := range r.sides {
			err := with(ctx, c, func() error {
				m, err := r.measure(ctx, c, s, o)
				if err != nil {
					return err
				}
				row.Sides[i].Rounds = append(row.Sides[i].Rounds, m)
				r.opts.Progress(fmt.Sprintf("%-12s round %d  %-10s %8.0f %s/s, %.1f µs CPU each", s.name, round+1, c.name(), m.Rate, s.unit, m.CPU))
				return nil
			})
			if err != nil {
				return row, fmt.Errorf("%s: %w", c.name(), err)
			}
		}
	}
	for _, side := range row.Sides {
		slices.SortFunc(side.Rounds, func(a, b Measured) int { return cmp.Compare(a.Rate, b.Rate) })
	}
	return row, nil
}

// measure runs the load once and takes the CPU time of the measured part.
func (r *runner) measure(ctx context.Context, c contestant, s scenario, o bench.Options) (Measured, error) {
	var used [2]usage
	var errs [2]error
	o.Addrs = c.addrs()
	o.Measuring = func(begins bool) {
		i := 1
		if begins {
			i = 0
		}
		used[i], errs[i] = readUsage(c.pids())
	}
	res, err := bench.Run(ctx, o)
	if err != nil {
		return Measured{}, err
	}
	if err := res.Err(o.QoS); err != nil {
		return Measured{}, err
	}
	m := Measured{Result: res, Rate: s.rate(res), CPU: math.NaN()}
	if errors.Join(errs[:]...) == nil && m.Rate > 0 {
		m.CPU = float64((used[1].cpu - used[0].cpu).Microseconds()) / (m.Rate * res.Seconds)
	}
	return m, nil
}
