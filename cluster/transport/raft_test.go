package transport_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestElectReplicateAndClose(t *testing.T) {
	leaks := noLeaks(t)
	c := newCluster(t, 3)
	for _, name := range c.names {
		c.startNode(name)
	}
	for g := range uint32(3) {
		c.startGroup(g)
	}
	for g := range uint32(3) {
		for i := range 20 {
			c.apply(g, fmt.Sprintf("%d-%d", g, i))
		}
		c.sameLogs(g, fmt.Sprintf("%d-19", g))
	}
	for _, n := range c.nodes {
		if n.tr.Stats().RaftRefused != 0 {
			t.Errorf("%s refused requests: %+v", n.name, n.tr.Stats())
		}
	}
	c.close()
	leaks()
}

func TestLeadershipTransfer(t *testing.T) {
	c := newCluster(t, 3)
	for _, name := range c.names {
		c.startNode(name)
	}
	c.startGroup(7)
	defer c.close()
	old := c.leader(7)
	if err := old.groups[7].r.LeadershipTransfer().Error(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "another leader", func() bool {
		_, id := old.groups[7].r.LeaderWithID()
		return id != "" && id != old.id()
	})
	if old.groups[7].r.State() == raft.Leader {
		t.Fatal("the old leader still leads")
	}
}
