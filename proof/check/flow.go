package check

import (
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// inflight is a packet id that the broker uses towards a client.
type inflight struct {
	m     *message
	first *history.Event // the first reception; its Seq is the original order
	last  *history.Event // on the newest connection
	rec   *history.Event // the client's PUBREC
	rel   *history.Event // the broker's first PUBREL
	done  *history.Event // the client's PUBACK, PUBCOMP or refusing PUBREC
	relOn uint64         // the connection of the last PUBREL
}

// source is what keeps the order of its messages: one publisher's session, topic and QoS,
// at QoS 0 within one connection.
type source struct {
	session *session
	conn    *conn
	topic   string
	qos     byte
}

// flow follows what the broker sends in one session.
type flow struct {
	c        *checker
	s        *session
	ids      map[uint16]*inflight
	received map[uint16]bool // what a receiver knows that deduplicates by id alone
	seen     map[*message][]*history.Event
	fresh    map[*message]int // receptions without DUP
	retained map[*message]int
	app      map[*message]*history.Event // QoS 2: delivered to the application
	order    map[source]*message         // the newest first delivery
	resent   map[uint64]*inflight        // by connection: the last redelivery
	quota    map[uint64]map[uint16]bool  // by connection: unacknowledged PUBLISHes
}

// flows checks invariants 2 to 5 for what the broker sends.
func (c *checker) flows() {
	for _, cl := range c.clients {
		for _, s := range cl.sessions {
			f := &flow{c: c, s: s, ids: map[uint16]*inflight{}, received: map[uint16]bool{},
				seen: map[*message][]*history.Event{}, fresh: map[*message]int{}, retained: map[*message]int{},
				app: map[*message]*history.Event{}, order: map[source]*message{}, resent: map[uint64]*inflight{},
				quota: map[uint64]map[uint16]bool{}}
			if s.crossed() {
				f.sameIDs()
				continue
			}
			for _, e := range s.events {
				f.step(e)
			}
			f.unfinished()
		}
	}
}

// crossed says whether the session had connections whose order nobody knows, because they
// connected at the same time. Then most of what the broker sent has no known order either.
func (s *session) crossed() bool {
	for i, a := range s.conns {
		for _, b := range s.conns[i+1:] {
			if b.connect.Seq < a.connack.Seq && a.connect.Seq < b.connack.Seq {
				return true
			}
		}
	}
	return false
}

// sameIDs checks what holds in any order: a message that the broker was given once has one
// packet id in a session, and one connection gets it once.
func (f *flow) sameIDs() {
	for _, e := range f.s.events {
		m := f.c.messages[e.Message]
		if e.Packet != history.Publish || e.Dir != history.In || m == nil || m.clash || e.Retain || e.QoS == 0 {
			continue
		}
		f.content(e, m)
		for _, before := range f.seen[m] {
			if before.ID != e.ID && m.copies(e.Seq) == 1 {
				f.c.violate(Order, lines(before, e), "message %q under two packet ids", m.id)
			} else if before.ID == e.ID && before.Conn == e.Conn {
				f.c.violate(Duplicate, lines(before, e), "sent again on the same connection [MQTT-4.4.0-1]")
			}
		}
		f.seen[m] = append(f.seen[m], e)
	}
}

func (f *flow) step(e *history.Event) {
	switch {
	case e.Packet == history.Publish && e.Dir == history.In:
		f.publish(e)
	case e.Packet == history.Pubrel && e.Dir == history.In:
		f.pubrel(e)
	case e.Dir == history.Out && (e.Packet == history.Puback || e.Packet == history.Pubrec || e.Packet == history.Pubcomp):
		f.acked(e)
	}
}

func (f *flow) acked(e *history.Event) {
	in := f.ids[e.ID]
	if in == nil {
		return
	}
	if e.Packet == history.Pubrec && e.Reason < 0x80 {
		in.rec = e
		return
	}
	in.done = e
	delete(f.quota[e.Conn], e.ID)
	if e.Packet == history.Pubrec { // a refusing PUBREC ends the flow
		delete(f.received, e.ID)
	}
}

func (f *flow) pubrel(e *history.Event) {
	delete(f.received, e.ID)
	in := f.ids[e.ID]
	if in == nil || in.rec == nil {
		if !f.s.inherited {
			f.c.violate(PacketID, lines(f.s.last().connack, e), "PUBREL for an id that the client never acknowledged with PUBREC")
		}
		return
	}
	if in.relOn == e.Conn {
		f.c.violate(PacketID, lines(in.rel, e), "PUBREL twice on one connection [MQTT-4.4.0-1]")
	}
	in.relOn = e.Conn
	if in.rel == nil {
		in.rel = e
	}
}

func (f *flow) publish(e *history.Event) {
	m := f.c.messages[e.Message]
	if m == nil && e.Size > 0 && !f.s.inherited {
		f.c.violate(Order, lines(e), "message %q was never published", e.Message)
	}
	if m != nil && !m.clash {
		f.content(e, m)
	}
	if e.QoS > 0 {
		f.packetID(e, m)
		f.window(e)
	}
	f.count(e, m)
	if m != nil {
		f.seen[m] = append(f.seen[m], e)
	}
}

func (f *flow) content(e *history.Event, m *message) {
	if e.Topic != m.topic || e.Sum != m.sum {
		f.c.violate(Order, lines(m.first, e), "message %q arrived with another topic or content", m.id)
	}
	if e.QoS > m.qos {
		f.c.violate(Order, lines(m.first, e), "message %q arrived with QoS %d, above its own", m.id, e.QoS)
	}
	if e.MessageExpiry != nil && (m.expiry == nil || *e.MessageExpiry > *m.expiry) {
		f.c.violate(Unsubscribed, lines(m.first, e), "message %q arrived with a longer expiry than it was published with [MQTT-3.3.2-6]", m.id)
	}
}

// packetID checks how the id of a QoS 1 or 2 PUBLISH is used.
func (f *flow) packetID(e *history.Event, m *message) {
	in := f.ids[e.ID]
	same := in != nil && in.first.Message == e.Message && in.first.Sum == e.Sum && in.first.Topic == e.Topic
	switch {
	case in == nil:
		if e.Dup && f.firstConn(e.Conn) && !f.s.inherited {
			f.c.violate(Order, lines(f.s.conns[0].connack, e), "DUP on the first connection of a session [MQTT-3.3.1-1]")
		}
	case in.done != nil && !(e.Dup && same):
		// Free: a new message.
	case e.Conn == in.last.Conn && same:
		f.c.violate(Duplicate, lines(in.last, in.rec, e), "sent again on the same connection [MQTT-4.4.0-1]")
	case e.Conn == in.last.Conn && in.done == nil:
		f.c.violate(PacketID, lines(in.last, in.rec, in.rel, e), "packet id %d reused while in flight [MQTT-2.2.1-4]", e.ID)
	case same && in.rel != nil:
		f.c.violate(PacketID, lines(in.first, in.rec, in.rel, e), "PUBLISH again after PUBREL [MQTT-4.3.3-7]")
	case in.done == nil && !same:
		f.c.violate(PacketID, lines(in.first, in.last, in.rec, in.rel, e), "packet id %d reused while in flight [MQTT-2.2.1-4]", e.ID)
	case in.done == nil && !e.Dup:
		f.c.violate(Order, lines(in.first, in.last, e), "redelivered without DUP [MQTT-3.3.1-1]")
	case same:
		f.redelivered(e, in)
		return
	}
	f.newID(e, m)
	f.ids[e.ID] = &inflight{m: m, first: e, last: e}
}

func (f *flow) firstConn(number uint64) bool { return f.s.conns[0].connect.Conn == number }

// redelivered checks a redelivery under its old id on a new connection.
func (f *flow) redelivered(e *history.Event, in *inflight) {
	if e.QoS != in.first.QoS || e.Retain != in.first.Retain {
		f.c.violate(Order, lines(in.first, e), "redelivered with other flags than the first time")
	}
	if before := f.resent[e.Conn]; before != nil && before.first.Seq > in.first.Seq {
		f.c.violate(Order, lines(in.first, before.first, before.last, e), "redelivered out of the original order [MQTT-4.6.0-1]")
	}
	f.resent[e.Conn] = in
	in.last = e
	if in.done != nil { // its acknowledgement was lost: the client gives another
		in.done, in.rec = nil, nil
	}
}

// newID checks that a message that was received under one id does not come again, as a
// redelivery, under another.
func (f *flow) newID(e *history.Event, m *message) {
	if m == nil || m.clash || e.Retain || m.copies(e.Seq) != 1 {
		return
	}
	for _, before := range f.seen[m] {
		if !before.Retain && before.QoS > 0 && before.ID != e.ID && e.Dup {
			f.c.violate(Order, lines(before, e), "message %q redelivered under a new packet id", m.id)
			return
		}
	}
}

// window checks the client's Receive Maximum [MQTT-3.3.4-9].
func (f *flow) window(e *history.Event) {
	q := f.quota[e.Conn]
	if q == nil {
		q = map[uint16]bool{}
		f.quota[e.Conn] = q
	}
	q[e.ID] = true
	if n := f.c.conns[e.Conn]; len(q) > n.receiveMaximum {
		f.c.violate(PacketID, lines(n.connect, e), "%d unacknowledged messages, but Receive Maximum is %d [MQTT-3.3.4-9]",
			len(q), n.receiveMaximum)
	}
}

// count checks how often a message is delivered and in which order.
func (f *flow) count(e *history.Event, m *message) {
	toApp := true
	if e.QoS == 2 {
		toApp = !f.received[e.ID]
		f.received[e.ID] = true
	}
	if m == nil || m.clash {
		return
	}
	if e.Retain {
		f.countRetained(e, m)
		return
	}
	if e.QoS == 2 && toApp {
		if before := f.app[m]; before != nil {
			f.c.violate(ExactlyOnce, lines(m.first, before, e), "message %q delivered twice to an application that goes by packet ids", m.id)
		}
		f.app[m] = e
	}
	if !e.Dup && e.QoS < 2 {
		f.fresh[m]++
		if n := m.copies(e.Seq); f.fresh[m] > n {
			f.c.violate(f.twice(m), append(append(lines(), m.sends...), append(f.seen[m], e)...),
				"message %q came %d times without DUP, but was sent %d times", m.id, f.fresh[m], n)
		}
	}
	if len(f.seen[m]) == 0 {
		f.inOrder(e, m)
	}
}

func (f *flow) twice(m *message) int {
	if m.will != nil {
		return Wills
	}
	return Duplicate
}

// countRetained allows one copy for each SUBSCRIBE that asks for it.
func (f *flow) countRetained(e *history.Event, m *message) {
	if e.Dup {
		return
	}
	f.retained[m]++
	asked := 0
	for _, b := range f.s.subs {
		if b.invoke < e.Seq && matches(b.filter.Filter, e.Topic) {
			asked++
		}
	}
	if f.retained[m] > asked && !f.s.inherited {
		f.c.violate(Retained, lines(m.first, e), "%d retained copies of %q for %d matching SUBSCRIBEs", f.retained[m], m.id, asked)
	}
}

// heard says whether a subscription was surely active from the message's first copy to
// its reception.
func (f *flow) heard(m *message, e *history.Event) bool {
	for _, b := range f.s.subs {
		if inner, _ := b.inner(); matches(inner, m.topic) && b.ack != 0 && b.ack < m.first.Seq && b.until > e.Seq {
			return true
		}
	}
	return false
}

// inOrder checks the order of first deliveries [MQTT-4.6.0-6].
func (f *flow) inOrder(e *history.Event, m *message) {
	if m.order() == 0 || m.order() > e.Seq || f.c.amongOthers(f.s, m) {
		return
	}
	k := source{session: m.session, topic: m.topic, qos: m.qos}
	if m.qos == 0 {
		k.conn = m.conn
	}
	if m.qos == 1 && len(m.sends) > 1 && !f.heard(m, e) {
		// Its first copy may have come before the subscription: then the one that
		// arrives is a later copy, and takes its place in the order.
		return
	}
	if before := f.order[k]; before != nil && before.order() > m.order() {
		f.c.violate(Order, lines(m.first, m.rel, before.first, before.rel, f.seen[before][0], e),
			"message %q first delivered after %q, which was sent later [MQTT-4.6.0-6]", m.id, before.id)
		return
	}
	f.order[k] = m
}

// unfinished checks that what was in flight when the last connection began was sent again
// on it [MQTT-4.4.0-1].
func (f *flow) unfinished() {
	n := f.s.last()
	if !f.c.settled(n, n.connack.Time) {
		return
	}
	for id, in := range f.ids {
		if in.first.Seq > n.connack.Seq || in.last.Conn == n.connect.Conn || in.relOn == n.connect.Conn || in.done != nil {
			continue
		}
		if in.m == nil || in.m.expiry != nil && in.rec == nil {
			continue
		}
		f.c.violate(Order, lines(in.first, in.rec, in.rel, n.connack), "packet id %d was in flight, but not sent again on resume [MQTT-4.4.0-1]", id)
	}
}
