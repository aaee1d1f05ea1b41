package transport_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/cluster/transport/memnet"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// newMemCluster is a cluster on a network in memory; use it in a bubble.
func newMemCluster(t testing.TB, n int) (*testCluster, *memnet.Network) {
	network := memnet.New()
	c := newCluster(t, n)
	c.listen = func(name string) (net.Listener, error) { return network.Listen(name) }
	c.dial = func(name string) func(context.Context, string) (net.Conn, error) { return network.Dialer(name) }
	return c, network
}

// Three nodes live some minutes of fake time through partitions and resets.
func TestThreeNodesInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, network := newMemCluster(t, 3)
		defer c.close()
		recs := map[string]*recorder{}
		for _, name := range c.names {
			recs[name] = &recorder{}
			c.opts = func(o *transport.Options) {
				recs[name].options(o)
				o.HeartbeatTimeout = 250 * time.Millisecond
			}
			c.startNode(name)
		}
		for _, a := range c.names {
			for _, b := range c.names {
				if a < b {
					network.Delay(a, b, time.Millisecond)
				}
				if a != b {
					c.nodes[a].tr.Connect(b)
				}
			}
		}
		for g := range uint32(2) {
			c.startGroup(g)
		}
		for round := range 4 {
			victim := c.names[round%3]
			var but []string // a victim of a reset may go on leading
			for _, o := range c.others(victim) {
				if round%2 == 0 {
					network.Cut(victim, o.name)
					but = []string{victim}
				} else {
					network.Reset(victim, o.name)
				}
			}
			cut := time.Now()
			last := fmt.Sprintf("round %d", round)
			for g := range uint32(2) {
				c.apply(g, last, but...)
			}
			if took := time.Since(cut); took > 5*time.Second {
				t.Errorf("round %d: the majority needed %v", round, took)
			}
			time.Sleep(40 * time.Second) // raft alone would back off by now, see below
			for _, o := range c.others(victim) {
				network.Heal(victim, o.name)
			}
			healed := time.Now()
			for g := range uint32(2) {
				c.sameLogs(g, last)
			}
			// Raft alone would wait up to 10 s here.
			if took := time.Since(healed); took > 3*time.Second {
				t.Errorf("round %d: the healed node caught up after %v", round, took)
			}
			for _, o := range c.others(victim) {
				eventually(t, 3*time.Second, "link", func() bool {
					up, _ := recs[victim].link(o.name)
					back, _ := recs[o.name].link(victim)
					return up && back
				})
			}
		}
	})
}

func TestSlowReceiverKeepsItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newMemCluster(t, 2)
		recs := map[string]*recorder{"node-1": {}, "node-2": {}}
		for _, name := range c.names {
			c.opts = func(o *transport.Options) {
				recs[name].options(o)
				o.MaxQueueBytes = 1 << 20
			}
			c.startNode(name)
		}
		gate := make(chan struct{})
		recs["node-2"].gate = gate
		a := c.nodes["node-1"]
		a.tr.Connect("node-2")
		eventually(t, 5*time.Second, "link", func() bool { up, _ := recs["node-1"].link("node-2"); return up })
		big := &peerpb.Frame{Body: &peerpb.Frame_Route{Route: &peerpb.Route{Messages: [][]byte{make([]byte, 100<<10)}}}}
		sent := 0
		for idle := 0; idle < 2; { // until nothing moves any more
			if a.tr.Send("node-2", big) {
				idle = 0
				if sent++; sent > 1000 {
					t.Fatal("the queue grows without bound")
				}
				continue
			}
			idle++
			time.Sleep(time.Second)
		}
		if s := a.tr.Stats(); s.QueueFull == 0 {
			t.Error("refusal not counted")
		}
		time.Sleep(10 * time.Minute)
		if up, changes := recs["node-1"].link("node-2"); !up || changes != 1 {
			t.Errorf("the link broke: up %v after %d changes", up, changes)
		}
		close(gate)
		eventually(t, 10*time.Second, "all frames", func() bool { return len(recs["node-2"].from("node-1")) == sent })
		c.close()
	})
}

// Heartbeats of many groups share messages; who asks VerifyLeader does not wait
// for a departure longer than HeartbeatTimeout/10.
func TestHeartbeatsLeaveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 250 * time.Millisecond
		c, network := newMemCluster(t, 3)
		c.opts = func(o *transport.Options) { o.HeartbeatTimeout = timeout }
		c.cfg = func(cfg *raft.Config) { cfg.CommitTimeout = time.Hour }
		for _, name := range c.names {
			for _, o := range c.names {
				if name < o {
					network.Delay(name, o, time.Millisecond)
				}
			}
			c.startNode(name)
		}
		defer c.close()
		const groups = 6
		for g := range uint32(groups) {
			c.startGroup(g)
		}
		leader := map[uint32]*testNode{}
		for g := range uint32(groups) {
			leader[g] = c.leader(g)
		}
		count := func() (requests, batches float64) {
			for _, n := range c.nodes {
				s := n.tr.Stats()
				requests += float64(s.RaftRequests)
				batches += float64(s.RaftBatches)
			}
			return requests, batches
		}
		r0, b0 := count()
		const spell = 20 * time.Second
		time.Sleep(spell)
		r1, b1 := count()
		// Each pair of nodes has a departure every timeout/5, if anybody leads.
		most := 1.4 * 6 * float64(spell) / float64(timeout/5)
		if b1-b0 > most {
			t.Errorf("%.0f requests in %.0f messages, at most %.0f wanted", r1-r0, b1-b0, most)
		}
		// But no follower hears from its leader less often than raft would have it.
		if least := groups * 2 * float64(spell) / float64(timeout/5+5*time.Millisecond); r1-r0 < least {
			t.Errorf("%.0f heartbeats, at least %.0f wanted", r1-r0, least)
		}
		for i := range 40 {
			time.Sleep(time.Duration(i) * time.Millisecond)
			start := time.Now()
			if err := leader[0].groups[0].r.VerifyLeader().Error(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > timeout/10+10*time.Millisecond {
				t.Errorf("VerifyLeader took %v", took)
			}
		}
		for g, l := range leader {
			if got := l.groups[g].r.State(); got != raft.Leader {
				t.Errorf("group %d changed its leader without need", g)
			}
		}
	})
}
