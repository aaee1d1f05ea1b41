package sim_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/sim"
	"github.com/flotilla-mqtt/flotilla/proof/simnet"
)

// injector breaks a cluster under traffic, in ways drawn from a seed.
type injector struct {
	t   *testing.T
	c   *sim.Cluster
	rec *history.Recorder
	rng *rand.Rand
}

// frequentSnapshots makes restarted nodes begin with a snapshot, and those that were away catch
// up by one. The WAL is kept short because the disk in memory copies a file at each sync.
func frequentSnapshots(o *cluster.Options) {
	o.Partitions, o.SnapshotBytes, o.MemTableBytes = 6, 96<<10, 256<<10
}

type fault struct {
	kind   string
	weight int
	inject func(*injector)
}

// faults are what may happen, and how often one comes beside the others.
var faults = []fault{
	{"crash", 4, func(i *injector) { i.crash(i.node(), false) }},
	{"power", 1, func(i *injector) { i.crash(i.node(), true) }},
	{"cut", 2, (*injector).cutOff},
	{"one-way", 1, (*injector).cutOneWay},
	{"reset", 1, (*injector).reset},
	{"power-cut", 2, (*injector).powerCut},
	{"slow", 2, (*injector).slow},
	{"wiped", 1, func(i *injector) { i.loseLog((*sim.Disk).Wipe) }},
	{"rolled-back", 1, func(i *injector) { i.loseLog((*sim.Disk).RollBackLog) }},
	{"clock", 1, (*injector).skew},
}

// inject breaks one thing after the other and mends it. kinds names what may happen, with commas
// between; empty: everything.
func inject(t *testing.T, c *sim.Cluster, rec *history.Recorder, seed uint64, n int, kinds string) {
	i := &injector{t: t, c: c, rec: rec, rng: rand.New(rand.NewPCG(seed, 99))}
	chosen := slices.Clone(faults)
	if kinds != "" {
		names := strings.Split(kinds, ",")
		chosen = slices.DeleteFunc(chosen, func(f fault) bool { return !slices.Contains(names, f.kind) })
		if len(chosen) != len(names) {
			t.Fatalf("unknown kinds of faults in %q", kinds)
		}
	}
	total := 0
	for _, f := range chosen {
		total += f.weight
	}
	for range n {
		i.wait(1000, 4000)
		k := i.rng.IntN(total)
		for _, f := range chosen {
			if k -= f.weight; k < 0 {
				f.inject(i)
				break
			}
		}
	}
}

// wait waits from low to high milliseconds.
func (i *injector) wait(low, high int) {
	time.Sleep(time.Duration(low+i.rng.IntN(high-low)) * time.Millisecond)
}

// away waits for as long as something is broken: below a lease's time or far above.
func (i *injector) away() { i.wait(200, 6200) }

func (i *injector) node() *sim.Node { return i.c.Nodes[i.rng.IntN(len(i.c.Nodes))] }

// others are all nodes but one, in drawn order.
func (i *injector) others(n *sim.Node) []*sim.Node {
	var others []*sim.Node
	for _, k := range i.rng.Perm(len(i.c.Nodes)) {
		if i.c.Nodes[k] != n {
			others = append(others, i.c.Nodes[k])
		}
	}
	return others
}

func (i *injector) crash(n *sim.Node, silent bool) {
	kill(i.t, i.rec, n, silent)
	i.away()
	boot(i.t, i.rec, n)
}

// cutOff separates a node from the others, not from its clients.
func (i *injector) cutOff() {
	n := i.node()
	i.isolate(n)
	i.away()
	i.c.Net.Heal()
}

func (i *injector) isolate(n *sim.Node) {
	i.rec.Fault(n.Name, history.FaultPartition)
	for _, other := range i.others(n) {
		i.c.Net.Partition(n.Name, other.Name)
	}
}

func (i *injector) cutOneWay() {
	n := i.node()
	i.rec.Fault(n.Name, history.FaultPartition)
	i.c.Net.PartitionOneWay(n.Name, i.others(n)[0].Name)
	i.away()
	i.c.Net.Heal()
}

// slow makes everything between a node and the others late, but not too late for leases.
// Half of the time the node dies in the midst of it, with much on its way.
func (i *injector) slow() {
	n := i.node()
	i.rec.Fault(n.Name, history.FaultSlow)
	late := time.Duration(40+i.rng.IntN(40)) * time.Millisecond
	i.links(n, simnet.Link{Delay: late, Jitter: late / 4})
	i.away()
	dies := i.rng.IntN(2) == 0
	if dies {
		kill(i.t, i.rec, n, i.rng.IntN(2) == 0)
	}
	i.links(n, normalLink)
	if dies {
		i.away()
		boot(i.t, i.rec, n)
	}
}

// links makes what is between a node and the others like l.
func (i *injector) links(n *sim.Node, l simnet.Link) {
	for _, other := range i.others(n) {
		i.c.Net.SetLink(n.Name, other.Name, func(x *simnet.Link) { *x = l })
		i.c.Net.SetLink(other.Name, n.Name, func(x *simnet.Link) { *x = l })
	}
}

func (i *injector) reset() {
	n := i.node()
	i.rec.Fault(n.Name, history.FaultReset)
	for _, other := range i.others(n) {
		i.c.Net.Reset(n.Name, other.Name)
	}
}

// powerCut ends all nodes at once. Of what was not synced a drawn part is lost.
func (i *injector) powerCut() {
	for _, n := range i.c.Nodes {
		kill(i.t, i.rec, n, true)
	}
	i.away()
	for _, n := range i.c.Nodes {
		boot(i.t, i.rec, n)
	}
}

// loseLog makes the log of one node the only witness beside another's of what was
// acknowledged, and takes it away while that other one is down: with the third, which
// knows of nothing, the node must not go on.
func (i *injector) loseLog(lose func(*sim.Disk)) {
	ignorant := i.node()
	others := i.others(ignorant)
	victim, witness := others[0], others[1]
	i.isolate(ignorant)
	time.Sleep(2 * time.Second) // until the others lead everything
	victim.Disk().Remember()
	i.wait(1500, 3000)
	kill(i.t, i.rec, victim, true)
	kill(i.t, i.rec, witness, true)
	i.rec.Fault(victim.Name, history.FaultDisk)
	lose(victim.Disk())
	i.c.Net.Heal()
	boot(i.t, i.rec, victim)
	i.wait(3000, 5000)
	boot(i.t, i.rec, witness)
	wellReplicated(i.t, i.c, time.Minute)
}

// skew sets a node's wall clock off for a while.
func (i *injector) skew() {
	n := i.node()
	i.rec.Fault(n.Name, history.FaultClock)
	n.Skew(time.Duration(i.rng.IntN(120)-60) * time.Second)
	i.away()
	n.Skew(0)
}
