package sim_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/sim"
)

// quota is the reason code of a refusal for lack of room.
const quota = 0x97

// user is a client of a test without a workload.
type user struct {
	*client.Session
	t   *testing.T
	got atomic.Int64
}

// connect connects a client with a stored session to a node.
func connect(t *testing.T, c *sim.Cluster, n *sim.Node, id string, receiveMax uint16) *user {
	t.Helper()
	u := &user{t: t}
	u.Session = client.NewSession(client.SessionConfig{
		Options:   client.Options{ClientID: id, Expiry: 3600, ReceiveMaximum: receiveMax},
		Dial:      c.Net.Dialer("host-" + id),
		Recorder:  history.NewRecorder(),
		OnMessage: func(*client.Packet) { u.got.Add(1) },
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := u.Connect(ctx, at(n), false, client.LeaveAbort); err != nil {
		t.Fatalf("connect %s: %v", id, err)
	}
	return u
}

func at(n *sim.Node) client.Target {
	return client.Target{Node: n.Name, Addr: fmt.Sprintf("%s:%d", n.Name, sim.MQTTPort)}
}

func (u *user) subscribe(filter string, qos byte) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), 10*time.Second)
	defer cancel()
	codes, err := u.Subscribe(ctx, history.Filter{Filter: filter, QoS: qos})
	if err != nil || codes[0] != qos {
		u.t.Fatalf("subscribe: %v %v", codes, err)
	}
}

// publish publishes a message and returns the broker's answer.
func (u *user) publish(topic string, qos byte, payload []byte) byte {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), 10*time.Second)
	defer cancel()
	code, err := u.Publish(client.Packet{Topic: topic, QoS: qos, Payload: payload}).Wait(ctx)
	if err != nil {
		u.t.Fatalf("publish: %v", err)
	}
	return code
}

// leads counts the partitions that a node leads.
func leads(c *sim.Cluster, node string) (n int) {
	for _, p := range c.Nodes[0].Cluster().Status().Partitions {
		if p.Leader == node {
			n++
		}
	}
	return n
}

// Below its reserve a node refuses what its clients publish, hands over its
// leaderships and is given none; acknowledgements and deliveries go on. When there
// is room again everything is as before.
func TestLowDisk(t *testing.T) {
	inBubble(t, 3, 3, nil, func(t *testing.T, c *sim.Cluster) {
		low, other := c.Nodes[1], c.Nodes[2]
		eventually(t, "leaders are spread", 30*time.Second, func() bool { return leads(c, low.Name) >= 5 })
		sub := connect(t, c, low, "sub", 0)
		defer sub.Close()
		sub.subscribe("t/#", 2)
		pub := connect(t, c, low, "pub", 0)
		defer pub.Close()
		elsewhere := connect(t, c, other, "elsewhere", 0)
		defer elsewhere.Close()

		low.Disk().SetFree(100 << 20)
		eventually(t, "leaderships are handed over", 15*time.Second, func() bool { return leads(c, low.Name) == 0 })
		for i := range 30 {
			for qos := byte(1); qos <= 2; qos++ {
				if code := pub.publish("t/low", qos, nil); code != quota {
					t.Errorf("QoS %d on the node without room: %#x", qos, code)
				}
				if code := elsewhere.publish("t/other", qos, nil); code != 0 {
					t.Errorf("QoS %d on another node: %#x", qos, code)
				}
			}
			if want := int64(2 * (i + 1)); sub.got.Load() != want {
				eventually(t, "deliveries on the node without room go on", 5*time.Second, func() bool { return sub.got.Load() == want })
			}
			time.Sleep(time.Second)
			if n := leads(c, low.Name); n > 0 {
				t.Fatalf("the node without room leads %d partitions", n)
			}
		}
		if low.Cluster().Counters().PublishRefused.Load()+other.Cluster().Counters().PublishRefused.Load()+
			c.Nodes[0].Cluster().Counters().PublishRefused.Load() < 60 {
			t.Error("refusals are not counted")
		}

		low.Disk().SetFree(1 << 40)
		eventually(t, "leaderships come back", time.Minute, func() bool { return leads(c, low.Name) >= 5 })
		for qos := byte(1); qos <= 2; qos++ {
			if code := pub.publish("t/low", qos, nil); code != 0 {
				t.Errorf("QoS %d after there is room again: %#x", qos, code)
			}
		}
	})
}

// When all disks are low nobody leads better than anybody else: the leaders stay,
// PUBLISH is refused, and what is stored is delivered.
func TestAllDisksLow(t *testing.T) {
	inBubble(t, 4, 3, smallLogs, func(t *testing.T, c *sim.Cluster) {
		sub := connect(t, c, c.Nodes[0], "sub", 0)
		defer sub.Close()
		sub.subscribe("t", 1)
		sub.Drop()
		pub := connect(t, c, c.Nodes[1], "pub", 0)
		defer pub.Close()
		for range 20 {
			if code := pub.publish("t", 1, nil); code != 0 {
				t.Fatalf("publish: %#x", code)
			}
		}
		for _, n := range c.Nodes {
			n.Disk().SetFree(1 << 20)
		}
		eventually(t, "PUBLISH is refused", 10*time.Second, func() bool { return pub.publish("t", 1, nil) == quota })
		starts := leaderStarts(c)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		before := sub.got.Load()
		if _, err := sub.Connect(ctx, at(c.Nodes[2]), false, client.LeaveAbort); err != nil {
			t.Fatal(err)
		}
		eventually(t, "what is stored is delivered", 10*time.Second, func() bool { return sub.got.Load() >= before+20 })
		time.Sleep(30 * time.Second)
		if n := leaderStarts(c) - starts; n > 0 {
			t.Errorf("%d changes of leaders between disks that are all low", n)
		}
	})
}

func leaderStarts(c *sim.Cluster) (n uint64) {
	for _, node := range c.Nodes {
		n += node.Cluster().Counters().LeaderStarts.Load()
	}
	return n
}

// A disk that runs full stops the process with an error that says so; the others
// go on, and when there is space again the node starts and has lost nothing.
func TestFullDisk(t *testing.T) {
	seed := *seedFlag
	var mu sync.Mutex
	fatal := make(map[string]error)
	stopped := func(node string) error {
		mu.Lock()
		defer mu.Unlock()
		return fatal[node]
	}
	r, events := play(t, scenario{
		seed: seed, nodes: 3, opts: smallLogs,
		fatal: func(node string, err error) {
			mu.Lock()
			defer mu.Unlock()
			if fatal[node] == nil {
				fatal[node] = err
			}
		},
		faults: func(t *testing.T, c *sim.Cluster, rec *history.Recorder) {
			time.Sleep(5 * time.Second)
			n := c.Nodes[1]
			n.Disk().SetFree(0)
			eventually(t, "the node stops", 30*time.Second, func() bool { return stopped(n.Name) != nil })
			if err := stopped(n.Name); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the node stopped with %v", err)
			}
			endFull(t, rec, n)
			for range 3 { // who starts it all the same breaks nothing
				err := n.Boot()
				switch {
				case err == nil:
					time.Sleep(time.Second)
					endFull(t, rec, n)
				case !errors.Is(err, syscall.ENOSPC):
					t.Errorf("start on a full disk: %v", err)
				}
			}
			time.Sleep(3 * time.Second)
			n.Disk().SetFree(1 << 40)
			boot(t, rec, n)
			wellReplicated(t, c, time.Minute)
			if n.Cluster().Counters().SetAside.Load() > 0 {
				t.Error("a replica was set aside")
			}
		},
	})
	verify(t, seed, r, events)
	for node, err := range fatal {
		if node != "n2" {
			t.Errorf("%s stopped: %v", node, err)
		}
	}
}

// endFull ends a process whose disk is full: its files do not close well.
func endFull(t *testing.T, rec *history.Recorder, n *sim.Node) {
	t.Helper()
	rec.Fault(n.Name, history.FaultKill)
	if err := n.Kill(false); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("kill %s: %v", n.Name, err)
	}
}

// A node whose disk answers no more loses its leaderships though it lives and is
// heard, of the control group as well; when the disk answers again it is a good
// follower.
func TestStalledDisk(t *testing.T) {
	for i := range 3 { // one of them leads the control group
		t.Run(fmt.Sprintf("n%d", i+1), func(t *testing.T) {
			seed := *seedFlag*10 + uint64(i)
			r, events := play(t, scenario{
				seed: seed, nodes: 3, opts: smallLogs, pause: 5 * time.Second,
				faults: func(t *testing.T, c *sim.Cluster, rec *history.Recorder) {
					time.Sleep(4 * time.Second)
					n, other := c.Nodes[i], c.Nodes[(i+1)%3]
					rec.Fault(n.Name, history.FaultPause)
					n.Disk().Stall()
					eventually(t, "the others lead", 15*time.Second, func() bool {
						st := other.Cluster().Status()
						for _, p := range st.Partitions {
							if p.Leader == n.Name || p.Leader == "" {
								return false
							}
						}
						return st.Control.Leader != n.Name && st.Control.Leader != ""
					})
					time.Sleep(5 * time.Second)
					n.Disk().Resume()
					rec.Fault(n.Name, history.FaultResume)
					wellReplicated(t, c, 30*time.Second)
				},
			})
			verify(t, seed, r, events)
		})
	}
}
