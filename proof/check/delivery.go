package check

import (
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// deadline returns the time by which what began at start must have had its effect, and
// false when faults are still active or no bound is set.
func (c *checker) deadline(start int64) (int64, bool) {
	if c.opts.Bound == 0 || len(c.faults) > 0 && c.heal == nil {
		return 0, false
	}
	if c.heal != nil {
		start = max(start, c.heal.Time)
	}
	return start + int64(c.opts.Bound), true
}

// settled says whether n is open at the end of the history and everything that began at
// start must have come about on it: the workload has said so, or its time is over.
func (c *checker) settled(n *conn, start int64) bool {
	if n.end != nil || n.bye != nil || n.connack == nil {
		return false
	}
	if c.quiet != nil {
		return true
	}
	d, ok := c.deadline(max(start, n.connack.Time))
	return ok && c.end > d
}

// receiver returns the connection on which a client must have got everything that its
// last session is owed, or nil when that session may have ended or has no connection.
func (cl *client) receiver() *conn {
	if len(cl.sessions) == 0 {
		return nil
	}
	s := cl.sessions[len(cl.sessions)-1]
	n := s.last()
	if n.end != nil || n.bye != nil || s.inherited {
		return nil
	}
	for _, other := range cl.conns {
		s.wipeable = s.wipeable || other.connack == nil && other.connect.Clean
	}
	return n
}

// owed returns the surely active subscription by which the receiver's session must get m.
func (s *session) owed(m *message) *sub {
	for _, b := range s.subs {
		if b.ack < m.first.Seq && b.until == never && b.granted > 0 && matches(b.filter.Filter, m.topic) &&
			!(b.filter.NoLocal && m.first.Client == s.client.id) && !s.downgraded(b) && !(s.wipeable && b.conn != s.last()) {
			return b
		}
	}
	return nil
}

// downgraded says whether a later SUBSCRIBE for the same filter may have lowered b to QoS 0.
func (s *session) downgraded(b *sub) bool {
	for _, x := range s.subs {
		if x != b && x.filter.Filter == b.filter.Filter && x.filter.QoS == 0 && x.gone > b.ack {
			return true
		}
	}
	return false
}

// losses checks invariant 1, and of 13 that what was delivered came in time.
func (c *checker) losses() {
	for _, cl := range c.clients {
		n := cl.receiver()
		if n == nil {
			continue
		}
		first := n.session.firstDeliveries()
		for _, m := range c.inOrder {
			if m.ack == nil || m.size == 0 || m.clash || m.expiry != nil || m.qos == 0 || m.will != nil {
				continue
			}
			b := n.session.owed(m)
			if b == nil {
				continue
			}
			start := max(m.ack.Time, n.connack.Time)
			got := first[m.id]
			if got == nil {
				if c.settled(n, start) {
					c.violate(Loss, append(lines(b.event, m.first), m.rec, m.rel, m.ack, n.connack),
						"message %q was acknowledged to %s, but is missing at %s", m.id, m.first.Client, cl.id)
				}
				continue
			}
			if d, ok := c.deadline(start); ok && got.Time > d {
				c.violate(Drain, lines(m.first, m.ack, c.heal, n.connack, got), "message %q came later than %s after everything was well",
					m.id, c.opts.Bound)
			}
		}
	}
}

// firstDeliveries returns the first reception of each message in a session, by message id.
func (s *session) firstDeliveries() map[string]*history.Event {
	if s.first == nil {
		s.first = map[string]*history.Event{}
		for _, e := range s.events {
			if e.Packet == history.Publish && e.Dir == history.In && s.first[e.Message] == nil {
				s.first[e.Message] = e
			}
		}
	}
	return s.first
}

// answers checks of invariant 13 that every operation on a connection that stays open is
// answered.
func (c *checker) answers() {
	for _, cl := range c.clients {
		for _, n := range cl.conns {
			for _, waiting := range n.sent {
				for _, op := range waiting {
					if c.settled(n, op.Time) {
						c.violate(Drain, lines(n.connack, op, c.heal, c.quiet), "%s %d was never answered", op.Packet, op.ID)
					}
				}
			}
		}
	}
}

// arrivals checks invariant 7: every delivery has a subscription that may have been active
// at some time since its publication, and none comes after its expiry.
func (c *checker) arrivals() {
	for _, cl := range c.clients {
		for _, s := range cl.sessions {
			if s.inherited {
				continue
			}
			for _, e := range s.events {
				if m := c.messages[e.Message]; e.Packet == history.Publish && e.Dir == history.In && m != nil && !m.clash {
					c.arrival(s, e, m)
				}
			}
		}
	}
}

func (c *checker) arrival(s *session, e *history.Event, m *message) {
	var last *sub
	active := false
	var granted []byte
	for _, b := range s.subs {
		if inner, _ := b.inner(); b.invoke > e.Seq || !matches(inner, e.Topic) {
			continue
		}
		last = b
		if b.gone > m.first.Seq {
			active = true
			if b.ack == never {
				granted = append(granted, b.filter.QoS)
			} else {
				granted = append(granted, b.granted)
			}
		}
	}
	if !active {
		events := lines(m.first)
		if last != nil {
			events = append(lines(last.event, last.unsubscribe, last.unsuback), events...)
		}
		c.violate(Unsubscribed, append(events, e), "message %q arrived at %s, which had no subscription for it", m.id, s.client.id)
		return
	}
	if len(granted) == 1 && e.QoS != min(m.qos, granted[0]) {
		c.violate(Order, lines(last.event, m.first, e), "message %q arrived with QoS %d, not %d", m.id, e.QoS, min(m.qos, granted[0]))
	}
	c.expired(e, m)
}

// expired checks the message expiry [MQTT-3.3.2-5]. What was already on its way when it
// expired is sent again on resume.
func (c *checker) expired(e *history.Event, m *message) {
	taken := m.ack
	if m.rec != nil {
		taken = m.rec
	}
	if m.expiry == nil || e.Dup || taken == nil {
		return
	}
	if e.Time > taken.Time+nanos(*m.expiry)+int64(c.opts.MessageExpiry) {
		c.violate(Unsubscribed, lines(m.first, taken, e), "message %q arrived after its expiry of %d s", m.id, *m.expiry)
	}
}

// takeovers checks invariant 8: after a new connection's CONNACK the old one completes
// nothing.
func (c *checker) takeovers() {
	for _, cl := range c.clients {
		for i, n := range cl.conns {
			if n.connack == nil {
				continue
			}
			for _, newer := range cl.conns[i+1:] {
				// Only a CONNECT sent after the old CONNACK surely came later.
				if newer.connack != nil && newer.connect.Seq > n.connack.Seq {
					c.fenced(n, newer)
					break
				}
			}
		}
	}
	c.ghosts()
}

// ghosts finds messages that were first sent on a connection that a newer one had
// replaced, and arrived all the same.
func (c *checker) ghosts() {
	for _, m := range c.inOrder {
		if m.will != nil || m.clash || m.size == 0 || m.conn.connack == nil {
			continue
		}
		var newer *conn
		for _, n := range m.conn.client.conns {
			if n.connack != nil && n.connect.Seq > m.conn.connack.Seq && n.connack.Seq < m.first.Seq {
				newer = n
			}
		}
		if newer == nil {
			continue
		}
		for _, cl := range c.clients {
			for _, s := range cl.sessions {
				if got := s.firstDeliveries()[m.id]; got != nil {
					c.violate(Takeover, lines(m.conn.connack, newer.connack, m.first, got),
						"message %q was sent on the old connection after the new CONNACK, and arrived", m.id)
				}
			}
		}
	}
}

func (c *checker) fenced(n, newer *conn) {
	ops := map[flowKey]*history.Event{} // sent on n after the takeover
	for _, e := range n.events {
		if e.Seq < newer.connack.Seq {
			continue
		}
		if e.Dir == history.Out {
			ops[flowKey{e.Packet, e.ID}] = e
			continue
		}
		var op *history.Event
		switch e.Packet {
		case history.Puback, history.Pubrec:
			op = ops[flowKey{history.Publish, e.ID}]
		case history.Pubcomp:
			op = ops[flowKey{history.Pubrel, e.ID}]
		case history.Suback:
			op = ops[flowKey{history.Subscribe, e.ID}]
		case history.Unsuback:
			op = ops[flowKey{history.Unsubscribe, e.ID}]
		case history.Publish, history.Pubrel:
		default:
			continue
		}
		if op != nil || e.Time > newer.connack.Time+int64(c.opts.Transit) {
			c.violate(Takeover, lines(n.connack, newer.connect, newer.connack, op, e),
				"%s on the old connection after the new CONNACK [MQTT-3.1.4-3]", e.Packet)
			return
		}
	}
}
