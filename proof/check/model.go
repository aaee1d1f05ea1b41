package check

import (
	"fmt"
	"math"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

const never = math.MaxUint64 // a Seq that does not come

// client is everything that was seen under one client id.
type client struct {
	id       string
	conns    []*conn    // in the order of their CONNECT
	sessions []*session // in the order of their CONNACK
}

// conn is one network connection.
type conn struct {
	client           *client
	node             string
	connect, connack *history.Event // connack only if it accepts
	bye, end         *history.Event // DISCONNECT sent; CLOSE
	refused          *history.Event // a CONNACK that refuses; it may have come too late to undo what CONNECT did
	lastIn           int64          // time of the last packet from the broker
	session          *session       // nil without connack
	events           []*history.Event
	sent             map[flowKey][]*history.Event
	receiveMaximum   int
}

// superseded says whether a surely newer connection of the client has been accepted.
func (n *conn) superseded() bool {
	conns := n.client.conns
	for i := len(conns) - 1; i >= 0 && conns[i] != n; i-- {
		if conns[i].connack != nil && conns[i].connect.Seq > n.connack.Seq {
			return true
		}
	}
	return false
}

// flowKey names an operation that waits for an answer on a connection.
type flowKey struct {
	packet string
	id     uint16
}

// session is the session state between a CONNACK without Session Present and the next.
type session struct {
	client *client
	conns  []*conn
	// events are the packets of its connections from CONNACK on, without those that came
	// after a newer CONNACK: the client has left that connection.
	events []*history.Event
	subs   []*sub
	// out is what its PUBLISH ids stood for last. A client that ignores an answer on a
	// connection that it is leaving may send the message again.
	out map[uint16]*message
	// inherited: the first CONNACK said Session Present, so there may be subscriptions
	// that the history does not show.
	inherited bool
	// wipeable: a clean start without an answer ends the session whenever it takes effect,
	// but not without closing the connection that the session has then.
	wipeable bool
	first    map[string]*history.Event // see firstDeliveries
}

func (s *session) last() *conn { return s.conns[len(s.conns)-1] }

// sub is one filter of one SUBSCRIBE. It is possibly active from invoke until gone and
// surely from ack until until (all Seq).
type sub struct {
	filter                   history.Filter
	conn                     *conn
	event                    *history.Event
	invoke, ack, until, gone uint64
	granted                  byte
	unsubscribe, unsuback    *history.Event
}

// message is one application message in all its copies.
type message struct {
	id      string
	first   *history.Event // its first PUBLISH, or the CONNECT whose will it is
	topic   string
	qos     byte
	retain  bool
	sum     uint64
	size    int
	expiry  *uint32
	sends   []*history.Event
	ack     *history.Event // PUBACK or PUBCOMP: the broker has taken it for good
	rec     *history.Event // first successful PUBREC
	rel     *history.Event // first PUBREL
	refused *history.Event
	session *session // the publisher's
	conn    *conn    // of the first PUBLISH, or that of the will
	will    *history.Will
	clash   bool // two different messages share the id
}

// copies returns how many times the broker may have been given m before seq.
func (m *message) copies(seq uint64) int {
	if m.will != nil || m.qos != 1 {
		return 1
	}
	n := 0
	for _, e := range m.sends {
		if e.Seq < seq {
			n++
		}
	}
	return n
}

// order returns the place of m among its publisher's messages, or 0 when it has none: a
// QoS 2 message takes its place with PUBREL.
func (m *message) order() uint64 {
	if m.will != nil {
		return 0
	}
	if m.qos == 2 {
		if m.rel == nil {
			return 0
		}
		return m.rel.Seq
	}
	return m.first.Seq
}

type checker struct {
	opts     Options
	report   *Report
	clients  []*client
	byClient map[string]*client
	conns    map[uint64]*conn
	messages map[string]*message
	inOrder  []*message
	ops      map[*history.Event]*message       // PUBLISH and acknowledgements to their message
	pubacks  map[*history.Event]*history.Event // accepting answers to QoS 1 PUBLISHes
	faults   []*history.Event
	heal     *history.Event // the last, if no fault came after it
	quiet    *history.Event
	end      int64 // time of the last event
	endSeq   uint64
	trouble  []span // when clients noticed that something was wrong
}

func (c *checker) build(events []history.Event) {
	c.byClient, c.conns = map[string]*client{}, map[uint64]*conn{}
	c.messages, c.ops = map[string]*message{}, map[*history.Event]*message{}
	c.pubacks = map[*history.Event]*history.Event{}
	for i := range events {
		e := &events[i]
		c.end, c.endSeq = e.Time, e.Seq
		switch e.Packet {
		case history.Fault:
			c.faults = append(c.faults, e)
			c.heal, c.quiet = nil, nil
		case history.Heal:
			c.heal = e
		case history.Quiet:
			c.quiet = e
		default:
			c.packet(e)
		}
	}
}

func (c *checker) packet(e *history.Event) {
	if e.Packet == history.Connect {
		c.connect(e)
		return
	}
	n := c.conns[e.Conn]
	if n == nil { // never got as far as CONNECT
		return
	}
	if e.Dir == history.In && e.Packet != history.Close {
		n.lastIn = e.Time
	}
	switch e.Packet {
	case history.Connack:
		c.connected(n, e)
		return
	case history.Close:
		n.end = e
		if e.Dir == history.In {
			c.trouble = append(c.trouble, span{e.Time, e.Time})
		}
	case history.Disconnect:
		if e.Dir == history.Out {
			n.bye = e
		}
	}
	if n.session == nil {
		return
	}
	n.events = append(n.events, e)
	if !n.superseded() {
		n.session.events = append(n.session.events, e)
	}
	if e.Dir == history.Out {
		c.outgoing(n, e)
	} else if e.Dir == history.In {
		c.answer(n, e)
	}
}

func (c *checker) connect(e *history.Event) {
	cl := c.byClient[e.Client]
	if cl == nil {
		cl = &client{id: e.Client}
		c.byClient[e.Client] = cl
		c.clients = append(c.clients, cl)
	}
	n := &conn{client: cl, node: e.Node, connect: e, sent: map[flowKey][]*history.Event{}, receiveMaximum: 65535}
	if e.ReceiveMaximum > 0 {
		n.receiveMaximum = int(e.ReceiveMaximum)
	}
	cl.conns = append(cl.conns, n)
	c.conns[e.Conn] = n
	if w := e.Will; w != nil {
		c.add(&message{id: w.Message, first: e, topic: w.Topic, qos: w.QoS, retain: w.Retain, sum: w.Sum, size: 1,
			conn: n, will: w})
	}
}

// add files a message under its id. An empty payload, which deletes a retained message,
// carries no id and gets one of its own.
func (c *checker) add(m *message) *message {
	if m.size == 0 {
		m.id = fmt.Sprintf("\x00empty %d", m.first.Seq)
	}
	if old := c.messages[m.id]; old != nil {
		old.clash = true
		c.report.Undecided = append(c.report.Undecided, fmt.Sprintf("message %q was published twice: %s", m.id, m.first))
		return old
	}
	c.messages[m.id] = m
	c.inOrder = append(c.inOrder, m)
	return m
}

func (c *checker) connected(n *conn, e *history.Event) {
	if e.Type != history.OK {
		n.refused = e
		return
	}
	n.connack = e
	cl := n.client
	if e.SessionPresent && len(cl.sessions) > 0 {
		n.session = cl.sessions[len(cl.sessions)-1]
	} else {
		n.session = &session{client: cl, out: map[uint16]*message{}, inherited: e.SessionPresent}
		cl.sessions = append(cl.sessions, n.session)
	}
	n.session.conns = append(n.session.conns, n)
	n.session.events = append(n.session.events, e)
}

func (c *checker) outgoing(n *conn, e *history.Event) {
	s := n.session
	switch e.Packet {
	case history.Publish:
		m := s.out[e.ID]
		if !e.Dup || m == nil || m.sum != e.Sum {
			m = c.add(&message{id: e.Message, first: e, topic: e.Topic, qos: e.QoS, retain: e.Retain, sum: e.Sum,
				size: e.Size, expiry: e.MessageExpiry, session: s, conn: n})
		}
		m.sends = append(m.sends, e)
		c.ops[e] = m
		if e.QoS > 0 {
			s.out[e.ID] = m
			n.await(history.Publish, e)
		}
	case history.Pubrel:
		n.await(history.Pubrel, e)
		if m := s.out[e.ID]; m != nil {
			c.ops[e] = m
			if m.rel == nil {
				m.rel = e
			}
		}
	case history.Subscribe:
		n.await(history.Subscribe, e)
		for _, f := range e.Filters {
			s.subs = append(s.subs, &sub{filter: f, conn: n, event: e, invoke: e.Seq, ack: never, until: never, gone: never})
		}
	case history.Unsubscribe:
		n.await(history.Unsubscribe, e)
		for _, f := range e.Filters {
			for _, b := range s.subs {
				if b.filter.Filter == f.Filter && b.until == never {
					b.until, b.unsubscribe = e.Seq, e
				}
			}
		}
	}
}

func (n *conn) await(packet string, e *history.Event) {
	k := flowKey{packet, e.ID}
	n.sent[k] = append(n.sent[k], e)
}

// answered takes the oldest operation that an answer can belong to.
func (n *conn) answered(packet string, e *history.Event) *history.Event {
	k := flowKey{packet, e.ID}
	waiting := n.sent[k]
	if len(waiting) == 0 {
		return nil
	}
	n.sent[k] = waiting[1:]
	return waiting[0]
}

func (c *checker) answer(n *conn, e *history.Event) {
	var op *history.Event
	switch e.Packet {
	case history.Puback, history.Pubrec:
		op = n.answered(history.Publish, e)
		if op != nil && (op.QoS == 1) != (e.Packet == history.Puback) {
			c.violate(PacketID, lines(op, e), "%s answers a PUBLISH of QoS %d", e.Packet, op.QoS)
		}
	case history.Pubcomp:
		op = n.answered(history.Pubrel, e)
	case history.Suback:
		op = n.answered(history.Subscribe, e)
	case history.Unsuback:
		op = n.answered(history.Unsubscribe, e)
	default:
		return
	}
	if op == nil {
		c.violate(PacketID, lines(n.connack, e), "%s answers nothing that was sent on this connection", e.Packet)
		return
	}
	if e.Time-op.Time >= int64(noticed) {
		c.trouble = append(c.trouble, span{op.Time, e.Time})
	}
	switch e.Packet {
	case history.Suback:
		c.suback(n, op, e)
	case history.Unsuback:
		c.unsuback(n, op, e)
	default:
		c.taken(op, e)
	}
}

// taken notes what an acknowledgement means for its message.
func (c *checker) taken(op, e *history.Event) {
	m := c.ops[op]
	if m == nil {
		return
	}
	c.ops[e] = m
	switch {
	case e.Packet == history.Pubcomp:
		// "Packet identifier not found" comes when an earlier PUBREL was taken.
		if m.ack == nil && m.rec != nil {
			m.ack = e
		}
	case e.Type == history.Fail:
		m.refused = e
	case e.Packet == history.Puback:
		c.pubacks[op] = e
		if m.ack == nil {
			m.ack = e
		}
	case m.rec == nil:
		m.rec = e
	}
}

func (c *checker) suback(n *conn, op, e *history.Event) {
	if len(e.Codes) != len(op.Filters) {
		c.violate(PacketID, lines(op, e), "SUBACK has %d codes for %d filters [MQTT-3.8.4-5]", len(e.Codes), len(op.Filters))
		return
	}
	for _, b := range n.session.subs {
		if b.event != op {
			continue
		}
		for i, f := range op.Filters {
			if f.Filter != b.filter.Filter {
				continue
			}
			b.granted = e.Codes[i]
			if b.granted >= 0x80 {
				b.until, b.gone = b.invoke, e.Seq
			} else {
				b.ack = e.Seq
			}
		}
	}
}

func (c *checker) unsuback(n *conn, op, e *history.Event) {
	for i, f := range op.Filters {
		if n.connect.Version >= 5 && i < len(e.Codes) && e.Codes[i] >= 0x80 {
			continue
		}
		for _, b := range n.session.subs {
			if b.filter.Filter == f.Filter && b.unsubscribe != nil && b.unsubscribe.Seq <= op.Seq && b.gone == never {
				b.gone, b.unsuback = e.Seq, e
			}
		}
	}
}
