package sim_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/sim"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// held is what the partitions hold on a node, in bytes of messages.
func held(n *sim.Node) (bytes int64) {
	for _, p := range n.Cluster().Status().Partitions {
		bytes += p.Stats.Bytes
	}
	return bytes
}

// dropped counts what the cluster has dropped of stored sessions by a reason.
func dropped(c *sim.Cluster, class fsm.Class, reason fsm.Reason) (n uint64) {
	for _, node := range c.Nodes {
		n += node.Cluster().Counters().Dropped(class, reason)
	}
	return n
}

// Over its byte budget a partition refuses PUBLISH with 0x97, of both QoS, and goes
// on acknowledging and delivering; when subscribers have taken what is there,
// PUBLISH is taken again.
func TestByteBudget(t *testing.T) {
	const budget = 1 << 20
	inBubble(t, 5, 3, func(o *cluster.Options) {
		o.Partitions = 1
		o.Budget = budget
	}, func(t *testing.T, c *sim.Cluster) {
		sub := connect(t, c, c.Nodes[0], "sub", 0)
		defer sub.Close()
		sub.subscribe("t", 2)
		sub.Drop()
		pub := connect(t, c, c.Nodes[1], "pub", 0)
		defer pub.Close()
		payload := make([]byte, 16<<10)
		taken := int64(0)
		for code := byte(0); code != quota; taken++ {
			if taken > 10*budget/int64(len(payload)) {
				t.Fatal("nothing is refused")
			}
			if code = pub.publish("t", 1, payload); code == quota {
				break
			}
		}
		// Refused means: neither kept nor in the way of the next message.
		for range 5 {
			if code := pub.publish("t", 2, payload); code != quota {
				t.Errorf("QoS 2 over the budget: %#x", code)
			}
		}
		for _, n := range c.Nodes {
			if b := held(n); b > 2*budget {
				t.Errorf("%s holds %d bytes with a budget of %d", n.Name, b, budget)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := sub.Connect(ctx, at(c.Nodes[2]), false, client.LeaveAbort); err != nil {
			t.Fatal(err)
		}
		eventually(t, "what was taken is delivered", 20*time.Second, func() bool { return sub.got.Load() == taken })
		eventually(t, "PUBLISH is taken again", 10*time.Second, func() bool { return pub.publish("t", 2, payload) == 0 })
		eventually(t, "it is delivered", 10*time.Second, func() bool { return sub.got.Load() == taken+1 })
	})
}

// A session that nobody reads keeps to its limits under each policy, whether its
// client is away or connected and dead, and what is dropped is counted by class and
// reason. What the partitions hold does not grow with what is published.
func TestForgottenSessionIsBounded(t *testing.T) {
	const messages, limit, size = 500, 100, 4 << 10
	for _, p := range []struct {
		name   string
		policy logpb.QueueFull
		dead   bool // connected, and reads nothing
	}{
		{"drop oldest", logpb.QueueFull_DROP_OLDEST, false},
		{"drop newest", logpb.QueueFull_DROP_NEWEST, false},
		{"refuse", logpb.QueueFull_REFUSE, false},
		{"drop oldest of a dead one", logpb.QueueFull_DROP_OLDEST, true},
	} {
		t.Run(p.name, func(t *testing.T) {
			inBubble(t, 6, 3, bounded(limit, p.policy), func(t *testing.T, c *sim.Cluster) {
				sub := connect(t, c, c.Nodes[0], "sub", limit)
				defer sub.Close()
				sub.subscribe("t", 1)
				class, stays := fsm.OfflineSession, limit
				if p.dead {
					c.Net.Partition(c.Nodes[0].Name, "host-sub")
					class, stays = fsm.ConnectedSession, 2*limit // a window beside the queue
				} else {
					sub.Drop()
					time.Sleep(time.Second)
				}
				pub := connect(t, c, c.Nodes[1], "pub", 0)
				defer pub.Close()
				refused := pub.flood(messages, size)
				over := messages - stays
				lost := int(dropped(c, class, fsm.QueueFull))
				if p.policy == logpb.QueueFull_REFUSE && (refused != over || lost != over) ||
					p.policy != logpb.QueueFull_REFUSE && (refused != 0 || lost != over) {
					t.Errorf("%d refused, %d counted as dropped; %d were over the limit", refused, lost, over)
				}
				for _, node := range c.Nodes {
					if b := held(node); b > int64(2*stays*size) {
						t.Errorf("%s holds %d bytes for %d messages", node.Name, b, stays)
					}
				}
				c.Net.Heal()
				if !p.dead {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					if _, err := sub.Connect(ctx, at(c.Nodes[2]), false, client.LeaveAbort); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "what is left is delivered", 20*time.Second, func() bool { return sub.got.Load() == int64(stays) })
			})
		})
	}
}

// flood publishes, and returns how many messages were refused.
func (u *user) flood(messages, size int) (refused int) {
	u.t.Helper()
	for i := range messages {
		payload := make([]byte, size)
		copy(payload, fmt.Sprint(i))
		switch code := u.publish("t", 1, payload); code {
		case 0:
		case quota:
			refused++
		default:
			u.t.Fatalf("publish: %#x", code)
		}
	}
	return refused
}

func bounded(limit uint32, policy logpb.QueueFull) func(*cluster.Options) {
	return func(o *cluster.Options) {
		smallLogs(o)
		o.Settings = cluster.DefaultSettings()
		o.Settings.MaxQueueMessages, o.Settings.QueueFull = limit, policy
	}
}

// The memory of a process does not grow with what is published to a subscriber
// that takes nothing.
func TestDeadSubscriberCostsNoMemory(t *testing.T) {
	const size = 4 << 10
	inBubble(t, 9, 3, bounded(100, logpb.QueueFull_DROP_OLDEST), func(t *testing.T, c *sim.Cluster) {
		sub := connect(t, c, c.Nodes[0], "sub", 100)
		defer sub.Close()
		sub.subscribe("t", 1)
		c.Net.Partition(c.Nodes[0].Name, "host-sub")
		pub := connect(t, c, c.Nodes[1], "pub", 0)
		defer pub.Close()
		pub.flood(2500, size) // the logs of three nodes, their caches and disks reach their size
		before := heap()
		const messages = 2500
		pub.flood(messages, size)
		grown := heap() - before
		t.Logf("published %d bytes, three nodes grew by %d", messages*size, grown)
		// Were it not bounded, each of the three would keep all of it.
		if grown > messages*size {
			t.Errorf("three nodes grew by %d bytes for %d published", grown, messages*size)
		}
	})
}

// heap is what is in use beside the simulated disks' contents, in bytes, as the
// runtime samples it.
func heap() (bytes int64) {
	runtime.GC()
	runtime.GC() // the profile is as of the last but one
	records := make([]runtime.MemProfileRecord, 20_000)
	n, ok := runtime.MemProfile(records, false)
	if !ok {
		panic("more kinds of allocations than expected")
	}
	for _, r := range records[:n] {
		if !ofDisk(r.Stack()) {
			bytes += r.InUseBytes()
		}
	}
	return bytes
}

func ofDisk(stack []uintptr) bool {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "vfs.(*memFile)") {
			return true
		}
		if !more {
			return false
		}
	}
}
