// Package toy is a small broker in memory that tests of the proof run against: what they
// say of a correct broker, and that they find the bugs that it can be told to have. It
// pretends to be several nodes, which share one state and lose connections when killed.
// It keeps nothing on disk and is no broker for anything else.
package toy

import (
	"net"
	"slices"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Bugs are mistakes to make.
type Bugs struct {
	LoseQueueAtTakeover  bool // what is queued goes when the session's connection changes
	ForgetInboundIDs     bool // QoS 2 ids go with the connection
	NewIDsOnResend       bool
	NoDup                bool
	ForgetPubrel         bool // PUBREL state goes with the connection
	ReverseResend        bool
	AckBeforeStore       bool // every 20th QoS 1 message is acknowledged, not stored
	IgnoreReceiveMaximum bool
	NoSessionPresent     bool
	DropWills            bool
	WillAfterDisconnect  bool
	StaleRetained        bool // every third SUBSCRIBE reads what was there before the last write
	DeliverTwice         bool // every 20th message
	SwapOrder            bool // every 20th message goes before the one ahead of it
	KeepAfterUnsubscribe bool
	NoFence              bool // the old connection goes on after takeover
}

// Broker is the shared state of the toy's nodes.
type Broker struct {
	bugs Bugs
	wg   sync.WaitGroup

	mu        sync.Mutex // guards everything below; never held while writing to a socket
	sessions  map[string]*session
	retained  map[string][]*message // the last two values of each topic, the newest last
	listeners map[string]net.Listener
	conns     map[*conn]string // their node
	count     int              // messages that were routed, for the bugs
	queries   int              // SUBSCRIBEs, for the bugs
	stopped   bool
}

type message struct {
	packet    client.Packet // without id and DUP
	publisher string
}

type session struct {
	id       string
	expiry   uint32
	subs     map[string]history.Filter
	queue    []*delivery
	inflight []*delivery // in the order of their first sending
	inbound  map[uint16]*message
	nextID   uint16
	owner    *conn
	will     *client.Will
	timer    *time.Timer // of the session's expiry while it has no connection
	delayed  *time.Timer // of the will
}

type delivery struct {
	m        *message
	qos      byte
	retain   bool
	id       uint16
	released bool
	sent     bool
}

// New returns a broker without nodes.
func New(bugs Bugs) *Broker {
	return &Broker{bugs: bugs, sessions: map[string]*session{}, retained: map[string][]*message{},
		listeners: map[string]net.Listener{}, conns: map[*conn]string{}}
}

// Serve starts a node on a listener.
func (b *Broker) Serve(node string, l net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners[node] = l
	b.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			b.accept(node, nc)
		}
	})
}

func (b *Broker) accept(node string, nc net.Conn) {
	c := &conn{b: b, nc: nc, wake: make(chan struct{}, 1), done: make(chan struct{})}
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		_ = nc.Close() // nobody listens any more
		return
	}
	b.conns[c] = node
	b.mu.Unlock()
	b.wg.Go(c.read)
	b.wg.Go(c.write)
}

// Kill ends a node's listener and connections.
func (b *Broker) Kill(node string) {
	b.mu.Lock()
	var gone []*conn
	for c, at := range b.conns {
		if at == node {
			gone = append(gone, c)
		}
	}
	l := b.listeners[node]
	delete(b.listeners, node)
	b.mu.Unlock()
	if l != nil {
		_ = l.Close() // a listener that the network has closed is closed as well
	}
	for _, c := range gone {
		_ = c.nc.Close() // its read loop does the rest
	}
}

// Stop ends all nodes and waits for their goroutines.
func (b *Broker) Stop() {
	b.mu.Lock()
	b.stopped = true
	var nodes []string
	for node := range b.listeners {
		nodes = append(nodes, node)
	}
	for _, node := range b.conns {
		nodes = append(nodes, node)
	}
	for _, s := range b.sessions {
		s.stopTimers()
	}
	b.mu.Unlock()
	for _, node := range nodes {
		b.Kill(node)
	}
	b.wg.Wait()
}

func (s *session) stopTimers() {
	for _, t := range []*time.Timer{s.timer, s.delayed} {
		if t != nil {
			t.Stop()
		}
	}
}

// route delivers a message to all sessions. Caller holds mu.
func (b *Broker) route(m *message) {
	b.count++
	if m.packet.Retain {
		old := b.retained[m.packet.Topic]
		b.retained[m.packet.Topic] = append(old[max(0, len(old)-1):], m)
	}
	ids := make([]string, 0, len(b.sessions))
	for id := range b.sessions {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		b.offer(b.sessions[id], m)
	}
}

func (b *Broker) offer(s *session, m *message) {
	qos, wanted := byte(0), false
	for _, f := range s.subs {
		if Matches(f.Filter, m.packet.Topic) && !(f.NoLocal && m.publisher == s.id) {
			qos, wanted = max(qos, f.QoS), true
		}
	}
	if !wanted {
		return
	}
	qos = min(qos, m.packet.QoS)
	if qos == 0 {
		if s.owner != nil {
			p := m.packet
			p.QoS, p.Retain = 0, false
			s.owner.send(p)
		}
		return
	}
	d := &delivery{m: m, qos: qos}
	n := len(s.queue)
	if b.bugs.SwapOrder && b.count%20 == 0 && n > 0 {
		s.queue = slices.Insert(s.queue, n-1, d)
	} else {
		s.queue = append(s.queue, d)
	}
	if b.bugs.DeliverTwice && b.count%20 == 0 {
		s.queue = append(s.queue, &delivery{m: m, qos: qos})
	}
	b.fill(s)
}

// fill moves the queue's head into flight as far as Receive Maximum allows. Caller holds mu.
func (b *Broker) fill(s *session) {
	for s.owner != nil && len(s.queue) > 0 && (len(s.inflight) < s.owner.receiveMaximum || b.bugs.IgnoreReceiveMaximum) {
		d := s.queue[0]
		s.queue = s.queue[1:]
		d.id = s.freeID()
		s.inflight = append(s.inflight, d)
		s.owner.deliver(d, false)
	}
}

func (s *session) freeID() uint16 {
	for {
		s.nextID++
		if s.nextID != 0 && !slices.ContainsFunc(s.inflight, func(d *delivery) bool { return d.id == s.nextID }) {
			return s.nextID
		}
	}
}

// resume sends again what is in flight. Caller holds mu.
func (b *Broker) resume(s *session) {
	items := slices.Clone(s.inflight)
	if b.bugs.ReverseResend {
		slices.Reverse(items)
	}
	for _, d := range items {
		if b.bugs.NewIDsOnResend && !d.released {
			d.id = s.freeID()
		}
		if d.released && b.bugs.ForgetPubrel {
			d.released = false
		}
		if d.released {
			s.owner.send(client.Packet{Type: client.PUBREL, ID: d.id})
		} else {
			s.owner.deliver(d, !b.bugs.NoDup)
		}
	}
	b.fill(s)
}

// detach ends a session's connection. Caller holds mu.
func (b *Broker) detach(c *conn, s *session, withWill bool) {
	if s.owner != c || b.stopped {
		return
	}
	s.owner = nil
	if w := s.will; w != nil && withWill && !b.bugs.DropWills {
		if w.Delay > 0 && s.expiry > 0 {
			s.delayed = time.AfterFunc(time.Duration(min(w.Delay, s.expiry))*time.Second, func() { b.publishWill(s, w) })
		} else {
			b.will(s.id, w)
		}
	}
	s.will = nil
	if b.bugs.ForgetInboundIDs {
		s.inbound = map[uint16]*message{}
	}
	switch s.expiry {
	case 0:
		delete(b.sessions, s.id)
	case history.NeverExpires:
	default:
		s.timer = time.AfterFunc(time.Duration(s.expiry)*time.Second, func() { b.expire(s) })
	}
}

func (b *Broker) publishWill(s *session, w *client.Will) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped && s.owner == nil {
		b.will(s.id, w)
	}
}

func (b *Broker) will(id string, w *client.Will) {
	b.route(&message{publisher: id, packet: client.Packet{Type: client.PUBLISH, Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain}})
}

func (b *Broker) expire(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.owner == nil && b.sessions[s.id] == s {
		delete(b.sessions, s.id)
	}
}
