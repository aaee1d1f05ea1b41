package mqtt

import (
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// All functions of this file are called with mu held, by unlock's caller.

// batch returns the batch that is being filled.
func (c *conn) batch() *batch {
	if c.out == nil {
		c.out = batchPool.Get().(*batch)
	}
	return c.out
}

// send appends a packet that is not a PUBLISH.
func (c *conn) send(p packet.Packet) { c.sendVersion(p, c.opts.version) }

func (c *conn) sendVersion(p packet.Packet, version byte) {
	b := c.batch()
	// Few packets are larger than this; then append moves the tail out of its chunk.
	tail, _ := packet.AppendLimited(b.room(64), p, version, c.opts.maxPacket)
	n := b.grown(tail)
	c.outBytes += n
	if n > 0 { // not for what the version cannot express, or the client cannot take
		c.srv.metrics.PacketsSent[p.Type()].Add(1)
	}
}

// sendAck appends an acknowledgement.
func (c *conn) sendAck(t packet.Type, id uint16, code packet.ReasonCode) {
	c.send(&packet.Ack{Kind: t, PacketID: id, Code: code, Props: c.diagnosis(code)})
}

// take hands the out buffer to the flusher. A nil batch means that there is nothing
// to write, and that the flusher ends; last that nothing will come any more.
func (c *conn) take() (b *batch, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, c.out = c.out, nil
	if b == nil {
		last = c.phase == phaseClosing && c.farewell == nil
		c.flushing = last // nobody need start another after the last
		return nil, last
	}
	b.cut()
	return b, false
}

// wrote tells that n bytes of what take returned are written.
func (c *conn) wrote(n int) {
	c.srv.metrics.BytesSent.Add(uint64(n))
	c.mu.Lock()
	c.outBytes -= n
	if c.phase == phaseOpen {
		c.fillWindow()
	}
	c.mu.Unlock() // the flusher that calls looks again
}

// aliasOut are the topic aliases that we have given the client.
type aliasOut struct {
	byTopic map[string]uint16
}

// alias says how to name a topic to the client: by alias (known), by name together
// with a new alias, or (0) by name. A new alias is only noted by aliasSent.
func (c *conn) alias(topic string) (alias uint16, known bool) {
	if c.opts.aliasMax == 0 { // [MQTT-3.1.2-27]
		return 0, false
	}
	if c.aliases == nil {
		c.aliases = &aliasOut{byTopic: map[string]uint16{}}
	}
	if a, ok := c.aliases.byTopic[topic]; ok {
		return a, true
	}
	if n := len(c.aliases.byTopic); n < int(c.opts.aliasMax) { // [MQTT-3.1.2-26]
		return uint16(n + 1), false
	}
	return 0, false
}

// outgoing is a message on its way to one client.
type outgoing struct {
	message
	id  uint16 // packet identifier; 0 at QoS 0
	dup bool
}

// sendPublish appends a PUBLISH. false: it exceeds what the client takes, and must
// be treated as if it had been delivered [MQTT-3.1.2-24] [MQTT-3.1.2-25].
func (c *conn) sendPublish(o *outgoing, f *fanout) bool {
	m := o.m
	if c.opts.aliasMax == 0 && len(o.ids) == 0 && f != nil {
		return c.sendShared(o, f)
	}
	p := packet.Publish{
		Topic: m.Topic, Payload: m.Payload, Forward: m.Props, SubscriptionIDs: o.ids,
		PacketID: o.id, QoS: o.qos, Dup: o.dup, Retain: o.retain,
	}
	if m.HasExpiry {
		p.HasExpiry, p.Expiry = true, remaining(o.deadline, c.srv.now())
	}
	alias, known := uint16(0), false
	if c.opts.version >= packet.V5 {
		if alias, known = c.alias(m.Topic); known {
			p.Topic = ""
		}
		p.TopicAlias = alias
	}
	size := packet.PublishSize(c.opts.version, &p)
	if c.opts.maxPacket > 0 && size > int(c.opts.maxPacket) {
		return false
	}
	if alias != 0 && !known {
		c.aliases.byTopic[m.Topic] = alias
	}
	b := c.batch()
	c.outBytes += b.grown(packet.AppendPublish(b.room(size), c.opts.version, &p))
	c.countPublish(o.qos)
	return true
}

// sendShared appends a PUBLISH that was encoded for many.
func (c *conn) sendShared(o *outgoing, f *fanout) bool {
	w := f.encode(c.opts.version, o.qos, o.retain)
	if c.opts.maxPacket > 0 && len(w.wire) > int(c.opts.maxPacket) {
		return false
	}
	c.outBytes += w.appendTo(c.batch(), o.id, o.dup)
	c.countPublish(o.qos)
	return true
}

func (c *conn) countPublish(qos byte) {
	c.srv.metrics.PacketsSent[packet.TypePublish].Add(1)
	c.srv.metrics.PublishSent[qos].Add(1)
}
