package mqtt

import (
	"context"

	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// Client and Authenticator are the gateway's words for who asks and who decides; package
// auth has them, with what implements them.
type (
	Client        = auth.Client
	Authenticator = auth.Authenticator
)

// allowAll is the Authenticator when none is given. It knows nobody, so all clients are
// anonymous.
type allowAll struct{}

func (allowAll) Authenticate(_ context.Context, c *Client, _ []byte) packet.ReasonCode {
	c.Username = ""
	return packet.Success
}
func (allowAll) Begin(*Client, string) auth.Exchange { return nil }
func (allowAll) Valid(*Client) bool                  { return true }
func (allowAll) MayPublish(*Client, string) bool     { return true }
func (allowAll) MaySubscribe(*Client, string) bool   { return true }
