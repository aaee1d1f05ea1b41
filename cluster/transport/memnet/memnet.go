// Package memnet is a network in memory, for tests and simulations. It needs no
// sockets, so it runs in a testing/synctest bubble. Links between hosts can be
// slowed down, cut (bytes wait and nobody is told, as in a partition) and reset
// (both ends see an error, as when a process is killed).
package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// ErrRefused is what a dial to an address without listener gets.
var ErrRefused = errors.New("memnet: connection refused")

// ErrReset is what both ends of a connection get when it was reset.
var ErrReset = errors.New("memnet: connection reset")

// window is how many bytes wait in one direction before a writer blocks.
const window = 1 << 20

// Network is a set of hosts. All methods may be called from any goroutine.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener // mu
	links     map[[2]string]*link  // mu
	conns     map[*conn]struct{}   // mu; both ends of each connection
	ports     int                  // mu
}

// link is the state of the path between two hosts.
type link struct {
	cut   bool
	delay time.Duration
	mend  chan struct{} // closed when cut ends
}

// New returns a network without hosts: a host exists by its name.
func New() *Network {
	return &Network{
		listeners: make(map[string]*listener),
		links:     make(map[[2]string]*link),
		conns:     make(map[*conn]struct{}),
	}
}

func key(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// link returns the state between two hosts; n.mu is held.
func (n *Network) link(a, b string) *link {
	l := n.links[key(a, b)]
	if l == nil {
		l = &link{mend: make(chan struct{})}
		n.links[key(a, b)] = l
	}
	return l
}

// Listen opens a port on a host; its address is "host:number".
func (n *Network) Listen(host string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports++
	l := &listener{
		n: n, addr: addr{host: host, port: n.ports},
		backlog: make(chan *conn), closed: make(chan struct{}),
	}
	n.listeners[l.addr.String()] = l
	return l, nil
}

// Dialer returns the dial function of a host. While the link is cut a dial
// waits for its context.
func (n *Network) Dialer(from string) func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("memnet: %w", err)
		}
		if err := n.await(ctx, from, host); err != nil {
			return nil, err
		}
		n.mu.Lock()
		l := n.listeners[address]
		n.ports++
		port := n.ports
		n.mu.Unlock()
		if l == nil {
			return nil, fmt.Errorf("%w: %s", ErrRefused, address)
		}
		here, there := n.pipe(addr{host: from, port: port}, l.addr)
		select {
		case l.backlog <- there:
			return here, nil
		case <-l.closed:
			err = fmt.Errorf("%w: %s", ErrRefused, address)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		here.abort(ErrReset)
		return nil, err
	}
}

// await waits until the link is whole.
func (n *Network) await(ctx context.Context, a, b string) error {
	for {
		n.mu.Lock()
		l := n.link(a, b)
		cut, mend := l.cut, l.mend
		n.mu.Unlock()
		if !cut {
			return nil
		}
		select {
		case <-mend:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Cut makes the link a black hole: what is written waits until Heal.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link(a, b).cut = true
}

// Heal ends a Cut; what waited arrives.
func (n *Network) Heal(a, b string) {
	n.mu.Lock()
	l := n.link(a, b)
	if l.cut {
		l.cut = false
		close(l.mend)
		l.mend = make(chan struct{})
	}
	hit := n.between(a, b)
	n.mu.Unlock()
	for _, c := range hit {
		c.in.arrive()
	}
}

// Delay sets how long bytes take from one end to the other, from now on.
func (n *Network) Delay(a, b string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link(a, b).delay = d
}

// Reset breaks all connections between two hosts.
func (n *Network) Reset(a, b string) {
	n.mu.Lock()
	hit := n.between(a, b)
	n.mu.Unlock()
	for _, c := range hit {
		c.abort(ErrReset)
	}
}

// Kill breaks all connections of a host and closes its ports, as when its
// processes are killed. Ends behind a cut link are not told.
func (n *Network) Kill(host string) {
	n.mu.Lock()
	var hit []*conn
	var shut []*listener
	for c := range n.conns {
		if c.local.host == host {
			hit = append(hit, c)
		}
	}
	for _, l := range n.listeners {
		if l.addr.host == host {
			shut = append(shut, l)
		}
	}
	n.mu.Unlock()
	for _, l := range shut {
		_ = l.Close() // never fails
	}
	for _, c := range hit {
		if n.whole(c) {
			c.abort(ErrReset)
		} else {
			c.vanish()
		}
	}
}

// between returns the ends of the connections between two hosts; n.mu is held.
func (n *Network) between(a, b string) (hit []*conn) {
	for c := range n.conns {
		if key(c.local.host, c.remote.host) == key(a, b) {
			hit = append(hit, c)
		}
	}
	return hit
}

func (n *Network) whole(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.link(c.local.host, c.remote.host).cut
}

type addr struct {
	host string
	port int
}

func (addr) Network() string  { return "mem" }
func (a addr) String() string { return fmt.Sprintf("%s:%d", a.host, a.port) }

type listener struct {
	n       *Network
	addr    addr
	backlog chan *conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		delete(l.n.listeners, l.addr.String())
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }
