package mqtt

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
	"unsafe"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// inUse is the memory of the process that belongs to live objects and stacks.
func inUse() int64 {
	for range 3 { // pools are emptied in two steps, stacks shrink in one more
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestIdleConnections measures what a connection costs that has one subscription and
// nothing to say: at most 12 KiB where it is plain, the client's socket in this process
// included, and little more where it is a WebSocket.
func TestIdleConnections(t *testing.T) {
	for _, tr := range transports(t) {
		t.Run(tr.name, func(t *testing.T) {
			n, limit := 1000, int64(12<<10)
			if raceEnabled {
				n = 50 // what is measured means nothing
			}
			if tr.o.TLS != nil {
				limit = 24 << 10
			}
			_, _, s := startServer(t, Options{})
			addr := serveMore(t, s, tr.o)
			idle(t, tr, addr, 0)
			before := inUse()
			conns := make([]net.Conn, n)
			for i := range conns {
				conns[i] = idle(t, tr, addr, i+1)
			}
			each := (inUse() - before) / int64(n)
			t.Logf("%d bytes per idle connection (struct socket: %d)", each, unsafe.Sizeof(socket{}))
			if each > limit && !raceEnabled {
				t.Errorf("%d bytes per idle connection, want at most %d", each, limit)
			}
			runtime.KeepAlive(conns)
		})
	}
}

// idle connects a client that subscribes and then says nothing. The client's layers are
// left to the garbage collector.
func idle(t *testing.T, tr transport, addr string, i int) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	over, err := tr.over(nc)
	if err != nil {
		t.Fatal(err)
	}
	p := connectPacket(packet.V311)
	p.ClientID, p.KeepAlive = fmt.Sprintf("device-%d", i), 60
	raw := p.AppendTo(nil, packet.V311)
	raw = sub(1, filter(fmt.Sprintf("devices/%d/commands", i), 1)).AppendTo(raw, packet.V311)
	if _, err := over.Write(raw); err != nil {
		t.Fatal(err)
	}
	nc.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(over, make([]byte, 4+5)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// BenchmarkRoute is the fan-out of one message to ephemeral subscribers, up to their
// out buffers.
func BenchmarkRoute(b *testing.B) {
	for _, subscribers := range []int{1, 20, 1000} {
		for qos := byte(0); qos <= 1; qos++ {
			b.Run(fmt.Sprintf("subscribers=%d/qos=%d", subscribers, qos), func(b *testing.B) {
				o := Options{Cluster: &stubCluster{held: map[string]bool{}}, Limits: DefaultLimits(), Logger: slog.New(slog.DiscardHandler)}
				srv := NewServer(o)
				clients := make([]*client, subscribers)
				for i := range clients {
					clients[i] = newClient(b, srv, o.Cluster.(*stubCluster), packet.V5)
					clients[i].connect(func(p *packet.Connect) { p.ClientID = fmt.Sprint(i) }).in(sub(1, filter("fleet/+/speed", 1)))
				}
				m := &flow.Message{Topic: "fleet/4711/speed", Payload: make([]byte, 256), QoS: qos}
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					srv.Route(m, qos > 0)
					for _, k := range clients {
						k.sink()
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*subscribers), "ns/delivery")
			})
		}
	}
}

// sink takes what was sent and acknowledges it.
func (k *client) sink() {
	if b, _ := k.c.take(); b != nil {
		n := b.size
		b.release()
		k.c.mu.Lock()
		if k.c.flows != nil {
			clear(k.c.flows.flights)
		}
		k.c.mu.Unlock()
		k.c.wrote(n)
	}
	k.c.take()
}

// BenchmarkPublish is the way of a PUBLISH from the read buffer to the cluster and of
// its acknowledgement back.
func BenchmarkPublish(b *testing.B) {
	for qos := byte(0); qos <= 2; qos++ {
		b.Run(fmt.Sprintf("qos=%d", qos), func(b *testing.B) {
			cluster := quietCluster{&stubCluster{held: map[string]bool{}}}
			srv := NewServer(Options{Cluster: cluster, Limits: DefaultLimits(), Logger: slog.New(slog.DiscardHandler)})
			k := newClient(b, srv, cluster.stubCluster, packet.V5).connect(nil)
			raw := pub("fleet/4711/speed", string(make([]byte, 256)), qos, 1).AppendTo(nil, packet.V5)
			header, start, _, _ := packet.Frame(raw)
			rel := ack(packet.TypePubrel, 1).AppendTo(nil, packet.V5)
			b.ReportAllocs()
			for b.Loop() {
				if err := k.c.handle(header, raw[start:]); err != nil {
					b.Fatal(err)
				}
				if qos == 2 {
					if err := k.c.handle(rel[0], rel[2:]); err != nil {
						b.Fatal(err)
					}
				}
				if qos > 0 {
					k.sink()
				}
			}
		})
	}
}

// quietCluster writes nothing down.
type quietCluster struct{ *stubCluster }

func (quietCluster) Publish(_ *flow.Message, done func(bool, error)) {
	if done != nil {
		done(true, nil)
	}
}
func (quietCluster) Receive(_ string, _ uint64, _ uint16, _ *flow.Message, done func(bool, error)) {
	done(true, nil)
}
func (quietCluster) Release(_ string, _ uint64, _ uint16, done func(error)) { done(nil) }
