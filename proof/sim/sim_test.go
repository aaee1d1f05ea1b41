package sim_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/sim"
	"github.com/flotilla-mqtt/flotilla/proof/simnet"
	"github.com/flotilla-mqtt/flotilla/proof/workload"
)

var (
	seedFlag   = flag.Uint64("seed", 1, "first seed")
	seedsFlag  = flag.Uint64("seeds", 0, "how many seeds; 0: 2, or 1 with -short")
	faultsFlag = flag.Int("faults", fullFaults, "faults per run")
	kindsFlag  = flag.String("kinds", "", "which kinds of faults, with commas between; empty: all")
	logFlag    = flag.String("simlog", "", "level of the nodes' log: debug, info, warn")
	dumpFlag   = flag.String("dump", "", "folder for the histories of runs with violations")
)

// fullFaults is how many faults a run has that must prove something: see check.Full.
const fullFaults = 6

func logger(t *testing.T) *slog.Logger {
	if *logFlag == "" {
		return slog.New(slog.DiscardHandler)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(*logFlag)); err != nil {
		t.Fatal(err)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// run plays a workload against a cluster under faults, all drawn from the seed.
func run(t *testing.T, seed uint64, nodes, faults int) (*check.Report, []history.Event) {
	t.Helper()
	return play(t, scenario{seed: seed, nodes: nodes, opts: frequentSnapshots, faults: func(t *testing.T, c *sim.Cluster, rec *history.Recorder) {
		inject(t, c, rec, seed, faults, *kindsFlag)
	}})
}

// normalLink is what all links are like where no fault says otherwise.
var normalLink = simnet.Link{Delay: time.Millisecond, Jitter: 2 * time.Millisecond}

// scenario is a cluster, and what happens to it under traffic.
type scenario struct {
	seed  uint64
	nodes int
	opts  func(*cluster.Options)
	// faults runs while clients are at work. When it returns all nodes must run.
	faults func(t *testing.T, c *sim.Cluster, rec *history.Recorder)
	// after runs when the clients are at rest.
	after func(t *testing.T, c *sim.Cluster)
	// fatal, if set, hears of nodes that end by themselves; else that fails the test.
	fatal func(node string, err error)
	// pause is how long what a client is sent may wait in a node; default 2 s.
	pause time.Duration
	// settle is how long the clients may take to come to rest; default 2 minutes.
	settle time.Duration
}

// play runs a scenario under a workload and checks every promise on what the
// clients saw.
func play(t *testing.T, sc scenario) (*check.Report, []history.Event) {
	t.Helper()
	seed := sc.seed
	if sc.fatal == nil {
		sc.fatal = func(node string, err error) { t.Errorf("seed %d: node %s had to stop: %v", seed, node, err) }
	}
	if sc.settle == 0 {
		sc.settle = 2 * time.Minute
	}
	var events []history.Event
	synctest.Test(t, func(t *testing.T) {
		network := simnet.New(seed, normalLink)
		rec := history.NewRecorder()
		c := sim.New(seed, sc.nodes, network, logger(t), func(o *cluster.Options) {
			o.CheckpointInterval = 2 * time.Second // so that replicas are compared often
			if sc.opts != nil {
				sc.opts(o)
			}
		}, sc.fatal)
		cfg := workload.Defaults(seed)
		cfg.Recorder = rec
		cfg.Members = 5
		cfg.Dial = func(process string) client.Dialer { return network.Dialer(process) }
		for _, n := range c.Nodes {
			cfg.Targets = append(cfg.Targets, client.Target{Node: n.Name, Addr: fmt.Sprintf("%s:%d", n.Name, sim.MQTTPort)})
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		w := workload.New(cfg)
		// Also when the test gives up: what is left running would hide the reason.
		defer func() {
			w.Close()
			for _, n := range c.Nodes {
				if !n.Running() {
					continue
				}
				if err := n.Kill(false); err != nil {
					t.Errorf("seed %d: end of %s: %v", seed, n.Name, err)
				}
			}
		}()
		await(t, c, 30*time.Second)
		w.Start()
		sc.faults(t, c, rec)
		time.Sleep(5 * time.Second)
		rec.Heal()
		ctx, cancel := context.WithTimeout(t.Context(), sc.settle)
		defer cancel()
		settled := w.Settle(ctx)
		if settled != nil {
			for _, n := range c.Nodes {
				t.Log(n.Cluster().Waits())
			}
		}
		if sc.after != nil && settled == nil {
			sc.after(t, c)
		}
		compared(t, c)
		events = rec.Events()
		if settled != nil {
			t.Errorf("seed %d: %v", seed, settled)
		}
	})
	o := check.Defaults()
	o.Transit = 10 * time.Second // partitions between clients and nodes stall what was sent
	o.RetainedWait = max(2*time.Second, sc.pause)
	return check.Run(events, o), events
}

func await(t *testing.T, c *sim.Cluster, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		ready := 0
		for _, n := range c.Nodes {
			if n.Available() {
				ready++
			}
		}
		if ready == len(c.Nodes) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d nodes serve after %v", ready, len(c.Nodes), limit)
		}
	}
}

// compared checks that replicas' states were compared, and did not differ.
func compared(t *testing.T, c *sim.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		m := n.Cluster().Counters()
		if m.Checkpoints.Load() == 0 || m.Diverged.Load() > 0 {
			t.Errorf("%s: %d states compared, %d differed", n.Name, m.Checkpoints.Load(), m.Diverged.Load())
		}
	}
}

// TestClusterUnderFaults checks every promise on a cluster of three under faults.
// `make sim` runs it with many seeds.
func TestClusterUnderFaults(t *testing.T) {
	seeds := *seedsFlag
	switch {
	case seeds == 0 && testing.Short():
		seeds = 1
	case seeds == 0:
		seeds = 2
	}
	for seed := *seedFlag; seed < *seedFlag+seeds; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("repeat with: go test ./proof/sim -run TestClusterUnderFaults -v -args -seed %d -seeds 1 -faults %d", seed, *faultsFlag)
				}
			})
			began := time.Now()
			r, events := run(t, seed, 3, *faultsFlag)
			if len(r.Violations) > 0 || len(r.Undecided) > 0 {
				t.Errorf("seed %d: %s", seed, r)
				dump(t, seed, events)
			}
			if err := r.Stats.Void(check.Full()); err != nil && *faultsFlag >= fullFaults {
				t.Errorf("seed %d: %v", seed, err)
			}
			if r.Stats.Shared == 0 {
				t.Errorf("seed %d: nothing came to a group", seed)
			}
			t.Logf("seed %d: %s; took %v", seed, r.Stats, time.Since(began).Round(time.Millisecond))
		})
	}
}

// dump keeps the history of a run that failed, if asked to.
func dump(t *testing.T, seed uint64, events []history.Event) {
	if *dumpFlag == "" {
		return
	}
	f, err := os.Create(filepath.Join(*dumpFlag, fmt.Sprintf("seed-%d.ndjson", seed)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := history.Write(f, events); err != nil {
		t.Fatal(err)
	}
}

// inBubble runs a test on a cluster without a workload.
func inBubble(t *testing.T, seed uint64, nodes int, opts func(*cluster.Options), test func(t *testing.T, c *sim.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := simnet.New(seed, simnet.Link{Delay: time.Millisecond})
		c := sim.New(seed, nodes, network, logger(t), opts, func(node string, err error) {
			t.Errorf("seed %d: node %s had to stop: %v", seed, node, err)
		})
		for _, n := range c.Nodes {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		await(t, c, 30*time.Second)
		defer func() {
			for _, n := range c.Nodes {
				if !n.Running() {
					continue
				}
				if err := n.Kill(false); err != nil {
					t.Errorf("end of %s: %v", n.Name, err)
				}
			}
		}()
		test(t, c)
	})
}
