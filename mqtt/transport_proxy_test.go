package mqtt

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// witness is an Authenticator that tells who came.
type witness struct {
	allowAll
	came chan *Client
}

func (w *witness) Authenticate(_ context.Context, c *Client, _ []byte) packet.ReasonCode {
	w.came <- c
	return packet.Success
}

// named is a CONNECT with a user name, for which the Authenticator is asked.
func named(p *packet.Connect) { p.Username, p.HasUsername = "somebody", true }

// TestProxyHeader: a connection from a proxy comes from where its header says.
func TestProxyHeader(t *testing.T) {
	from := &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 4711}
	from6 := &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 4711}
	to, to6 := &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1883}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1883}
	header := func(version byte, from, to net.Addr) []byte {
		raw, err := proxyproto.HeaderProxyFromAddrs(version, from, to).Format()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	unix := &net.UnixAddr{Name: "/a", Net: "unix"}
	far := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	long := header(2, from, to) // with a TLV
	long[15] += 4
	long = append(long, 0xee, 0, 1, 'x')
	for _, tt := range []struct {
		name    string
		proxies []netip.Prefix
		header  []byte
		remote  string // "": refused; "itself": the address of the connection
	}{
		{"v1", loopback(), []byte("PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n"), "192.0.2.7:4711"},
		{"v1, IPv6", loopback(), []byte("PROXY TCP6 2001:db8::7 2001:db8::1 4711 1883\r\n"), "[2001:db8::7]:4711"},
		{"v1, unknown", loopback(), []byte("PROXY UNKNOWN\r\n"), "itself"},
		{"v2", loopback(), header(2, from, to), "192.0.2.7:4711"},
		{"v2, IPv6", loopback(), header(2, from6, to6), "[2001:db8::7]:4711"},
		{"v2 with more", loopback(), long, "192.0.2.7:4711"},
		{"v2, local", loopback(), []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"), "itself"},
		{"v2, Unix", loopback(), header(2, unix, unix), ""},
		{"none", loopback(), nil, ""},
		{"garbage", loopback(), []byte("PROXY TCP4 broker\r\n"), ""},
		{"v2, garbage", loopback(), []byte("\r\n\r\n\x00\r\nQUIT\n\x99\x11\x00\x00"), ""},
		{"from elsewhere", far, header(1, from, to), ""},
		{"from elsewhere, none", far, nil, "itself"},
		{"no proxies", nil, header(2, from, to), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &witness{came: make(chan *Client, 1)}
			_, _, s := startServer(t, Options{Auth: w})
			k := dialRaw(t, serveMore(t, s, ListenerOptions{Name: "l", Proxies: tt.proxies}), packet.V5)
			p := connectPacket(packet.V5)
			named(p)
			k.write(append(bytes.Clone(tt.header), p.AppendTo(nil, packet.V5)...)) // in one segment
			if tt.remote == "" {
				k.expect("closed")
				return
			}
			k.expect("CONNACK 00")
			want := tt.remote
			if want == "itself" {
				want = k.nc.LocalAddr().String()
			}
			if c := <-w.came; c.Remote.String() != want || c.Listener != "l" || c.TLS != nil {
				t.Errorf("client %+v, want it at %s", c, want)
			}
		})
	}
}

// TestProxyBeforeTLSAndWebSocket: the header comes before everything else.
func TestProxyBeforeTLSAndWebSocket(t *testing.T) {
	w := &witness{came: make(chan *Client, 1)}
	_, _, s := startServer(t, Options{Auth: w})
	for _, tr := range transports(t) {
		if tr.name != "wss" {
			continue
		}
		tr.o.Proxies = loopback()
		nc, err := net.Dial("tcp", serveMore(t, s, tr.o))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		if _, err := nc.Write([]byte("PROXY TCP4 192.0.2.7 192.0.2.1 4711 8084\r\n")); err != nil {
			t.Fatal(err)
		}
		over, err := tr.over(nc)
		if err != nil {
			t.Fatal(err)
		}
		newRawClient(t, over, packet.V5).connect(named)
		if c := <-w.came; c.Remote.String() != "192.0.2.7:4711" || c.TLS == nil || !c.TLS.HandshakeComplete {
			t.Errorf("client %+v", c)
		}
	}
}
