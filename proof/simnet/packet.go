package simnet

import (
	"net"
	"os"
	"time"
)

// packetQueue is how many datagrams wait for a slow reader before more are dropped.
const packetQueue = 4096

type datagram struct {
	at   time.Time
	from Addr
	b    []byte
}

// packetConn is a socket for datagrams, which may be lost and reordered.
type packetConn struct {
	net  *Network
	host string
	addr Addr
	// Guarded by net.mu:
	queue    []datagram // in the order of arrival
	closed   bool
	deadline time.Time
	changed  chan struct{}
}

// ListenPacket opens a socket for datagrams on a host. Port 0 chooses one.
func (n *Network) ListenPacket(host string, port int) (net.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, err := n.bind(host, port, func(addr string) bool { return n.packets[addr] != nil })
	if err != nil {
		return nil, err
	}
	p := &packetConn{net: n, host: host, addr: Addr(addr), changed: make(chan struct{})}
	n.packets[addr] = p
	return p, nil
}

// end closes the socket. Caller holds net.mu.
func (p *packetConn) end() {
	p.closed, p.queue = true, nil
	p.wake()
}

func (p *packetConn) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *packetConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "sim", Source: p.addr, Err: err}
}

// ReadFrom implements net.PacketConn.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	for {
		if p.closed {
			return 0, nil, p.fail("read", net.ErrClosed)
		}
		if past(p.deadline) {
			return 0, nil, p.fail("read", os.ErrDeadlineExceeded)
		}
		next := p.deadline
		if len(p.queue) > 0 {
			d := p.queue[0]
			if !time.Now().Before(d.at) {
				p.queue = p.queue[1:]
				return copy(b, d.b), d.from, nil
			}
			if next.IsZero() || d.at.Before(next) {
				next = d.at
			}
		}
		p.wait(next)
	}
}

// wait blocks until the socket changes or a time, zero for never. Caller holds net.mu.
func (p *packetConn) wait(until time.Time) {
	changed := p.changed
	p.net.mu.Unlock()
	defer p.net.mu.Lock()
	if until.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// WriteTo implements net.PacketConn. A datagram to nowhere is lost without an error.
func (p *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	n := p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.closed {
		return 0, p.fail("write", net.ErrClosed)
	}
	l := n.link(p.host, hostOf(to.String()))
	dst := n.packets[to.String()]
	if dst == nil || l.Blocked || n.lost(l) || len(dst.queue) >= packetQueue {
		return len(b), nil
	}
	d := datagram{at: time.Now().Add(n.delay(l)), from: p.addr, b: append([]byte(nil), b...)}
	i := len(dst.queue)
	for i > 0 && d.at.Before(dst.queue[i-1].at) {
		i--
	}
	dst.queue = append(dst.queue[:i:i], append([]datagram{d}, dst.queue[i:]...)...)
	dst.wake()
	return len(b), nil
}

// Close implements net.PacketConn.
func (p *packetConn) Close() error {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.closed {
		return p.fail("close", net.ErrClosed)
	}
	delete(p.net.packets, string(p.addr))
	p.end()
	return nil
}

// LocalAddr implements net.PacketConn.
func (p *packetConn) LocalAddr() net.Addr { return p.addr }

// SetDeadline implements net.PacketConn.
func (p *packetConn) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadDeadline implements net.PacketConn.
func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	p.deadline = t
	p.wake()
	return nil
}

// SetWriteDeadline implements net.PacketConn. Writes never wait.
func (p *packetConn) SetWriteDeadline(time.Time) error { return nil }
