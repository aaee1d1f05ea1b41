package mqtt

import (
	"context"
	"errors"

	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// login is the enhanced authentication of a connection whose CONNECT has an
// Authentication Method [MQTT 5.0 4.12]. The reader owns it; while the reader waits at
// the gate it does not change.
type login struct {
	method string
	// connect is the CONNECT that waits for the end of the exchange; nil: CONNACK is due
	// or sent, and what follows is re-authentication.
	connect *packet.Connect
	run     auth.Exchange // nil: no exchange is going on
	final   []byte        // Authentication Data of CONNACK
}

// identify finds out who the client is. When it returns Success and nothing else, the
// client may have its session; otherwise it has begun an exchange (begun), or the client
// is refused.
func (c *conn) identify(p *packet.Connect) (begun bool, _ packet.ReasonCode) {
	if p.Props.AuthMethod != nil {
		c.client.Username = ""
		c.login = &login{method: *p.Props.AuthMethod, connect: p}
		if c.login.run = c.srv.auth.Begin(&c.client, c.login.method); c.login.run == nil {
			return false, packet.BadAuthenticationMethod // [MQTT-4.12.0-1]
		}
		return true, packet.Success
	}
	if name, ok := c.limits.CertUsername.Of(c.client.TLS); ok {
		c.client.Username, c.client.Certified = name, true
		if name == "" {
			return false, packet.NotAuthorized
		}
		return false, packet.Success
	}
	if p.HasUsername || p.HasPassword {
		ctx, cancel := c.authTime()
		defer cancel()
		if code := c.srv.auth.Authenticate(ctx, &c.client, p.Password); code != packet.Success {
			return false, code
		}
	}
	if c.client.Username == "" && !c.limits.AllowAnonymous {
		return false, packet.NotAuthorized
	}
	return false, packet.Success
}

// authTime bounds one step of a log-in.
func (c *conn) authTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.srv.running, c.limits.ConnectTimeout)
}

// handleLogin takes a packet between CONNECT and CONNACK, of which the client may send
// AUTH and DISCONNECT only [MQTT-3.1.2-30].
func (c *conn) handleLogin(t packet.Type, header byte, body []byte) error {
	err := c.nextLogin(t, header, body)
	if pe := (*packet.Error)(nil); errors.As(err, &pe) {
		pe.Version = c.opts.version // the client is told by CONNACK [MQTT-4.12.0-4]
	}
	return err
}

func (c *conn) nextLogin(t packet.Type, header byte, body []byte) error {
	if t != packet.TypeAuth && t != packet.TypeDisconnect {
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-3.1.2-30", Detail: t.String() + " before the end of authentication"}
	}
	p, err := packet.Decode(header, body, c.opts.version)
	if err != nil {
		return err
	}
	a, ok := p.(*packet.Auth)
	if !ok {
		c.end(networkFailure()) // there is no session and no will
		return nil
	}
	if a.Code != packet.ContinueAuthentication { // [MQTT-4.12.0-3]
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-4.12.0-3", Detail: "AUTH before CONNACK continues what CONNECT began, and says so by 0x18"}
	}
	if err := c.sameMethod(a); err != nil {
		return err
	}
	return c.stepLogin(a.Props.AuthData)
}

// sameMethod: all AUTH packets carry the method of CONNECT.
func (c *conn) sameMethod(a *packet.Auth) error {
	if m := a.Props.AuthMethod; m == nil || *m != c.login.method {
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-4.12.0-5", Detail: "the authentication method is not that of CONNECT"}
	}
	return nil
}

// stepLogin hands the client's data to the exchange that CONNECT began.
func (c *conn) stepLogin(data []byte) error {
	l := c.login
	ctx, cancel := c.authTime()
	defer cancel()
	reply, code := l.run.Step(ctx, &c.client, data)
	if code == packet.ContinueAuthentication { // [MQTT-4.12.0-2]
		return c.sendAuth(phaseNew, code, reply)
	}
	if code == packet.Success && c.client.Username == "" && !c.limits.AllowAnonymous {
		code = packet.NotAuthorized
	}
	if code != packet.Success {
		return &packet.Error{Code: code, Clause: "MQTT-4.12.0-4", Detail: "authentication failed", Version: c.opts.version}
	}
	p := l.connect
	l.connect, l.run, l.final = nil, nil, reply
	return c.open(p)
}

// sendAuth sends an AUTH packet, if the client can take it and the connection is in the
// phase in which it is meant. It explains nothing, so nothing can be left out of it
// [MQTT-3.15.2-2] [MQTT-3.15.2-3].
func (c *conn) sendAuth(in phase, code packet.ReasonCode, data []byte) error {
	a := &packet.Auth{Code: code, Props: packet.Properties{AuthMethod: &c.login.method, AuthData: data}} // [MQTT-4.12.0-5]
	if most := c.opts.maxPacket; most > 0 && len(a.AppendTo(nil, c.opts.version)) > int(most) {
		return &packet.Error{Code: packet.PacketTooLarge, Clause: "MQTT-3.1.2-24", Detail: "AUTH would exceed the client's maximum packet size", Version: c.opts.version}
	}
	c.mu.Lock()
	if c.phase == in {
		c.send(a)
	}
	c.unlock()
	return nil
}

// handleAuth takes an AUTH packet on an open connection: re-authentication, beside which
// everything goes on.
func (c *conn) handleAuth(a *packet.Auth) error {
	l := c.login
	if l == nil {
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-4.12.0-7", Detail: "AUTH without authentication method in CONNECT"}
	}
	if err := c.sameMethod(a); err != nil { // [MQTT-4.12.1-1]
		return err
	}
	again := c.client.Copy()
	if (a.Code == packet.ReAuthenticate) != (l.run == nil) {
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-4.12.1-1", Detail: "re-authentication begins with 0x19 and goes on with 0x18"}
	}
	if l.run == nil {
		if l.run = c.srv.auth.Begin(&again, l.method); l.run == nil { // the users have changed meanwhile
			return &packet.Error{Code: packet.BadAuthenticationMethod, Clause: "MQTT-4.12.1-2", Detail: "the authentication method is no longer supported"}
		}
	}
	ctx, cancel := c.authTime()
	defer cancel()
	reply, code := l.run.Step(ctx, &again, a.Props.AuthData)
	if code == packet.ContinueAuthentication {
		return c.sendAuth(phaseOpen, code, reply)
	}
	if code == packet.Success && again.Username != c.client.Username {
		code = packet.NotAuthorized // the session is the other one's
	}
	if code != packet.Success {
		return &packet.Error{Code: code, Clause: "MQTT-4.12.1-2", Detail: "re-authentication failed"}
	}
	l.run = nil
	c.mu.Lock()
	c.client.Grant = again.Grant
	c.mu.Unlock()
	return c.sendAuth(phaseOpen, packet.Success, reply)
}

// maySubscribeTo asks the rules; for a shared subscription about the filter in it.
func (c *conn) maySubscribeTo(who *Client, filter string) bool {
	_, inner, _, err := topic.ParseShared(filter)
	return err == nil && c.srv.auth.MaySubscribe(who, inner)
}

// attach puts the subscriptions of a resumed session into the local tree. Those that the
// client may have no longer, or that were another user's, it loses for good.
func (c *conn) attach(subs []flow.Subscription, connack *packet.Connack) {
	if !c.askMore() {
		return
	}
	var kept []flow.Subscription
	var lost []string
	for _, s := range subs {
		if c.maySubscribeTo(&c.client, s.Filter) {
			kept = append(kept, s)
		} else {
			lost = append(lost, s.Filter)
		}
	}
	if len(lost) == 0 {
		c.attachAll(kept, connack)
		return
	}
	c.srv.metrics.RevokedSubscriptions.Add(uint64(len(lost)))
	var failed error
	op := &subscriptionOp{apply: func() {
		switch {
		case !c.askMore():
		case failed != nil:
			c.attached(connack, failed)
		default:
			c.attachAll(kept, connack)
		}
	}}
	c.mu.Lock()
	c.ops = append(c.ops, op)
	c.mu.Unlock()
	c.srv.cluster.Unsubscribe(c.client.ID, c.epoch, lost, func(_ []bool, err error) {
		failed = err
		c.opAnswered(op)
	})
}

// attachAll is the rest of attach, when a question is noted.
func (c *conn) attachAll(subs []flow.Subscription, connack *packet.Connack) {
	c.remember(subs)
	local, _ := splitShared(subs) // the others are the partitions' alone
	c.srv.subs.set(c, local, true, func(err error) { c.attached(connack, err) })
}

// screen says whether the rules let the client have a message that its session kept: it
// may be from before they changed, or from the time of another user.
func (c *conn) screen(name string) bool {
	return c.screened == nil || c.srv.auth.MaySubscribe(c.screened, name)
}

// Recheck looks again at all that open connections were allowed, after the Authenticator
// has changed its mind. Who may not be here, or has a subscription or a will that is not
// allowed any more, is disconnected with 0x87; nobody else notices.
func (s *Server) Recheck() {
	s.grants.Add(1) // for those that are being decided
	s.sockets.each(func(k *socket) { k.c.recheck() })
}

// recheck is Recheck for one connection. It does nothing until the connection is open.
func (c *conn) recheck() {
	c.mu.Lock()
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return
	}
	who := c.client.Copy()
	// In front of what waits for the cluster, which has a check of its own.
	c.ops = append([]*subscriptionOp{{ready: true, apply: func() { c.recheckSubscriptions(who) }}}, c.ops...)
	c.mu.Unlock()
	switch {
	case c.willTopic != "" && !c.srv.auth.MayPublish(&who, c.willTopic):
		c.end(ending{Code: packet.NotAuthorized, Flow: flow.Disconnect{Reason: flow.Normal}, Err: errRevoked}) // without its will
	case !c.srv.auth.Valid(&who):
		c.end(ending{Code: packet.NotAuthorized, Err: errRevoked})
	default:
		c.changeSubscriptions()
	}
}

var errRevoked = errors.New("what the client was allowed is not allowed any more")

// recheckSubscriptions is called by whoever has c.filters.
func (c *conn) recheckSubscriptions(who Client) {
	for f := range c.filters {
		if !c.maySubscribeTo(&who, f) {
			c.end(ending{Code: packet.NotAuthorized, Err: errRevoked})
			return
		}
	}
}

// unchanged sees to it that a decision made when Server.grants had a value is looked at
// again if Recheck was called meanwhile and may have missed it.
func (c *conn) unchanged(grants uint64) {
	if c.srv.grants.Load() != grants {
		c.recheck()
	}
}
