package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/simnet"
	"github.com/flotilla-mqtt/flotilla/proof/toy"
)

// stage is a toy broker of two nodes on a network in memory.
type stage struct {
	t       *testing.T
	net     *simnet.Network
	broker  *toy.Broker
	rec     *history.Recorder
	targets []client.Target
}

// play runs do in a bubble with a stage.
func play(t *testing.T, do func(t *testing.T, s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, net: simnet.New(1, simnet.Link{Delay: time.Millisecond}), broker: toy.New(toy.Bugs{}), rec: history.NewRecorder()}
		for _, node := range []string{"n1", "n2"} {
			s.serve(node)
			s.targets = append(s.targets, client.Target{Node: node, Addr: node + ":1883"})
		}
		do(t, s)
		s.broker.Stop()
	})
}

func (s *stage) serve(node string) {
	l, err := s.net.Listen(node, 1883)
	if err != nil {
		s.t.Fatal(err)
	}
	s.broker.Serve(node, l)
}

func (s *stage) session(id string, change func(*client.SessionConfig)) *client.Session {
	cfg := client.SessionConfig{Dial: s.net.Dialer(id), Recorder: s.rec,
		Options: client.Options{ClientID: id, Expiry: history.NeverExpires}}
	if change != nil {
		change(&cfg)
	}
	return client.NewSession(cfg)
}

func (s *stage) connect(c *client.Session, node int, leave client.Leave) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	present, err := c.Connect(ctx, s.targets[node], false, leave)
	if err != nil {
		s.t.Fatal(err)
	}
	return present
}

func (s *stage) subscribe(c *client.Session, filter string, qos byte) {
	s.t.Helper()
	if _, err := c.Subscribe(s.t.Context(), history.Filter{Filter: filter, QoS: qos}); err != nil {
		s.t.Fatal(err)
	}
}

// inbox collects what is delivered to the application.
type inbox struct {
	mu  sync.Mutex
	ids []string // guarded by mu
}

func (i *inbox) put(p *client.Packet) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ids = append(i.ids, client.MessageID(p.Payload))
}

func (i *inbox) got() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.ids)
}

func message(qos byte, id string) client.Packet {
	return client.Packet{Topic: "t", QoS: qos, Payload: []byte(id + "|text")}
}

func TestSessionDeliversAndAcknowledges(t *testing.T) {
	for _, version := range []byte{4, 5} {
		play(t, func(t *testing.T, s *stage) {
			var in inbox
			sub := s.session("sub", func(c *client.SessionConfig) { c.OnMessage, c.Version = in.put, version })
			pub := s.session("pub", func(c *client.SessionConfig) { c.Version = version })
			if s.connect(sub, 0, 0) || s.connect(pub, 1, 0) {
				t.Error("Session Present on a first connection")
			}
			s.subscribe(sub, "t", 2)
			for qos := range byte(3) {
				if qos == 0 {
					if err := pub.PublishQoS0(message(0, "q0")); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if code, err := pub.Publish(message(qos, fmt.Sprint("q", qos))).Wait(t.Context()); code != 0 || err != nil {
					t.Fatal(code, err)
				}
			}
			time.Sleep(time.Second) // of the bubble
			if got := in.got(); !slices.Equal(got, []string{"q0", "q1", "q2"}) {
				t.Errorf("delivered %v", got)
			}
			if err := sub.Unsubscribe(t.Context(), "t"); err != nil {
				t.Error(err)
			}
			if err := sub.Disconnect(); err != nil {
				t.Error(err)
			}
			if !errors.Is(sub.PublishQoS0(message(0, "x")), client.ErrNotConnected) {
				t.Error("published without a connection")
			}
			sub.Close()
			pub.Close()
		})
	}
}

// TestSessionResends cuts the publisher off at every step of a QoS 2 flow in turn.
func TestSessionResends(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		var in inbox
		sub := s.session("sub", func(c *client.SessionConfig) { c.OnMessage = in.put })
		s.connect(sub, 0, 0)
		s.subscribe(sub, "t", 2)
		pub := s.session("pub", nil)
		s.connect(pub, 0, 0)
		var want []string
		node := 0
		for cut := range 9 { // in half milliseconds: each step takes one
			id := fmt.Sprint("m", cut)
			want = append(want, id)
			token := pub.Publish(message(2, id))
			time.Sleep(time.Duration(cut) * 500 * time.Microsecond)
			pub.Drop()
			node = 1 - node
			if !s.connect(pub, node, 0) {
				t.Fatal("the session is gone")
			}
			if _, err := token.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if got := in.got(); !slices.Equal(got, want) {
			t.Errorf("delivered %v", got)
		}
		dups := 0
		for _, e := range s.rec.Events() {
			if e.Packet == history.Publish && e.Dup {
				dups++
			}
		}
		if dups == 0 {
			t.Error("nothing was ever sent again")
		}
		sub.Close()
		pub.Close()
	})
}

func TestSessionHoldsAcksAndDeduplicates(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		var in inbox
		var held atomic.Bool
		held.Store(true)
		sub := s.session("sub", func(c *client.SessionConfig) {
			c.OnMessage = in.put
			c.HoldAck = func(*client.Packet) bool { return held.Load() }
		})
		pub := s.session("pub", nil)
		s.connect(sub, 0, 0)
		s.subscribe(sub, "t", 2)
		s.connect(pub, 0, 0)
		for _, id := range []string{"a", "b"} {
			if _, err := pub.Publish(message(2, id)).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		held.Store(false)
		s.connect(sub, 1, client.LeaveOpen)
		time.Sleep(time.Second)
		if got := in.got(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("delivered %v", got)
		}
		var ids []uint16
		for _, e := range s.rec.Events() {
			if e.Client == "sub" && e.Packet == history.Publish && e.Dup {
				ids = append(ids, e.ID)
			}
		}
		if !slices.Equal(ids, []uint16{1, 2}) {
			t.Errorf("redelivered ids %v", ids)
		}
		sub.Close()
		pub.Close()
	})
}

func TestSessionLost(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		pub := s.session("pub", func(c *client.SessionConfig) { c.Expiry = 5 })
		s.connect(pub, 0, 0)
		s.net.Partition("pub", "n1")
		token := pub.Publish(message(1, "m"))
		pub.Drop()
		queued := pub.Publish(message(1, "later"))
		s.net.Heal()
		time.Sleep(time.Minute)
		if s.connect(pub, 1, 0) {
			t.Fatal("the session did not expire")
		}
		if _, err := token.Wait(t.Context()); !errors.Is(err, client.ErrSessionLost) {
			t.Errorf("a message of a lost session: %v", err)
		}
		if _, err := queued.Wait(t.Context()); err != nil {
			t.Errorf("a message that was never sent: %v", err)
		}
		pub.Close()
	})
}

func TestKeepAliveEndsDeadConnection(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		c := s.session("c", func(c *client.SessionConfig) { c.KeepAlive = 10 })
		s.connect(c, 0, 0)
		time.Sleep(time.Minute)
		if !c.Connected() {
			t.Fatal("a living connection ended")
		}
		s.net.Partition("c", "n1")
		start := time.Now()
		<-c.Conn().Done()
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("a dead connection was noticed after %s", d)
		}
		c.Close()
	})
}

func TestRefusal(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		l, err := s.net.Listen("refuser", 1)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			nc, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			raw, err := client.Encode(&client.Packet{Type: client.CONNACK, Code: 0x88}, 5)
			if err != nil {
				t.Error(err)
			}
			if _, err := nc.Write(raw); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			_ = nc.Close()
		})
		_, _, err = client.Dial(t.Context(), s.net.Dialer("c"), client.Target{Node: "r", Addr: "refuser:1"}, s.rec,
			client.Options{ClientID: "c"})
		var refused *client.RefusedError
		if !errors.As(err, &refused) || refused.Code != 0x88 {
			t.Errorf("refused: %v", err)
		}
		wg.Wait()
		_ = l.Close()
	})
}
