package check

import (
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// inner returns the filter that messages must match, and whether the subscription is a
// shared one.
func (b *sub) inner() (filter string, shared bool) {
	rest, shared := strings.CutPrefix(b.filter.Filter, "$share/")
	if !shared {
		return b.filter.Filter, false
	}
	_, filter, _ = strings.Cut(rest, "/")
	return filter, true
}

// membership is one SUBSCRIBE of a session to a group.
type membership struct {
	s *session
	b *sub
}

// arrived is the first reception of a message in a session, as a member of a group.
type arrived struct {
	membership
	e *history.Event
}

// crew is everything that was seen of one group.
type crew struct {
	filter  string
	members []membership
	got     map[*message][]arrived // each session once, in order
}

// crews collects the groups. A client's filters do not overlap, so what matches the
// filter of a group has come from it.
func (c *checker) crews() (list []*crew) {
	byFilter := map[string]*crew{}
	for _, cl := range c.clients {
		for _, s := range cl.sessions {
			for _, b := range s.subs {
				inner, shared := b.inner()
				if !shared || b.granted >= 0x80 {
					continue
				}
				g := byFilter[b.filter.Filter]
				if g == nil {
					g = &crew{filter: b.filter.Filter, got: map[*message][]arrived{}}
					byFilter[b.filter.Filter] = g
					list = append(list, g)
				}
				again := len(g.members) > 0 && g.members[len(g.members)-1].s == s
				g.members = append(g.members, membership{s, b})
				if !again {
					c.arrivedAt(g, membership{s, b}, inner)
				}
			}
		}
	}
	return list
}

func (c *checker) arrivedAt(g *crew, x membership, inner string) {
	for id, e := range x.s.firstDeliveries() {
		m := c.messages[id]
		if m == nil || m.clash || m.will != nil || e.Retain || !matches(inner, e.Topic) {
			continue
		}
		list := g.got[m]
		at := len(list)
		for at > 0 && list[at-1].e.Seq > e.Seq {
			at--
		}
		g.got[m] = append(list[:at:at], append([]arrived{{x, e}}, list[at:]...)...)
	}
}

// amongOthers says whether a session gets a message as one of several members of a group.
// What another gives back comes late, so that there is no order then.
func (c *checker) amongOthers(s *session, m *message) bool {
	for _, b := range s.subs {
		inner, shared := b.inner()
		if !shared || !matches(inner, m.topic) {
			continue
		}
		for _, cl := range c.clients {
			for _, x := range cl.sessions {
				if cl != s.client && slices.ContainsFunc(x.subs, func(y *sub) bool { return y.filter.Filter == b.filter.Filter }) {
					return true
				}
			}
		}
	}
	return false
}

// shares checks invariant 11: of each group every message goes to one member; one of
// QoS 2 that was sent goes to nobody else, one of QoS 1 only when the session that had it
// is over; and none that was acknowledged is lost while a member is surely there.
func (c *checker) shares() {
	for _, g := range c.crews() {
		for _, m := range c.inOrder {
			for i, later := range g.got[m] {
				for _, before := range g.got[m][:i] {
					c.twoMembers(g, m, before, later)
				}
			}
			c.groupLoss(g, m)
		}
	}
}

func (c *checker) twoMembers(g *crew, m *message, before, later arrived) {
	events := append(lines(before.b.event, later.b.event), m.sends...)
	switch {
	case m.copies(later.e.Seq) > 1:
		// The broker may have been given it twice.
	case before.e.QoS == 2:
		c.violate(Shared, append(events, before.e, later.e), "message %q of QoS 2 went to two members of %s, %s and %s [MQTT-4.8.2-5]",
			m.id, g.filter, before.s.client.id, later.s.client.id)
	case before.e.QoS == 0:
		c.violate(Shared, append(events, before.e, later.e), "message %q went to two members of %s", m.id, g.filter)
	default:
		if n := before.s.aliveAfter(later.e.Seq); n != nil && before.b.until == never {
			c.violate(Shared, append(events, before.e, later.e, n.connack), "message %q went to two members of %s, but the session of %s was not over",
				m.id, g.filter, before.s.client.id)
		}
	}
}

// aliveAfter returns a connection that shows that the session was not over at seq.
func (s *session) aliveAfter(seq uint64) *conn {
	for _, n := range s.conns {
		if n.connack.Seq > seq && n.connack.SessionPresent {
			return n
		}
	}
	return nil
}

// groupLoss checks that a message which was acknowledged has come to some member.
func (c *checker) groupLoss(g *crew, m *message) {
	if m.ack == nil || m.size == 0 || m.clash || m.expiry != nil || m.qos == 0 || m.will != nil {
		return
	}
	for _, a := range g.got[m] {
		if a.kept() {
			return
		}
	}
	steady := c.steady(g, m)
	if steady == nil || m.qos == 2 && c.mayHaveTaken(g, m) {
		return
	}
	events := lines(steady.b.event, m.first, m.rec, m.rel, m.ack)
	for _, a := range g.got[m] {
		events = append(events, a.e)
	}
	c.violate(Shared, events, "message %q was acknowledged to %s, but no member of %s has taken it, though %s was there all the time",
		m.id, m.first.Client, g.filter, steady.s.client.id)
}

// kept says whether the member that got the message need not have given it back: it
// acknowledged it, or it was not at QoS 1, or its session goes on, or it unsubscribed.
func (a arrived) kept() bool {
	if a.e.QoS != 1 || a.b.until != never || a.s.client.sessions[len(a.s.client.sessions)-1] == a.s {
		return true
	}
	for _, e := range a.s.events {
		if e.Dir == history.Out && e.Packet == history.Puback && e.ID == a.e.ID && e.Seq > a.e.Seq {
			return true
		}
	}
	return false
}

// steady finds a member that was surely active from before the message to the end, and
// must have everything by then.
func (c *checker) steady(g *crew, m *message) *membership {
	inner, _ := g.members[0].b.inner()
	if !matches(inner, m.topic) {
		return nil
	}
	for i, x := range g.members {
		n := x.s.client.receiver()
		if n != nil && n.session == x.s && x.b.ack < m.first.Seq && x.b.until == never && x.b.granted > 0 &&
			!(x.s.wipeable && x.b.conn != n) && c.settled(n, max(m.ack.Time, n.connack.Time)) {
			return &g.members[i]
		}
	}
	return nil
}

// mayHaveTaken says whether a QoS 2 message may have been in delivery to a member whose
// session ended then, seen or not: nobody else may get it.
func (c *checker) mayHaveTaken(g *crew, m *message) bool {
	for _, x := range g.members {
		n := x.s.client.receiver()
		if n != nil && n.session == x.s && !x.s.wipeable {
			continue // it goes on
		}
		end := x.s.last().end
		if x.b.gone > m.first.Seq && (end == nil || end.Time+int64(c.opts.LateExpiry) > m.first.Time) {
			return true
		}
	}
	return false
}
