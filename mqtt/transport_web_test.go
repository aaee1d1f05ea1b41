package mqtt

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// web connects to a listener of WebSockets.
func web(t *testing.T, addr string) *webConn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	w, err := upgraded(nc, "/mqtt", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	return w.(*webConn)
}

// TestWebSocketFrames: what a client may send, and what it gets for what it may not.
func TestWebSocketFrames(t *testing.T) {
	t.Run("3.1.1", func(t *testing.T) { webSocketFrames(t, packet.V311) })
	t.Run("5.0", func(t *testing.T) { webSocketFrames(t, packet.V5) })
}

func webSocketFrames(t *testing.T, version byte) {
	connect := connectPacket(version).AppendTo(nil, version)
	ping := (&packet.Pingreq{}).AppendTo(nil, version)
	frames := func(list ...[]byte) []byte { return slices.Concat(list...) }
	binaries := func(p []byte, size int) (raw []byte) {
		for part := range slices.Chunk(p, size) {
			raw = append(raw, webFrame(0x82, part)...)
		}
		return raw
	}
	for _, tt := range []struct {
		name   string
		raw    []byte
		want   string
		status int // of the server's Close frame
	}{
		{"packets of their own", frames(webFrame(0x82, connect), webFrame(0x82, ping)), "CONNACK 00, PINGRESP", 0},
		{"packets in one message", webFrame(0x82, frames(connect, ping, ping)), "CONNACK 00, PINGRESP, PINGRESP", 0}, // [MQTT-6.0.0-2]
		{"a byte a message", binaries(frames(connect, ping), 1), "CONNACK 00, PINGRESP", 0},
		{"over the border", binaries(frames(connect, ping), len(connect)+1), "CONNACK 00, PINGRESP", 0},
		{"fragments", frames(webFrame(0x02, connect[:5]), webFrame(0x00, connect[5:]), webFrame(0x80, ping)), "CONNACK 00, PINGRESP", 0},
		{"pings between fragments", frames(webFrame(0x02, connect[:5]), webFrame(0x89, []byte("hi")), webFrame(0x8a, nil), webFrame(0x80, connect[5:])), "pong hi, CONNACK 00", 0},
		{"text", frames(webFrame(0x82, connect), webFrame(0x81, ping)), "CONNACK 00, DISCONNECT 82, closed", 1003}, // [MQTT-6.0.0-1]
		{"text at first", webFrame(0x81, connect), "closed", 1003},
		{"not masked", frames(webFrame(0x82, connect), []byte{0x82, 2, 0xc0, 0}), "CONNACK 00, DISCONNECT 82, closed", 1002},
		{"continuation of nothing", frames(webFrame(0x82, connect), webFrame(0x80, ping)), "CONNACK 00, DISCONNECT 82, closed", 1002},
		{"close", frames(webFrame(0x82, frames(connect, ping)), webFrame(0x88, []byte("\x03\xe9"))), "CONNACK 00, PINGRESP, closed", 1001},
		{"MQTT error", webFrame(0x82, frames(connect, []byte{0x36, 3, 0, 1, 0x61})), "CONNACK 00, DISCONNECT 81, closed", 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, s := startServer(t, Options{})
			w := web(t, serveMore(t, s, ListenerOptions{WebSocket: &WebSocketOptions{}}))
			if _, err := w.Conn.Write(tt.raw); err != nil {
				t.Fatal(err)
			}
			var got []string
			want := strings.Split(tt.want, ", ")
			if version < packet.V5 { // no DISCONNECT comes from the server
				want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "DISCONNECT") })
			}
			for len(got) < len(want) {
				got = append(got, w.next(t, version)...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if tt.status != 0 && (len(w.close) != 2 || int(binary.BigEndian.Uint16(w.close)) != tt.status) {
				t.Errorf("closed with % x, want status %d", w.close, tt.status)
			}
		})
	}
}

// next describes what is in the next frame, and that nothing follows a Close frame.
func (w *webConn) next(t *testing.T, version byte) (got []string) {
	t.Helper()
	w.SetReadDeadline(time.Now().Add(patience))
	first, payload, err := w.frame()
	switch {
	case err == io.EOF:
		return []string{"end without a Close frame"}
	case err != nil:
		t.Fatal(err)
	case first == 0x8a:
		return []string{"pong " + string(payload)}
	case first == 0x88:
		w.close = payload
		if rest, err := io.ReadAll(w.r); err != nil || len(rest) > 0 {
			t.Errorf("after the Close frame %q, %v", rest, err)
		}
		return []string{"closed"}
	case first != 0x82: // [MQTT-6.0.0-1]
		t.Fatalf("frame %x", first)
	}
	raw := make([]byte, w.left)
	if _, err := io.ReadFull(w.r, raw); err != nil {
		t.Fatal(err)
	}
	w.left = 0
	k := newRawClient(t, nil, version)
	k.r.Reset(bytes.NewReader(raw))
	for {
		p, err := k.read()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, describe(p))
	}
}

// TestWebSocketRequests: which requests are refused, and how.
func TestWebSocketRequests(t *testing.T) {
	_, _, s := startServer(t, Options{})
	usual := serveMore(t, s, ListenerOptions{WebSocket: &WebSocketOptions{}})
	other := serveMore(t, s, ListenerOptions{WebSocket: &WebSocketOptions{Path: "/ws/mqtt"}})
	refused, open := 0, 0
	for _, tt := range []struct {
		addr, path, protocol string
		status               int
	}{
		{usual, "/mqtt", "mqtt", 0}, // [MQTT-6.0.0-4]: upgraded compares the name
		{usual, "/mqtt", "mqttv3.1", 0},
		{usual, "/mqtt", "", 400}, // [MQTT-6.0.0-3]
		{usual, "/mqtt", "amqp", 400},
		{usual, "/", "mqtt", 404},
		{usual, "/ws/mqtt", "mqtt", 404},
		{other, "/ws/mqtt", "mqtt", 0},
		{other, "/mqtt", "mqtt", 404},
	} {
		if got := upgradeError(t, dialRaw(t, tt.addr, packet.V5).nc, tt.path, tt.protocol); got != tt.status {
			t.Errorf("%s with protocol %q is answered with %d, want %d", tt.path, tt.protocol, got, tt.status)
		}
		if tt.status != 0 {
			refused++
		} else {
			open++
		}
	}
	for s.Metrics().Connections.Load() > int64(open) { // those refused are counted by then
		time.Sleep(time.Millisecond)
	}
	if n := s.Metrics().SetupFailed[SetupWebSocket].Load(); int(n) != refused {
		t.Errorf("%d refusals counted, want %d", n, refused)
	}
}

// TestEagerWebSocketClient sends MQTT before it has read the answer to its request.
func TestEagerWebSocketClient(t *testing.T) {
	_, _, s := startServer(t, Options{})
	nc := dialRaw(t, serveMore(t, s, ListenerOptions{WebSocket: &WebSocketOptions{}}), packet.V5).nc
	head := "GET /mqtt HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	connect := connectPacket(packet.V5).AppendTo(nil, packet.V5)
	large := pub("t", string(make([]byte, 10_000)), 1, 1).AppendTo(nil, packet.V5) // more than is read ahead
	raw := append([]byte(head), webFrame(0x82, append(connect, large...))...)
	if _, err := nc.Write(raw); err != nil {
		t.Fatal(err)
	}
	k := newRawClient(t, nc, packet.V5)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = k.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	k = newRawClient(t, &webConn{Conn: nc, r: k.r}, packet.V5)
	k.expect("CONNACK 00", "PUBACK 1 10")
}

// TestPingsAreNoPackets: a WebSocket's pings do not keep a client alive that sends no
// MQTT [MQTT-3.1.2-22], and one that sends them and reads nothing holds up nobody.
func TestPingsAreNoPackets(t *testing.T) {
	_, _, s := startServer(t, Options{})
	w := web(t, serveMore(t, s, ListenerOptions{WebSocket: &WebSocketOptions{}}))
	p := connectPacket(packet.V5)
	p.KeepAlive = 1
	k := newRawClient(t, w, packet.V5)
	k.send(p)
	k.expect("CONNACK 00")
	flood := bytes.Repeat(webFrame(0x89, make([]byte, 100)), 1000)
	for { // until the server has closed; the pongs fill the socket
		w.SetWriteDeadline(time.Now().Add(10 * patience))
		if _, err := w.Conn.Write(flood); err != nil {
			break
		}
	}
	if n := s.Metrics().Closed[packet.KeepAliveTimeout].Load(); n != 1 {
		t.Errorf("%d connections ended for silence", n)
	}
}

// TestBatchesAreMessages: what is sent at once is one WebSocket message, not many.
func TestBatchesAreMessages(t *testing.T) {
	_, _, s := startServer(t, Options{})
	w := web(t, serveMore(t, s, ListenerOptions{WebSocket: &WebSocketOptions{}}))
	const n = 500
	raw := connectPacket(packet.V5).AppendTo(nil, packet.V5)
	for i := range n {
		raw = pub("nobody", "x", 1, uint16(i+1)).AppendTo(raw, packet.V5)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	packets, messages := 0, 0
	for packets < n+1 {
		packets += len(w.next(t, packet.V5))
		messages++
	}
	t.Logf("%d packets in %d messages", packets, messages)
	if messages > n/2 {
		t.Errorf("%d packets came in %d messages", packets, messages)
	}
}
