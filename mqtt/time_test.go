package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// pipes is a listener for connections within the process.
type pipes struct {
	conns chan net.Conn
	close sync.Once
	done  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.close.Do(func() { close(l.done) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// slowCluster is a memCluster that answers to some questions when it is told to.
type slowCluster struct {
	*memCluster
	held chan func() // nil: nothing is held
	// heldInterest holds new interest; nil: it does not.
	heldInterest chan func()
	// heldDisconnect holds ends of connections; nil: it does not.
	heldDisconnect chan func()
}

func (s *slowCluster) SetInterest(changes []InterestChange, done func(error)) {
	if s.heldInterest == nil || done == nil {
		s.memCluster.SetInterest(changes, done)
		return
	}
	s.heldInterest <- func() { s.memCluster.SetInterest(changes, done) }
}

func (s *slowCluster) Publish(m *flow.Message, done func(bool, error)) {
	if s.held == nil {
		s.memCluster.Publish(m, done)
		return
	}
	s.held <- func() { s.memCluster.Publish(m, done) }
}

func (s *slowCluster) Disconnect(id string, epoch uint64, d flow.Disconnect, done func(error)) {
	if s.heldDisconnect == nil {
		s.memCluster.Disconnect(id, epoch, d, done)
		return
	}
	s.heldDisconnect <- func() { s.memCluster.Disconnect(id, epoch, d, done) }
}

func (s *slowCluster) Connect(c flow.Connect, done func(flow.Session, error)) {
	if s.held == nil {
		s.memCluster.Connect(c, done)
		return
	}
	s.held <- func() { s.memCluster.Connect(c, done) }
}

// inBubble runs a test on fake time. dial makes a new connection.
func inBubble(t *testing.T, run func(t *testing.T, s *Server, cluster *slowCluster, dial func() *rawClient)) {
	inBubbleWith(t, Options{}, run)
}

// inBubbleWith is inBubble for a server with options.
func inBubbleWith(t *testing.T, o Options, run func(t *testing.T, s *Server, cluster *slowCluster, dial func() *rawClient)) {
	synctest.Test(t, func(t *testing.T) {
		cluster := &slowCluster{memCluster: newMemCluster()}
		o.Cluster, o.Logger = cluster, slog.New(slog.DiscardHandler)
		s := NewServer(o)
		cluster.gw = s
		ln := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		served := make(chan error)
		go func() { served <- s.Serve(ln, ListenerOptions{Name: "pipes"}) }()
		run(t, s, cluster, func() *rawClient {
			ours, theirs := net.Pipe()
			ln.conns <- theirs
			return newRawClient(t, ours, packet.V5)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// elapsed checks how long something took.
func elapsed(t *testing.T, since time.Time, low, high time.Duration) {
	t.Helper()
	if d := time.Since(since); d < low || d > high {
		t.Errorf("took %v, want %v to %v", d, low, high)
	}
}

func TestConnectTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, _ *slowCluster, dial func() *rawClient) {
		k, start := dial(), time.Now()
		k.expect("closed")
		elapsed(t, start, 10*time.Second, 10500*time.Millisecond)
	})
}

// TestSlowLoris: bytes that trickle in do not buy time.
func TestSlowLoris(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, _ *slowCluster, dial func() *rawClient) {
		k, start := dial(), time.Now()
		raw := (&packet.Connect{Version: packet.V5, ClientID: "a client that takes its time"}).AppendTo(nil, packet.V5)
		for _, b := range raw {
			if _, err := k.nc.Write([]byte{b}); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		elapsed(t, start, 10*time.Second, 12*time.Second)
	})
}

// TestKeepAlive: [MQTT-3.1.2-22], with pings and without.
func TestKeepAlive(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, _ *slowCluster, dial func() *rawClient) {
		k := dial()
		k.connect(func(p *packet.Connect) { p.KeepAlive = 2 })
		for range 20 {
			time.Sleep(2900 * time.Millisecond)
			k.send(&packet.Pingreq{})
			k.expect("PINGRESP")
		}
		start := time.Now()
		k.expect("DISCONNECT 8D", "closed")
		elapsed(t, start, 3*time.Second, 3500*time.Millisecond)
	})
}

// TestNoKeepAlive: keep alive 0 turns it off.
func TestNoKeepAlive(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, _ *slowCluster, dial func() *rawClient) {
		k := dial()
		k.connect(nil)
		time.Sleep(2 * time.Hour)
		k.send(&packet.Pingreq{})
		k.expect("PINGRESP")
	})
}

// TestKeepAliveWhileNotReading: a client is not to blame for what we do not read, and
// what it sent before is answered.
func TestKeepAliveWhileNotReading(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, cluster *slowCluster, dial func() *rawClient) {
		const n = 4
		s.limits.ReceiveMaximum = n
		k := dial()
		k.version = packet.V311
		k.connect(func(p *packet.Connect) { p.KeepAlive = 2 })
		cluster.held = make(chan func(), 2*n)
		var raw []byte
		for i := range 2 * n {
			raw = pub("t", "x", 1, uint16(i+1)).AppendTo(raw, packet.V311)
		}
		raw = (&packet.Pingreq{}).AppendTo((&packet.Pingreq{}).AppendTo(raw, packet.V311), packet.V311)
		k.write(raw)
		synctest.Wait()
		if got := len(cluster.held); got != n {
			t.Fatalf("%d messages handed on, want %d", got, n)
		}
		k.expect("PINGRESP", "PINGRESP") // both, behind the gate
		time.Sleep(time.Minute)
		for i := range 2 * n { // the gate opens and shuts again, the pings are not answered again
			(<-cluster.held)()
			k.expect(fmt.Sprintf("PUBACK %d", i+1))
			synctest.Wait()
		}
		start := time.Now()
		k.expect("closed")
		elapsed(t, start, 2900*time.Millisecond, 3500*time.Millisecond)
		if s.metrics.BackPressure.Load() == 0 {
			t.Error("back pressure is not counted")
		}
	})
}

// TestPublishWaitsForSubscribe: who subscribes and publishes in one breath gets the
// message, but a SUBACK that does not come holds up its messages for a short time only.
func TestPublishWaitsForSubscribe(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, cluster *slowCluster, dial func() *rawClient) {
		k := dial()
		k.connect(nil)
		cluster.heldInterest = make(chan func(), 1)
		k.send(sub(1, filter("a", 0)), &packet.Pingreq{}, pub("a", "x", 1, 2), &packet.Pingreq{})
		k.expect("PINGRESP", "PINGRESP")
		synctest.Wait()
		(<-cluster.heldInterest)()
		k.expect("SUBACK 1 00", "PUBLISH a x q0", "PUBACK 2")
		start := time.Now()
		k.send(sub(3, filter("b", 0)), pub("a", "y", 1, 4))
		k.expect("PUBLISH a y q0", "PUBACK 4")
		elapsed(t, start, 900*time.Millisecond, 1500*time.Millisecond)
		(<-cluster.heldInterest)()
		k.expect("SUBACK 3 00")
		if s.metrics.BackPressure.Load() != 0 {
			t.Error("counted as back pressure")
		}
	})
}

// TestSessionTimeout: a cluster that cannot find the session in time.
func TestSessionTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, cluster *slowCluster, dial func() *rawClient) {
		cluster.held = make(chan func(), 1)
		k, start := dial(), time.Now()
		k.send(connectPacket(packet.V5))
		k.expect("CONNACK 88", "closed")
		elapsed(t, start, 30*time.Second, 30500*time.Millisecond)
		(<-cluster.held)() // late; Shutdown waits for its Disconnect
		synctest.Wait()
		if len(cluster.log) != 1 || cluster.log[0] != "lost disconnect c" {
			t.Errorf("log %q", cluster.log)
		}
	})
}

// TestStuckSocket: who takes nothing for the write timeout is gone, and nobody else
// waits for it.
func TestStuckSocket(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, _ *slowCluster, dial func() *rawClient) {
		stuck, other := dial(), dial()
		stuck.connect(nil)
		other.connect(func(p *packet.Connect) { p.ClientID = "other" })
		for _, k := range []*rawClient{stuck, other} {
			k.send(sub(1, filter("a", 0)))
			k.expect("SUBACK 1 00")
		}
		start := time.Now()
		for range 3 {
			other.send(pub("a", "x", 0, 0))
			other.expect("PUBLISH a x q0")
		}
		elapsed(t, start, 0, 0)
		time.Sleep(19 * time.Second)
		if n := s.Metrics().Connections.Load(); n != 2 {
			t.Errorf("%d connections", n)
		}
		time.Sleep(3 * time.Second)
		if n := s.Metrics().Connections.Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestExpiryCountsDown: [MQTT-3.3.2-6]. Queued for an ephemeral session whose window
// is full.
func TestExpiryCountsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, _ *slowCluster, dial func() *rawClient) {
		k := dial()
		k.connect(func(p *packet.Connect) { p.Props.ReceiveMaximum = new(uint16(1)) })
		k.send(sub(1, filter("a", 1)))
		k.expect("SUBACK 1 01")
		m := pub("a", "y", 1, 2)
		m.HasExpiry, m.Expiry = true, 10
		k.send(pub("a", "x", 1, 1))
		k.expect("PUBLISH a x q1 #1", "PUBACK 1")
		k.send(m)
		k.expect("PUBACK 2")
		time.Sleep(3500 * time.Millisecond)
		k.send(ack(packet.TypePuback, 1))
		k.expect("PUBLISH a y q1 #2 expiry=7")
	})
}

// TestAckDelay: a few acknowledgements reach the partition soon even if no more come.
func TestAckDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, cluster *slowCluster, dial func() *rawClient) {
		k := dial()
		k.connect(persistent)
		k.send(sub(1, filter("a", 1)))
		k.expect("SUBACK 1 01")
		k.send(pub("a", "x", 1, 1))
		got := map[string]bool{}
		for range 2 {
			got[describe(k.next())] = true
		}
		if !got["PUBACK 1"] || !got["PUBLISH a x q1 #1"] {
			t.Fatalf("got %v", got)
		}
		k.send(ack(packet.TypePuback, 1))
		synctest.Wait()
		inflight := func() int {
			cluster.mu.Lock()
			defer cluster.mu.Unlock()
			return len(cluster.sessions["c"].inflight)
		}
		if n := inflight(); n != 1 {
			t.Errorf("%d in flight", n)
		}
		time.Sleep(ackDelay)
		synctest.Wait()
		if n := inflight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
	})
}

// TestDisconnectIsDurableBeforeTheClose: [MQTT-3.14.4-3] holds from the moment at which
// the client sees the connection closed; but it is closed in any case.
func TestDisconnectIsDurableBeforeTheClose(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, cluster *slowCluster, dial func() *rawClient) {
		cluster.heldDisconnect = make(chan func(), 2)
		for _, wait := range []time.Duration{3 * time.Second, time.Hour} {
			k, start := dial(), time.Now()
			k.connect(nil)
			k.send(&packet.Disconnect{})
			synctest.Wait()
			commit := <-cluster.heldDisconnect
			timer := time.AfterFunc(wait, commit)
			k.expect("closed")
			elapsed(t, start, min(wait, farewell), min(wait, farewell))
			if timer.Stop() {
				commit()
			}
		}
	})
}
