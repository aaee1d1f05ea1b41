package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// Credentials secure the links between nodes. They are safe for concurrent use.
type Credentials struct {
	*Identity
	node    string
	log     *slog.Logger
	refused [reasons]atomic.Uint64

	mu   sync.Mutex
	open map[*conn]struct{}   // guarded by mu
	told map[string]time.Time // guarded by mu; when a refusal was logged
}

var _ credentials.TransportCredentials = (*Credentials)(nil)

// New reads the files of this node's certificate. It must name the node, and pass the
// checks of the others, as far as that can be told here.
func New(node string, files Files, log *slog.Logger) (*Credentials, error) {
	id, err := load(files, func(leaf *x509.Certificate, m *material) error {
		if err := names(leaf, node); err != nil {
			return err
		}
		chain := []*x509.Certificate{leaf}
		for _, der := range m.cert.Certificate[1:] {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return err
			}
			chain = append(chain, c)
		}
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if err := m.verify(chain, use); err != nil {
				return fmt.Errorf("against %s: %w", files.CA, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Credentials{Identity: id, node: node, log: log, open: map[*conn]struct{}{}, told: map[string]time.Time{}}, nil
}

// Reload reads the files again, and closes connections whose other side does not
// verify any more. If anything is wrong with the files all stays as it was.
func (c *Credentials) Reload() (changed bool, err error) {
	if changed, err = c.Identity.Reload(); err != nil || !changed {
		return changed, err
	}
	m := c.now.Load()
	c.mu.Lock()
	var over []*conn
	for open := range c.open {
		if m.verify(open.chain, open.use) != nil {
			over = append(over, open)
		}
	}
	c.mu.Unlock()
	for _, open := range over {
		c.log.Warn("connection to a peer closed: its certificate does not verify any more", "remote", open.RemoteAddr())
		_ = open.Close() // it is given up either way
	}
	return true, nil
}

// Refused counts refused connections, streams and calls by Reason.
func (c *Credentials) Refused() map[string]uint64 {
	m := make(map[string]uint64, reasons)
	for r := range reasons {
		m[r.String()] = c.refused[r].Load()
	}
	return m
}

// tellAgain is how soon the same refusal is logged again: peers try several times a second.
const tellAgain = 30 * time.Second

// count notes a refusal. node is who it should be, or says it is; "": not known.
func (c *Credentials) count(e *RefusedError, remote net.Addr, node string) {
	c.refused[e.Reason].Add(1)
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		host = remote.String()
	}
	key := e.Reason.String() + " " + host + " " + node
	now := time.Now()
	c.mu.Lock()
	quiet := now.Sub(c.told[key]) < tellAgain
	if !quiet {
		const most = 1024 // strangers must not fill the memory
		if len(c.told) >= most {
			clear(c.told)
		}
		c.told[key] = now
	}
	c.mu.Unlock()
	if !quiet {
		c.log.Error("connection between nodes refused", "check", e.Reason.String(), "remote", remote, "peer", node, "error", e.Err)
	}
}

// ClientHandshake implements credentials.TransportCredentials; authority is the node
// that is meant.
func (c *Credentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	m := c.now.Load()
	conf := m.config()
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		if err := m.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth); err != nil {
			return err
		}
		return names(s.PeerCertificates[0], authority)
	}
	return c.handshake(ctx, tls.Client(raw, conf), x509.ExtKeyUsageServerAuth, authority)
}

// ServerHandshake implements credentials.TransportCredentials. Which node it is that
// connects is known only when it opens a stream: see Info.Names.
func (c *Credentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	m := c.now.Load()
	conf := m.config()
	conf.ClientAuth = tls.RequestClientCert // none at all is refused below, with its reason
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		return m.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth)
	}
	return c.handshake(context.Background(), tls.Server(raw, conf), x509.ExtKeyUsageClientAuth, "")
}

// config is common to both sides. The standard verification is replaced by ours, which
// takes common names and says what failed.
func (m *material) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{m.cert}, InsecureSkipVerify: true,
	}
}

// handshake ends with ctx, or with the deadline that gRPC has set on the connection.
func (c *Credentials) handshake(ctx context.Context, t *tls.Conn, use x509.ExtKeyUsage, node string) (net.Conn, credentials.AuthInfo, error) {
	if err := t.HandshakeContext(ctx); err != nil {
		if e := explain(err); e != nil {
			c.count(e, t.RemoteAddr(), node)
		}
		_ = t.NetConn().Close() // the handshake's error is the one that counts
		return nil, nil, fmt.Errorf("mtls: %w", err)
	}
	nc := &conn{Conn: t, c: c, use: use, node: node, chain: t.ConnectionState().PeerCertificates}
	c.mu.Lock()
	c.open[nc] = struct{}{}
	c.mu.Unlock()
	if m := c.now.Load(); m.verify(nc.chain, use) != nil {
		_ = nc.Close() // Reload came in between and did not see it
	}
	return nc, Info{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, conn: nc}, nil
}

// Info implements credentials.TransportCredentials.
func (c *Credentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials. All copies are one, so that
// Reload concerns them all.
func (c *Credentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials: the name is always
// the node's.
func (c *Credentials) OverrideServerName(string) error { return nil }

// Info is what gRPC knows of a connection.
type Info struct {
	credentials.CommonAuthInfo
	conn *conn
}

// AuthType implements credentials.AuthInfo.
func (Info) AuthType() string { return "tls" }

// Names checks that the other side's certificate names the node that it claims to be.
func (i Info) Names(node string) error {
	err := names(i.conn.chain[0], node)
	if e := explain(err); err != nil && e != nil {
		i.conn.c.count(e, i.conn.RemoteAddr(), node)
	}
	return err
}

// conn is an open connection.
type conn struct {
	net.Conn
	c     *Credentials
	use   x509.ExtKeyUsage    // of the other side's certificate
	chain []*x509.Certificate // the other side's
	node  string
	heard atomic.Bool // something was read
	once  sync.Once
}

// Read tells when the other side refused us: with TLS 1.3 that comes after the
// handshake.
func (n *conn) Read(b []byte) (int, error) {
	k, err := n.Conn.Read(b)
	if err != nil && !n.heard.Load() {
		if e := explain(err); e != nil && e.Reason == RefusedByPeer {
			n.c.count(e, n.RemoteAddr(), n.node)
		}
	}
	if k > 0 && !n.heard.Load() {
		n.heard.Store(true)
	}
	return k, err
}

// Close closes the connection.
func (n *conn) Close() error {
	n.once.Do(func() {
		n.c.mu.Lock()
		delete(n.c.open, n)
		n.c.mu.Unlock()
	})
	return n.Conn.Close()
}
