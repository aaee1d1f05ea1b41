//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var machineRows = []row{
	{name: "clock offset and jumps", needs: []need{skew}, inject: func(ctx context.Context, x *injection) error {
		if err := x.setClock(); err != nil {
			return err
		}
		if err := errors.Join(x.n.kill(), x.n.startWith(true), x.c.ready(ctx)); err != nil {
			return err
		}
		for range 3 {
			x.hold(ctx, time.Second, 3*time.Second)
			for _, other := range x.c.others(x.n) {
				off := other.metric(ctx, "flotilla_clock_offset_seconds", `member="`+x.n.name+`"`)
				x.effective = x.effective || math.Abs(off) > 30
			}
			if err := x.setClock(); err != nil {
				return err
			}
		}
		return errors.Join(x.n.kill(), x.n.startWith(false))
	}},
	{name: "memory limit", needs: []need{groups}, inject: func(ctx context.Context, x *injection) error {
		x.n.may() // the kernel ends a process that it cannot get below the limit
		before, _ := x.n.cg.hits()
		const room = 1 << 20 // what it writes to its log fills that soon
		limit := x.n.anonymous() + room
		x.note = fmt.Sprintf("%d MiB", limit>>20)
		err := x.n.cg.limitMemory(limit)
		if errors.Is(err, unix.EBUSY) { // version 1: the kernel could not get below it
			x.note += ", refused by the kernel"
			return nil
		}
		x.hold(ctx, 3*time.Second, 10*time.Second)
		after, _ := x.n.cg.hits()
		x.effective = after > before
		if !x.n.running() {
			x.note += ", killed by the kernel"
		}
		return errors.Join(err, x.n.cg.limitMemory(0))
	}},
	{name: "CPU starvation", needs: []need{groups}, inject: func(ctx context.Context, x *injection) error {
		_, before := x.n.cg.hits()
		percent := 2 + x.rng.IntN(15)
		x.note = fmt.Sprintf("%d%% of a processor", percent)
		err := x.n.cg.limitCPU(percent)
		x.hold(ctx, 3*time.Second, 10*time.Second)
		_, after := x.n.cg.hits()
		x.effective = after > before
		return errors.Join(err, x.n.cg.limitCPU(0))
	}},
}

// setClock draws how far the skewed clock of the node is off: minutes to days, either way.
func (x *injection) setClock() error {
	off := time.Duration(math.Pow(10, 2+3*x.rng.Float64())) * time.Second
	if x.rng.IntN(2) == 0 {
		off = -off
	}
	x.note = off.String()
	// By renaming: the node may read it at any time.
	tmp := x.n.clockFile() + ".tmp"
	return errors.Join(os.WriteFile(tmp, []byte(off.String()), 0o644), os.Rename(tmp, x.n.clockFile()))
}

// startWith starts the node with the shipped binary or the one whose clock is skewed.
func (n *node) startWith(skewed bool) error {
	n.mu.Lock()
	n.skewed = skewed
	n.mu.Unlock()
	return n.start()
}
