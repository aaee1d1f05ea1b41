package mqtt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// TestAnyFraming: packets may arrive in any pieces [MQTT-4.2-1], large ones among them.
func TestAnyFraming(t *testing.T) {
	addr, _, _ := startServer(t, Options{})
	anyFraming(t, func() *rawClient { return dialRaw(t, addr, packet.V5) })
}

func anyFraming(t *testing.T, dial func() *rawClient) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, seed))
	large := bytes.Repeat([]byte("0123456789abcdef"), 60_000) // just below the maximum
	var raw []byte
	raw = connectPacket(packet.V5).AppendTo(raw, packet.V5)
	raw = sub(1, filter("a", 1)).AppendTo(raw, packet.V5)
	payloads := []string{"x", string(large[:100]), string(large), "", string(large[:20_000]), "y"}
	for i, p := range payloads {
		raw = pub("a", p, 1, uint16(i+1)).AppendTo(raw, packet.V5)
	}
	for _, piece := range []int{1 << 30, 70_000, 5000, 100} {
		k := dial()
		go func() {
			for rest := raw; len(rest) > 0; {
				n := min(len(rest), 1+rnd.IntN(piece))
				if n, err := k.nc.Write(rest[:n]); err != nil {
					t.Errorf("after %d bytes: %v", n, err)
					return
				}
				rest = rest[n:]
			}
		}()
		k.expect("CONNACK 00", "SUBACK 1 01")
		acks, got := 0, 0
		for acks < len(payloads) || got < len(payloads) {
			switch p := k.next().(type) {
			case *packet.Ack:
				acks++
			case *packet.Publish:
				if string(p.Payload) != payloads[got] || int(p.PacketID) != got+1 {
					t.Fatalf("pieces of %d: message %d has %d bytes and identifier %d", piece, got, len(p.Payload), p.PacketID)
				}
				got++
			default:
				t.Fatalf("got %v", p)
			}
		}
		k.nc.Close()
	}
}

// TestRefusedBeforeRead: what exceeds the maximum packet size is refused by its header
// [MQTT-3.2.2-15], and the client learns why although it goes on sending.
func TestRefusedBeforeRead(t *testing.T) {
	addr, _, s := startServer(t, Options{})
	k := dialRaw(t, addr, packet.V5)
	k.connect(nil)
	k.write(append([]byte{0x30, 0x80, 0x80, 0x80, 0x7f}, make([]byte, 100_000)...)) // claims 250 MiB
	k.expect("DISCONNECT 95", "closed")
	if n := s.metrics.Closed[packet.PacketTooLarge].Load(); n != 1 {
		t.Errorf("counted %d", n)
	}
}

// TestGarbage: whoever does not begin with CONNECT is not waited for.
func TestGarbage(t *testing.T) {
	addr, _, _ := startServer(t, Options{})
	for _, raw := range []string{"GET / HTTP/1.1\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x00", "\x10\xff\xff\xff\xff\x01"} {
		k := dialRaw(t, addr, packet.V5)
		start := time.Now()
		k.write([]byte(raw))
		k.expect("closed")
		if d := time.Since(start); d > patience/2 {
			t.Errorf("%q: closed after %v", raw, d)
		}
	}
}

func TestMaxConnections(t *testing.T) {
	s := NewServer(Options{Cluster: newMemCluster()})
	s.cluster.(*memCluster).gw = s
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, ListenerOptions{MaxConnections: 1}) }()
	first := dialRaw(t, ln.Addr().String(), packet.V5)
	first.connect(nil)
	if p, err := dialRaw(t, ln.Addr().String(), packet.V5).read(); err == nil {
		t.Errorf("the second connection gets %v", p)
	}
	first.send(&packet.Disconnect{})
	first.expect("closed")
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestShutdown: clients are told (0x8B), the cluster hears of every end.
func TestShutdown(t *testing.T) {
	addr, m, s := startServer(t, Options{})
	var ks []*rawClient
	for i := range 20 {
		k := dialRaw(t, addr, packet.V5)
		k.connect(func(p *packet.Connect) { p.ClientID = fmt.Sprint(i) })
		ks = append(ks, k)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(m.log) != 20 {
		t.Errorf("%d disconnects: %q", len(m.log), m.log)
	}
	for _, k := range ks {
		k.expect("DISCONNECT 8B", "closed")
	}
	if n := s.Metrics().Connections.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestSlowSubscriber: a subscriber that does not read delays nobody and holds a bounded
// amount of memory; what it misses is counted.
func TestSlowSubscriber(t *testing.T) {
	for _, tr := range transports(t) {
		if tr.name == "tcp" || tr.name == "wss" { // none of our layers, and all
			t.Run(tr.name, func(t *testing.T) { slowSubscriber(t, tr) })
		}
	}
}

func slowSubscriber(t *testing.T, tr transport) {
	limits := DefaultLimits()
	limits.QueueMessages, limits.OutBuffer = 50, 64<<10
	_, _, s := startServer(t, Options{Limits: limits})
	addr := serveMore(t, s, tr.o)
	dial := func() *rawClient { return newRawClient(t, tr.dial(t, addr), packet.V5) }
	slow, fast := dial(), dial()
	for i, k := range []*rawClient{slow, fast} {
		k.connect(func(p *packet.Connect) { p.ClientID = fmt.Sprint("sub", i) })
		k.send(sub(1, filter("a/#", 1)))
		k.expect("SUBACK 1 01")
	}
	pubs := dial()
	pubs.connect(nil)
	payload := string(make([]byte, 32<<10))
	const n = 2000                   // 64 MiB, far beyond what the kernel buffers
	ahead := make(chan struct{}, 30) // of the fast subscriber, however slow this machine is
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(ended)
		for i := range n {
			p, ok := fast.next().(*packet.Publish)
			if !ok || p.Topic != fmt.Sprintf("a/%d", i) {
				t.Errorf("message %d of the fast subscriber is not there", i)
				return
			}
			fast.send(ack(packet.TypePuback, p.PacketID))
			<-ahead
		}
	})
	for i := range n {
		select {
		case ahead <- struct{}{}:
		case <-ended:
			t.FailNow()
		}
		pubs.send(pub(fmt.Sprintf("a/%d", i), payload, 1, 1))
		pubs.expect("PUBACK 1")
	}
	wg.Wait()
	if queued, dropped := s.metrics.QueuedMessages.Load(), s.metrics.Dropped[DropQueueFull].Load(); queued != 50 || dropped == 0 {
		t.Errorf("%d queued and %d dropped", queued, dropped)
	}
}

// TestTakeoverStorm: many connections of few clients at once, of which some publish and
// all get what is there. At the end every Connect has its Disconnect.
func TestTakeoverStorm(t *testing.T) {
	t.Run("answers in order", func(t *testing.T) { takeoverStorm(t, 0) })
	t.Run("answers in any order", func(t *testing.T) { takeoverStorm(t, 5*time.Millisecond) })
}

func takeoverStorm(t *testing.T, jitter time.Duration) {
	addr, m, s := startServer(t, Options{})
	m.jitter = jitter
	const workers, rounds, ids = 8, 30, 3
	const seed = 11
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for w := range workers {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for range rounds {
				k := dialRaw(t, addr, packet.V5)
				p := connectPacket(packet.V5)
				p.ClientID = fmt.Sprint("c", rnd.IntN(ids))
				if rnd.IntN(2) == 0 {
					persistent(p)
				}
				k.send(p)
				if rnd.IntN(8) == 0 {
					k.nc.Close() // before CONNACK
					continue
				}
				raw := sub(1, filter("a", byte(rnd.IntN(3)))).AppendTo(nil, packet.V5)
				for id := range uint16(5) {
					raw = pub("a", "x", byte(rnd.IntN(3)), id+1).AppendTo(raw, packet.V5)
				}
				_, _ = k.nc.Write(raw) // the connection may be gone by now
				if rnd.IntN(2) == 0 {
					_ = k.nc.SetReadDeadline(time.Now().Add(time.Duration(rnd.IntN(20)) * time.Millisecond))
					for _, err := k.read(); err == nil; _, err = k.read() {
					}
				}
				k.nc.Close()
			}
		})
	}
	wg.Wait()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-m.late.idle()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, session := range m.sessions {
		if session.owner != 0 {
			t.Errorf("%s is still owned by connection %d", id, session.owner)
		}
	}
	if got := uint64(len(m.log)); got != m.epoch {
		t.Errorf("%d Connects and %d Disconnects", m.epoch, got)
	}
	if n := s.metrics.Sessions.Load(); n != 0 {
		t.Errorf("%d sessions", n)
	}
	if n := s.metrics.Subscriptions.Load(); n != 0 || len(m.interest) != 0 {
		t.Errorf("%d subscriptions and interest %v", n, m.interest)
	}
	if n := s.metrics.QueuedMessages.Load(); n != 0 {
		t.Errorf("%d messages queued", n)
	}
}
