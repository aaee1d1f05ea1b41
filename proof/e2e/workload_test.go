package e2e

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/workload"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the workload; 0: drawn")
	lengthFlag = flag.Duration("length", 20*time.Second, "how long faults are injected into the workload")
)

// TestWorkload runs the random workload while nodes are killed, paused and restarted, and
// lets the checker decide.
func TestWorkload(t *testing.T) {
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("run again with -args -seed %d -length %s", seed, *lengthFlag)
	c := StartCluster(t, 3)
	cfg := workload.Defaults(seed)
	cfg.Targets, cfg.Recorder, cfg.Members = c.Targets(), c.Rec, 4
	cfg.Dial = func(string) client.Dialer { return client.TCP }
	w := workload.New(cfg)
	w.Start()
	defer w.Close()
	rng := rand.New(rand.NewPCG(seed, 7))
	o := check.Defaults()
	o.Bound = patience
	o.Transit = 2 * time.Second // the clients share two cores with the cluster
	o.RetainedWait = 0          // a silent retained partition is not waited for
	proves := func() error { return check.Run(c.Rec.Events(), o).Stats.Void(check.Full()) }
	// A slow machine takes longer until something is proved.
	end := time.Now().Add(*lengthFlag)
	for last := end.Add(5 * patience); time.Now().Before(end) || proves() != nil && time.Now().Before(last); {
		injectOne(c, rng)
	}
	c.Repair()
	c.Rec.Heal()
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	if err := w.Settle(ctx); err != nil {
		t.Error(err)
	}
	events := c.Rec.Events()
	r := check.Run(events, o)
	if len(r.Violations) > 0 || len(r.Undecided) > 0 {
		t.Errorf("seed %d: %s", seed, r)
		t.Logf("history: %s", save(t, events))
	}
	if err := r.Stats.Void(check.Full()); err != nil {
		t.Error(err)
	}
	t.Log(r.Stats)
}

// injectOne lets things be for a moment and injects one fault, with its end.
func injectOne(c *Cluster, rng *rand.Rand) {
	between := func(low, high int) { time.Sleep(time.Duration(low+rng.IntN(high-low)) * time.Millisecond) }
	between(1000, 4000)
	n := c.Nodes[rng.IntN(len(c.Nodes))]
	switch rng.IntN(6) {
	case 0, 1:
		n.Kill9()
		between(10, 3000)
		n.Start()
	case 2, 3:
		n.Pause()
		between(100, 12000)
		n.Resume()
	case 4:
		n.Restart()
	case 5:
		var wg sync.WaitGroup
		for _, n := range c.Nodes {
			wg.Go(n.Kill9)
		}
		wg.Wait()
		c.Repair()
	}
}

// save keeps a history of a failed run.
func save(t *testing.T, events []history.Event) string {
	f, err := os.CreateTemp("", "flotilla-history-*.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := history.Write(f, events); err != nil {
		t.Fatal(err)
	}
	return filepath.Clean(f.Name())
}
