package sim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/sim"
)

// verify fails the test unless every promise was kept.
func verify(t *testing.T, seed uint64, r *check.Report, events []history.Event) {
	t.Helper()
	if len(r.Violations) > 0 || len(r.Undecided) > 0 {
		t.Errorf("seed %d: %s", seed, r)
		dump(t, seed, events)
	}
	t.Logf("seed %d: %s", seed, r.Stats)
}

// eventually waits for a condition of the cluster.
func eventually(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func kill(t *testing.T, rec *history.Recorder, n *sim.Node, silent bool) {
	t.Helper()
	rec.Fault(n.Name, history.FaultKill)
	if err := n.Kill(silent); err != nil {
		t.Errorf("kill %s: %v", n.Name, err)
	}
}

func boot(t *testing.T, rec *history.Recorder, n *sim.Node) {
	t.Helper()
	if err := n.Boot(); err != nil {
		t.Fatal(err)
	}
	rec.Fault(n.Name, history.FaultStart)
}

// wellReplicated waits until every partition has as many voters as it has placed
// replicas, by their present server ids, and all of them keep up.
func wellReplicated(t *testing.T, c *sim.Cluster, limit time.Duration) {
	t.Helper()
	var lacks string
	defer func() {
		if t.Failed() {
			t.Log("lacking: " + lacks)
		}
	}()
	began := time.Now()
	eventually(t, "every replica votes and has caught up", limit, func() bool {
		lacks = lacking(c)
		return lacks == ""
	})
	t.Logf("well replicated after %v", time.Since(began).Round(time.Millisecond))
}

// lacking says what keeps the cluster from being whole; "": nothing.
func lacking(c *sim.Cluster) string {
	for _, n := range c.Nodes {
		if !n.Available() {
			return fmt.Sprintf("%s does not serve: %q", n.Name, n.Cluster().Missing())
		}
		st := n.Cluster().Status()
		if len(st.Control.Voters) != len(c.Nodes) {
			return fmt.Sprintf("%s: voters of the control group: %v", n.Name, st.Control.Voters)
		}
		for _, p := range st.Partitions {
			if p.Leader == "" {
				return fmt.Sprintf("%s: partition %d has no leader", n.Name, p.ID)
			}
			for _, r := range p.Replicas {
				if !r.Voter || !r.Known || r.Last+500 < p.Commit {
					return fmt.Sprintf("%s: partition %d, commit %d, servers %v: %+v", n.Name, p.ID, p.Commit, p.Servers, r)
				}
			}
		}
	}
	return ""
}

func snapshotsTaken(c *sim.Cluster) (n uint64) {
	for _, node := range c.Nodes {
		if node.Running() {
			n += node.Cluster().Counters().Snapshots.Load()
		}
	}
	return n
}

// smallLogs makes snapshots frequent: a partition's log may have 64 KiB.
func smallLogs(o *cluster.Options) {
	o.Partitions = 4
	o.SnapshotBytes = 64 << 10
}

// compacted checks that logs are cut by bytes.
func compacted(t *testing.T, c *sim.Cluster) {
	t.Helper()
	if snapshotsTaken(c) == 0 {
		t.Error("no snapshot was taken")
	}
	for _, n := range c.Nodes {
		for _, p := range n.Cluster().Status().Partitions {
			if p.LogBytes > 4*(64<<10) {
				t.Errorf("%s: the log of partition %d has %d bytes", n.Name, p.ID, p.LogBytes)
			}
		}
	}
}

// A node that was away for a moment catches up by log, one that was away for long
// by snapshot; and after all of them lost power the cluster continues from
// snapshots and logs: lanes, interest and sessions go on where they were.
func TestCatchUpByLogAndSnapshot(t *testing.T) {
	seed := *seedFlag
	r, events := play(t, scenario{
		seed: seed, nodes: 3, opts: smallLogs,
		faults: func(t *testing.T, c *sim.Cluster, rec *history.Recorder) {
			time.Sleep(5 * time.Second)
			kill(t, rec, c.Nodes[0], false)
			time.Sleep(500 * time.Millisecond)
			boot(t, rec, c.Nodes[0])
			wellReplicated(t, c, 20*time.Second)

			n := c.Nodes[1]
			kill(t, rec, n, true)
			first := snapshotsTaken(c)
			eventually(t, "a log is cut", 2*time.Minute, func() bool { return snapshotsTaken(c) >= first+8 })
			boot(t, rec, n)
			wellReplicated(t, c, 20*time.Second)
			if n.Cluster().Counters().Installed.Load() == 0 {
				t.Error("the node caught up without a snapshot of another")
			}

			// What it took over it must lead by: sources send again what was on its way.
			kill(t, rec, c.Nodes[2], false)
			time.Sleep(3 * time.Second)
			boot(t, rec, c.Nodes[2])
			wellReplicated(t, c, 20*time.Second)

			for _, n := range c.Nodes {
				kill(t, rec, n, true)
			}
			for _, n := range c.Nodes {
				boot(t, rec, n)
			}
			wellReplicated(t, c, 30*time.Second)
		},
		after: compacted,
	})
	verify(t, seed, r, events)
}
