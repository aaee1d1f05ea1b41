//go:build linux

package main

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// The kinds of gaps.
const (
	gapCrash = "kill -9"
	gapPause = "pause"
	gapStop  = "planned stop"
)

var processRows = []row{
	{name: "kill -9", gap: gapCrash, inject: func(ctx context.Context, x *injection) error {
		err := x.n.kill()
		x.effective = err == nil
		x.hold(ctx, 2*time.Second, 5*time.Second)
		return err
	}},
	{name: "pause, shorter than leases", inject: func(ctx context.Context, x *injection) error {
		return x.pause(ctx, 100*time.Millisecond, 700*time.Millisecond)
	}},
	{name: "pause, longer than leases", gap: gapPause, inject: func(ctx context.Context, x *injection) error {
		return x.pause(ctx, 3*time.Second, 12*time.Second)
	}},
	{name: "kill -9 of another node during a pause", inject: func(ctx context.Context, x *injection) error {
		if err := x.n.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		x.hold(ctx, 500*time.Millisecond, 3*time.Second)
		others := x.c.others(x.n)
		other := others[x.rng.IntN(len(others))]
		err := other.kill()
		x.effective = err == nil && x.n.stopped()
		x.hold(ctx, 100*time.Millisecond, 2*time.Second)
		return errors.Join(err, other.start(), x.n.signal(syscall.SIGCONT))
	}},
	{name: "planned stop", gap: gapStop, inject: func(ctx context.Context, x *injection) error {
		err := x.stopped(x.n)
		x.hold(ctx, time.Second, 3*time.Second)
		return err
	}},
	{name: "rolling restart", whole: true, inject: func(ctx context.Context, x *injection) error {
		x.effective = true
		for _, n := range x.c.nodes {
			effective := x.effective
			if err := x.stopped(n); err != nil {
				return err
			}
			x.effective = x.effective && effective
			if err := errors.Join(n.start(), x.c.ready(ctx)); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "kill -9 of all nodes", whole: true, inject: func(ctx context.Context, x *injection) error {
		err := x.c.all(func(n *node) error { n.may(); return n.signal(syscall.SIGKILL) })
		err = errors.Join(err, x.c.all((*node).kill))
		x.effective = err == nil
		x.hold(ctx, 10*time.Millisecond, 2*time.Second)
		return err
	}},
}

// stopped stops a node in order. That it does not end well is a finding, and no reason to end
// the run.
func (x *injection) stopped(n *node) error {
	if err := n.stop(); err != nil {
		x.finding = err.Error()
		return n.kill()
	}
	x.effective = true
	return nil
}

// pause stops the process where it is.
func (x *injection) pause(ctx context.Context, low, high time.Duration) error {
	if err := x.n.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	x.hold(ctx, low, high)
	x.effective = x.n.stopped()
	return x.n.signal(syscall.SIGCONT)
}
