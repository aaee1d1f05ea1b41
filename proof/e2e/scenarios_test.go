package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// TestKillAllAndRestart kills every node at once in the middle of traffic.
func TestKillAllAndRestart(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	away := s.connect("away", nil, c.Nodes[2])
	away.subscribe("k/#", 2)
	away.stop()
	away.wg.Wait()
	away.Drop()
	sub := s.connect("sub", nil, c.Nodes...)
	sub.subscribe("k/#", 2)
	pub := s.connect("pub", nil, c.Nodes[1], c.Nodes[2], c.Nodes[0])
	s.taken("retained", pub.Publish(client.Packet{Topic: "kept", QoS: 1, Retain: true, Payload: []byte("kept|")}))
	var tokens []*client.Token
	for i := range 200 {
		tokens = append(tokens, pub.Publish(message("k/t", byte(1+i%2), fmt.Sprint("m", i))))
		if i == 150 {
			if _, err := tokens[20].Wait(s.ctx); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for _, n := range c.Nodes {
				wg.Go(n.Kill9)
			}
			wg.Wait()
			c.Repair()
		}
	}
	for i, token := range tokens {
		s.taken(fmt.Sprint("message ", i), token)
	}
	back := s.connect("away", nil, c.Nodes[0], c.Nodes[1])
	reader := s.connect("reader", nil, c.Nodes[0])
	reader.subscribe("kept", 1)
	reader.await("kept")
	sub.await("m198")
	sub.await("m199")
	back.await("m198")
	back.await("m199")
	s.verdict()
}

// TestSubscribeThenPublish publishes on one node the moment another has said SUBACK.
func TestSubscribeThenPublish(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	const rounds = 1000
	for name, expiry := range map[string]uint32{"ephemeral": 0, "persistent": history.NeverExpires} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, c)
			sub := s.connect("sub-"+name, func(cfg *client.SessionConfig) { cfg.Expiry = expiry }, c.Nodes[0])
			pub := s.connect("pub-"+name, nil, c.Nodes[1])
			lost := func() float64 { return c.counted("flotilla_messages_dropped_total", "flotilla_peer_links_down_total") }
			dropped := lost()
			var last *client.Token
			for i := range rounds {
				topic := fmt.Sprintf("%s/%d", name, i)
				qos := byte(i % 3)
				sub.subscribe(topic, max(qos, 1))
				if qos > 0 {
					last = pub.Publish(message(topic, qos, topic))
					sub.await(topic)
					continue
				}
				if err := pub.PublishQoS0(message(topic, 0, topic)); err != nil {
					t.Fatal(err)
				}
				if sub.awaitFor(topic, patience/4) {
					continue
				}
				// On a machine that gives a node no time, a lease is late or a link breaks. What that
				// costs at QoS 0 must be counted.
				before := dropped
				if dropped = lost(); dropped == before {
					t.Fatalf("%s did not arrive, and no node counted a loss", topic)
				}
				t.Logf("%s did not arrive: %v drops and broken links, %v before", topic, dropped, before)
			}
			s.taken("the last message", last) // a message may arrive before its publisher is answered
			s.verdict()
		})
	}
}

// TestTakeoverStorm connects with one client id to all nodes at once, again and again,
// while messages for it arrive.
func TestTakeoverStorm(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	first := s.connect("storm", nil, c.Nodes[0])
	first.subscribe("s", 2)
	first.stop()
	first.wg.Wait()
	first.Drop()
	pub := s.connect("pub", nil, c.Nodes[1])
	opts := client.Options{ClientID: "storm", Expiry: history.NeverExpires}
	var wg sync.WaitGroup
	taken := make([]int, len(c.Nodes))
	for i, n := range c.Nodes {
		wg.Go(func() {
			for range 40 {
				ctx, cancel := context.WithTimeout(s.ctx, patience)
				conn, ack, err := client.Dial(ctx, client.TCP, n.Target(), c.Rec, opts)
				cancel()
				if err != nil { // taken over before its CONNACK, which is allowed
					continue
				}
				taken[i]++
				if !ack.SessionPresent {
					t.Errorf("%s lost the session", n.Name)
				}
				conn.Close()
			}
		})
	}
	for i := range 100 {
		s.t.Helper()
		pub.say("s", byte(1+i%2), fmt.Sprint("m", i))
	}
	wg.Wait()
	for i, n := range taken {
		if n == 0 {
			t.Errorf("no connection to %s was ever accepted", c.Nodes[i].Name)
		}
	}
	last := s.connect("storm", nil, c.Nodes[2])
	pub.say("s", 2, "last")
	last.await("last")
	s.verdict()
}

// TestTakeoverDisconnectsTheOld shows the reason code and the fence of a takeover.
func TestTakeoverDisconnectsTheOld(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	old := s.step("moved", c.Nodes[0])
	if _, err := old.conn.Subscribe(s.ctx, 1, history.Filter{Filter: "x", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	moved := s.connect("moved", nil, c.Nodes[1])
	bye, err := old.conn.Await(s.ctx, client.DISCONNECT, 0)
	if err != nil || bye.Code != 0x8e {
		t.Errorf("the old connection got %+v, %v", bye, err)
	}
	<-old.conn.Done()
	moved.say("x", 1, "m1")
	moved.await("m1")
	s.verdict()
}

// TestWillWhenNodeDies shows that the wills of persistent and ephemeral sessions outlive
// their node, and that a DISCONNECT before its death discards them.
func TestWillWhenNodeDies(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	heir := s.connect("heir", nil, c.Nodes[1])
	heir.subscribe("w/#", 2)
	for i, expiry := range []uint32{0, history.NeverExpires, 0} {
		id := fmt.Sprint("testator", i)
		var conn *client.Conn
		s.unlessBusy(id, func() (err error) {
			conn, _, err = client.Dial(s.ctx, client.TCP, c.Nodes[0].Target(), c.Rec, client.Options{ClientID: id, Expiry: expiry,
				Will: &client.Will{Topic: "w/" + id, QoS: byte(1 + i%2), Payload: []byte("will of " + id + "|")}})
			return err
		})
		if i == 2 {
			if err := conn.Disconnect(0, nil); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Cleanup(conn.Close)
	}
	// DISCONNECT has no answer: wait until it has been taken.
	for connected := 0; connected != 3; {
		time.Sleep(10 * time.Millisecond) // polling
		if s.ctx.Err() != nil {
			t.Fatalf("%d sessions are connected, not 3", connected)
		}
		status, err := c.Nodes[1].Status()
		if err != nil {
			t.Log(err)
			continue
		}
		connected = 0
		for _, p := range status.Partitions {
			connected += p.Connected
		}
	}
	c.Nodes[0].Kill9()
	heir.await("will of testator0")
	heir.await("will of testator1")
	other := s.connect("other", nil, c.Nodes[2])
	other.say("w/end", 2, "end")
	got := heir.await("end")
	slices.Sort(got)
	if want := []string{"end", "will of testator0", "will of testator1"}; !slices.Equal(got, want) {
		t.Errorf("the heir got %v", got)
	}
	s.verdict()
}

// TestRetained sets, replaces and deletes on one node and reads on another.
func TestRetained(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	set := s.connect("set", nil, c.Nodes[0])
	retain := func(topic string, qos byte, id string) {
		t.Helper()
		p := message(topic, qos, id)
		p.Retain = true
		if id == "" {
			p.Payload = nil
		}
		s.taken("setting "+topic, set.Publish(p))
	}
	for i := range 40 {
		topic := fmt.Sprintf("r/%d", i)
		retain(topic, byte(1+i%2), fmt.Sprint("old", i))
		if i%3 > 0 {
			retain(topic, byte(1+i/2%2), fmt.Sprint("new", i))
		}
		if i%3 > 1 {
			retain(topic, 1, "")
		}
	}
	var want []string
	for i := range 40 {
		switch i % 3 {
		case 0:
			want = append(want, fmt.Sprint("old", i))
		case 1:
			want = append(want, fmt.Sprint("new", i))
		}
	}
	slices.Sort(want)
	for i, expiry := range []uint32{0, history.NeverExpires} {
		get := s.connect(fmt.Sprint("get", i), func(cfg *client.SessionConfig) { cfg.Expiry = expiry }, c.Nodes[1+i])
		get.subscribe("r/#", 2)
		for _, id := range want {
			get.await(id)
		}
		got := get.received()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s read %v, not %v", c.Nodes[1+i].Name, got, want)
		}
	}
	s.verdict()
}

// TestSessionMovesWithFullQueue moves a session between nodes while its full queue drains:
// what the limit left is delivered, each once and in order.
func TestSessionMovesWithFullQueue(t *testing.T) {
	t.Parallel()
	const limit, sent, move = 300, 400, 60
	c := StartCluster(t, 3, "--queue-max-messages", fmt.Sprint(limit))
	s := begin(t, c)
	sub := s.step("mover", c.Nodes[0])
	if _, err := sub.conn.Subscribe(s.ctx, 1, history.Filter{Filter: "q", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	sub.conn.Close()
	pub := s.connect("pub", nil, c.Nodes[1])
	for i := range sent {
		pub.say("q", 2, fmt.Sprint("m", i))
	}
	// PUBCOMP does not say that the queue has the message yet.
	const drops = `flotilla_messages_dropped_total{class="offline",reason="queue_full"}`
	for c.counted(drops) < sent-limit {
		if err := s.ctx.Err(); err != nil {
			t.Fatalf("waiting for the queue to drop what is too much: %v", err)
		}
		time.Sleep(20 * time.Millisecond) // polling
	}
	var want, got []string
	for i := sent - limit; i < sent; i++ { // the oldest are dropped
		want = append(want, fmt.Sprint("m", i))
	}
	sub.opts.ReceiveMaximum = 7
	held := map[uint16]bool{}
	for node := 0; len(got) < limit; node++ {
		sub.refuge = []*Node{c.Nodes[node%3]}
		sub.resume(client.ErrClosed)
		for n := 0; n < move && len(got) < limit; n++ {
			m, err := sub.conn.Next(s.ctx)
			if err != nil {
				sub.resume(err)
				continue
			}
			switch m.Type {
			case client.PUBLISH:
				if !held[m.ID] {
					got = append(got, client.MessageID(m.Payload))
				}
				held[m.ID] = true
				err = sub.conn.Ack(client.PUBREC, m.ID, 0)
			case client.PUBREL:
				delete(held, m.ID)
				err = sub.conn.Ack(client.PUBCOMP, m.ID, 0)
			}
			if err != nil {
				sub.resume(err)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d messages: %v", len(got), got)
	}
}

// TestPacketIDReusedAfterCleanStart uses id 1 again after a clean start has ended the
// session in which it was in flight.
func TestPacketIDReusedAfterCleanStart(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	sub := s.connect("sub", nil, c.Nodes[2])
	sub.subscribe("p", 2)
	pub := s.step("pub", c.Nodes[0])
	before := message("p", 2, "before")
	before.ID = 1
	if err := pub.conn.Publish(before); err != nil {
		t.Fatal(err)
	}
	if _, err := pub.conn.Await(s.ctx, client.PUBREC, 1); err != nil {
		t.Fatal(err)
	}
	pub.conn.Close()
	pub.opts.Clean = true
	s.unlessBusy("clean start", func() error {
		conn, ack, err := client.Dial(s.ctx, client.TCP, c.Nodes[1].Target(), c.Rec, pub.opts)
		if err == nil && ack.SessionPresent {
			t.Fatal("a clean start found a session")
		}
		pub.conn, pub.at = conn, s.life(c.Nodes[1])
		return err
	})
	pub.opts.Clean = false
	pub.publish(message("p", 2, "after"), 1, at{-1, nil})
	pub.publish(message("p", 2, "last"), 1, at{-1, nil})
	if got := sub.await("last"); !slices.Equal(got, []string{"after", "last"}) {
		t.Errorf("delivered %v", got)
	}
	s.verdict()
}

// TestLeaderChangeIsInvisible stops and kills leaders under traffic between clients of the
// other nodes: nobody is disconnected, and nothing is sent twice.
func TestLeaderChangeIsInvisible(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	for name, fault := range map[string]func(*Node){"stop": (*Node).Stop, "kill": (*Node).Kill9} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, c)
			leader := c.Leader()
			others := c.Others(leader)
			led := func(n *Node) bool { return n == leader }
			var subs, pubs []*person
			for i := range 3 {
				sub := s.connect(c.ClientID(fmt.Sprintf("%s-sub%d", name, i), led), nil, others[i%2])
				sub.subscribe(name+"/#", 2)
				subs = append(subs, sub)
				pubs = append(pubs, s.connect(c.ClientID(fmt.Sprintf("%s-pub%d", name, i), led), nil, others[1-i%2]))
			}
			conns, lives := map[*person]*client.Conn{}, map[*person]life{}
			for _, p := range slices.Concat(subs, pubs) {
				conns[p], lives[p] = p.Conn(), s.life(p.nodes[0])
			}
			var tokens []*client.Token
			for i := range 300 {
				if i == 100 {
					fault(leader)
				}
				p := pubs[i%3]
				tokens = append(tokens, p.Publish(message(name+"/t", byte(1+i%2), fmt.Sprintf("%s%d", name, i))))
				time.Sleep(time.Millisecond) // a rate, not a synchronisation
			}
			for i, token := range tokens {
				s.taken(fmt.Sprint("message ", i), token)
			}
			for _, sub := range subs {
				for i := range tokens {
					sub.await(fmt.Sprintf("%s%d", name, i))
				}
			}
			broke := false
			for p, conn := range conns {
				if p.Conn() != conn || conn.Err() != nil {
					broke = true
					if !s.ended(lives[p]) {
						t.Errorf("a client of a living node was disconnected: %v", conn.Err())
					}
				}
			}
			for _, sub := range subs {
				if got := len(sub.received()); got != len(tokens) && !broke {
					t.Errorf("%d deliveries of %d messages", got, len(tokens))
				}
			}
			s.verdict()
		})
	}
}

// TestMinorityAcknowledgesNothing pauses two of three nodes.
func TestMinorityAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	pub := s.step("pub", c.Nodes[0])
	if _, err := pub.conn.Subscribe(s.ctx, 1, history.Filter{Filter: "m", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	c.Nodes[1].Pause()
	c.Nodes[2].Pause()
	m := message("m", 1, "m1")
	m.ID = 7
	if err := pub.conn.Publish(m); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
	defer cancel()
	ack, err := pub.conn.Await(ctx, client.PUBACK, 7)
	if err == nil {
		t.Errorf("a minority acknowledged: %+v", ack)
	}
	c.Nodes[1].Resume()
	c.Nodes[2].Resume()
	pub.refuge = c.Nodes
	pub.await(client.PUBACK, 7, func() error { m.Dup = true; return pub.conn.Publish(m) })
	for acked := false; !acked; {
		got, err := pub.conn.Await(s.ctx, client.PUBLISH, 0)
		if err == nil {
			if client.MessageID(got.Payload) != "m1" {
				t.Fatalf("delivered %+v", got)
			}
			err = pub.conn.Ack(client.PUBACK, got.ID, 0)
		}
		if acked = err == nil; !acked {
			pub.resume(err)
		}
	}
	s.verdict()
}
