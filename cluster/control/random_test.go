package control

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

var (
	seedFlag  = flag.Int64("seed", 0, "run this seed only")
	seedsFlag = flag.Int("seeds", 25, "how many seeds each random test runs")
)

// seeds runs f for many seeds, or for the one that -seed names.
func seeds(t *testing.T, f func(t *testing.T, r *rand.Rand)) {
	first, n := int64(1), *seedsFlag
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	for s := first; s < first+int64(n); s++ {
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			bubble(t, func(t *testing.T) { f(t, rand.New(rand.NewSource(s))) })
		})
	}
}

// Whatever happens to nodes and links while they found, it ends with one
// cluster of all, and at no time are there two.
func TestRandomFounding(t *testing.T) {
	seeds(t, func(t *testing.T, r *rand.Rand) {
		expect := 1 + r.Intn(5)
		extra := 0 // now and then one more node than is needed
		if expect > 1 {
			extra = r.Intn(3) / 2
		}
		var all []string
		for i := range expect + extra {
			all = append(all, string(rune('a'+i)))
		}
		w := newWorld(t, expect, all...)
		nr := rand.New(rand.NewSource(r.Int63())) // the network's own: owned by its lock
		w.net.delay = func() time.Duration { return time.Duration(nr.Intn(20)) * time.Millisecond }
		ids := make(map[string]bool)
		for end := time.Now().Add(time.Duration(1+r.Intn(4)) * time.Second); time.Now().Before(end); {
			w.disturb(r, all)
			time.Sleep(time.Duration(r.Intn(200)) * time.Millisecond)
			w.noteClusters(ids)
		}
		w.net.heal()
		for _, n := range all {
			w.table.Cut(n, false)
			if w.nodes[n].ctl == nil {
				w.nodes[n].start()
			}
		}
		w.until(60*time.Second, "one cluster", func() bool {
			w.noteClusters(ids)
			in := 0
			for _, n := range w.running() {
				if n.ctl.Status().Phase == phaseRunning {
					in++
				}
			}
			return in == expect+extra
		})
		if len(ids) != 1 {
			t.Errorf("clusters: %v", ids)
		}
		for _, n := range w.nodes {
			if n.fatal != nil {
				t.Errorf("%s: fatal: %v", n.name, n.fatal)
			}
		}
	})
}

// disturb does one random thing.
func (w *world) disturb(r *rand.Rand, all []string) {
	n := w.nodes[all[r.Intn(len(all))]]
	switch k := r.Intn(10); {
	case n.ctl == nil && k < 6:
		n.start()
	case n.ctl != nil && k < 2:
		n.kill()
	case n.ctl != nil && k < 3:
		n.stop()
	case k < 6:
		w.table.Cut(n.name, r.Intn(2) == 0)
	case k < 8:
		w.net.split([]string{n.name}, []string{all[r.Intn(len(all))]}, true)
	case k < 9:
		w.net.heal()
	}
}

// noteClusters collects every cluster that somebody believes in, or whose first
// entry is on a disk.
func (w *world) noteClusters(ids map[string]bool) {
	for _, n := range w.nodes {
		if n.ctl != nil {
			if id := n.ctl.State().ClusterID; id != "" {
				ids[id] = true
			}
			if id := n.ctl.founder.clusterID(); id != "" {
				ids[id] = true
			}
		}
	}
}

// At no moment is an incarnation closed anywhere while its holder's lease is
// valid, whatever happens to nodes and links, and with clocks that drift apart.
func TestRandomLeaseSafety(t *testing.T) {
	seeds(t, func(t *testing.T, r *rand.Rand) {
		all := []string{"a", "b", "c", "d", "e"}[:3+2*r.Intn(2)]
		w := newWorld(t, len(all), all...)
		nr := rand.New(rand.NewSource(r.Int63())) // the network's own: owned by its lock
		w.net.delay = func() time.Duration { return time.Duration(nr.Intn(1+nr.Intn(30))) * time.Millisecond }
		slow := ""
		if r.Intn(2) == 0 {
			slow = all[r.Intn(len(all))]
		}
		drift := make(map[string]float64)
		for _, n := range all {
			drift[n] = 0.955 + 0.09*r.Float64() // at most a tenth apart
		}
		w.tune = func(name string, o *Options) {
			epoch, rate := time.Now(), drift[name]
			o.Boottime = func() time.Duration { return time.Hour + time.Duration(rate*float64(time.Since(epoch))) }
			if name == slow {
				// A leader that goes on for long after it was deposed, like one
				// whose process was paused.
				o.HeartbeatTimeout, o.ElectionTimeout, o.LeaderLeaseTimeout = 5*time.Second, 5*time.Second, 5*time.Second
			}
		}
		w.start(all...)
		w.ready()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			if slow != "" && r.Intn(3) == 0 {
				w.lead(slow)
			}
			w.breakSomething(r, all)
			for range r.Intn(1500) {
				time.Sleep(time.Millisecond)
				w.checkLeases(ctx)
			}
		}
		w.net.heal()
		w.revive()
		w.until(30*time.Second, "everyone serves", func() bool {
			w.checkLeases(ctx)
			for _, n := range w.running() {
				if !n.ctl.LeaseValid() || !n.ctl.EveryoneKnows() {
					return false
				}
			}
			return len(w.running()) == len(all)
		})
		for _, n := range w.nodes {
			if n.fatal != nil {
				t.Errorf("%s: fatal: %v", n.name, n.fatal)
			}
		}
	})
}

// breakSomething does one random thing to a cluster that runs.
func (w *world) breakSomething(r *rand.Rand, all []string) {
	n, m := w.nodes[all[r.Intn(len(all))]], all[r.Intn(len(all))]
	switch k := r.Intn(12); {
	case n.ctl == nil:
		n.start()
	case k < 2 && len(w.running()) > len(all)/2+1:
		wipe := k == 0 && w.whole(len(all))
		n.kill()
		w.suspect(n.name)
		if wipe {
			w.wipe(n.name)
		}
	case k < 4:
		for _, other := range all {
			if other != n.name {
				w.net.split([]string{n.name}, []string{other}, true)
			}
		}
		w.suspect(n.name)
	case k < 6:
		w.net.split([]string{n.name}, []string{m}, true)
	case k < 8:
		w.net.hold(n.name, m)
	case k < 9:
		w.suspect(n.name) // for no reason
	default:
		w.net.heal()
	}
}

// lead hands the leadership to the node, if all goes well: raft waits for ever
// in a transfer whose leader steps down meanwhile.
func (w *world) lead(name string) {
	if w.nodes[name].ctl == nil || !w.net.whole() {
		return
	}
	for _, n := range w.running() {
		if n.ctl.leading.Load() != nil && n.name != name {
			id := raft.ServerID(fmt.Sprintf("%s#%016x", name, w.nodes[name].disk.incarnation))
			if err := n.ctl.raft.Load().LeadershipTransferToServer(id, raft.ServerAddress(id)).Error(); err != nil {
				w.t.Logf("transfer to %s: %v", name, err)
			}
		}
	}
}

// whole reports whether all nodes are in, so that one disk may be lost.
func (w *world) whole(nodes int) bool {
	for _, n := range w.running() {
		if n.ctl.Status().Phase != phaseRunning {
			return false
		}
	}
	return len(w.running()) == nodes
}

// revive starts every node that is down.
func (w *world) revive() {
	for _, n := range w.nodes {
		if n.ctl == nil {
			n.start()
		}
	}
}

// checkLeases compares every holder with what every node has applied, and
// starts incarnations where there is none.
func (w *world) checkLeases(ctx context.Context) {
	w.t.Helper()
	for _, n := range w.running() {
		c := n.ctl
		gateway := c.Gateway()
		if gateway == 0 {
			if !n.starting.Swap(true) {
				go func() {
					defer n.starting.Store(false)
					c.StartIncarnation(ctx)
				}()
			}
			continue
		}
		if !c.LeaseValid() {
			continue
		}
		for _, other := range w.running() {
			if other.ctl.State().Closed(gateway) {
				w.t.Fatalf("%s has closed %x of %s, whose lease is valid", other.name, gateway, n.name)
			}
		}
	}
}
