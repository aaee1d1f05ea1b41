package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipe makes a connection and returns its two ends.
func (n *Network) pipe(a, b addr) (*conn, *conn) {
	here := &conn{n: n, local: a, remote: b, in: newStream()}
	there := &conn{n: n, local: b, remote: a, in: newStream()}
	here.out, there.out = there.in, here.in
	here.peer, there.peer = there, here
	n.mu.Lock()
	n.conns[here], n.conns[there] = struct{}{}, struct{}{}
	n.mu.Unlock()
	return here, there
}

// conn is one end of a connection.
type conn struct {
	n             *Network
	local, remote addr
	peer          *conn
	in, out       *stream
	once          sync.Once
}

func (c *conn) forget(ends ...*conn) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for _, e := range ends {
		delete(c.n.conns, e)
	}
}

// path reports whether bytes may arrive now, and how long they travel.
func (c *conn) path() (whole bool, delay time.Duration) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	l := c.n.link(c.local.host, c.remote.host)
	return !l.cut, l.delay
}

func (c *conn) Read(b []byte) (int, error) {
	return c.in.read(b, func() bool { whole, _ := c.path(); return whole })
}

func (c *conn) Write(b []byte) (int, error) {
	whole, delay := c.path()
	return c.out.write(b, time.Now().Add(delay), whole)
}

// Close ends the connection; the other end reads what is on its way, then EOF.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.in.leave(net.ErrClosed)
		c.out.finish()
		c.forget(c)
	})
	return nil
}

// abort breaks both ends at once.
func (c *conn) abort(err error) {
	c.in.fail(err)
	c.out.fail(err)
	c.forget(c, c.peer)
}

// vanish ends this end without the other one being told.
func (c *conn) vanish() {
	c.in.leave(ErrReset)
	c.forget(c)
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error  { c.in.setReadDeadline(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setWriteDeadline(t); return nil }

// parcel is what one Write sent.
type parcel struct {
	data []byte
	at   time.Time // when it arrives
}

// stream is one direction of a connection.
type stream struct {
	mu       sync.Mutex
	cond     *sync.Cond
	parcels  []parcel // mu
	size     int      // mu; bytes in parcels
	finished bool     // mu; the writer closed
	gone     error    // mu; what the reader gets who has left
	err      error    // mu; broken at both ends
	rd, wr   deadline // mu
}

// deadline wakes waiters when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(t time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), wake)
	}
}

func newStream() *stream {
	s := &stream{}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// arrive wakes readers: something may have become readable.
func (s *stream) arrive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.parcels, s.size = nil, 0
	s.rd.set(time.Time{}, nil)
	s.wr.set(time.Time{}, nil)
	s.cond.Broadcast()
}

// leave: the reader is gone; the writer notices if it can be told.
func (s *stream) leave(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = err
	s.parcels, s.size = nil, 0
	s.rd.set(time.Time{}, nil)
	s.cond.Broadcast()
}

func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.wr.set(time.Time{}, nil)
	s.cond.Broadcast()
}

func (s *stream) setReadDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rd.set(t, s.arrive)
	s.cond.Broadcast()
}

func (s *stream) setWriteDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wr.set(t, s.arrive)
	s.cond.Broadcast()
}

func (s *stream) read(b []byte, whole func() bool) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.gone != nil:
			return 0, s.gone
		case s.err != nil:
			return 0, s.err
		case s.rd.passed():
			return 0, os.ErrDeadlineExceeded
		}
		if whole() {
			if len(s.parcels) > 0 && !s.parcels[0].at.After(time.Now()) {
				return s.fill(b), nil
			}
			if len(s.parcels) == 0 && s.finished {
				return 0, io.EOF
			}
		}
		s.cond.Wait()
	}
}

// fill copies what has arrived; s.mu is held.
func (s *stream) fill(b []byte) (n int) {
	now := time.Now()
	for n < len(b) && len(s.parcels) > 0 && !s.parcels[0].at.After(now) {
		p := &s.parcels[0]
		k := copy(b[n:], p.data)
		n += k
		p.data = p.data[k:]
		if len(p.data) == 0 {
			s.parcels[0] = parcel{}
			s.parcels = s.parcels[1:]
		}
	}
	s.size -= n
	s.cond.Broadcast()
	return n
}

func (s *stream) write(b []byte, at time.Time, whole bool) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.gone == nil && !s.finished && s.size >= window && !s.wr.passed() {
		s.cond.Wait()
	}
	switch {
	case s.err != nil:
		return 0, s.err
	case s.finished:
		return 0, net.ErrClosed
	case s.wr.passed():
		return 0, os.ErrDeadlineExceeded
	}
	if s.gone != nil {
		if whole {
			return 0, ErrReset
		}
		return len(b), nil // lost
	}
	if k := len(s.parcels); k > 0 && s.parcels[k-1].at.After(at) {
		at = s.parcels[k-1].at // the order is kept when the delay shrinks
	}
	s.parcels = append(s.parcels, parcel{data: append([]byte(nil), b...), at: at})
	s.size += len(b)
	if wait := time.Until(at); wait > 0 {
		time.AfterFunc(wait, s.arrive)
	}
	s.cond.Broadcast()
	return len(b), nil
}
