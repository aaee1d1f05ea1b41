package simnet

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// buffer is how many bytes may be under way in one direction before a writer waits.
const buffer = 256 << 10

// half is one direction of a connection. All of it is guarded by the network's mu.
type half struct {
	from, to string
	segments []segment
	size     int
	last     time.Time // arrival of the newest segment: a stream keeps its order
	fin      bool      // the writer has closed
	rst      bool
	dark     bool          // the writer's host has no power: nothing comes out
	changed  chan struct{} // closed and replaced by wake
}

type segment struct {
	at time.Time
	b  []byte // nil: the end of the stream
}

func (h *half) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// reset breaks the direction; what is under way is lost.
func (h *half) reset() {
	h.rst, h.segments, h.size = true, nil, 0
	h.wake()
}

// conn is one end of a connection.
type conn struct {
	net           *Network
	host          string
	local, remote Addr
	peer          *conn
	in, out       *half
	// Guarded by net.mu:
	closed, dead, abort         bool
	readDeadline, writeDeadline time.Time
}

// newPair makes both ends of a connection. Caller holds mu.
func (n *Network) newPair(from, to string, local, remote Addr) (here, there *conn) {
	up := &half{from: from, to: to, changed: make(chan struct{})}
	down := &half{from: to, to: from, changed: make(chan struct{})}
	here = &conn{net: n, host: from, local: local, remote: remote, in: down, out: up}
	there = &conn{net: n, host: to, local: remote, remote: local, in: up, out: down}
	here.peer, there.peer = there, here
	n.conns[here], n.conns[there] = struct{}{}, struct{}{}
	return here, there
}

// stalled says whether nothing of h reaches its reader now. Caller holds mu.
func (n *Network) stalled(h *half) bool { return h.dark || n.link(h.from, h.to).Blocked }

// wait blocks until h changes or the earlier of two times, zero for never. Caller holds
// mu, and holds it again afterwards.
func (c *conn) wait(h *half, a, b time.Time) {
	changed := h.changed
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		a = b
	}
	c.net.mu.Unlock()
	defer c.net.mu.Lock()
	if a.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(a))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

func past(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "sim", Source: c.local, Addr: c.remote, Err: err}
}

// broken returns the error of an end that can neither read nor write. Caller holds mu.
func (c *conn) broken() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.dead, c.in.rst && !c.net.stalled(c.in):
		return syscall.ECONNRESET
	}
	return nil
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		if err := c.broken(); err != nil {
			return 0, c.fail("read", err)
		}
		if past(c.readDeadline) {
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		}
		var next time.Time
		if !c.net.stalled(c.in) && len(c.in.segments) > 0 {
			s := &c.in.segments[0]
			if !time.Now().Before(s.at) {
				if s.b == nil {
					return 0, io.EOF
				}
				n := copy(b, s.b)
				if s.b = s.b[n:]; len(s.b) == 0 {
					c.in.segments = c.in.segments[1:]
				}
				c.in.size -= n
				c.in.wake()
				return n, nil
			}
			next = s.at
		}
		if len(b) == 0 {
			return 0, nil
		}
		c.wait(c.in, next, c.readDeadline)
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	written := 0
	for {
		if err := c.broken(); err != nil {
			return written, c.fail("write", err)
		}
		if past(c.writeDeadline) {
			return written, c.fail("write", os.ErrDeadlineExceeded)
		}
		if c.peer.closed && c.in.fin && !c.net.stalled(c.in) {
			return written, c.fail("write", syscall.EPIPE)
		}
		if len(b) == 0 {
			return written, nil
		}
		if room := buffer - c.out.size; room > 0 {
			n := min(room, len(b))
			c.send(append([]byte(nil), b[:n]...))
			b, written = b[n:], written+n
			continue
		}
		c.wait(c.out, time.Time{}, c.writeDeadline)
	}
}

// send puts a segment, or with nil the end, on its way. Caller holds mu.
func (c *conn) send(b []byte) {
	l := c.net.link(c.out.from, c.out.to)
	at := time.Now().Add(c.net.delay(l))
	for c.net.lost(l) {
		at = at.Add(retransmission)
	}
	if at.Before(c.out.last) {
		at = c.out.last
	}
	c.out.last = at
	if b != nil && (c.peer.closed || c.peer.dead) { // nobody will read it
		return
	}
	c.out.segments = append(c.out.segments, segment{at: at, b: b})
	c.out.size += len(b)
	c.out.wake()
}

// SetLinger with 0 makes Close reset the connection, as on a TCP socket.
func (c *conn) SetLinger(seconds int) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.abort = seconds == 0
	return nil
}

// CloseWrite ends the outgoing direction only.
func (c *conn) CloseWrite() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if err := c.broken(); err != nil {
		return c.fail("close", err)
	}
	if !c.out.fin {
		c.out.fin = true
		c.send(nil)
	}
	return nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	switch {
	case c.abort:
		c.out.reset()
	case !c.out.fin && !c.out.rst:
		c.out.fin = true
		c.send(nil)
	}
	c.in.segments, c.in.size = nil, 0
	c.in.wake()
	c.forget()
	return nil
}

// forget drops a connection of which neither end is of use. Caller holds mu.
func (c *conn) forget() {
	if (c.closed || c.dead) && (c.peer.closed || c.peer.dead) {
		delete(c.net.conns, c)
		delete(c.net.conns, c.peer)
	}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.setDeadline(&t, &t) }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&t, nil) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(nil, &t) }

func (c *conn) setDeadline(read, write *time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	if read != nil {
		c.readDeadline = *read
		c.in.wake()
	}
	if write != nil {
		c.writeDeadline = *write
		c.out.wake()
	}
	return nil
}
