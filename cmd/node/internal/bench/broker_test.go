package bench

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// fault spoils every 100th message that a broker gets.
type fault struct{ drop, twice, refuse bool }

// testBroker is as little of a broker as the generator needs: it keeps which
// sessions exist, but nothing for clients that are away.
type testBroker struct {
	t     *testing.T
	addr  string
	fault fault
	wg    sync.WaitGroup
	gone  *sync.Cond // of mu: a client has gone

	mu       sync.Mutex // guards all below
	user     string     // the only one let in; empty: everybody is
	password string
	clients  map[*testClient]bool
	sessions map[string]bool
	messages int
	stayed   bool // some session was to outlive its connection
	closed   bool
}

type testClient struct {
	b       *testBroker
	nc      net.Conn
	id      string
	version byte
	keep    bool   // the session outlives the connection
	filter  string // guarded by b.mu
	qos     byte   // guarded by b.mu

	mu  sync.Mutex // guards all below
	out []byte
	pid uint16
}

// broker starts a broker and returns its address.
func broker(t *testing.T, f *fault) string {
	t.Helper()
	return startBroker(t, f).addr
}

func startBroker(t *testing.T, f *fault) *testBroker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &testBroker{t: t, addr: l.Addr().String(), clients: map[*testClient]bool{}, sessions: map[string]bool{}}
	b.gone = sync.NewCond(&b.mu)
	if f != nil {
		b.fault = *f
	}
	b.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.serve(nc) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		b.closed = true
		for c := range b.clients {
			c.nc.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

// stored waits until all clients are gone and returns how many sessions are left.
func (b *testBroker) stored() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.clients) > 0 {
		b.gone.Wait()
	}
	return len(b.sessions)
}

func (b *testBroker) serve(nc net.Conn) {
	defer nc.Close()
	c := &testClient{b: b, nc: nc}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.clients[c] = true
	b.mu.Unlock()
	in := bufio.NewReader(nc)
	for c.packet(in) {
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.clients, c)
	if !c.keep {
		delete(b.sessions, c.id)
	}
	b.gone.Broadcast()
}

// packet handles one packet and reports whether the connection goes on.
func (c *testClient) packet(in *bufio.Reader) bool {
	head, err := in.Peek(2)
	for n := 2; err == nil && head[n-1] >= 0x80; n++ {
		head, err = in.Peek(n + 1)
	}
	if err != nil {
		return false
	}
	header, start, length, err := packet.Frame(head)
	if err != nil {
		c.b.t.Error(err)
		return false
	}
	whole := make([]byte, start+length)
	if _, err := io.ReadFull(in, whole); err != nil {
		return false
	}
	p, err := packet.Decode(header, whole[start:], c.version)
	if err != nil {
		c.b.t.Error(err)
		return false
	}
	return c.handle(p)
}

func (c *testClient) handle(p packet.Packet) bool {
	switch p := p.(type) {
	case *packet.Connect:
		c.send(c.connect(p))
	case *packet.Subscribe:
		c.b.mu.Lock()
		c.filter, c.qos = p.Filters[0].Filter, p.Filters[0].QoS
		c.b.mu.Unlock()
		c.send(&packet.Suback{PacketID: p.PacketID, Codes: []packet.ReasonCode{packet.ReasonCode(c.qos)}})
	case *packet.Publish:
		code := c.b.route(p)
		if p.QoS > 0 {
			kind := map[byte]packet.Type{1: packet.TypePuback, 2: packet.TypePubrec}[p.QoS]
			c.send(&packet.Ack{Kind: kind, PacketID: p.PacketID, Code: code})
		}
	case *packet.Ack:
		switch p.Kind {
		case packet.TypePubrel:
			c.send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: p.PacketID})
		case packet.TypePubrec:
			c.send(&packet.Ack{Kind: packet.TypePubrel, PacketID: p.PacketID})
		}
	case *packet.Disconnect:
		if p.Props.SessionExpiry != nil {
			c.keep = *p.Props.SessionExpiry > 0
		}
		return false
	}
	return true
}

func (c *testClient) connect(p *packet.Connect) *packet.Connack {
	c.id, c.version = p.ClientID, p.Version
	c.keep = packet.Value(p.Props.SessionExpiry, 0) > 0 || (p.Version < 5 && !p.CleanStart)
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.user != "" && (p.Username != c.b.user || string(p.Password) != c.b.password) {
		return &packet.Connack{Code: packet.BadUserNameOrPassword}
	}
	present := c.b.sessions[c.id] && !p.CleanStart
	c.b.sessions[c.id] = true
	c.b.stayed = c.b.stayed || c.keep
	return &packet.Connack{SessionPresent: present}
}

// send ignores errors: the reading side sees the end of the connection.
func (c *testClient) send(p packet.Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = p.AppendTo(c.out[:0], c.version)
	c.nc.Write(c.out)
}

func (b *testBroker) route(p *packet.Publish) packet.ReasonCode {
	b.mu.Lock()
	b.messages++
	times := 1
	if b.messages%100 == 0 {
		switch {
		case b.fault.refuse:
			b.mu.Unlock()
			return packet.QuotaExceeded
		case b.fault.drop:
			times = 0
		case b.fault.twice:
			times = 2
		}
	}
	var to []*testClient
	for c := range b.clients {
		if c.filter != "" && topic.Match(c.filter, p.Topic) {
			to = append(to, c)
		}
	}
	b.mu.Unlock()
	for range times {
		for _, c := range to {
			q := *p
			c.mu.Lock()
			c.pid = c.pid%65535 + 1
			q.PacketID = c.pid
			c.mu.Unlock()
			c.send(&q)
		}
	}
	return packet.Success
}
