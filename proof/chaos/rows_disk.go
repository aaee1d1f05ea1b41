//go:build linux

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

const (
	// stallNoticed is how soon a node must have ended after its disk fails.
	stallNoticed = 15 * time.Second
	slowWrite    = "0.1" // a bound of flotilla_fsync_duration_seconds: what takes longer is slow
)

var diskRows = []row{
	{name: "slow disk", needs: []need{disks}, inject: func(ctx context.Context, x *injection) error {
		x.before = x.slowWrites(ctx)
		end := time.Now().Add(3*time.Second + time.Duration(x.rng.Int64N(int64(5*time.Second))))
		var err error
		for err == nil && ctx.Err() == nil && time.Now().Before(end) {
			err = x.stall(ctx, 100*time.Millisecond, 400*time.Millisecond)
			x.hold(ctx, 10*time.Millisecond, 50*time.Millisecond)
		}
		return err
	}, after: slowed},
	{name: "stalled disk", needs: []need{disks}, inject: func(ctx context.Context, x *injection) error {
		x.before = x.slowWrites(ctx)
		x.n.may() // a node may give a disk up that does not answer
		err := x.stall(ctx, 2*time.Second, 10*time.Second)
		x.effective = !x.n.running()
		return err
	}, after: slowed},
	{name: "failing disk", needs: []need{disks}, inject: func(_ context.Context, x *injection) error {
		x.n.may()
		if err := x.n.disk.shutdown(flushJournal); err != nil {
			return err
		}
		if _, err := x.n.gone(stallNoticed); err != nil {
			x.finding = x.n.name + " goes on without its disk"
		}
		x.effective = true
		return errors.Join(x.n.kill(), x.n.disk.remount())
	}},
	{name: "full disk", needs: []need{disks}, inject: func(ctx context.Context, x *injection) error {
		x.n.may() // a node may end when it cannot write
		leave := uint64(0)
		if x.rng.IntN(2) == 0 {
			leave = 100 << 20 // below disk-reserve, so that the node should refuse
		}
		if err := x.n.disk.fill(leave); err != nil {
			return err
		}
		x.hold(ctx, 3*time.Second, 8*time.Second)
		x.effective = !x.n.running() || x.n.metric(ctx, "flotilla_disk_below_reserve", "") > 0
		return x.n.disk.empty()
	}},
	{name: "power loss, unsynced writes lost", needs: []need{disks}, inject: func(ctx context.Context, x *injection) error {
		err := errors.Join(powerOff(x.n), x.n.kill(), x.n.disk.remount())
		x.effective = err == nil && x.n.disk.lost()
		x.hold(ctx, time.Second, 3*time.Second)
		return err
	}},
	{name: "power loss of all nodes", needs: []need{disks}, whole: true, inject: func(ctx context.Context, x *injection) error {
		err := x.c.all(powerOff)
		err = errors.Join(err, x.c.all((*node).kill), x.c.all(func(n *node) error { return n.disk.remount() }))
		x.effective = err == nil
		for _, n := range x.c.nodes {
			x.effective = n.disk.lost() && x.effective
		}
		return err
	}},
	{name: "flipped bits in the log of a stopped node", inject: func(ctx context.Context, x *injection) error {
		return x.damage(flip)
	}, after: noticed},
	{name: "shortened log of a stopped node", inject: func(ctx context.Context, x *injection) error {
		return x.damage(shorten)
	}, after: noticed},
	{name: "wiped disk under the same name", inject: func(ctx context.Context, x *injection) error {
		if err := errors.Join(x.n.kill(), os.RemoveAll(x.n.data())); err != nil {
			return err
		}
		x.effective = true
		x.hold(ctx, 100*time.Millisecond, 2*time.Second)
		return nil
	}},
}

// powerOff ends the disk and then the process: nothing that was not synced survives.
func powerOff(n *node) error {
	n.may()
	return errors.Join(n.disk.canary(), n.disk.shutdown(loseJournal), n.signal(syscall.SIGKILL))
}

// stall holds back the node's writes.
func (x *injection) stall(ctx context.Context, low, high time.Duration) error {
	if err := x.n.disk.freeze(); err != nil {
		return err
	}
	x.hold(ctx, low, high)
	return x.n.disk.thaw()
}

// slowed says whether the node has had writes that took long.
func slowed(ctx context.Context, x *injection) {
	x.effective = x.effective || x.slowWrites(ctx) > x.before
}

// slowWrites counts the node's durable writes that took long.
func (x *injection) slowWrites(ctx context.Context) float64 {
	const histogram = "flotilla_fsync_duration_seconds"
	return x.n.metric(ctx, histogram+"_count", "") - x.n.metric(ctx, histogram+"_bucket", `le="`+slowWrite+`"`)
}

// noticed says whether the node has set a replica aside: damage may also hit what nobody needs
// any more.
func noticed(ctx context.Context, x *injection) {
	x.effective = x.effective || x.n.metric(ctx, "flotilla_replicas_set_aside_total", "") > 0
}

// damage changes files of the node while it is stopped.
func (x *injection) damage(how func([]string, *rand.Rand) (string, error)) error {
	if err := x.n.kill(); err != nil {
		return err
	}
	files, err := logFiles(x.n.data())
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("no log files under " + x.n.data())
	}
	x.note, err = how(files, x.rng)
	return err
}
