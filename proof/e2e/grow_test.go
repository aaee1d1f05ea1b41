package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// member is what this test needs of a node of the cluster.
type member struct {
	Name       string `json:"name"`
	Partitions int    `json:"partitions"`
}

// settle publishes until the cluster has nothing to move any more.
func (s *scene) settle(what string, ask *Node, done func(held map[string]int) bool, publish func()) {
	s.t.Helper()
	for end := time.Now().Add(20 * patience); ; {
		publish()
		var moves []struct{}
		ask.orderJSON(&moves, "cluster", "balance")
		var list []member
		ask.orderJSON(&list, "cluster", "members")
		held := map[string]int{}
		for _, m := range list {
			held[m.Name] = m.Partitions
		}
		if len(moves) == 0 && done(held) {
			s.t.Logf("%s: %v", what, held)
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s is not done: %d moves, %v", what, len(moves), held)
		}
	}
}

// TestGrowAndShrink takes a cluster from three nodes to five and back to three, without
// two of the first, under traffic between sessions that must lose and repeat nothing.
func TestGrowAndShrink(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3, "--partitions", "4", "--drain-time", "200ms")
	s := begin(t, c)
	sub := s.connect("sub", nil, c.Nodes[0], c.Nodes[2])
	sub.subscribe("t/#", 2)
	pub := s.connect("pub", nil, c.Nodes[1], c.Nodes[2])
	sent := 0
	publish := func() {
		for range 20 {
			pub.say("t/x", byte(1+sent%2), fmt.Sprint("m", sent))
			sent++
		}
	}
	publish()
	c.Grow()
	publish()
	last := c.Grow()
	s.settle("grown to five", last, func(held map[string]int) bool {
		return len(held) == 5 && held["n4"] >= 2 && held["n5"] >= 2
	}, publish)

	for _, n := range c.Nodes[:2] {
		drained := make(chan string, 1)
		go func() { drained <- last.order(0, "cluster", "drain", n.Name, "--forget") }()
		s.settle("drained "+n.Name, last, func(held map[string]int) bool { return held[n.Name] == 0 }, publish)
		t.Log(<-drained)
		publish()
		n.Stop()
		s.settle("forgot "+n.Name, last, func(held map[string]int) bool {
			_, member := held[n.Name]
			return !member
		}, publish)
	}
	got := sub.await(fmt.Sprint("m", sent-1))
	slices.Sort(got) // of QoS 1, what was under way when a node stopped may have come twice
	if distinct := len(slices.Compact(got)); distinct != sent {
		t.Errorf("%d of %d messages arrived", distinct, sent)
	}
	s.verdict()
}
