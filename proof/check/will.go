package check

import (
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// wills checks invariant 10. That no will comes twice is checked with the flows.
func (c *checker) wills() {
	for _, m := range c.inOrder {
		if m.will == nil || m.clash {
			continue
		}
		for _, cl := range c.clients {
			for _, s := range cl.sessions {
				if got := s.firstDeliveries()[m.id]; got != nil {
					c.unwarranted(m, got)
				}
			}
			c.missing(m, cl)
		}
	}
}

// unwarranted checks that a will that was published had a reason.
func (c *checker) unwarranted(m *message, got *history.Event) {
	n := m.conn
	if n.bye != nil && n.bye.Reason == 0 && !c.faultOn(n.node, n.connect.Seq, n.byeDone(got.Seq)) {
		c.violate(Wills, lines(n.connect, n.bye, n.end, got), "the will of %s was published after a normal DISCONNECT [MQTT-3.14.4-3]",
			n.client.id)
		return
	}
	if n.end == nil && n.bye == nil && n.connack != nil && c.settled(n, got.Time) {
		c.violate(Wills, lines(n.connect, n.connack, got), "the will of %s was published, but its connection is still open", n.client.id)
		return
	}
	if m.will.Delay == 0 || n.connack == nil {
		return
	}
	for _, later := range n.client.conns {
		delay := int64(time.Duration(m.will.Delay) * time.Second)
		if later.connect.Seq > n.connack.Seq && later.connack != nil && later.connack.SessionPresent &&
			later.connack.Time < n.lastIn+delay-int64(c.opts.EarlyExpiry) {
			c.violate(Wills, lines(n.connect, n.end, later.connack, got),
				"the will of %s was published, but the session was resumed within the will delay [MQTT-3.1.3-9]", n.client.id)
			return
		}
	}
}

// byeDone is until when a fault may keep a DISCONNECT from being read or made durable: the
// broker closes the connection only after that. limit: the client closed it.
func (n *conn) byeDone(limit uint64) uint64 {
	if n.end != nil && n.end.Dir == history.In && n.end.Seq > n.bye.Seq {
		return min(n.end.Seq, limit)
	}
	return limit
}

// faultOn says whether a fault on a node began between two points, or was still active at
// the first of them.
func (c *checker) faultOn(node string, from, to uint64) bool {
	active := false
	for _, f := range c.faults {
		switch {
		case f.Node != node && f.Node != "":
		case f.Seq >= to:
			return false
		case f.Detail == history.FaultOver:
			if active && f.Seq > from {
				return true
			}
			active = false
		case f.Seq > from:
			return true
		default:
			active = true
		}
	}
	return false
}

// missing checks that the will of a connection that ended without a DISCONNECT reached a
// client that was surely subscribed since before that connection began.
func (c *checker) missing(m *message, cl *client) {
	n := m.conn
	if n.connack == nil || n.end == nil || n.bye != nil || m.qos == 0 {
		return
	}
	to := cl.receiver()
	if to == nil || to.session.owed(m) == nil || to.session.firstDeliveries()[m.id] != nil {
		return
	}
	wait := int64(time.Duration(m.will.Delay) * time.Second)
	if wait > 0 {
		for _, later := range n.client.conns {
			if later.connect.Seq > n.connect.Seq { // resumed, perhaps within the delay
				return
			}
		}
		if _, high := n.expiry(); high < wait {
			wait = high
		}
	}
	// Quiet does not wait for delayed wills, so only time proves that one is missing.
	if d, ok := c.deadline(n.end.Time); wait > 0 && (!ok || c.end <= d+wait) {
		return
	}
	if c.settled(to, n.end.Time+wait) {
		c.violate(Wills, lines(n.connect, n.connack, n.end), "the will of %s is missing at %s [MQTT-3.1.2-8]", n.client.id, cl.id)
	}
}
