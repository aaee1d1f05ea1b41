package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// operatorGateway is a fakeGateway that takes orders.
type operatorGateway struct {
	*fakeGateway
	kick func(clientID string, epoch uint64, done func())
}

func (g *operatorGateway) Kick(clientID string, epoch uint64, done func()) {
	g.kick(clientID, epoch, done)
}

func (g *operatorGateway) Inspect(clientID string, epoch uint64) (flow.Inspection, bool) {
	return flow.Inspection{Remote: "remote of " + clientID, Listener: fmt.Sprint("epoch ", epoch)}, true
}

// startOperated starts three nodes whose gateways take orders.
func startOperated(t *testing.T) *testCluster {
	t.Helper()
	var c *testCluster
	kick := func(name string) func(string, uint64, func()) {
		return func(client string, epoch uint64, done func()) {
			for _, n := range c.nodes {
				if n.name == name {
					go n.Disconnect(client, epoch, flow.Disconnect{}, func(error) { done() })
				}
			}
		}
	}
	c = &testCluster{}
	*c = *startClusterWith(t, 3, func(o *Options) {
		o.Gateway = &operatorGateway{o.Gateway.(*fakeGateway), kick(o.Name)}
	})
	return c
}

func ids(list []*peerpb.SessionSummary) (out []string) {
	for _, s := range list {
		out = append(out, s.ClientId)
	}
	return out
}

// allSessions pages through all sessions.
func allSessions(t *testing.T, n *testNode, limit int, q SessionQuery) (all []*peerpb.SessionSummary) {
	t.Helper()
	q.Limit, q.FromStart = limit, true
	for {
		list, more, err := n.Sessions(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > limit || more && len(list) < limit {
			t.Fatalf("a page of %d has %d sessions, more: %v", limit, len(list), more)
		}
		all = append(all, list...)
		if !more {
			return all
		}
		q.After, q.FromStart = list[len(list)-1].ClientId, false
	}
}

func TestOperateSessions(t *testing.T) {
	c := startOperated(t)
	var want []string
	sessions := map[string]flow.Session{}
	for i := range 40 {
		id := fmt.Sprintf("%c%02d", 'a'+i%2, i)
		n := c.nodes[i%3]
		sessions[id] = n.connect(t, id)
		want = append(want, id)
		if i%2 == 0 {
			n.subscribe(t, sessions[id], "f/"+id, 1)
		}
	}
	slices.Sort(want)
	// What was acknowledged is seen at once, from every node and however paged.
	for i, n := range c.nodes {
		if got := ids(allSessions(t, n, []int{7, 40, 1000}[i], SessionQuery{})); !slices.Equal(got, want) {
			t.Errorf("%s lists %v, want %v", n.name, got, want)
		}
	}
	if got := ids(allSessions(t, c.nodes[0], 3, SessionQuery{Prefix: "b"})); !slices.Equal(got, want[20:]) {
		t.Errorf("with prefix b: %v", got)
	}

	asked, owner := c.nodes[0], c.nodes[1] // b01 is the second
	gone := make(chan error, 1)
	owner.Publish(&flow.Message{Topic: "f/a04", QoS: 1, Payload: []byte("x")}, func(_ bool, err error) { gone <- err })
	if err := <-gone; err != nil {
		t.Fatal(err)
	}
	s, gw, err := asked.Session(t.Context(), "a04")
	if err != nil || len(s.Subscriptions) != 1 || s.Subscriptions[0].Filter != "f/a04" || s.Session.Inflight != 1 ||
		asked.OwnerNode(s.Session) != "n2" || gw == nil || gw.Remote != "remote of a04" || gw.Listener != fmt.Sprint("epoch ", sessions["a04"].Epoch) {
		t.Errorf("a04: %v %v %v", s, gw, err)
	}

	if err := asked.Kick(t.Context(), "b01"); err != nil {
		t.Fatal(err)
	}
	if err := asked.Kick(t.Context(), "b01"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("kicked twice: %v", err)
	}
	if got := ids(allSessions(t, c.nodes[2], 5, SessionQuery{State: peerpb.SessionsRequest_OFFLINE})); !slices.Equal(got, []string{"b01"}) {
		t.Errorf("offline: %v", got)
	}

	for _, id := range []string{"b01", "a00"} { // away, and connected
		if err := asked.DeleteSession(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			if _, _, err := n.Session(t.Context(), id); !errors.Is(err, ErrNoSession) {
				t.Errorf("%s still knows %s: %v", n.name, id, err)
			}
		}
		if s := c.nodes[2].connect(t, id); s.Present {
			t.Errorf("%s is back with its session", id)
		}
	}
	if err := asked.DeleteSession(t.Context(), "nobody"); !errors.Is(err, ErrNoSession) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := asked.Sessions(ctx, SessionQuery{Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestOperateRetained(t *testing.T) {
	c := startOperated(t)
	publish := func(n *testNode, topic string) {
		t.Helper()
		within(t, "publish", func(done func(bool, error)) {
			n.Publish(&flow.Message{Topic: topic, QoS: 1, Retain: true, Payload: []byte("12345")}, done)
		})
	}
	var want []string
	for i := range 30 {
		name := fmt.Sprintf("r/%02d", i)
		publish(c.nodes[i%3], name)
		want = append(want, name)
	}
	publish(c.nodes[0], "kept")
	list := func(n *testNode, filter string, limit int) (topics []string) {
		t.Helper()
		for after, more := "", true; more; {
			var page []*peerpb.RetainedTopic
			var err error
			if page, more, err = n.RetainedTopics(t.Context(), filter, after, limit); err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				if r.Bytes != 5 || r.Qos != 1 {
					t.Errorf("%v", r)
				}
				topics, after = append(topics, r.Topic), r.Topic
			}
		}
		return topics
	}
	for _, n := range c.nodes {
		if got := list(n, "r/+", 7); !slices.Equal(got, want) {
			t.Errorf("%s lists %v", n.name, got)
		}
	}
	if n, err := c.nodes[1].ClearRetained(t.Context(), "r/+"); n != len(want) || err != nil {
		t.Errorf("cleared %d, %v", n, err)
	}
	for _, n := range c.nodes {
		if got := list(n, "#", 7); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("%s is left with %v", n.name, got)
		}
	}
	if _, err := c.nodes[0].ClearRetained(t.Context(), "a#"); !errors.Is(err, ErrInvalidFilter) {
		t.Errorf("got %v", err)
	}
}

func TestOperateLeadership(t *testing.T) {
	c := startOperated(t)
	asked := c.nodes[0]
	for _, to := range []string{"n2", "n3", "n3", "n1"} {
		// A node that has just started is not fit to lead before its beacons came.
		for {
			err := asked.TransferLeadership(t.Context(), 3, to)
			if err == nil {
				break
			}
			if !errors.Is(err, ErrTransfer) {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // polling
		}
		if asked.control.State().Placement(3).Preferred != to {
			t.Errorf("%s is not the preferred one", to)
		}
		for _, n := range c.nodes {
			if n.name == to {
				for n.replicas.at(3).leader() == nil {
					time.Sleep(5 * time.Millisecond) // polling
				}
			}
		}
	}
	if err := asked.TransferLeadership(t.Context(), 16, "n1"); !errors.Is(err, ErrNoPartition) {
		t.Errorf("got %v", err)
	}
	if err := asked.TransferLeadership(t.Context(), 0, "n9"); !errors.Is(err, ErrNoReplica) {
		t.Errorf("got %v", err)
	}
}
