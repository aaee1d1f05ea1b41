package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/bench"
)

// idle measures a cluster that has nothing to do.
func (r *runner) idle(ctx context.Context, rep *Report) error {
	return with(ctx, r.own, func() error {
		if err := pause(ctx, idleSettle); err != nil {
			return err
		}
		pids := r.own.pids()
		before, err := readUsage(pids)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := pause(ctx, idleMeasured); err != nil {
			return err
		}
		after, err := readUsage(pids)
		if err != nil {
			return err
		}
		rep.Idle = &IdleCluster{CPU: 100 * float64(after.cpu-before.cpu) / float64(time.Since(began))}
		for _, pid := range pids {
			u, err := readProcess(pid)
			if err != nil {
				return err
			}
			rep.Idle.RSS = append(rep.Idle.RSS, u.rss)
		}
		r.opts.Progress(fmt.Sprintf("%-12s %.1f %% of a core, %v MiB", idleCluster, rep.Idle.CPU, mib(rep.Idle.RSS)))
		return nil
	})
}

// connections measures the memory of idle connections.
func (r *runner) connections(ctx context.Context, rep *Report) error {
	for _, c := range r.sides {
		err := with(ctx, c, func() error {
			if err := pause(ctx, connectionsSettle); err != nil {
				return err
			}
			before, err := readUsage(c.pids())
			if err != nil {
				return err
			}
			var after usage
			o := r.options()
			o.Scenario, o.Idle, o.Addrs, o.QoS = bench.Idle, idleCount, c.addrs(), 1
			o.Warmup, o.Duration = 0, connectionsSettle
			o.Measuring = func(begins bool) {
				if !begins {
					after, err = readUsage(c.pids())
				}
			}
			res, runErr := bench.Run(ctx, o)
			if runErr != nil {
				return runErr
			}
			if err != nil {
				return err
			}
			if err := res.Err(o.QoS); err != nil {
				return err
			}
			conns := Connections{Name: c.name(), Bytes: float64(after.rss-before.rss) / idleCount}
			rep.Conns = append(rep.Conns, conns)
			r.opts.Progress(fmt.Sprintf("%-12s %-10s %.1f KiB each", idleConnections, conns.Name, conns.Bytes/1024))
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
	}
	return nil
}

// kill kills a node (SIGKILL) while messages flow between the two others, and
// starts it again for the next round.
func (r *runner) kill(ctx context.Context, rep *Report) error {
	rep.Kill = &Kill{}
	return with(ctx, r.own, func() error {
		addrs := r.own.addrs()
		for round := range r.opts.Rounds {
			victim := round % len(addrs)
			o := r.options()
			o.Scenario, o.QoS, o.Persistent, o.Publishers = bench.Pairs, 1, true, killPairs
			o.Rate, o.Window, o.Duration = killRate, 0, max(o.Duration, 6*time.Second)
			o.PubAddrs, o.SubAddrs = addrs[(victim+1)%3:(victim+1)%3+1], addrs[(victim+2)%3:(victim+2)%3+1]
			killed := make(chan error, 1)
			o.Measuring = func(begins bool) {
				if begins {
					go func() {
						err := pause(ctx, o.Duration/3)
						if err == nil {
							err = r.own.nodes.Kill(victim)
						}
						killed <- err
					}()
				}
			}
			res, err := bench.Run(ctx, o)
			if err != nil {
				return err
			}
			if err := <-killed; err != nil {
				return err
			}
			if err := res.Err(o.QoS); err != nil {
				return err
			}
			rep.Kill.Rounds = append(rep.Kill.Rounds, res)
			r.opts.Progress(fmt.Sprintf("%-12s round %d  n%d killed, longest silence %.0f ms, lost %d, duplicates %d", killedNode, round+1, victim+1, res.SilenceMS, res.Lost, res.Duplicates))
			if err := r.own.nodes.Restart(victim); err != nil {
				return err
			}
			if err := r.own.ready(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// pause lets time pass that is part of a measurement.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func mib(list []int64) []int64 {
	out := make([]int64, len(list))
	for i, n := range list {
		out[i] = n >> 20
	}
	return out
}
