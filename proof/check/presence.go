package check

import (
	"math"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// presence checks Session Present [MQTT-3.2.2-2, MQTT-3.2.2-3 of version 5]: 1 exactly when an
// unexpired session surely exists, anything where it may or may not.
func (c *checker) presence() {
	for _, cl := range c.clients {
		var previous *conn // the last one with a CONNACK, in the order of CONNACKs
		for _, n := range byConnack(cl.conns) {
			c.present(cl, n, previous)
			previous = n
		}
	}
}

func byConnack(conns []*conn) []*conn {
	var out []*conn
	for _, n := range conns {
		if n.connack == nil {
			continue
		}
		i := len(out)
		for i > 0 && out[i-1].connack.Seq > n.connack.Seq {
			i--
		}
		out = append(out[:i:i], append([]*conn{n}, out[i:]...)...)
	}
	return out
}

func (c *checker) present(cl *client, n, previous *conn) {
	ack := n.connack
	if n.connect.Clean {
		if ack.SessionPresent {
			c.violate(SessionPresent, lines(n.connect, ack), "Session Present after a clean start [MQTT-3.2.2-2]")
		}
		return
	}
	surely, possibly := false, false
	var why []*history.Event
	if previous != nil {
		surely, possibly = c.alive(previous, n)
		why = lines(previous.connect, previous.connack, previous.bye, previous.end)
	}
	for _, other := range cl.conns {
		unanswered := other.connack == nil || other.connack.Seq > n.connect.Seq
		if other == n || other.connect.Seq > ack.Seq || !unanswered {
			continue
		}
		// It may take effect at any time: it may wipe the session, or make one, or keep an
		// old one alive.
		if other.connect.Clean || other.connect.Expiry == 0 {
			surely = false
		}
		if other.connect.Expiry > 0 || previous != nil {
			possibly = true
		}
	}
	if surely && !ack.SessionPresent {
		c.violate(SessionPresent, append(why, n.connect, ack), "no Session Present, but %s surely has a session", cl.id)
	}
	if !possibly && ack.SessionPresent {
		c.violate(SessionPresent, append(why, n.connect, ack), "Session Present, but %s cannot have a session", cl.id)
	}
}

// alive says whether the session of a former connection surely or possibly exists when n
// is answered. The broker may have seen the former one end as early as its last packet.
func (c *checker) alive(former, n *conn) (surely, possibly bool) {
	low, high := former.expiry()
	if high == 0 { // the session ends with its connection, at takeover at the latest
		return false, false
	}
	if low == math.MaxInt64 {
		return true, true
	}
	lastIn := former.connack.Time
	for _, e := range former.events {
		if e.Dir == history.In && e.Packet != history.Close && e.Seq < n.connack.Seq {
			lastIn = e.Time
		}
	}
	surely = n.connack.Time < lastIn+low-int64(c.opts.EarlyExpiry)
	possibly = former.end == nil || former.end.Seq > n.connect.Seq || high == math.MaxInt64 ||
		n.connect.Time <= former.end.Time+high+int64(c.opts.LateExpiry)
	return surely, possibly
}

// expiry returns the lowest and the highest session expiry that may hold for a
// connection, in nanoseconds; MaxInt64 is never.
func (n *conn) expiry() (low, high int64) {
	e := n.connect.Expiry
	if n.connack.SetExpiry != nil { // the broker may lower it [MQTT-3.2.2-21]
		e = *n.connack.SetExpiry
	}
	low, high = nanos(e), nanos(e)
	if n.bye != nil && n.bye.SetExpiry != nil {
		x := nanos(*n.bye.SetExpiry)
		low, high = min(low, x), max(high, x)
	}
	return low, high
}

func nanos(seconds uint32) int64 {
	if seconds == history.NeverExpires {
		return math.MaxInt64
	}
	return int64(time.Duration(seconds) * time.Second)
}
