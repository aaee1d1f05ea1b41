package e2e

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// scene is one test's use of a cluster, with a history of its own.
type scene struct {
	t   *testing.T
	c   *Cluster
	ctx context.Context
}

// begin repairs the cluster and starts a new history; t is the running test or a subtest of it.
func begin(t *testing.T, c *Cluster) *scene {
	t.Helper()
	outer := c.t
	c.t = t
	t.Cleanup(func() { c.t = outer })
	c.Repair()
	c.Rec = history.NewRecorder()
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	t.Cleanup(cancel)
	return &scene{t: t, c: c, ctx: ctx}
}

// verdict checks the history; clients must be still connected and at rest. Invariants
// that the test breaks on purpose are left out.
func (s *scene) verdict(except ...int) {
	s.t.Helper()
	s.c.Rec.Heal()
	s.c.Rec.Quiet()
	r := check.Run(s.c.Rec.Events(), check.Defaults())
	r.Violations = slices.DeleteFunc(r.Violations, func(v check.Violation) bool { return slices.Contains(except, v.Invariant) })
	if len(r.Violations) > 0 || len(r.Undecided) > 0 {
		s.t.Errorf("%s", r)
	}
}

// person is a client that keeps its session and reconnects by itself, to any of its nodes.
type person struct {
	*client.Session
	s     *scene
	nodes []*Node
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex
	inbox []string      // guarded by mu; message ids as delivered to the application
	more  chan struct{} // guarded by mu; closed and replaced when inbox grows
}

// connect starts a person on the first of its nodes and returns when it is connected.
func (s *scene) connect(id string, change func(*client.SessionConfig), nodes ...*Node) *person {
	s.t.Helper()
	p := &person{s: s, nodes: nodes, more: make(chan struct{})}
	cfg := client.SessionConfig{Dial: client.TCP, Recorder: s.c.Rec, OnMessage: p.receive, Window: 50,
		Options: client.Options{ClientID: id, Expiry: history.NeverExpires, KeepAlive: 60}}
	if change != nil {
		change(&cfg)
	}
	p.Session = client.NewSession(cfg)
	s.unlessBusy(id, func() error {
		_, err := p.Connect(s.ctx, nodes[0].Target(), false, client.LeaveAbort)
		return err
	})
	ctx, cancel := context.WithCancel(s.ctx)
	p.stop = cancel
	p.wg.Go(func() { p.follow(ctx) })
	s.t.Cleanup(p.end)
	return p
}

// unlessBusy connects again while the node says that the server is unavailable, as it may
// while a session's partition has no leader: 0x88, or 3 before MQTT 5.
func (s *scene) unlessBusy(id string, connect func() error) {
	s.t.Helper()
	for {
		err := connect()
		var refused *client.RefusedError
		switch {
		case err == nil:
			return
		case !errors.As(err, &refused) || refused.Code != 0x88 && refused.Code != 3 || s.ctx.Err() != nil:
			s.t.Fatalf("%s: %v", id, err)
		}
		s.t.Logf("%s: the server is unavailable, trying again", id)
		time.Sleep(50 * time.Millisecond) // polling
	}
}

// follow reconnects until ctx ends.
func (p *person) follow(ctx context.Context) {
	for next := 1; ; next++ {
		c := p.Conn()
		var done <-chan struct{}
		if c != nil {
			done = c.Done()
		}
		select {
		case <-ctx.Done():
			return
		case <-done:
		case <-time.After(50 * time.Millisecond):
		}
		if p.Connected() {
			continue
		}
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, _ = p.Connect(try, p.nodes[next%len(p.nodes)].Target(), false, client.LeaveAbort) // tried again
		cancel()
	}
}

func (p *person) end() {
	p.stop()
	p.wg.Wait()
	p.Session.Close()
}

func (p *person) receive(m *client.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inbox = append(p.inbox, client.MessageID(m.Payload))
	close(p.more)
	p.more = make(chan struct{})
}

func (p *person) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.inbox)
}

// await waits until a message has been delivered and returns all so far.
func (p *person) await(id string) []string {
	p.s.t.Helper()
	if !p.awaitFor(id, 5*patience) {
		p.s.t.Fatalf("message %q did not arrive; %d others did", id, len(p.received()))
	}
	return p.received()
}

// awaitFor says whether a message has been delivered, which it waits for.
func (p *person) awaitFor(id string, limit time.Duration) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		more := p.more
		got := slices.Clone(p.inbox)
		p.mu.Unlock()
		if slices.Contains(got, id) {
			return true
		}
		select {
		case <-more:
		case <-timeout.C:
			return false
		case <-p.s.ctx.Done():
			return false
		}
	}
}

func (p *person) subscribe(filter string, qos byte) {
	p.s.t.Helper()
	codes, err := p.Subscribe(p.s.ctx, history.Filter{Filter: filter, QoS: qos})
	if err != nil || len(codes) != 1 || codes[0] != qos {
		p.s.t.Fatalf("subscribing to %s: %v, %v", filter, codes, err)
	}
}

func message(topic string, qos byte, id string) client.Packet {
	return client.Packet{Topic: topic, QoS: qos, Payload: []byte(id + "|payload of " + id)}
}

// say publishes and waits for the final answer.
func (p *person) say(topic string, qos byte, id string) {
	p.s.t.Helper()
	p.s.taken(id, p.Publish(message(topic, qos, id)))
}

// taken waits until the broker has taken a message. 0x92 says that it had done so before
// the PUBREL that it now got a second time.
func (s *scene) taken(what string, token *client.Token) {
	s.t.Helper()
	if code, err := token.Wait(s.ctx); err != nil || code >= 0x80 && code != 0x92 {
		s.t.Fatalf("%s: %#x, %v", what, code, err)
	}
}

// life is one incarnation of a node's gateway.
type life struct {
	node        *Node
	incarnation uint64
}

func (s *scene) life(n *Node) life { return life{n, s.c.incarnation(n)} }

// ended says whether the cluster has ended a life. It may do so to a node that the machine
// gave no time for seconds, and then the node's connections break without a fault of the
// test's. Word of it may come after the connections' end.
func (s *scene) ended(l life) bool {
	for end := time.Now().Add(patience / 4); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // polling
		if now := s.c.incarnation(l.node); now > l.incarnation {
			s.t.Logf("the machine is too slow: the cluster ended incarnation %d of %s, which is %d now", l.incarnation, l.node.Name, now)
			return true
		}
	}
	return false
}

// stepper is a client whose every packet is the test's. When its connection breaks it
// resumes on another node.
type stepper struct {
	s    *scene
	conn *client.Conn
	opts client.Options
	at   life // of the connection
	// refuge are the nodes to resume on; none: the connection may not break.
	refuge []*Node
	broke  int
}

func (s *scene) step(id string, at *Node, refuge ...*Node) *stepper {
	s.t.Helper()
	p := &stepper{s: s, opts: client.Options{ClientID: id, Expiry: history.NeverExpires}, refuge: refuge}
	s.unlessBusy(id, func() error {
		conn, ack, err := client.Dial(s.ctx, client.TCP, at.Target(), s.c.Rec, p.opts)
		if err == nil && ack.SessionPresent {
			s.t.Fatalf("%s had a session already", id)
		}
		p.conn = conn
		return err
	})
	p.at = s.life(at)
	s.t.Cleanup(func() { p.conn.Close() })
	return p
}

// resume connects again where it is taken in.
func (p *stepper) resume(cause error) {
	p.s.t.Helper()
	refuge := p.refuge
	if len(refuge) == 0 && errors.Is(cause, client.ErrClosed) && p.s.ended(p.at) {
		refuge = []*Node{p.at.node}
	}
	if !errors.Is(cause, client.ErrClosed) || len(refuge) == 0 {
		p.s.t.Fatalf("%s: %v", p.opts.ClientID, cause)
	}
	p.broke++
	p.conn.Close()
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(p.s.ctx, 10*time.Second)
		conn, ack, err := client.Dial(ctx, client.TCP, refuge[i%len(refuge)].Target(), p.s.c.Rec, p.opts)
		cancel()
		if err == nil {
			if !ack.SessionPresent {
				p.s.t.Fatalf("%s: the session is gone", p.opts.ClientID)
			}
			p.conn, p.at = conn, p.s.life(refuge[i%len(refuge)])
			return
		}
		if p.s.ctx.Err() != nil {
			p.s.t.Fatalf("%s cannot resume: %v", p.opts.ClientID, err)
		}
		time.Sleep(20 * time.Millisecond) // polling
	}
}
