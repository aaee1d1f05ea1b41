package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
)

// waitFor polls a condition of other goroutines.
func (c *testCluster) waitFor(what string, cond func() bool) {
	c.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			for _, n := range c.nodes {
				if n != nil {
					c.t.Logf("%s: %v, %d replicas", n.name, n.ready(), n.DrainOf(n.name).Replicas)
				}
			}
			c.t.Fatalf("waiting for %s", what)
		}
	}
}

// settled: every partition has these many replicas on the nodes, each of them open there
// and voting, and led by the node that should.
func (c *testCluster) settled(replicas int, nodes ...*testNode) bool {
	open := 0
	for _, n := range nodes {
		if !n.opened.Load() || len(n.PlannedMoves()) > 0 {
			return false
		}
		for range n.replicas.all() {
			open++
		}
	}
	s := nodes[0].control.State()
	for _, pl := range s.Placements {
		if len(pl.Replicas) != replicas || pl.Leaving != "" {
			return false
		}
		for _, n := range nodes {
			r := n.replicas.at(pl.Partition)
			if n.name != pl.Preferred {
				continue
			}
			if r == nil || len(r.servers()) != replicas || r.lostVoters(pl) != nil {
				return false
			}
		}
	}
	return open == replicas*len(s.Placements)
}

// A cluster grows from one node to three and to four, and a drained node leaves, while
// sessions keep what they have.
func TestGrowDrainRemove(t *testing.T) {
	c := startClusterWith(t, 1, func(o *Options) { o.Partitions = 3 })
	first := c.nodes[0]
	for i := range 8 {
		g := within(t, "connect", func(done func(flow.Session, error)) {
			first.Connect(flow.Connect{ClientID: fmt.Sprint("c", i), Expiry: flow.NeverExpires}, done)
		})
		within(t, "subscribe", func(done func([]flow.Subscribed, error)) {
			first.Subscribe(fmt.Sprint("c", i), g.Epoch, []flow.Subscription{{Filter: "t", QoS: 1}}, done)
		})
	}
	if !c.settled(1, first) {
		t.Fatal("one node is not settled at its start")
	}
	n2 := c.start(1, 0, t.TempDir())
	c.waitFor("n2 to serve", func() bool { return n2.Available() })
	n3 := c.start(2, 0, t.TempDir())
	c.waitFor("three replicas each", func() bool { return c.settled(3, first, n2, n3) })
	n4 := c.start(3, 0, t.TempDir())
	c.waitFor("an even spread over four", func() bool { return n4.DrainOf("n4").Replicas >= 2 && c.settled(3, first, n2, n3, n4) })

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n2.RemoveNode(ctx, "n1"); !errors.Is(err, ErrAlive) {
		t.Errorf("removing a node that is alive: %v", err)
	}
	if err := n2.Drain(ctx, "n9", false); !errors.Is(err, ErrNoMember) {
		t.Errorf("draining nobody: %v", err)
	}
	if err := n4.Drain(ctx, "n1", false); err != nil {
		t.Fatal(err)
	}
	c.waitFor("n1 to be empty", func() bool { return c.settled(3, n2, n3, n4) && n2.DrainOf("n1").Replicas == 0 })
	sessions := uint64(0)
	for p := range n2.partitions {
		for _, n := range []*testNode{n2, n3, n4} {
			if r := n.replicas.at(p); r != nil && r.leader() != nil {
				sessions += uint64(n.partitionStatus(p, n.control.State()).Stats.Sessions)
			}
		}
	}
	if sessions != 8 {
		t.Errorf("%d sessions are left of 8", sessions)
	}
	c.waitFor("n1 to send its clients away", func() bool { return !first.Available() })
	c.stop(first)
	c.nodes[0] = nil
	c.waitFor("n2 to know that n1 has stopped", func() bool { return !n2.DrainOf("n1").Alive })
	if err := n2.RemoveNode(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	c.waitFor("n1 to be forgotten", func() bool {
		return n2.control.State().Member("n1") == nil && len(n2.control.Status().Voters) == 3
	})
	back := c.start(0, 0, first.o.Dir) // its control group's log says that it votes; nobody agrees
	c.waitFor("n1 to be back", func() bool {
		return back.Available() && n2.DrainOf("n1").Replicas >= 2 && c.settled(3, back, n2, n3, n4)
	})
	if m := n2.control.State().Member("n1"); m.Number != 5 {
		t.Errorf("n1 came back as %+v", m)
	}
	if err := n2.Drain(ctx, "n1", false); err != nil {
		t.Fatal(err)
	}
	c.stop(back)
	back = c.start(0, 0, first.o.Dir)
	c.waitFor("n1 to be in use again", func() bool { return back.Available() && !n2.DrainOf("n1").Draining })
}
