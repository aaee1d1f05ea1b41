package mqtt

import (
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// Messages to the client come from two sides. Those of QoS 1 and 2 of a persistent
// session are flows of its partition, which arrive as flow.Delivery with packet
// identifiers. All others start here: live messages that match the local
// subscriptions, and retained ones of an ephemeral session.

// accept takes a live message for the subscriptions that match it. full: an
// ephemeral session gets it at its full QoS.
func (c *conn) accept(subs []subscriber, f *fanout, full bool, ids []uint32) []uint32 {
	m := f.m
	x, ids, ok := c.merge(subs, m, ids)
	if !ok {
		return ids
	}
	if m.QoS > 0 && x.qos > 0 && !(full && c.ephemeral) {
		return ids // comes by another way: as a delivery, or by a lane
	}
	x.deadline = f.deadline
	c.mu.Lock()
	if !f.shared {
		f = nil
	}
	switch {
	case c.phase != phaseOpen:
	case x.qos == 0 && len(c.early) > 0:
		c.putBehind(x)
	default:
		c.put(x, f)
	}
	c.unlock()
	return ids
}

// putBehind lets a live message of QoS 0 wait behind deliveries that wait for a SUBACK:
// there may be older, retained ones of its topic among them.
func (c *conn) putBehind(x message) {
	if len(c.early) >= c.limits.QueueMessages {
		c.drop(DropQueueFull)
		return
	}
	c.early = append(c.early, delivery{deadline: x.deadline, Delivery: flow.Delivery{
		Message: x.m, Retained: x.retain, SubscriptionIDs: append([]uint32(nil), x.ids...), // the caller's slice is reused
	}})
}

// merge makes one copy of a message for all subscriptions of the connection that
// match it: at the highest QoS [MQTT-3.3.4-2], with all subscription identifiers
// [MQTT-3.3.4-4]. The identifiers are appended to ids, which is returned for reuse;
// ok is false if No Local leaves nothing [MQTT-3.8.3-3].
func (c *conn) merge(subs []subscriber, m *flow.Message, ids []uint32) (x message, _ []uint32, ok bool) {
	x.m = m
	from := len(ids)
	for i := range subs {
		s := &subs[i]
		if s.noLocal && m.Publisher == c.client.ID {
			continue
		}
		ok = true
		x.qos = max(x.qos, min(s.qos, m.QoS))          // [MQTT-3.8.4-8]
		x.retain = x.retain || s.asPublish && m.Retain // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
		if s.id != 0 {
			ids = append(ids, s.id)
		}
	}
	if len(ids) > from {
		x.ids = ids[from:len(ids):len(ids)]
	}
	return x, ids, ok
}

// put sends a message, or lets it wait behind the retained messages of a new
// subscription. f is its shared encoding, or nil. Called with mu held.
func (c *conn) put(x message, f *fanout) {
	for _, h := range c.holds {
		if !h.matches(x.m.Topic) {
			continue
		}
		if len(h.held) >= c.limits.QueueMessages || h.bytes+x.size() > c.limits.QueueBytes {
			c.drop(DropQueueFull)
			return
		}
		x.ids = append([]uint32(nil), x.ids...) // the caller's slice is reused
		h.held = append(h.held, x)
		h.bytes += x.size()
		return
	}
	if x.qos > 0 {
		c.putFlow(x, f)
		return
	}
	c.sendAtMostOnce(x, f)
}

// sendAtMostOnce sends at QoS 0, unless the client is slow.
func (c *conn) sendAtMostOnce(x message, f *fanout) {
	switch {
	case x.m.HasExpiry && x.expired(c.srv.now()):
		c.drop(DropExpired)
	case c.outBytes > c.limits.OutBuffer:
		c.drop(DropSlowSocket)
	case !c.sendPublish(&outgoing{message: x}, f):
		c.drop(DropTooLarge)
	}
}

// drop counts a message that the client does not get, and logs the first.
func (c *conn) drop(r DropReason) {
	c.srv.metrics.Dropped[r].Add(1)
	if !c.dropLogged && r != DropExpired {
		c.dropLogged = true
		c.srv.log.Warn("dropping messages for a client", "client", c.client.ID, "reason", r.String())
	}
}

// hold keeps the live messages that match new subscriptions of an ephemeral
// session until their retained messages are there.
type hold struct {
	subs  []flow.Subscription
	held  []message
	bytes int
}

func (h *hold) matches(name string) bool {
	for i := range h.subs {
		if topic.Match(h.subs[i].Filter, name) {
			return true
		}
	}
	return false
}

func (h *hold) filters() []string {
	fs := make([]string, len(h.subs))
	for i := range h.subs {
		fs[i] = h.subs[i].Filter
	}
	return fs
}

// retained takes the retained messages for new subscriptions, and after them lets
// the live messages go on.
func (s *subscribing) retained(msgs []*flow.Message, incomplete int, err error) {
	c := s.c
	if incomplete > 0 {
		c.srv.metrics.RetainedIncomplete.Add(1)
	}
	var subs []flow.Subscription // those that still stand
	for _, sub := range s.hold.subs {
		if _, ok := c.srv.subs.get(c, sub.Filter); ok {
			subs = append(subs, sub)
		}
	}
	now := c.srv.now()
	c.mu.Lock()
	c.asked--
	if c.phase == phaseOpen && err == nil {
		for _, m := range msgs {
			for rest := subs; len(rest) > 0; {
				n := len(rest)
				if c.limits.CopyPerSubscription {
					n = 1
				}
				if x, ok := c.retainedCopy(rest[:n], m); ok {
					x.deadline = now + m.Expiry
					c.putRetained(x)
				}
				rest = rest[n:]
			}
		}
		c.releaseHold(s.hold)
	}
	closing := c.phase == phaseClosing
	c.unlock()
	switch {
	case closing:
		c.settle()
	case err != nil:
		c.end(refusal(err))
	}
}

// retainedCopy makes the copy of a retained message for new subscriptions, unless
// it is among the live messages that wait.
func (c *conn) retainedCopy(subs []flow.Subscription, m *flow.Message) (x message, ok bool) {
	x = message{m: m, retain: true} // [MQTT-3.3.1-8 of 3.1.1]
	for i := range subs {
		s := &subs[i]
		if s.NoLocal && m.Publisher == c.client.ID || !topic.Match(s.Filter, m.Topic) {
			continue
		}
		ok = true
		x.qos = max(x.qos, min(s.QoS, m.QoS))
		if s.ID != 0 {
			x.ids = append(x.ids, s.ID)
		}
	}
	if !ok || m.ID == (flow.MessageID{}) {
		return x, ok
	}
	for _, h := range c.holds {
		for i := range h.held {
			if h.held[i].m.ID == m.ID {
				return x, false
			}
		}
	}
	return x, true
}

func (c *conn) putRetained(x message) {
	if x.qos > 0 {
		c.putFlow(x, nil)
	} else {
		c.sendAtMostOnce(x, nil)
	}
}

// releaseHold lets held messages go on; one that matches a later hold waits there.
func (c *conn) releaseHold(h *hold) {
	for i := range c.holds {
		if c.holds[i] == h {
			c.holds = append(c.holds[:i], c.holds[i+1:]...)
			break
		}
	}
	if len(c.holds) == 0 {
		c.holds = nil
	}
	for _, x := range h.held {
		c.put(x, nil)
	}
}

// takeDelivery takes one step of a partition's flow, once: what comes again after
// a change of leader has a Seq that was taken already. Called with mu held.
func (c *conn) takeDelivery(d delivery) {
	if d.Group != "" {
		c.takeShared(d)
		return
	}
	if d.QoS > 0 || d.Release {
		if d.Seq <= c.lastSeq {
			return
		}
		c.lastSeq = d.Seq
	}
	switch c.phase {
	case phaseAttaching:
		c.early = append(c.early, d)
	case phaseOpen:
		// Retained messages may come before the SUBACK that they are for, but few clients
		// expect it; what follows them keeps its place.
		if len(c.early) > 0 || d.Retained && c.subscribing > 0 {
			c.early = append(c.early, d)
			return
		}
		c.deliver(d)
	}
}

// deliverEarly delivers what has waited.
func (c *conn) deliverEarly() {
	for _, d := range c.early {
		c.deliver(d)
	}
	c.early = nil
}

// delivery is a flow.Delivery with the deadline of its message.
type delivery struct {
	flow.Delivery
	deadline int64
}

func withDeadlines(ds []flow.Delivery, now int64) []delivery {
	xs := make([]delivery, len(ds))
	for i, d := range ds {
		xs[i].Delivery = d
		if d.Message != nil {
			xs[i].deadline = now + d.Message.Expiry
		}
	}
	return xs
}

// deliver writes one step of a partition's flow.
func (c *conn) deliver(d delivery) {
	if d.Release {
		c.outflow().released(d.PacketID)
		c.sendAck(packet.TypePubrel, d.PacketID, packet.Success)
		return
	}
	o := outgoing{
		message: message{m: d.Message, deadline: d.deadline, ids: d.SubscriptionIDs, qos: d.QoS, retain: d.Retained},
		id:      d.PacketID, dup: d.Dup,
	}
	if !c.screen(d.Message.Topic) {
		c.drop(DropNotAuthorized)
		if d.QoS > 0 {
			c.skip(d)
		}
		return
	}
	if d.QoS == 0 {
		c.put(o.message, nil)
		return
	}
	// What may have been sent before is not subject to expiry any more
	// [MQTT-4.3.3-7].
	switch {
	case !d.Dup && o.m.HasExpiry && o.expired(c.srv.now()):
		c.drop(DropExpired)
		c.skip(d)
	case !c.sendPublish(&o, nil):
		c.drop(DropTooLarge)
		c.skip(d)
	default:
		c.outflow().sent(d.PacketID, d.QoS)
	}
}

// skip ends a flow that the client is not told of.
func (c *conn) skip(d delivery) {
	a := flow.Ack{Kind: flow.Puback, PacketID: d.PacketID}
	if d.QoS == flow.ExactlyOnce {
		a = flow.Ack{Kind: flow.Pubrec, PacketID: d.PacketID, Failed: true}
	}
	c.ackLater(a)
}
