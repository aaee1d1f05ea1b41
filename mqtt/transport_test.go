package mqtt

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/proof/pki"
)

// transport is one way to a listener.
type transport struct {
	name string
	o    ListenerOptions
	// over brings up the client's side of the layers.
	over func(net.Conn) (net.Conn, error)
}

// transports are all ways that clients may come.
func transports(t testing.TB) []transport {
	ca := pki.New(t, "ca")
	server := &tls.Config{Certificates: []tls.Certificate{ca.Issue("server", time.Now().Add(time.Hour))}}
	secure := func(nc net.Conn) (net.Conn, error) {
		tc := tls.Client(nc, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"})
		return tc, tc.Handshake()
	}
	web := func(nc net.Conn) (net.Conn, error) { return upgraded(nc, "/mqtt", "mqtt") }
	return []transport{
		{"tcp", ListenerOptions{}, func(nc net.Conn) (net.Conn, error) { return nc, nil }},
		{"tls", ListenerOptions{TLS: server}, secure},
		{"ws", ListenerOptions{WebSocket: &WebSocketOptions{}}, web},
		{"wss", ListenerOptions{TLS: server, WebSocket: &WebSocketOptions{}}, func(nc net.Conn) (net.Conn, error) {
			tc, err := secure(nc)
			if err != nil {
				return nil, err
			}
			return web(tc)
		}},
		{"tls behind a proxy", ListenerOptions{TLS: server, Proxies: loopback()}, func(nc net.Conn) (net.Conn, error) {
			if _, err := io.WriteString(nc, "PROXY TCP4 192.0.2.7 192.0.2.1 4711 8883\r\n"); err != nil {
				return nil, err
			}
			return secure(nc)
		}},
	}
}

func loopback() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

// dial connects by a transport.
func (tr transport) dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	over, err := tr.over(nc)
	if err != nil {
		t.Fatalf("%s: %v", tr.name, err)
	}
	return over
}

// webConn is a client's WebSocket as a stream: each Write is a message.
type webConn struct {
	net.Conn
	r     *bufio.Reader
	left  int    // of the message that is being read
	close []byte // payload of the Close frame that was read
}

// upgraded asks for a WebSocket. A webRefusal is a *webRefusal.
func upgraded(nc net.Conn, path, protocol string) (net.Conn, error) {
	head := "GET " + path + " HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
	if protocol != "" {
		head += "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	if _, err := io.WriteString(nc, head+"\r\n"); err != nil {
		return nil, err
	}
	r := bufio.NewReader(nc)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if got := res.Header.Get("Sec-WebSocket-Protocol"); res.StatusCode != 101 || got != protocol {
		return nil, &webRefusal{res.StatusCode, got}
	}
	return &webConn{Conn: nc, r: r}, nil
}

type webRefusal struct {
	status   int
	protocol string
}

func (e *webRefusal) Error() string { return fmt.Sprintf("HTTP %d, protocol %q", e.status, e.protocol) }

func (w *webConn) Write(p []byte) (int, error) {
	_, err := w.Conn.Write(webFrame(0x82, p))
	return len(p), err
}

// webFrame is a masked frame.
func webFrame(first byte, p []byte) []byte {
	b := []byte{first, 0x80 | byte(len(p))}
	if len(p) > 125 {
		b = binary.BigEndian.AppendUint64([]byte{first, 0xff}, uint64(len(p)))
	}
	b = append(b, 1, 2, 3, 4)
	for i, c := range p {
		b = append(b, c^byte(1+i%4))
	}
	return b
}

// Read returns what is in binary frames; a Close frame ends it.
func (w *webConn) Read(p []byte) (int, error) {
	for w.left == 0 {
		first, payload, err := w.frame()
		switch {
		case err != nil:
			return 0, err
		case first == 0x88:
			w.close = payload
			return 0, io.EOF
		case first == 0x82: // frame has set left
		default:
			return 0, fmt.Errorf("frame %x with %q", first, payload)
		}
	}
	n, err := w.r.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

// frame reads the header of a binary frame, or another frame whole.
func (w *webConn) frame() (first byte, payload []byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(w.r, head[:2]); err != nil {
		return 0, nil, err
	}
	n := int(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(w.r, head[2:4])
		n = int(binary.BigEndian.Uint16(head[2:]))
	case 127:
		_, err = io.ReadFull(w.r, head[2:10])
		n = int(binary.BigEndian.Uint64(head[2:]))
	}
	if err != nil || head[0] == 0x82 {
		w.left = n
		return head[0], nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.r, payload)
	return head[0], payload, err
}

// TestEveryTransport: MQTT is the same over every transport, for every version, for large
// messages and for the server's last words [MQTT-4.2-1].
func TestEveryTransport(t *testing.T) {
	for _, tr := range transports(t) {
		t.Run(tr.name, func(t *testing.T) {
			_, _, s := startServer(t, Options{})
			addr := serveMore(t, s, tr.o)
			for _, version := range []byte{packet.V31, packet.V311, packet.V5} {
				k := newRawClient(t, tr.dial(t, addr), version)
				k.connect(func(p *packet.Connect) { p.ClientID = fmt.Sprint("v", version) })
				k.send(sub(1, filter("a/#", 2)))
				k.expect("SUBACK 1 02")
				large := string(make([]byte, 500_000))
				for qos := range byte(3) {
					k.send(pub(fmt.Sprint("a/", qos), "small", qos, 10), pub(fmt.Sprint("a/", qos), large, qos, 11))
					if qos == 2 {
						k.send(ack(packet.TypePubrel, 10), ack(packet.TypePubrel, 11))
					}
					var got []string
					for len(got) < 2 {
						if p, ok := k.next().(*packet.Publish); ok {
							got = append(got, string(p.Payload))
						}
					}
					if got[0] != "small" || got[1] != large {
						t.Fatalf("version %d, QoS %d: messages of %d and %d bytes", version, qos, len(got[0]), len(got[1]))
					}
				}
			}
			last := newRawClient(t, tr.dial(t, addr), packet.V5)
			last.connect(nil)
			if err := s.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			last.expect("DISCONNECT 8B", "closed")
		})
	}
}

// TestAnyFramingOnEveryTransport: where packets begin and end has nothing to do with the
// pieces that a transport carries [MQTT-6.0.0-2].
func TestAnyFramingOnEveryTransport(t *testing.T) {
	for _, tr := range transports(t) {
		t.Run(tr.name, func(t *testing.T) {
			_, _, s := startServer(t, Options{})
			addr := serveMore(t, s, tr.o)
			anyFraming(t, func() *rawClient { return newRawClient(t, tr.dial(t, addr), packet.V5) })
		})
	}
}

// TestMaximumConnectTime: whoever stops within any step of a transport is closed in time,
// counts against the listener's connections meanwhile and holds up nobody.
func TestMaximumConnectTime(t *testing.T) {
	for _, tt := range []struct {
		transport string
		begin     string
	}{
		{"tls", ""}, {"tls", "\x16\x03\x01\x02\x00\x01"}, {"ws", "GET /mqtt HTT"}, {"wss", ""},
		{"tls behind a proxy", ""}, {"tls behind a proxy", "PRO"},
	} {
		t.Run(fmt.Sprintf("%s %q", tt.transport, tt.begin), func(t *testing.T) {
			t.Parallel()
			_, _, s := startServer(t, Options{})
			for _, tr := range transports(t) {
				if tr.name == tt.transport {
					stuckInSetUp(t, s, tr, tt.begin)
				}
			}
		})
	}
}

func stuckInSetUp(t *testing.T, s *Server, tr transport, begin string) {
	limits := DefaultLimits()
	limits.ConnectTimeout = 5 * time.Second // fine must come in time, too
	tr.o.Limits, tr.o.MaxConnections = &limits, 2
	addr := serveMore(t, s, tr.o)
	stuck := dialRaw(t, addr, packet.V5)
	stuck.write([]byte(begin))
	fine := newRawClient(t, tr.dial(t, addr), packet.V5) // while the other one is stuck
	fine.connect(nil)
	dialRaw(t, addr, packet.V5).expect("closed") // the third is too many
	if n := s.Metrics().TooMany.Load(); n != 1 {
		t.Errorf("%d connections too many", n)
	}
	if _, err := io.Copy(io.Discard, stuck.nc); err != nil { // a TLS alert may come
		t.Errorf("stuck client: %v", err)
	}
	if n := s.Metrics().Refused[packet.MaximumConnectTime].Load(); n != 1 {
		t.Errorf("%d connections counted as late", n)
	}
	fine.send(&packet.Pingreq{})
	fine.expect("PINGRESP")
}

// TestWrongProtocol: what is not the listener's protocol is refused, counted by the step
// that failed, and the listener goes on.
func TestWrongProtocol(t *testing.T) {
	connect := string(connectPacket(packet.V311).AppendTo(nil, packet.V311))
	for _, tt := range []struct {
		transport, send string
		step            SetupStep
	}{
		{"tls", connect, SetupTLS}, {"tls", "GET / HTTP/1.1\r\n\r\n", SetupTLS}, {"wss", connect, SetupTLS},
		{"ws", connect + "\r\n\r\n", SetupWebSocket}, {"ws", "GET / HTTP/1.1\r\n\r\n", SetupWebSocket},
		{"tls behind a proxy", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", SetupProxy},
	} {
		t.Run(fmt.Sprintf("%s %.5q", tt.transport, tt.send), func(t *testing.T) {
			_, _, s := startServer(t, Options{})
			for _, tr := range transports(t) {
				if tr.name != tt.transport {
					continue
				}
				addr := serveMore(t, s, tr.o)
				k := dialRaw(t, addr, packet.V5)
				k.write([]byte(tt.send))
				k.nc.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.Copy(io.Discard, k.nc); err != nil {
					t.Errorf("not closed in order: %v", err)
				}
				newRawClient(t, tr.dial(t, addr), packet.V5).connect(nil)
			}
			for s.Metrics().Connections.Load() > 1 { // the one that is fine
				time.Sleep(time.Millisecond)
			}
			for _, step := range SetupSteps() {
				if n := s.Metrics().SetupFailed[step].Load(); (n == 1) != (step == tt.step) {
					t.Errorf("%v: %d failed", step, n)
				}
			}
		})
	}
}

// TestAbruptEnd: a client that vanishes at any point of any transport leaves nothing.
func TestAbruptEnd(t *testing.T) {
	for _, tr := range transports(t) {
		t.Run(tr.name, func(t *testing.T) {
			_, _, s := startServer(t, Options{})
			addr := serveMore(t, s, tr.o)
			k := newRawClient(t, tr.dial(t, addr), packet.V5)
			k.connect(nil)
			tr.dial(t, addr).Close()
			dialRaw(t, addr, packet.V5).nc.Close()
			k.write([]byte{0x30, 0x10}) // a packet in part
			k.nc.Close()
			allGone(s)
			if n := s.Metrics().Sessions.Load(); n != 0 {
				t.Errorf("%d sessions", n)
			}
			for _, step := range SetupSteps() { // as a health check, it did nothing wrong
				if n := s.Metrics().SetupFailed[step].Load(); n != 0 {
					t.Errorf("%v: %d failed", step, n)
				}
			}
		})
	}
}

// allGone waits until no connection is left: then all are counted.
func allGone(s *Server) {
	for s.Metrics().Connections.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
}

// upgradeError is the status with which a WebSocket is refused; 0: it is not.
func upgradeError(t *testing.T, nc net.Conn, path, protocol string) int {
	t.Helper()
	_, err := upgraded(nc, path, protocol)
	var r *webRefusal
	if err != nil && !errors.As(err, &r) {
		t.Fatal(err)
	}
	if r == nil {
		return 0
	}
	return r.status
}
