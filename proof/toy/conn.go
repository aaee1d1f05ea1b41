package toy

import (
	"bufio"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// conn is one client's connection to a node.
type conn struct {
	b    *Broker
	nc   net.Conn
	wake chan struct{}
	done chan struct{} // closed when the read loop has ended

	// Set by the read loop before the session can reach the connection.
	version        byte
	receiveMaximum int
	s              *session

	mu   sync.Mutex
	out  []client.Packet // guarded by mu
	last bool            // guarded by mu: the connection ends when out is written
}

// send queues a packet.
func (c *conn) send(p client.Packet) {
	c.mu.Lock()
	if !c.last {
		c.out = append(c.out, p)
		c.last = p.Type == client.DISCONNECT
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *conn) deliver(d *delivery, dup bool) {
	p := d.m.packet
	p.QoS, p.Retain, p.ID = d.qos, d.retain, d.id
	p.Dup = dup && d.sent
	d.sent = true
	c.send(p)
}

// write runs in its own goroutine.
func (c *conn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.mu.Lock()
		out, last := c.out, c.last
		c.out = nil
		c.mu.Unlock()
		for i := range out {
			raw, err := client.Encode(&out[i], c.version)
			if err == nil {
				_, err = c.nc.Write(raw)
			}
			if err != nil {
				_ = c.nc.Close() // the read loop ends with it
				return
			}
		}
		if last {
			_ = c.nc.Close()
			return
		}
	}
}

// read runs in its own goroutine.
func (c *conn) read() {
	defer close(c.done)
	r := bufio.NewReader(c.nc)
	normal := c.serve(r)
	_ = c.nc.Close()
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	delete(c.b.conns, c)
	if c.s != nil {
		c.b.detach(c, c.s, !normal || c.b.bugs.WillAfterDisconnect)
	}
}

// serve handles packets until the connection ends; true: by a normal DISCONNECT.
func (c *conn) serve(r *bufio.Reader) bool {
	first, err := client.ReadPacket(r, 5) // a CONNECT says its version itself
	if err != nil || first.Type != client.CONNECT {
		return false
	}
	c.version = first.Connect.Version
	c.connect(first)
	for {
		p, err := client.ReadPacket(r, c.version)
		if err != nil {
			return false
		}
		if p.Type == client.DISCONNECT {
			return p.Code == 0
		}
		c.b.mu.Lock()
		if c.s.owner == c || c.b.bugs.NoFence {
			c.handle(p)
		}
		c.b.mu.Unlock()
	}
}

func (c *conn) connect(p *client.Packet) {
	b, f := c.b, p.Connect
	c.receiveMaximum = 65535
	expiry := uint32(0)
	if f.Version < 5 && !f.Clean {
		expiry = history.NeverExpires
	}
	if v := p.Props.Get(client.PropSessionExpiry); v != nil {
		expiry = *v
	}
	if v := p.Props.Get(client.PropReceiveMaximum); v != nil {
		c.receiveMaximum = int(*v)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[f.ClientID]
	if s != nil && s.owner != nil {
		old := s.owner
		if !b.bugs.NoFence {
			old.send(client.Packet{Type: client.DISCONNECT, Code: 0x8e})
		}
		b.detach(old, s, true)
		s = b.sessions[f.ClientID]
	}
	if s != nil && f.Clean {
		s.stopTimers()
		delete(b.sessions, s.id)
		s = nil
	}
	present := s != nil
	if s == nil {
		s = &session{id: f.ClientID, subs: map[string]history.Filter{}, inbound: map[uint16]*message{}}
		b.sessions[s.id] = s
	}
	s.stopTimers()
	s.owner, s.expiry, s.will, c.s = c, expiry, f.Will, s
	if present && b.bugs.LoseQueueAtTakeover {
		s.queue = nil
	}
	c.send(client.Packet{Type: client.CONNACK, SessionPresent: present && !b.bugs.NoSessionPresent})
	b.resume(s)
}

// handle obeys one packet. Caller holds b.mu.
func (c *conn) handle(p *client.Packet) {
	s := c.s
	switch p.Type {
	case client.PUBLISH:
		c.publish(p)
	case client.PUBREL:
		if m := s.inbound[p.ID]; m != nil {
			delete(s.inbound, p.ID)
			c.b.route(m)
			c.send(client.Packet{Type: client.PUBCOMP, ID: p.ID})
		} else {
			c.send(client.Packet{Type: client.PUBCOMP, ID: p.ID, Code: 0x92})
		}
	case client.PUBREC:
		for _, d := range s.inflight {
			if d.id == p.ID {
				d.released = true
			}
		}
		c.send(client.Packet{Type: client.PUBREL, ID: p.ID})
	case client.PUBACK, client.PUBCOMP:
		s.inflight = slices.DeleteFunc(s.inflight, func(d *delivery) bool { return d.id == p.ID })
		c.b.fill(s)
	case client.SUBSCRIBE:
		c.subscribe(p)
	case client.UNSUBSCRIBE:
		codes := make([]byte, len(p.Filters))
		for _, f := range p.Filters {
			if !c.b.bugs.KeepAfterUnsubscribe {
				delete(s.subs, f.Filter)
			}
		}
		if c.version < 5 {
			codes = nil
		}
		c.send(client.Packet{Type: client.UNSUBACK, ID: p.ID, Codes: codes})
	case client.PINGREQ:
		c.send(client.Packet{Type: client.PINGRESP})
	}
}

func (c *conn) publish(p *client.Packet) {
	m := &message{packet: *p, publisher: c.s.id}
	m.packet.ID, m.packet.Dup = 0, false
	switch p.QoS {
	case 0:
		c.b.route(m)
	case 1:
		if c.b.bugs.AckBeforeStore && c.b.count%20 == 19 {
			c.b.count++
		} else {
			c.b.route(m)
		}
		c.send(client.Packet{Type: client.PUBACK, ID: p.ID})
	case 2:
		if c.s.inbound[p.ID] == nil {
			c.s.inbound[p.ID] = m
		}
		c.send(client.Packet{Type: client.PUBREC, ID: p.ID})
	}
}

func (c *conn) subscribe(p *client.Packet) {
	codes := make([]byte, len(p.Filters))
	for i, f := range p.Filters {
		c.s.subs[f.Filter] = f
		codes[i] = f.QoS
	}
	c.send(client.Packet{Type: client.SUBACK, ID: p.ID, Codes: codes})
	c.b.queries++
	var topics []string
	for topic := range c.b.retained {
		topics = append(topics, topic)
	}
	slices.Sort(topics)
	for _, topic := range topics {
		for _, f := range p.Filters {
			if Matches(f.Filter, topic) {
				c.retained(topic, f.QoS)
			}
		}
	}
}

func (c *conn) retained(topic string, qos byte) {
	values := c.b.retained[topic]
	m := values[len(values)-1]
	if c.b.bugs.StaleRetained && c.b.queries%3 == 0 {
		m = values[0]
	}
	if len(m.packet.Payload) == 0 {
		return
	}
	if qos = min(qos, m.packet.QoS); qos == 0 {
		p := m.packet
		p.QoS, p.Retain = 0, true
		c.send(p)
		return
	}
	c.s.queue = append(c.s.queue, &delivery{m: m, qos: qos, retain: true})
	c.b.fill(c.s)
}

// Matches says whether a filter matches a topic that does not begin with '$'.
func Matches(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i >= len(t) || level != "+" && level != t[i] {
			return false
		}
	}
	return len(f) == len(t)
}
