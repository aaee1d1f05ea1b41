package transport_test

import (
	"context"
	"errors"
	"net"
	"sync"
)

// faults decides which node reaches which. A cut link is a black hole: dials
// hang, bytes wait, nobody is told. A broken link resets its connections.
type faults struct {
	mu     sync.Mutex
	cut    map[[2]string]bool      // mu
	change chan struct{}           // mu; closed at each change
	conns  map[*faultConn]struct{} // mu
}

var errReset = errors.New("connection reset by test")

func newFaults() *faults {
	return &faults{cut: map[[2]string]bool{}, change: make(chan struct{}), conns: map[*faultConn]struct{}{}}
}

func link(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func (f *faults) set(a, b string, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut[link(a, b)] = cut
	close(f.change)
	f.change = make(chan struct{})
}

func (f *faults) healAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.cut)
	close(f.change)
	f.change = make(chan struct{})
}

// reset closes all connections between two nodes.
func (f *faults) reset(a, b string) {
	f.mu.Lock()
	var hit []*faultConn
	for c := range f.conns {
		if c.link == link(a, b) {
			hit = append(hit, c)
		}
	}
	f.mu.Unlock()
	for _, c := range hit {
		c.Close()
	}
}

// pass waits while the link is cut; false: done was closed.
func (f *faults) pass(l [2]string, done <-chan struct{}) bool {
	for {
		f.mu.Lock()
		cut, change := f.cut[l], f.change
		f.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-change:
		case <-done:
			return false
		}
	}
}

func (f *faults) dialer(from string, nodeAt func(addr string) string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		l := link(from, nodeAt(addr))
		if !f.pass(l, ctx.Done()) {
			return nil, ctx.Err()
		}
		inner, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		c := &faultConn{Conn: inner, f: f, link: l, done: make(chan struct{})}
		f.mu.Lock()
		f.conns[c] = struct{}{}
		f.mu.Unlock()
		return c, nil
	}
}

type faultConn struct {
	net.Conn
	f    *faults
	link [2]string
	once sync.Once
	done chan struct{}
}

func (c *faultConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.f.pass(c.link, c.done) {
		return 0, errReset
	}
	return n, err
}

func (c *faultConn) Write(b []byte) (int, error) {
	if !c.f.pass(c.link, c.done) {
		return 0, errReset
	}
	return c.Conn.Write(b)
}

func (c *faultConn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.f.mu.Lock()
		delete(c.f.conns, c)
		c.f.mu.Unlock()
	})
	return c.Conn.Close()
}
