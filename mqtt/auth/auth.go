// Package auth decides who may connect and do what: users from a password file,
// SCRAM-SHA-256, names from client certificates, and rules for topics.
//
// The gateway knows the [Authenticator] only; [Files] is the one that reads files.
// Others (tokens, HTTP, LDAP) implement the same interface.
//
//	auth.go       what the gateway asks
//	files.go      Files: log-in, reload
//	passwords.go  the password file; hash.go the hashes in it
//	scram.go      the authentication method SCRAM-SHA-256
//	rules.go      the rules file; decide.go what follows from it
//	gate.go       how many hashes are computed at once; throttle.go how often one may guess
package auth

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// Client is what an Authenticator is told about who asks. No two methods of an
// Authenticator are called with the same *Client at the same time.
type Client struct {
	ID string // client identifier, after assignment
	// Username is who the client is, as rules see it. When Authenticate is called it is
	// what CONNECT says, and afterwards what is proved; "" is a client that nobody knows.
	Username string
	// Certified: Username is the name in the client's certificate, which the listener
	// has verified; Authenticate was not called.
	Certified bool
	Protocol  byte // packet.V31, V311 or V5
	Listener  string
	// Remote is where the client is: what a PROXY header says, if there was one; nil
	// where the transport has none.
	Remote net.Addr
	// TLS is what the handshake brought, the client's certificates among it; nil: the
	// connection is not TLS. It is read-only.
	TLS *tls.ConnectionState
	// Grant is what the Authenticator wants to remember of the log-in, for Valid.
	Grant any

	view *view // what the rules say of this client, as Files found last
}

// Copy returns what is known of the client, without what an Authenticator gathers from
// call to call; so it may be called beside methods that have the original.
func (c *Client) Copy() Client {
	return Client{ID: c.ID, Username: c.Username, Certified: c.Certified, Protocol: c.Protocol,
		Listener: c.Listener, Remote: c.Remote, TLS: c.TLS, Grant: c.Grant}
}

// Authenticator decides who may connect and do what. All methods may be called from
// many goroutines. Authenticate and Exchange.Step may wait until ctx is done, the
// others must not block.
type Authenticator interface {
	// Authenticate checks user name and password of a CONNECT; it is not called for
	// clients that give neither, nor for those with a certificate that names them.
	// packet.Success lets the client in and leaves in c.Username who it is, or "" if
	// that is not known: then it is let in where anonymous clients are. Any other code
	// must be one of CONNACK. password is nil when there was none.
	Authenticate(ctx context.Context, c *Client, password []byte) packet.ReasonCode
	// Begin starts enhanced authentication [MQTT 5.0 4.12]; nil: there is no such method.
	Begin(c *Client, method string) Exchange
	// Valid says whether what let the client in before would let it in now.
	Valid(c *Client) bool
	// MayPublish says whether the client may publish to a topic name, as a will too.
	MayPublish(c *Client, topic string) bool
	// MaySubscribe says whether the client may read all that matches a valid topic
	// filter, which has no share prefix.
	MaySubscribe(c *Client, filter string) bool
}

// Exchange is one run of an authentication method with one client.
type Exchange interface {
	// Step takes the authentication data of the client (nil: none) and returns what to
	// answer. packet.ContinueAuthentication asks for more, packet.Success ends the run
	// and leaves in c.Username who the client is; any other code refuses it and must be
	// one of CONNACK and DISCONNECT.
	Step(ctx context.Context, c *Client, data []byte) (reply []byte, code packet.ReasonCode)
}

// CertName says what of a client's certificate is its user name.
type CertName byte

// The values of CertName.
const (
	CertNone    CertName = iota // nothing: clients log in in another way
	CertCN                      // the common name
	CertSubject                 // the whole subject, as in RFC 2253: CN=press7,O=Example
)

// Of returns the name in a certificate. ok is false if no certificate was verified: then
// the client must log in in another way. A verified one without the name that is asked
// for gives "".
func (n CertName) Of(s *tls.ConnectionState) (name string, ok bool) {
	cn, subject, ok := certificate(s)
	switch {
	case n == CertNone || !ok:
		return "", false
	case n == CertCN:
		return cn, true
	}
	return subject, true
}

// certificate returns the names in a verified certificate.
func certificate(s *tls.ConnectionState) (cn, subject string, ok bool) {
	if s == nil || len(s.VerifiedChains) == 0 || len(s.PeerCertificates) == 0 {
		return "", "", false
	}
	n := s.PeerCertificates[0].Subject
	return n.CommonName, n.String(), true
}
