package cluster

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
)

func TestJudgeDigests(t *testing.T) {
	same, other, third := digest{1}, digest{2}, digest{3}
	for _, c := range []struct {
		name string
		said map[string]digest // "a" is ourselves
		want verdict
	}{
		{"all agree", map[string]digest{"a": same, "b": same, "c": same}, verdict{}},
		{"we have not come so far", map[string]digest{"b": same, "c": same}, verdict{}},
		{"one agrees, one is silent", map[string]digest{"a": same, "b": same}, verdict{}},
		{"one differs, one is silent", map[string]digest{"a": same, "b": other}, verdict{}},
		{"we differ", map[string]digest{"a": other, "b": same, "c": same}, verdict{self: true}},
		{"another differs", map[string]digest{"a": same, "b": other, "c": same}, verdict{others: []string{"b"}}},
		{"no majority", map[string]digest{"a": same, "b": other, "c": third}, verdict{split: true}},
		{"a stranger does not count", map[string]digest{"a": other, "b": same, "x": same}, verdict{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d digests
			for server, v := range c.said {
				d.note(7, server, v)
			}
			placed := []string{"a", "b", "c"}
			got := d.judge(7, "a", placed)
			if got.self != c.want.self || got.split != c.want.split || !slices.Equal(got.others, c.want.others) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if again := d.judge(7, "a", placed); again.self || again.split || again.others != nil {
				t.Errorf("said twice: %+v", again)
			}
		})
	}
}

func TestDigestsAreForgotten(t *testing.T) {
	var d digests
	for i := range uint64(100) {
		d.note(i, "a", digest{})
	}
	if len(d.at) != keepDigests || d.at[99] == nil || d.at[99-keepDigests] != nil {
		t.Errorf("%d checkpoints are kept", len(d.at))
	}
}

// A replica whose state has come apart from the others' stops its process, leader
// or follower, and is set aside; the others go on, and started again the node is
// filled anew.
func TestDivergedReplicaStops(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("leader=%t", leads), func(t *testing.T) {
			c := startClusterWith(t, 3, func(o *Options) {
				o.CheckpointInterval = 100 * time.Millisecond
				o.Partitions = 1
			})
			other := c.nodes[0]
			s := other.connect(t, "sub")
			other.subscribe(t, s, "t", 1)
			bad := slices.IndexFunc(c.nodes, func(n *testNode) bool {
				return (n.replicas.at(0).raft.State() == raft.Leader) == leads
			})
			victim := c.nodes[bad]
			other = c.nodes[(bad+1)%3]
			sm := victim.replicas.at(0).sm
			sm.mu.Lock()
			sm.m = fsm.New(0, 1) // as if a bit had flipped in memory, or a bug struck
			sm.mu.Unlock()

			err := publishUntilFatal(t, other, victim)
			var diverged *DivergedError
			if !errors.As(err, &diverged) || diverged.Partition != 0 {
				t.Fatalf("the node stopped with %v", err)
			}
			if victim.metrics.Diverged.Load() != 1 {
				t.Error("it is not counted")
			}
			if err := victim.Abort(); err != nil {
				t.Fatal(err)
			}
			again := c.start(bad, 3, victim.o.Dir)
			c.waitAvailable()
			if again.metrics.SetAside.Load() != 1 {
				t.Errorf("%d replicas set aside at the next start", again.metrics.SetAside.Load())
			}
			for _, n := range c.nodes {
				select {
				case err := <-n.fatal:
					t.Errorf("%s had to stop: %v", n.name, err)
				default:
				}
			}
		})
	}
}

// publishUntilFatal publishes at one node until another must stop, and says why.
func publishUntilFatal(t *testing.T, at, victim *testNode) error {
	t.Helper()
	limit := time.After(20 * time.Second)
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case err := <-victim.fatal:
			return err
		case <-limit:
			t.Fatal("nobody noticed")
		case <-pace.C:
			at.Publish(&flow.Message{Topic: "t", QoS: 1}, func(bool, error) {})
		}
	}
}
