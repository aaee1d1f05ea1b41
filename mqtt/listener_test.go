package mqtt

import (
	"net"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// serveMore gives the server one more listener.
func serveMore(t *testing.T, s *Server, o ListenerOptions) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, o) }()
	t.Cleanup(func() {
		ln.Close()
		<-served
	})
	return ln.Addr().String()
}

// TestListenersHaveLimitsOfTheirOwn: each connection goes by its listener's limits.
func TestListenersHaveLimitsOfTheirOwn(t *testing.T) {
	usual, _, s := startServer(t, Options{})
	narrow := DefaultLimits()
	narrow.MaxPacket, narrow.ReceiveMaximum, narrow.TopicAliasMaximum, narrow.MaxKeepAlive = 256, 3, 2, 30
	narrow.ConnectTimeout = 50 * time.Millisecond
	other := serveMore(t, s, ListenerOptions{Name: "narrow", Limits: &narrow})
	closed := DefaultLimits()
	closed.AllowAnonymous = false
	login := serveMore(t, s, ListenerOptions{Name: "login", Limits: &closed})

	connack := func(addr string) (*rawClient, *packet.Connack) {
		k := dialRaw(t, addr, packet.V5)
		p := connectPacket(packet.V5)
		p.ClientID = ""
		k.send(p)
		a, ok := k.next().(*packet.Connack)
		if !ok {
			t.Fatalf("no CONNACK from %s", addr)
		}
		return k, a
	}
	for addr, want := range map[string]Limits{usual: DefaultLimits(), other: narrow} {
		k, a := connack(addr)
		got := Limits{
			MaxPacket: packet.Value(a.Props.MaximumPacketSize, 0), ReceiveMaximum: packet.Value(a.Props.ReceiveMaximum, 0),
			TopicAliasMaximum: packet.Value(a.Props.TopicAliasMaximum, 0), MaxKeepAlive: packet.Value(a.Props.ServerKeepAlive, 0),
		}
		if got.MaxPacket != want.MaxPacket || got.ReceiveMaximum != want.ReceiveMaximum ||
			got.TopicAliasMaximum != want.TopicAliasMaximum || got.MaxKeepAlive != want.MaxKeepAlive {
			t.Errorf("announced %+v, want those of %+v", got, want)
		}
		k.send(pub("t", string(make([]byte, 300)), 1, 1))
		if want.MaxPacket < 300 {
			k.expect("DISCONNECT 95", "closed") // [MQTT-3.2.2-15]
		} else {
			k.expect("PUBACK 1 10")
		}
	}
	if _, a := connack(login); a.Code != packet.NotAuthorized {
		t.Errorf("anonymous client: CONNACK %v", a.Code)
	}
	dialRaw(t, other, packet.V5).expect("closed") // no CONNECT in time
}

// TestTooManyConnections: one connection more than the listener may have is closed.
func TestTooManyConnections(t *testing.T) {
	_, _, s := startServer(t, Options{})
	addr := serveMore(t, s, ListenerOptions{MaxConnections: 1})
	first := dialRaw(t, addr, packet.V5)
	first.connect(nil)
	dialRaw(t, addr, packet.V5).expect("closed")
	if n := s.Metrics().TooMany.Load(); n != 1 {
		t.Errorf("%d connections counted as too many", n)
	}
	first.send(&packet.Pingreq{})
	first.expect("PINGRESP")
}
