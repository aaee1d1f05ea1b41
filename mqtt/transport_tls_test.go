package mqtt

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/proof/pki"
)

// TestClientCertificates: whom the Authenticator is told of.
func TestClientCertificates(t *testing.T) {
	ca, stranger := pki.New(t, "ca"), pki.New(t, "stranger")
	until := time.Now().Add(time.Hour)
	config := func(auth tls.ClientAuthType) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ca.Issue("server", until)}, ClientCAs: ca.Pool(), ClientAuth: auth}
	}
	required, optional := tls.RequireAndVerifyClientCert, tls.VerifyClientCertIfGiven
	for _, tt := range []struct {
		name string
		auth tls.ClientAuthType
		cert []tls.Certificate
		ok   bool
		user string
	}{
		{"required, given", required, []tls.Certificate{ca.Issue("device-7", until)}, true, "device-7"},
		{"required, none", required, nil, false, ""},
		{"required, of a stranger", required, []tls.Certificate{stranger.Issue("device-7", until)}, false, ""},
		{"required, expired", required, []tls.Certificate{ca.Issue("device-7", time.Now().Add(-time.Hour))}, false, ""},
		{"optional, given", optional, []tls.Certificate{ca.Issue("device-7", until)}, true, "device-7"},
		{"optional, none", optional, nil, true, ""},
		{"optional, of a stranger", optional, []tls.Certificate{stranger.Issue("device-7", until)}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &witness{came: make(chan *Client, 1)}
			_, _, s := startServer(t, Options{Auth: w})
			addr := serveMore(t, s, ListenerOptions{TLS: config(tt.auth)})
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			tc := tls.Client(nc, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost",
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // also one the server did not ask for
					if tt.cert == nil {
						return &tls.Certificate{}, nil
					}
					return &tt.cert[0], nil
				}})
			k := newRawClient(t, tc, packet.V5)
			if !tt.ok {
				// In TLS 1.3 the client learns of it by the first read.
				_, _ = tc.Write(connectPacket(packet.V5).AppendTo(nil, packet.V5))
				if p, err := k.read(); err == nil {
					t.Errorf("got %v", p)
				}
				allGone(s)
				if n := s.Metrics().SetupFailed[SetupTLS].Load(); n != 1 {
					t.Errorf("%d failed handshakes", n)
				}
				return
			}
			k.connect(named)
			state := (<-w.came).TLS
			user := ""
			if len(state.VerifiedChains) > 0 {
				user = state.VerifiedChains[0][0].Subject.CommonName
			}
			if user != tt.user {
				t.Errorf("client %q, want %q", user, tt.user)
			}
		})
	}
}

// TestTLSRecords: many small records in one segment, and packets across records; the
// reader must not wait for the socket while there is something in the TLS layer.
func TestTLSRecords(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ca := pki.New(t, "ca")
		_, _, s := startServer(t, Options{})
		addr := serveMore(t, s, ListenerOptions{TLS: &tls.Config{Certificates: []tls.Certificate{ca.Issue("s", time.Now().Add(time.Hour))}}})
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		held := &corked{Conn: nc}
		tc := tls.Client(held, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", MaxVersion: version})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		k := newRawClient(t, tc, packet.V311)
		k.connect(nil)
		held.held = true
		raw := pub("nobody", string(make([]byte, 20_000)), 1, 1).AppendTo(nil, packet.V311) // more than a record
		for range 100 {
			raw = (&packet.Pingreq{}).AppendTo(raw, packet.V311)
		}
		for i := 0; i < len(raw); i += 777 {
			k.write(raw[i:min(i+777, len(raw))])
		}
		for part := range splitAt(held.all, 5, 1500) { // the last record is cut, too
			if _, err := nc.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		acks, pongs := 0, 0
		for acks+pongs < 101 {
			switch k.next().(type) {
			case *packet.Ack:
				acks++
			case *packet.Pingresp:
				pongs++
			default:
				t.Fatal("closed")
			}
		}
	}
}

// corked keeps what is written.
type corked struct {
	net.Conn
	held bool
	all  []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.held {
		return c.Conn.Write(p)
	}
	c.all = append(c.all, p...)
	return len(p), nil
}

// splitAt yields a first part and then parts of a size.
func splitAt(p []byte, first, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for n := first; len(p) > 0; n = size {
			n = min(n, len(p))
			if !yield(p[:n]) {
				return
			}
			p = p[n:]
		}
	}
}

// TestHandshakesLeaveRoom: only so many handshakes compute at once, and those that wait for
// their clients are not among them.
func TestHandshakesLeaveRoom(t *testing.T) {
	ca := pki.New(t, "ca")
	_, _, s := startServer(t, Options{})
	var now, most atomic.Int32
	server := &tls.Config{Certificates: []tls.Certificate{ca.Issue("s", time.Now().Add(time.Hour))}}
	server.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond) // as if it computed
		now.Add(-1)
		return nil, nil
	}
	addr := serveMore(t, s, ListenerOptions{TLS: server})
	const n = 50
	for range n { // they say nothing
		dialRaw(t, addr, packet.V5)
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			tc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"})
			if err != nil {
				t.Error(err)
				return
			}
			tc.Close()
		})
	}
	wg.Wait()
	if got, limit := int(most.Load()), cap(s.handshakes); got > limit {
		t.Errorf("%d handshakes computed at once, want at most %d", got, limit)
	}
}

// TestShutdownDuringSetUp: whoever is stuck in a step of the transport does not hold up
// the end.
func TestShutdownDuringSetUp(t *testing.T) {
	for _, tr := range transports(t) {
		_, _, s := startServer(t, Options{})
		k := dialRaw(t, serveMore(t, s, tr.o), packet.V5)
		for s.Metrics().Connections.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("%s: %v", tr.name, err)
		}
		cancel()
		k.expect("closed")
	}
}

// TestTLSEnd: the client sees the end of the TLS session, not only that of the socket, so
// that it knows that nothing was cut off.
func TestTLSEnd(t *testing.T) {
	ca := pki.New(t, "ca")
	_, _, s := startServer(t, Options{})
	addr := serveMore(t, s, ListenerOptions{TLS: &tls.Config{Certificates: []tls.Certificate{ca.Issue("s", time.Now().Add(time.Hour))}}})
	tc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	k := newRawClient(t, tc, packet.V5)
	k.connect(nil)
	k.send(&packet.Disconnect{})
	var raw [1]byte
	tc.SetReadDeadline(time.Now().Add(patience))
	// An end without close_notify is io.ErrUnexpectedEOF.
	if _, err := tc.Read(raw[:]); err != io.EOF {
		t.Errorf("the connection ends with %v", err)
	}
}
