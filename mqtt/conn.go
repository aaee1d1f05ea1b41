package mqtt

import (
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// conn is one network connection as the protocol sees it: a state machine that
// takes packets from its reader and answers from the cluster, and fills an out
// buffer. It knows no socket; what it needs of one is wire. The files conn_*.go
// hold its decisions, socket*.go read, write and keep time.
//
// Life of a connection:
//
//	new         no CONNECT yet
//	connecting  Cluster.Connect is not answered
//	attaching   the session is ours, but the cluster does not route by its
//	            subscriptions yet; deliveries are kept
//	open        CONNACK is sent
//	closing     it completes nothing any more; what it asked of the cluster is
//	            still to be answered
//	gone        settled: all is answered, Disconnect was called
//
// Locks: mu is held for a short time only, never while the cluster or the wire is
// called. It may be taken under the lock of a registry shard; under mu no other
// lock is taken.
type conn struct {
	srv  *Server
	wire wire
	id   uint64 // unique in this process; the key in the subscription tree

	// Set by the reader while the phase is new, client.Remote and client.TLS with mu held;
	// fixed afterwards, but for client.Grant, which the reader changes under mu, and for
	// what client keeps to itself.
	client Client
	// willTopic is the topic of the will; "": there is none.
	willTopic string
	opts      options
	login     *login  // nil: CONNECT has no authentication method; see there
	grants    uint64  // of Server.grants, from before the client was let in
	limits    *Limits // of the listener; fixed from the start

	// entries is the number of entries in the subscription tree; its lock owns it.
	entries int

	mu       sync.Mutex
	readable sync.Cond // on mu; the reader waits here for the gate to open

	// All below is owned by mu, with the exceptions said.
	phase phase
	epoch uint64 // of the session that Connect brought; 0: none (yet)
	// ephemeral: the session ends with the connection. Fixed before the first
	// subscription.
	ephemeral bool
	reading   bool // the reader may still ask something of the cluster
	flushing  bool // a flusher runs, or is about to
	gone      bool
	asked     int             // questions to the cluster without answer
	expiry    uint32          // session expiry interval in force, in seconds
	ending    flow.Disconnect // how it ended, once closing
	closers   []func()        // to be called when settled
	// farewell runs while the network connection stays open after a DISCONNECT; nil: it
	// does not.
	farewell *time.Timer

	out      *batch // nil: nothing to write
	outBytes int    // appended and not written yet, those being written included

	in      *inbound   // nil until the client publishes
	flows   *outflow   // nil until something is sent with QoS 1 or 2
	aliases *aliasOut  // nil: no topic aliases to the client
	holds   []*hold    // live messages that wait for retained ones
	early   []delivery // taken before CONNACK, or before a SUBACK
	// screened is the client as the rules are asked about messages that its session kept;
	// nil: they are not asked.
	screened *Client
	lastSeq  uint64 // of the last delivery taken

	// filters are the subscriptions in the tree. They belong to whoever set
	// changing; ops wait for their turn in order.
	filters  map[string]struct{}
	changing bool
	ops      []*subscriptionOp
	// unanswered and unansweredBytes are what the gate counts.
	unanswered      int
	unansweredBytes int
	// subscribing is the number of SUBSCRIBEs without SUBACK; until orderedUntil, on
	// Server.now, PUBLISHes wait for them.
	subscribing  int
	orderedUntil int64
	dropLogged   bool

	// Of ephemeral sessions with shared subscriptions: the groups they are members of,
	// by filter, and calls of the cluster that concern them; telling: somebody makes
	// those.
	groups  map[string]*membership
	tells   []func()
	telling bool
}

type phase byte

const (
	phaseNew phase = iota
	phaseConnecting
	phaseAttaching
	phaseOpen
	phaseClosing
)

// options are what the client asked for in CONNECT, within our limits.
type options struct {
	version   byte // 0 until CONNECT
	window    uint16
	aliasMax  uint16
	keepAlive uint16 // seconds; 0: off
	maxPacket uint32 // 0: no limit
	// laconic: no reason strings (Request Problem Information is 0).
	laconic bool
}

// wire is what a connection needs of its transport. No method blocks, and none
// calls back.
type wire interface {
	// wake: the out buffer has something and nobody is writing it.
	wake()
	// hangup: write what is left, then close.
	hangup()
	// established: CONNACK is on its way, packets are due by keep alive.
	established(keepAliveSeconds uint16)
}

// init prepares the zero value.
func (c *conn) init(s *Server, w wire, limits *Limits, client Client) {
	c.srv, c.wire, c.limits, c.id, c.client, c.reading = s, w, limits, s.nextConn.Add(1), client, true
	c.readable.L = &c.mu
}

// learn notes what the transport has learnt about the client before MQTT begins.
func (c *conn) learn(change func(*Client)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.client)
}

// unlock releases mu and starts a flusher if there is something to write.
func (c *conn) unlock() {
	wake := c.out != nil && !c.flushing
	if wake {
		c.flushing = true
	}
	c.mu.Unlock()
	if wake {
		c.wire.wake()
	}
}

// handle takes one packet from the reader: its first byte and its body, which is
// not kept. An error means that the connection must close; fail does that.
func (c *conn) handle(header byte, body []byte) error {
	t := packet.Type(header >> 4)
	c.srv.metrics.PacketsReceived[t].Add(1)
	if (c.opts.version == 0) != (t == packet.TypeConnect) {
		return c.misplaced(t)
	}
	if c.login != nil && c.login.connect != nil {
		return c.handleLogin(t, header, body)
	}
	switch t {
	case packet.TypePublish:
		return c.handlePublish(header, body)
	case packet.TypePuback, packet.TypePubrec, packet.TypePubrel, packet.TypePubcomp:
		return c.handleAck(header, body)
	}
	p, err := packet.Decode(header, body, c.opts.version)
	if err != nil {
		return err
	}
	if err := packet.CheckFromClient(p); err != nil {
		return err
	}
	switch p := p.(type) {
	case *packet.Connect:
		return c.handleConnect(p)
	case *packet.Subscribe:
		return c.handleSubscribe(p)
	case *packet.Unsubscribe:
		return c.handleUnsubscribe(p)
	case *packet.Pingreq:
		c.pong()
		return nil
	case *packet.Disconnect:
		return c.handleDisconnect(p)
	}
	return c.handleAuth(p.(*packet.Auth))
}

// misplaced is the error for a packet before CONNECT, or a second CONNECT.
func (c *conn) misplaced(t packet.Type) error {
	if c.opts.version == 0 {
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-3.1.0-1", Detail: t.String() + " before CONNECT"}
	}
	return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-3.1.0-2", Detail: "second CONNECT"}
}

// pong answers a PINGREQ [MQTT-3.12.4-1].
func (c *conn) pong() {
	c.mu.Lock()
	if c.phase == phaseOpen {
		c.send(&packet.Pingresp{})
	}
	c.unlock()
}

// subscribeOrder, in milliseconds, is how long a PUBLISH waits for the SUBSCRIBEs
// before it. Until SUBACK nothing is promised, but clients that publish to their own
// subscription without waiting for it are many, and one broker alone would not
// disappoint them. The wait is short, since a session's partition without a leader
// must not stop messages to others.
const subscribeOrder = 1000

// gated says whether the reader must not go on: before the session is there, when too
// much of what it read has no answer yet, with a PUBLISH also when it would overtake a
// SUBSCRIBE, and with a SUBSCRIBE when it would overtake a retained message of QoS 0.
// next is the packet to come, 0 if there is none yet.
func (c *conn) gated(next packet.Type) bool {
	switch c.phase {
	case phaseConnecting, phaseAttaching:
		return true
	case phaseOpen:
		return c.overloaded() ||
			next == packet.TypePublish && c.subscribing > 0 && c.srv.now() < c.orderedUntil ||
			next == packet.TypeSubscribe && c.in != nil && c.in.retaining > 0 && c.srv.now() < c.in.retainingUntil
	}
	return false
}

// overloaded says whether too much has no answer yet.
func (c *conn) overloaded() bool {
	return c.unansweredBytes > c.limits.UnansweredBytes || c.unanswered >= c.maxUnanswered()
}

// maxUnanswered leaves MQTT 5 clients room beyond the Receive Maximum, which they
// must keep, for their other packets [MQTT-3.3.4-8].
func (c *conn) maxUnanswered() int {
	n := int(c.limits.ReceiveMaximum)
	if c.opts.version >= packet.V5 {
		n += 256
	}
	return n
}

// passGate waits until the reader may handle the next packet; false: there will be
// none. blocked is called once if it has to wait.
func (c *conn) passGate(next packet.Type, blocked func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gated(next) {
		if c.phase == phaseOpen && c.overloaded() {
			c.srv.metrics.BackPressure.Add(1)
		}
		c.mu.Unlock()
		blocked()
		c.mu.Lock()
		for c.gated(next) {
			c.readable.Wait()
		}
	}
	return c.phase != phaseClosing
}

// ask notes a question to the cluster that the gate counts.
func (c *conn) ask(bytes int) {
	c.asked++
	c.unanswered++
	c.unansweredBytes += bytes
}

// answered is the counterpart of ask.
func (c *conn) answered(bytes int) {
	c.asked--
	c.ungate(bytes)
}

// ungate takes something off the gate.
func (c *conn) ungate(bytes int) {
	before := c.overloaded()
	c.unanswered--
	c.unansweredBytes -= bytes
	if before && !c.overloaded() {
		c.readable.Broadcast()
	}
}

// subscribes notes a SUBSCRIBE, and subscribed that it has its SUBACK.
func (c *conn) subscribes() {
	c.unanswered++
	c.subscribing++
	c.orderedUntil = c.srv.now() + subscribeOrder
}

func (c *conn) subscribed() {
	c.ungate(0)
	if c.subscribing--; c.subscribing == 0 {
		c.readable.Broadcast()
	}
}

// reconsider makes a reader that waits at the gate look at the time.
func (c *conn) reconsider() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readable.Broadcast()
}
