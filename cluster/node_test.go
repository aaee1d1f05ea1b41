package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
)

// fakeGateway stands for the part that terminates MQTT: it takes what the node
// delivers and tells the test.
type fakeGateway struct {
	mu        sync.Mutex
	delivered map[connection][]flow.Delivery
	routed    []*flow.Message
	closed    []connection
	changed   chan struct{}
}

func newFakeGateway() *fakeGateway {
	return &fakeGateway{delivered: make(map[connection][]flow.Delivery), changed: make(chan struct{}, 1)}
}

func (g *fakeGateway) tell() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *fakeGateway) Deliver(client string, epoch uint64, ds []flow.Delivery) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := connection{client, epoch}
	g.delivered[key] = append(g.delivered[key], ds...)
	g.tell()
}

func (g *fakeGateway) Route(m *flow.Message, reliable bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.routed = append(g.routed, m)
	g.tell()
}

func (g *fakeGateway) Close(client string, epoch uint64, done func()) {
	g.mu.Lock()
	g.closed = append(g.closed, connection{client, epoch})
	g.mu.Unlock()
	g.tell()
	done()
}

func (g *fakeGateway) CloseAll(done func()) { done() }

// waitDelivered waits for n deliveries to a connection.
func (g *fakeGateway) waitDelivered(t *testing.T, c connection, n int) []flow.Delivery {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		g.mu.Lock()
		ds := append([]flow.Delivery(nil), g.delivered[c]...)
		g.mu.Unlock()
		if len(ds) >= n {
			return ds
		}
		select {
		case <-g.changed:
		case <-deadline:
			t.Fatalf("%v: %d of %d deliveries", c, len(ds), n)
		}
	}
}

// testDiscovery finds everybody at once.
type testDiscovery struct {
	*discovery.Static
	addrs *sync.Map // name -> address
}

func (d testDiscovery) Resolve(node string) (string, bool) {
	v, ok := d.addrs.Load(node)
	if !ok {
		return "", false
	}
	return v.(string), true
}

func (d testDiscovery) Close() error { return nil }

type testNode struct {
	*Node
	gw    *fakeGateway
	o     Options
	fatal chan error
}

type testCluster struct {
	t     *testing.T
	table *discovery.Table
	nodes []*testNode
	addrs sync.Map // name -> address
	opts  func(*Options)
}

func startCluster(t *testing.T, n int) *testCluster {
	t.Helper()
	return startClusterWith(t, n, nil)
}

// startClusterWith starts a cluster whose nodes' options opts has changed.
func startClusterWith(t *testing.T, n int, opts func(*Options)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, table: discovery.NewTable(), opts: opts}
	t.Cleanup(func() {
		// All at once: the last one alone would wait for a quorum.
		var wg sync.WaitGroup
		for _, tn := range c.nodes {
			if tn != nil {
				wg.Go(func() { c.stop(tn) })
			}
		}
		wg.Wait()
	})
	for i := range n {
		c.start(i, n, t.TempDir())
	}
	c.waitAvailable()
	return c
}

func (c *testCluster) start(i, expect int, dir string) *testNode {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	name := fmt.Sprintf("n%d", i+1)
	c.addrs.Store(name, l.Addr().String())
	tn := &testNode{gw: newFakeGateway(), fatal: make(chan error, 16)}
	level := slog.LevelInfo
	if os.Getenv("FLOTILLA_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	tn.o = Options{
		Name: name, Dir: dir, PeerListener: l,
		Discover: func(discovery.MetaStore) (Discovery, error) {
			return testDiscovery{c.table.Node(name), &c.addrs}, nil
		},
		Expect: expect, Gateway: tn.gw,
		Logger: slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: level})).With("node", name),
		Fatal: func(err error) {
			select {
			case tn.fatal <- err:
			default:
			}
		},
	}
	if c.opts != nil {
		c.opts(&tn.o)
	}
	tn.Node, err = Open(tn.o)
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	for len(c.nodes) <= i {
		c.nodes = append(c.nodes, nil)
	}
	c.nodes[i] = tn
	return tn
}

func (c *testCluster) stop(n *testNode) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := n.Node.Close(ctx); err != nil {
		c.t.Errorf("close %s: %v", n.name, err)
	}
}

func (c *testCluster) waitAvailable() {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		all := true
		for _, n := range c.nodes {
			if n != nil && !n.Available() {
				all = false
			}
		}
		if all {
			return
		}
		if time.Now().After(deadline) {
			for _, n := range c.nodes {
				if n != nil {
					c.t.Logf("%s: %v %+v", n.name, n.ready(), n.control.Status())
				}
			}
			c.t.Fatal("not all nodes became available")
		}
		time.Sleep(10 * time.Millisecond) // polling a condition of other goroutines
	}
}

func within[T any](t *testing.T, what string, ask func(done func(T, error))) T {
	t.Helper()
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	ask(func(v T, err error) { ch <- result{v, err} })
	select {
	case r := <-ch:
		if r.err != nil {
			t.Fatalf("%s: %v", what, r.err)
		}
		return r.v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: no answer", what)
		panic("unreachable")
	}
}

func (n *testNode) connect(t *testing.T, id string) flow.Session {
	t.Helper()
	return within(t, "connect "+id, func(done func(flow.Session, error)) {
		n.Connect(flow.Connect{ClientID: id, Protocol: 5, Expiry: flow.NeverExpires, Window: 100}, done)
	})
}

func (n *testNode) subscribe(t *testing.T, s flow.Session, filter string, qos byte) {
	t.Helper()
	got := within(t, "subscribe "+filter, func(done func([]flow.Subscribed, error)) {
		n.Subscribe(s.ClientID, s.Epoch, []flow.Subscription{{Filter: filter, QoS: qos}}, done)
	})
	if got[0].Code != qos {
		t.Fatalf("subscribe %s: code %#x", filter, got[0].Code)
	}
}

func TestPublishAcrossNodes(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			c := startCluster(t, nodes)
			a, b := c.nodes[0], c.nodes[nodes-1]
			var subs []flow.Session
			for i := range 20 {
				s := a.connect(t, fmt.Sprintf("sub%d", i))
				a.subscribe(t, s, "f/+", 2)
				subs = append(subs, s)
			}
			for i := range 10 {
				matched := within(t, "publish", func(done func(bool, error)) {
					b.Publish(&flow.Message{Topic: "f/1", Payload: []byte(fmt.Sprint(i)), QoS: 1}, done)
				})
				if !matched {
					t.Fatal("nobody matched")
				}
			}
			pub := b.connect(t, "pub")
			for i := 10; i < 20; i++ {
				within(t, "receive", func(done func(bool, error)) {
					b.Receive("pub", pub.Epoch, uint16(i), &flow.Message{Topic: "f/1", Payload: []byte(fmt.Sprint(i)), QoS: 2, Publisher: "pub"}, done)
				})
				within(t, "release", func(done func(struct{}, error)) {
					b.Release("pub", pub.Epoch, uint16(i), func(err error) { done(struct{}{}, err) })
				})
			}
			for _, s := range subs {
				ds := a.gw.waitDelivered(t, connection{s.ClientID, s.Epoch}, 20)
				for i, d := range ds {
					if string(d.Message.Payload) != fmt.Sprint(i) || d.PacketID != uint16(i+1) {
						t.Fatalf("%s: delivery %d is %q with packet id %d", s.ClientID, i, d.Message.Payload, d.PacketID)
					}
				}
				if len(ds) != 20 {
					t.Fatalf("%s: %d deliveries", s.ClientID, len(ds))
				}
			}
		})
	}
}
