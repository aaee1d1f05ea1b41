package auth

import (
	"context"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/xdg-go/scram"
)

// MethodScram is the authentication method that Files knows (RFC 5802, RFC 7677).
const MethodScram = "SCRAM-SHA-256"

// scramExchange is one run of SCRAM-SHA-256: two messages of the client. The password
// never travels, and the server proves itself too.
type scramExchange struct {
	files *Files
	users *passwords // as of the beginning
	conv  *scram.ServerConversation
	user  *user // nil: not known
	key   uint64
	steps int
}

func (f *Files) newScram(users *passwords) Exchange {
	x := &scramExchange{files: f, users: users}
	server, err := scram.SHA256.NewServer(func(name string) (creds scram.StoredCredentials, err error) {
		x.user, creds = x.users.scramOf(name)
		return creds, nil
	})
	if err != nil {
		return nil
	}
	x.conv = server.NewConversation()
	return x
}

// Step implements Exchange. What the client is told of a failure does not depend on its
// cause.
func (x *scramExchange) Step(ctx context.Context, c *Client, data []byte) ([]byte, packet.ReasonCode) {
	m := &x.files.metrics
	if x.steps++; x.steps > 2 || len(data) == 0 {
		m.Refused[RefusedMalformed].Add(1)
		return nil, packet.NotAuthorized
	}
	reply, err := x.conv.Step(string(data))
	if x.steps == 1 {
		// An identity to act as, beside that to log in with, is for administrators of
		// mail servers.
		if err != nil || x.conv.Username() == "" || x.conv.AuthzID() != "" && x.conv.AuthzID() != x.conv.Username() {
			m.Refused[RefusedMalformed].Add(1)
			return nil, packet.NotAuthorized
		}
		x.key = x.files.throttle.key(c.Remote, x.conv.Username())
		if code := x.files.slowDown(ctx, x.key); code != packet.Success {
			return nil, code
		}
		return []byte(reply), packet.ContinueAuthentication
	}
	if err != nil || !x.conv.Valid() || x.user == nil {
		x.files.throttle.failed(x.key)
		m.Refused[RefusedCredentials].Add(1)
		return nil, packet.NotAuthorized
	}
	x.files.throttle.succeeded(x.key)
	c.Username, c.Grant = x.conv.Username(), x.user.line
	return []byte(reply), packet.Success
}
