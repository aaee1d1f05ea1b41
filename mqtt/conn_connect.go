package mqtt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// handleConnect checks a CONNECT and asks the cluster for the session.
func (c *conn) handleConnect(p *packet.Connect) error {
	c.opts = c.negotiate(p)
	c.client.ID, c.client.Username, c.client.Protocol = p.ClientID, p.Username, p.Version
	if c.client.ID == "" {
		c.client.ID = c.srv.newClientID() // [MQTT-3.1.3-6], in 3.1.1 as well
	}
	c.grants = c.srv.grants.Load()
	begun, code := false, c.admit(p)
	if code == packet.Success {
		begun, code = c.identify(p)
	}
	switch {
	case code != packet.Success:
		return c.refuseConnect(code)
	case begun:
		return c.stepLogin(p.Props.AuthData)
	}
	return c.open(p)
}

// refuseConnect names for the log whom it refuses.
func (c *conn) refuseConnect(code packet.ReasonCode) error {
	return fmt.Errorf("client %.100q, user %.100q: %w", c.client.ID, c.client.Username, refuseConnect(code, c.opts.version))
}

// open asks the cluster for the session of a client that is who it says.
func (c *conn) open(p *packet.Connect) error {
	if p.Will != nil {
		if c.willTopic = p.Will.Message.Topic; !c.srv.auth.MayPublish(&c.client, c.willTopic) {
			return c.refuseConnect(packet.NotAuthorized)
		}
	}
	ask := c.connectFlow(p)
	c.mu.Lock()
	if c.phase != phaseNew { // closed meanwhile
		c.mu.Unlock()
		return nil
	}
	c.phase = phaseConnecting
	c.expiry = ask.Expiry
	c.asked++
	c.mu.Unlock()
	c.srv.departing.Add(1)
	c.srv.clients.asking(c.client.ID)
	assigned := p.ClientID == ""
	c.srv.cluster.Connect(ask, func(s flow.Session, err error) { c.connected(p, assigned, s, err) })
	return nil
}

// negotiate brings what the client wants and our limits together.
func (c *conn) negotiate(p *packet.Connect) options {
	l := c.limits
	o := options{version: p.Version, window: l.MaxInflight, keepAlive: p.KeepAlive}
	if p.Version < packet.V5 {
		return o
	}
	o.window = min(packet.Value(p.Props.ReceiveMaximum, 65535), l.MaxInflight) // [MQTT-3.3.4-9]
	o.aliasMax = min(packet.Value(p.Props.TopicAliasMaximum, 0), l.TopicAliasMaximum)
	o.maxPacket = packet.Value(p.Props.MaximumPacketSize, 0)
	o.laconic = !packet.Value(p.Props.RequestProblemInfo, true)
	if most := l.MaxKeepAlive; most > 0 && (o.keepAlive == 0 || o.keepAlive > most) { // [MQTT-3.2.2-21]
		o.keepAlive = most
	}
	return o
}

// admit checks what does not depend on who the client is [MQTT-3.1.4-2].
func (c *conn) admit(p *packet.Connect) packet.ReasonCode {
	l := c.limits
	switch {
	case l.ServerMoved:
		return packet.ServerMoved
	case c.srv.stopping() || !c.srv.cluster.Available():
		return packet.ServerUnavailable
	}
	if w := p.Will; w != nil {
		switch {
		case w.Message.QoS > l.MaxQoS:
			return packet.QoSNotSupported // [MQTT-3.2.2-12]
		case w.Message.Retain && !l.RetainAvailable:
			return packet.RetainNotSupported // [MQTT-3.2.2-13]
		case l.CheckPayloadFormat && w.Message.CheckPayloadFormat() != nil:
			return packet.PayloadFormatInvalid
		default:
			if code := c.badTopic(w.Message.Topic); code != packet.Success {
				return code
			}
		}
	}
	return packet.Success
}

// badTopic says why no client may publish to a topic name: what is below $SYS is the
// server's own, and levels are limited.
func (c *conn) badTopic(name string) packet.ReasonCode {
	switch {
	case name == sysRoot || strings.HasPrefix(name, sysRoot+"/"):
		return packet.NotAuthorized
	case c.tooDeep(name):
		return packet.TopicNameInvalid
	}
	return packet.Success
}

// sysRoot is the first level of the topics in which the broker speaks of itself.
const sysRoot = "$SYS"

func (c *conn) tooDeep(s string) bool {
	n := c.limits.MaxTopicLevels
	return n > 0 && topic.Levels(s) > n
}

// connectFlow translates a CONNECT for the cluster.
func (c *conn) connectFlow(p *packet.Connect) flow.Connect {
	f := flow.Connect{
		ClientID:   c.client.ID,
		Username:   c.client.Username,
		Protocol:   p.Version,
		CleanStart: p.CleanStart,
		Window:     c.opts.window,
		MaxPacket:  c.opts.maxPacket,
	}
	switch {
	case p.Version >= packet.V5:
		f.Expiry = packet.Value(p.Props.SessionExpiry, 0)
	case !p.CleanStart:
		f.Expiry = flow.NeverExpires // [MQTT-3.1.2-4 of 3.1.1]
	}
	f.Expiry = min(f.Expiry, c.limits.MaxSessionExpiry)
	if w := p.Will; w != nil {
		f.Will = &flow.Will{Delay: w.Delay, Message: flow.Message{
			Topic:     w.Message.Topic,
			Payload:   w.Message.Payload,
			QoS:       w.Message.QoS,
			Retain:    w.Message.Retain,
			Props:     w.Message.Forward,
			HasExpiry: w.Message.HasExpiry,
			Expiry:    int64(w.Message.Expiry) * 1000,
			Publisher: c.client.ID,
		}}
	}
	return f
}

// connected is the cluster's answer to Connect.
func (c *conn) connected(p *packet.Connect, assigned bool, s flow.Session, err error) {
	if err != nil {
		c.srv.clients.refused(c.client.ID)
		c.mu.Lock()
		c.asked--
		c.mu.Unlock()
		c.end(refusal(err))
		c.settle() // if it was closing before
		c.srv.departing.Done()
		return
	}
	c.srv.metrics.Sessions.Add(1)
	fenced := c.srv.clients.adopt(c, s)
	c.mu.Lock()
	c.asked--
	if c.phase == phaseAttaching && !fenced {
		connack := c.connack(p, assigned, s)
		if _, all := c.srv.auth.(allowAll); s.Present && !all {
			c.screened = new(c.client.Copy())
		}
		c.ops = append(c.ops, &subscriptionOp{ready: true, apply: func() { c.attach(s.Subscriptions, connack) }})
	}
	c.mu.Unlock()
	if fenced {
		// Another connection has the session already, so this client is told
		// nothing: before CONNACK there is no DISCONNECT [MQTT-3.14.0-1].
		c.end(ending{Code: packet.SessionTakenOver})
	}
	c.changeSubscriptions()
	c.settle() // if it was closing before
}

// attached: the cluster routes by the session's subscriptions; the client may know.
func (c *conn) attached(connack *packet.Connack, err error) {
	c.mu.Lock()
	c.asked--
	// [MQTT-3.1.2-24]; who cannot take a CONNACK cannot be told that either.
	small := c.opts.maxPacket > 0 && len(connack.AppendTo(nil, c.opts.version)) > int(c.opts.maxPacket)
	opened := c.phase == phaseAttaching && err == nil && !small
	if opened {
		c.phase = phaseOpen
		c.send(connack)
		c.deliverEarly()
		c.readable.Broadcast()
	}
	c.unlock()
	switch {
	case opened:
		c.wire.established(c.opts.keepAlive)
		c.unchanged(c.grants)
	case err != nil:
		c.end(refusal(err))
	case small:
		c.end(ending{Code: packet.PacketTooLarge, Quiet: true})
	}
	c.settle()
}

// connack is the CONNACK of success, with what the client must know of our limits.
func (c *conn) connack(p *packet.Connect, assigned bool, s flow.Session) *packet.Connack {
	a := &packet.Connack{SessionPresent: s.Present} // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
	if p.Version < packet.V5 {
		return a
	}
	l, pr := c.limits, &a.Props
	if c.login != nil { // [MQTT-4.12.0-5] [MQTT-4.12.0-6]
		pr.AuthMethod, pr.AuthData = &c.login.method, c.login.final
	}
	if assigned {
		pr.AssignedClientID = &c.client.ID // [MQTT-3.1.3-7] [MQTT-3.2.2-16]
	}
	pr.ReceiveMaximum = new(l.ReceiveMaximum)
	pr.TopicAliasMaximum = new(l.TopicAliasMaximum)
	pr.MaximumPacketSize = new(l.MaxPacket)
	if info := c.responseInformation(p); info != "" {
		pr.ResponseInfo = &info
	}
	if !l.SharedAvailable {
		pr.SharedAvailable = new(false)
	}
	if l.MaxQoS < 2 {
		pr.MaximumQoS = new(l.MaxQoS) // [MQTT-3.2.2-9]
	}
	if !l.RetainAvailable {
		pr.RetainAvailable = new(false)
	}
	if !l.WildcardAvailable {
		pr.WildcardAvailable = new(false)
	}
	if !l.SubscriptionIDAvailable {
		pr.SubscriptionIDAvailable = new(false)
	}
	if c.opts.keepAlive != p.KeepAlive {
		pr.ServerKeepAlive = new(c.opts.keepAlive)
	}
	if c.expiry != packet.Value(p.Props.SessionExpiry, 0) {
		pr.SessionExpiry = new(c.expiry)
	}
	return a
}

// refusal is how an error of the cluster ends a connection.
func refusal(err error) ending {
	switch {
	case errors.Is(err, flow.ErrFenced):
		return ending{Code: packet.SessionTakenOver}
	case errors.Is(err, flow.ErrQuota):
		return ending{Code: packet.QuotaExceeded}
	}
	return ending{Code: packet.ServerUnavailable}
}
