package sim_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster/store"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/sim"
)

// serverIDs are the server ids of a node's replicas, by partition.
func serverIDs(c *sim.Cluster, node string) []string {
	var ids []string
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		for _, p := range n.Cluster().Status().Control.State.Placements {
			r, _ := p.Replica(node)
			ids = append(ids, r.ServerID)
		}
		return ids
	}
	return nil
}

// gone checks that no partition's configuration has a replica of the node under
// an id other than the present one.
func gone(t *testing.T, c *sim.Cluster, node string) {
	t.Helper()
	now := serverIDs(c, node)
	for _, n := range c.Nodes {
		for _, p := range n.Cluster().Status().Partitions {
			for _, id := range p.Servers {
				if strings.HasPrefix(id, node+"#") && id != now[p.ID] {
					t.Errorf("%s: partition %d still has %s", n.Name, p.ID, id)
				}
			}
		}
	}
}

// ways to lose a disk. Each gets a stopped node.
var losses = []struct {
	name string
	lose func(d *sim.Disk) error
	all  bool // every replica is lost
}{
	{"wiped disk", func(d *sim.Disk) error { d.Wipe(); return nil }, true},
	{"logs deleted", func(d *sim.Disk) error { return d.Remove("log") }, true},
	{"marks deleted", func(d *sim.Disk) error { return d.Remove("marks") }, true},
	{"snapshots deleted", func(d *sim.Disk) error { return d.Remove("snapshots") }, false},
	{"log cut in half", func(d *sim.Disk) error {
		return d.Damage(".log", func(b []byte) []byte { return b[:len(b)/2] })
	}, false},
	{"bits flipped", func(d *sim.Disk) error {
		return d.Damage(".log", func(b []byte) []byte {
			for i := len(b) / 4; i < len(b)/2; i += len(b)/64 + 1 {
				b[i] ^= 0x10
			}
			return b
		})
	}, false},
	{"one partition not trusted", func(d *sim.Disk) error {
		return d.Store(func(s *store.Store) error { return s.Distrust(1, "test") })
	}, false},
}

// A node whose disk lost what it had promised comes back under traffic: the lost
// replicas are removed, and their successors learn, catch up and vote, even if a
// leader dies meanwhile. Nothing acknowledged is lost.
func TestLostDiskComesBack(t *testing.T) {
	for i, l := range losses {
		t.Run(l.name, func(t *testing.T) {
			seed := *seedFlag*100 + uint64(i)
			r, events := play(t, scenario{
				seed: seed, nodes: 3, opts: smallLogs,
				faults: func(t *testing.T, c *sim.Cluster, rec *history.Recorder) {
					time.Sleep(6 * time.Second)
					n := c.Nodes[i%3]
					before := serverIDs(c, n.Name)
					kill(t, rec, n, true)
					if err := l.lose(n.Disk()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * time.Second)
					boot(t, rec, n)
					time.Sleep(time.Duration(500+300*i) * time.Millisecond)
					other := c.Nodes[(i+1)%3]
					kill(t, rec, other, false)
					time.Sleep(time.Second)
					boot(t, rec, other)
					wellReplicated(t, c, time.Minute)
					after := serverIDs(c, n.Name)
					changed := 0
					for p := range after {
						if after[p] != before[p] {
							changed++
						}
					}
					if changed == 0 || l.all && changed < len(after) {
						t.Errorf("%d of %d replicas have a new server id: %v, before %v", changed, len(after), after, before)
					}
					if aside := n.Cluster().Counters().SetAside.Load(); aside == 0 && l.name != "wiped disk" {
						t.Error("no replica was set aside")
					}
					gone(t, c, n.Name)
				},
			})
			verify(t, seed, r, events)
		})
	}
}

// When the disks of two of three voters are lost at once, the third must not go on
// by itself, nor the two empty ones: what they had acknowledged may be nowhere
// else. The partition stands still and says why; the others go on.
func TestLostMajorityStandsStill(t *testing.T) {
	const lost = 2 // the partition
	inBubble(t, 7, 3, smallLogs, func(t *testing.T, c *sim.Cluster) {
		time.Sleep(2 * time.Second)
		for _, n := range c.Nodes[:2] {
			if err := n.Kill(true); err != nil {
				t.Fatal(err)
			}
			if err := n.Disk().Store(func(s *store.Store) error { return s.Distrust(lost, "test") }); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range c.Nodes[:2] {
			if err := n.Boot(); err != nil {
				t.Fatal(err)
			}
		}
		survivor := c.Nodes[2]
		eventually(t, "the survivor says what is lost", 20*time.Second, func() bool {
			return slices.ContainsFunc(survivor.Cluster().Degraded(), func(s string) bool { return strings.Contains(s, "stands still") })
		})
		for range 60 {
			time.Sleep(time.Second)
			for _, n := range c.Nodes {
				for _, p := range n.Cluster().Status().Partitions {
					if p.ID == lost && p.Leader != "" {
						t.Fatalf("partition %d is led by %s after the loss of a majority", p.ID, p.Leader)
					}
				}
			}
		}
		for _, p := range survivor.Cluster().Status().Partitions {
			if p.ID != lost && p.Leader == "" {
				t.Errorf("partition %d has no leader, though its replicas are whole", p.ID)
			}
		}
	})
}

// When two of three disks are wiped the control group has lost its majority as
// well: no node serves, no second cluster is founded, and each says what it waits
// for.
func TestTwoWipedDisksFoundNothing(t *testing.T) {
	inBubble(t, 8, 3, smallLogs, func(t *testing.T, c *sim.Cluster) {
		time.Sleep(2 * time.Second)
		id := c.Nodes[2].Cluster().Status().ClusterID
		for _, n := range c.Nodes[:2] {
			if err := n.Kill(true); err != nil {
				t.Fatal(err)
			}
			n.Disk().Wipe()
		}
		for _, n := range c.Nodes[:2] {
			if err := n.Boot(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second) // leases end
		for range 60 {
			time.Sleep(time.Second)
			for _, n := range c.Nodes {
				if n.Available() {
					t.Fatalf("%s serves", n.Name)
				}
				if st := n.Cluster().Status(); st.ClusterID != "" && st.ClusterID != id {
					t.Fatalf("%s is in cluster %s", n.Name, st.ClusterID)
				}
			}
		}
		for _, n := range c.Nodes {
			if missing := n.Cluster().Missing(); !slices.ContainsFunc(missing, func(s string) bool { return strings.Contains(s, "control group") }) {
				t.Errorf("%s: nothing is said of the control group: %q", n.Name, missing)
			}
		}
	})
}
