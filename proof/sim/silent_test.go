package sim_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/sim"
	"github.com/flotilla-mqtt/flotilla/proof/simnet"
)

// roles of three nodes, for a session whose partition the new owner's node leads.
type roles struct {
	old, new, control *sim.Node
	client            string
	conn              *client.Conn // to old
}

// TestTakeoverFromASilentGateway: a gateway that keeps its lease, but hears neither the
// new owner's gateway nor the leader of the session's partition, holds up a takeover for
// little more than the ownership time, and its old connection completes nothing after.
func TestTakeoverFromASilentGateway(t *testing.T) {
	const ownership = 3 * time.Second
	synctest.Test(t, func(t *testing.T) {
		network := simnet.New(*seedFlag, simnet.Link{Delay: time.Millisecond})
		c := sim.New(*seedFlag, 3, network, logger(t), func(o *cluster.Options) { o.OwnershipTime = ownership },
			func(node string, err error) { t.Errorf("node %s had to stop: %v", node, err) })
		for _, n := range c.Nodes {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		await(t, c, 30*time.Second)
		time.Sleep(15 * time.Second) // until all leaders are where they are preferred
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := castRoles(ctx, t, c)
		publish(t, r.conn, 1, 1)
		if _, err := r.conn.Await(ctx, client.PUBACK, 1); err != nil {
			t.Fatal(err)
		}
		events := history.NewRecorder()

		network.PartitionOneWay(r.new.Name, r.old.Name)
		time.Sleep(time.Second)
		if !r.old.Available() {
			t.Fatal("the old gateway has lost its lease: it is not what this test is about")
		}
		publish(t, r.conn, 2, 2) // its PUBREC cannot come
		began := time.Now()
		next, connack, err := client.Dial(ctx, network.Dialer("c2"), targetOf(r.new), events, stored(r.client))
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if !connack.SessionPresent {
			t.Error("the session is not present")
		}
		if took < ownership || took > ownership+3*time.Second {
			t.Errorf("taken over after %v, with an ownership time of %v", took, ownership)
		}
		silent(ctx, t, r.conn)
		network.Heal()
		silent(ctx, t, r.conn)
		await(t, c, 30*time.Second)
		publish(t, next, 3, 1)
		if _, err := next.Await(ctx, client.PUBACK, 3); err != nil {
			t.Error(err)
		}
		if n := r.new.Cluster().Counters().SilentGateways.Load(); n != 1 {
			t.Errorf("%d gateways were ended, want 1", n)
		}
		for _, k := range []*client.Conn{r.conn, next} {
			k.Abort()
		}
		for _, n := range c.Nodes {
			if err := n.Kill(false); err != nil {
				t.Error(err)
			}
		}
	})
}

// castRoles finds a session for the test: two nodes that do not lead the control group,
// and a client at the one whose partition the other leads.
func castRoles(ctx context.Context, t *testing.T, c *sim.Cluster) roles {
	t.Helper()
	var r roles
	leader := c.Nodes[0].Cluster().Status().Control.Leader
	for _, n := range c.Nodes {
		switch {
		case n.Name == leader:
			r.control = n
		case r.old == nil:
			r.old = n
		default:
			r.new = n
		}
	}
	if r.control == nil {
		t.Fatal("nobody leads the control group")
	}
	for i := range 50 {
		r.client = fmt.Sprintf("c%d", i)
		k, _, err := client.Dial(ctx, c.Net.Dialer("c1"), targetOf(r.old), history.NewRecorder(), stored(r.client))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.new.Cluster().Status().Partitions {
			if p.Stats.Connected == 1 && p.Leader == r.new.Name {
				r.conn = k
				return r
			}
		}
		if err := k.Disconnect(0, nil); err != nil {
			t.Fatal(err)
		}
		<-k.Done()
		time.Sleep(time.Second) // until its end is committed
	}
	t.Fatal("no client of 50 is in a partition that the new owner's node leads")
	return r
}

func targetOf(n *sim.Node) client.Target {
	return client.Target{Node: n.Name, Addr: fmt.Sprintf("%s:%d", n.Name, sim.MQTTPort)}
}

func stored(id string) client.Options {
	return client.Options{ClientID: id, Version: 5, Expiry: 3600}
}

func publish(t *testing.T, k *client.Conn, id uint16, qos byte) {
	t.Helper()
	if err := k.Publish(client.Packet{QoS: qos, ID: id, Topic: "a", Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
}

// silent checks that nothing but an end comes on the connection any more.
func silent(ctx context.Context, t *testing.T, k *client.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	p, err := k.Take(ctx, func(p *client.Packet) bool { return p.Type != client.DISCONNECT })
	if err == nil {
		t.Errorf("the old connection got %s after it had lost its session", client.TypeName(p.Type))
	}
}
