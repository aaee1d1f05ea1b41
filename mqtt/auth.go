package mqtt

import (
	"crypto/tls"
	"net"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// Client is what an Authenticator is told about who asks.
type Client struct {
	ID       string // client identifier, after assignment
	Username string
	Protocol byte // packet.V31, V311 or V5
	Listener string
	// Remote is where the client is: what a PROXY header says, if there was one; nil
	// where the transport has none.
	Remote net.Addr
	// TLS is what the handshake brought, the client's certificates among it; nil: the
	// connection is not TLS. It is read-only.
	TLS *tls.ConnectionState
}

// Authenticator decides who may connect and do what. All methods may be called
// from many goroutines; Authenticate may take its time, the others must not block.
type Authenticator interface {
	// Authenticate checks a CONNECT. packet.Success lets the client in; any other
	// code must be one of CONNACK. password is nil when there was none.
	Authenticate(c *Client, password []byte) packet.ReasonCode
	// MayPublish says whether the client may publish to a topic name, as a will too.
	MayPublish(c *Client, topic string) bool
	// MaySubscribe says whether the client may subscribe to a topic filter.
	MaySubscribe(c *Client, filter string) bool
}

// allowAll is the Authenticator when none is given.
type allowAll struct{}

func (allowAll) Authenticate(*Client, []byte) packet.ReasonCode { return packet.Success }
func (allowAll) MayPublish(*Client, string) bool                { return true }
func (allowAll) MaySubscribe(*Client, string) bool              { return true }
