package mqtt

import (
	"errors"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// inbound is the receiving side of a connection: what the client publishes.
type inbound struct {
	pub     packet.Publish    // reused by the reader, which owns it
	aliases map[uint16]string // topic aliases of the client; owned by the reader

	// Owned by conn.mu.
	pubacks  answers
	pubrecs  answers
	pubcomps answers
	// open are the QoS 2 packet identifiers between PUBLISH and PUBCOMP on this
	// connection, and atLeastOnce the number of QoS 1 PUBLISHes without PUBACK:
	// together what Receive Maximum bounds.
	open        map[uint16]struct{}
	atLeastOnce int
	// handedOn is the done function of small QoS 0 messages, shared by all.
	handedOn func(bool, error)
	// retaining is the number of retained QoS 0 messages that are not stored yet; until
	// retainingUntil, on Server.now, SUBSCRIBEs wait for them.
	retaining      int
	retainingUntil int64
}

// opened notes a packet identifier, where there is a Receive Maximum to check.
func (in *inbound) opened(version byte, id uint16) {
	if version < packet.V5 {
		return
	}
	if in.open == nil {
		in.open = map[uint16]struct{}{}
	}
	in.open[id] = struct{}{}
}

// smallPublish is what a QoS 0 message of at most this many bytes counts for.
const smallPublish = 1024

func (c *conn) inbound() *inbound {
	if c.in == nil {
		in := &inbound{}
		in.handedOn = func(bool, error) { c.handedOn(smallPublish) }
		c.mu.Lock()
		c.in = in
		c.mu.Unlock()
	}
	return c.in
}

// handlePublish takes a PUBLISH of the client.
func (c *conn) handlePublish(header byte, body []byte) error {
	in := c.inbound()
	p := &in.pub
	defer func() { p.Payload, p.Forward = nil, nil }() // parts of body
	if err := packet.DecodePublish(header, body, c.opts.version, p); err != nil {
		return err
	}
	if err := p.CheckFromClient(); err != nil {
		return err
	}
	if err := c.resolveAlias(in, p); err != nil {
		return err
	}
	l := c.limits
	switch {
	case p.QoS > l.MaxQoS:
		return &packet.Error{Code: packet.QoSNotSupported, Clause: "MQTT-3.2.2-11", Detail: "QoS is above the maximum"}
	case p.Retain && !l.RetainAvailable:
		return &packet.Error{Code: packet.RetainNotSupported, Clause: "MQTT-3.2.2-14", Detail: "retain is not available"}
	}
	c.srv.metrics.PublishReceived[p.QoS].Add(1)
	if code := c.mayPublish(p); code != packet.Success {
		return c.refusePublish(in, p, code)
	}
	m := c.message(p)
	switch p.QoS {
	case flow.AtMostOnce:
		c.publishAtMostOnce(in, m)
	case flow.AtLeastOnce:
		return c.publishAtLeastOnce(in, p.PacketID, m)
	default:
		return c.receive(in, p.PacketID, m)
	}
	return nil
}

// resolveAlias replaces a topic alias by its topic, and learns new ones.
func (c *conn) resolveAlias(in *inbound, p *packet.Publish) error {
	if p.TopicAlias == 0 {
		return nil
	}
	if p.TopicAlias > c.limits.TopicAliasMaximum {
		return &packet.Error{Code: packet.TopicAliasInvalid, Clause: "MQTT-3.3.2-9", Detail: "topic alias is above the maximum"}
	}
	if p.Topic == "" {
		name, ok := in.aliases[p.TopicAlias]
		if !ok {
			return &packet.Error{Code: packet.ProtocolError, Clause: "3.3.2.3.4", Detail: "topic alias is not known"}
		}
		p.Topic = name
		return nil
	}
	if in.aliases == nil {
		in.aliases = map[uint16]string{}
	}
	in.aliases[p.TopicAlias] = p.Topic
	return nil
}

// mayPublish checks what is particular to the message.
func (c *conn) mayPublish(p *packet.Publish) packet.ReasonCode {
	if code := c.badTopic(p.Topic); code != packet.Success {
		return code
	}
	switch {
	case !c.srv.auth.MayPublish(&c.client, p.Topic):
		return packet.NotAuthorized
	case c.limits.CheckPayloadFormat && p.CheckPayloadFormat() != nil:
		return packet.PayloadFormatInvalid
	}
	return packet.Success
}

// refusePublish drops a message and says so as far as the protocol can: by reason
// code on MQTT 5 at QoS 1 and 2. An older client gets its acknowledgement; what
// it published was never allowed to be there, so no promise is broken.
func (c *conn) refusePublish(in *inbound, p *packet.Publish, code packet.ReasonCode) error {
	c.srv.metrics.RefusedPublish[code].Add(1)
	if code == packet.NotAuthorized && c.limits.CloseUnauthorized && (c.opts.version < packet.V5 || p.QoS == flow.AtMostOnce) {
		return &packet.Error{Code: code, Clause: "MQTT-3.3.5-2", Detail: "the rules do not allow this PUBLISH"}
	}
	if p.QoS == flow.AtMostOnce {
		return nil
	}
	c.mu.Lock()
	defer c.unlock()
	if c.phase != phaseOpen {
		return nil
	}
	if err := c.quota(in, p.QoS, p.PacketID); err != nil {
		return err
	}
	c.ask(0) // answered at once, in its place among the others
	if p.QoS == flow.AtLeastOnce {
		in.atLeastOnce++
		c.puback(in, in.pubacks.add(p.PacketID), code)
	} else if c.opts.version >= packet.V5 {
		c.pubrec(in, in.pubrecs.add(p.PacketID), code)
	} else {
		c.pubrec(in, in.pubrecs.add(p.PacketID), packet.Success) // its PUBREL finds nothing
	}
	c.answered(0)
	return nil
}

// message makes the message that is handed on; nothing in it belongs to the buffer.
func (c *conn) message(p *packet.Publish) *flow.Message {
	m := &flow.Message{
		Topic:     p.Topic,
		QoS:       p.QoS,
		Retain:    p.Retain,
		HasExpiry: p.HasExpiry,
		Expiry:    int64(p.Expiry) * 1000,
		Publisher: c.client.ID,
	}
	if n := len(p.Payload) + len(p.Forward); n > 0 {
		buf := append(append(make([]byte, 0, n), p.Payload...), p.Forward...)
		m.Payload = buf[:len(p.Payload):len(p.Payload)]
		if len(p.Forward) > 0 {
			m.Props = buf[len(p.Payload):]
		}
	}
	return m
}

func messageSize(m *flow.Message) int { return len(m.Topic) + len(m.Payload) + len(m.Props) + 128 }

// publishAtMostOnce hands on a QoS 0 message. It counts at the gate until the
// cluster has it, but not for settling: nothing was promised.
func (c *conn) publishAtMostOnce(in *inbound, m *flow.Message) {
	n, done := smallPublish, in.handedOn
	if size := messageSize(m); size > smallPublish {
		n, done = size, func(bool, error) { c.handedOn(size) }
	}
	c.mu.Lock()
	c.unanswered++
	c.unansweredBytes += n
	if m.Retain {
		in.retaining++
		in.retainingUntil = c.srv.now() + subscribeOrder
		done = func(bool, error) { c.retained(in, n) }
	}
	c.mu.Unlock()
	c.srv.cluster.Publish(m, done)
}

// retained notes that a retained QoS 0 message is stored. Nothing was promised, but a
// client that subscribes next expects to find it.
func (c *conn) retained(in *inbound, bytes int) {
	c.mu.Lock()
	if in.retaining--; in.retaining == 0 {
		c.readable.Broadcast()
	}
	c.ungate(bytes)
	c.mu.Unlock()
}

func (c *conn) handedOn(bytes int) {
	c.mu.Lock()
	c.ungate(bytes)
	c.mu.Unlock()
}

// publishAtLeastOnce starts the QoS 1 flow.
func (c *conn) publishAtLeastOnce(in *inbound, id uint16, m *flow.Message) error {
	size := messageSize(m)
	c.mu.Lock()
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return nil
	}
	if err := c.quota(in, flow.AtLeastOnce, id); err != nil {
		c.mu.Unlock()
		return err
	}
	in.atLeastOnce++
	n := in.pubacks.add(id)
	c.ask(size)
	c.mu.Unlock()
	c.srv.cluster.Publish(m, func(matched bool, err error) {
		c.complete(size, err, func(code packet.ReasonCode) {
			if code == packet.Success && !matched {
				code = packet.NoMatchingSubscribers
			}
			c.puback(in, n, code)
		})
	})
	return nil
}

// receive starts the QoS 2 flow.
func (c *conn) receive(in *inbound, id uint16, m *flow.Message) error {
	size := messageSize(m)
	c.mu.Lock()
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return nil
	}
	if err := c.quota(in, flow.ExactlyOnce, id); err != nil {
		c.mu.Unlock()
		return err
	}
	in.opened(c.opts.version, id)
	n := in.pubrecs.add(id)
	c.ask(size)
	c.mu.Unlock()
	c.srv.cluster.Receive(c.client.ID, c.epoch, id, m, func(matched bool, err error) {
		c.complete(size, err, func(code packet.ReasonCode) {
			if code == packet.Success && !matched {
				code = packet.NoMatchingSubscribers
			}
			c.pubrec(in, n, code)
		})
	})
	return nil
}

// quota refuses a PUBLISH beyond Receive Maximum [MQTT-3.3.4-7]. Older clients have
// no such quota.
func (c *conn) quota(in *inbound, qos byte, id uint16) error {
	if c.opts.version < packet.V5 {
		return nil
	}
	if _, again := in.open[id]; again && qos == flow.ExactlyOnce {
		return nil // counted already
	}
	if in.atLeastOnce+len(in.open) >= int(c.limits.ReceiveMaximum) {
		return &packet.Error{Code: packet.ReceiveMaximumExceeded, Clause: "MQTT-3.3.4-7", Detail: "more messages in flight than Receive Maximum"}
	}
	return nil
}

// complete takes the cluster's answer to something that the gate counts. say sends
// the acknowledgement, with mu held, unless the connection is closing. A failure
// that the version cannot express closes the connection: [MQTT-4.8.0-2] of 3.1.1
// asks for it, and an acknowledgement would be a promise that is not kept.
func (c *conn) complete(bytes int, err error, say func(packet.ReasonCode)) {
	code, end := packet.Success, false
	switch {
	case err == nil:
	case errors.Is(err, flow.ErrUnknownPacketID):
		code = packet.PacketIdentifierNotFound
	case errors.Is(err, flow.ErrQuota):
		code = packet.QuotaExceeded
		end = c.opts.version < packet.V5
	default:
		end = true
	}
	c.mu.Lock()
	c.answered(bytes)
	if c.phase == phaseOpen && !end {
		say(code)
	}
	closing := c.phase == phaseClosing
	c.unlock()
	switch {
	case closing:
		c.settle()
	case end:
		c.end(refusal(err))
	}
}

// handlePubrel releases a QoS 2 message.
func (c *conn) handlePubrel(a *packet.Ack) {
	in := c.inbound()
	c.mu.Lock()
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return
	}
	n := in.pubcomps.add(a.PacketID)
	c.ask(0)
	c.mu.Unlock()
	c.srv.cluster.Release(c.client.ID, c.epoch, a.PacketID, func(err error) {
		c.complete(0, err, func(code packet.ReasonCode) { c.pubcomp(in, n, code) })
	})
}

// puback, pubrec and pubcomp note an answer and send all that are due, in the order
// in which the client asked [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-4].
func (c *conn) puback(in *inbound, n uint32, code packet.ReasonCode) {
	in.pubacks.ready(n, code)
	for a, ok := in.pubacks.next(); ok; a, ok = in.pubacks.next() {
		in.atLeastOnce--
		c.sendAck(packet.TypePuback, a.id, a.code)
	}
}

func (c *conn) pubrec(in *inbound, n uint32, code packet.ReasonCode) {
	in.pubrecs.ready(n, code)
	for a, ok := in.pubrecs.next(); ok; a, ok = in.pubrecs.next() {
		if a.code.Failed() {
			delete(in.open, a.id) // the flow has ended [MQTT-4.3.3-9]
		}
		c.sendAck(packet.TypePubrec, a.id, a.code)
	}
}

func (c *conn) pubcomp(in *inbound, n uint32, code packet.ReasonCode) {
	in.pubcomps.ready(n, code)
	for a, ok := in.pubcomps.next(); ok; a, ok = in.pubcomps.next() {
		delete(in.open, a.id)
		c.sendAck(packet.TypePubcomp, a.id, a.code)
	}
}
