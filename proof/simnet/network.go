// Package simnet is a network in memory for tests in a testing/synctest bubble: streams
// and datagrams between named hosts, with delay, jitter, loss, partitions, resets and
// crashes. Everything that waits does so on channels and timers of the bubble, so fake
// time goes on while hosts wait for each other. The same seed and the same calls in the
// same order give the same delays; the scheduler's choices are Go's.
//
// A Network must be made inside the bubble that uses it.
package simnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Link is one direction between two hosts.
type Link struct {
	// Delay is that of every segment and datagram; Jitter adds a random part of itself.
	Delay, Jitter time.Duration
	// Loss is the chance, from 0 to 1, that a datagram is lost, and that a segment comes a
	// retransmission later.
	Loss float64
	// Blocked stalls streams and drops datagrams.
	Blocked bool
}

// retransmission is how long a lost segment takes to be sent again.
const retransmission = 200 * time.Millisecond

// AnyHost stands for every host in SetLink.
const AnyHost = "*"

type pair struct{ from, to string }

// Network connects hosts. Its methods may be called by any goroutine of its bubble.
type Network struct {
	mu        sync.Mutex // never held while waiting
	rand      *rand.Rand // guarded by mu
	base      Link       // guarded by mu; of links that were not set
	links     map[pair]*Link
	listeners map[string]*listener
	packets   map[string]*packetConn
	down      map[string]bool
	conns     map[*conn]struct{}
	port      int
	changed   chan struct{} // guarded by mu; closed and replaced when a link or host changes
}

// New returns a network without hosts. Links that are not set have the given properties.
func New(seed uint64, base Link) *Network {
	return &Network{rand: rand.New(rand.NewPCG(seed, 0x5eed)), base: base, links: map[pair]*Link{},
		listeners: map[string]*listener{}, packets: map[string]*packetConn{}, down: map[string]bool{},
		conns: map[*conn]struct{}{}, port: 40000, changed: make(chan struct{})}
}

// Addr is an address in the network.
type Addr string

// Network returns "sim".
func (a Addr) Network() string { return "sim" }

// String returns host:port.
func (a Addr) String() string { return string(a) }

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// Listen opens a listener on a host. Port 0 chooses one.
func (n *Network) Listen(host string, port int) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, err := n.bind(host, port, func(addr string) bool { return n.listeners[addr] != nil })
	if err != nil {
		return nil, err
	}
	l := &listener{net: n, addr: Addr(addr), host: host, changed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// bind returns an address that is not taken. Streams and datagrams may share a port
// number. Caller holds mu.
func (n *Network) bind(host string, port int, taken func(addr string) bool) (string, error) {
	if n.down[host] {
		return "", fmt.Errorf("listen on %s: %w", host, syscall.ENETDOWN)
	}
	if port == 0 {
		n.port++
		port = n.port
	}
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	if taken(addr) {
		return "", fmt.Errorf("listen on %s: %w", addr, syscall.EADDRINUSE)
	}
	return addr, nil
}

// Dial connects a host to an address. It waits while the two are cut off from each other.
func (n *Network) Dial(ctx context.Context, from, addr string) (net.Conn, error) {
	to := hostOf(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	rounds := 0
	for {
		if n.down[from] {
			return nil, &net.OpError{Op: "dial", Net: "sim", Addr: Addr(addr), Err: syscall.ENETDOWN}
		}
		out, in := n.link(from, to), n.link(to, from)
		cut := out.Blocked || in.Blocked || n.down[to]
		if !cut && rounds > 0 {
			break
		}
		changed := n.changed
		var arrived <-chan time.Time
		var timer *time.Timer
		if !cut {
			rounds++
			timer = time.NewTimer(n.delay(out) + n.delay(in))
			arrived, changed = timer.C, nil
		}
		n.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-arrived:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if timer != nil {
			timer.Stop()
		}
		n.mu.Lock()
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "sim", Addr: Addr(addr), Err: err}
		}
	}
	l := n.listeners[addr]
	if l == nil || len(l.queue) >= backlog {
		return nil, &net.OpError{Op: "dial", Net: "sim", Addr: Addr(addr), Err: syscall.ECONNREFUSED}
	}
	n.port++
	local := Addr(net.JoinHostPort(from, strconv.Itoa(n.port)))
	here, there := n.newPair(from, to, local, Addr(addr))
	l.queue = append(l.queue, there)
	l.wake()
	return here, nil
}

const backlog = 1024

// Dialer returns a function that dials from a host.
func (n *Network) Dialer(from string) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) { return n.Dial(ctx, from, addr) }
}

// link returns the properties of a direction. Caller holds mu.
func (n *Network) link(from, to string) Link {
	if l := n.links[pair{from, to}]; l != nil {
		return *l
	}
	return n.base
}

// delay draws the time that something takes over a link. Caller holds mu.
func (n *Network) delay(l Link) time.Duration {
	d := l.Delay
	if l.Jitter > 0 {
		d += time.Duration(n.rand.Int64N(int64(l.Jitter)))
	}
	return d
}

func (n *Network) lost(l Link) bool { return l.Loss > 0 && n.rand.Float64() < l.Loss }

// SetLink changes one direction. Either side may be AnyHost, which changes all hosts that
// were named in SetLink before and, if both are, the base.
func (n *Network) SetLink(from, to string, change func(*Link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if from == AnyHost && to == AnyHost {
		change(&n.base)
		for _, l := range n.links {
			change(l)
		}
		n.wake()
		return
	}
	for _, p := range n.match(from, to) {
		l := n.links[p]
		if l == nil {
			copied := n.base
			l = &copied
			n.links[p] = l
		}
		change(l)
	}
	n.wake()
}

// match expands AnyHost to the hosts that have listeners or connections. Caller holds mu.
func (n *Network) match(from, to string) []pair {
	if from != AnyHost && to != AnyHost {
		return []pair{{from, to}}
	}
	var out []pair
	for host := range n.hosts() {
		switch {
		case from == AnyHost && host != to:
			out = append(out, pair{host, to})
		case to == AnyHost && host != from:
			out = append(out, pair{from, host})
		}
	}
	return out
}

func (n *Network) hosts() map[string]bool {
	hosts := map[string]bool{}
	for addr := range n.listeners {
		hosts[hostOf(addr)] = true
	}
	for addr := range n.packets {
		hosts[hostOf(addr)] = true
	}
	for c := range n.conns {
		hosts[c.host], hosts[c.peer.host] = true, true
	}
	for p := range n.links {
		hosts[p.from], hosts[p.to] = true, true
	}
	return hosts
}

// Partition cuts two hosts off from each other.
func (n *Network) Partition(a, b string) {
	n.PartitionOneWay(a, b)
	n.PartitionOneWay(b, a)
}

// PartitionOneWay stalls what goes from one host to another.
func (n *Network) PartitionOneWay(from, to string) {
	n.SetLink(from, to, func(l *Link) { l.Blocked = true })
}

// Heal ends all partitions: what was stalled arrives.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.base.Blocked = false
	for _, l := range n.links {
		l.Blocked = false
	}
	n.wake()
}

// Reset breaks all connections between two hosts; what is on its way is lost.
func (n *Network) Reset(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.host == a && c.peer.host == b || c.host == b && c.peer.host == a {
			c.out.reset()
			c.in.reset()
		}
	}
	n.wake()
}

// Crash ends a host's listeners and connections as the death of its process does: peers
// that it can reach see a reset. The host accepts and opens nothing until Start.
func (n *Network) Crash(host string) { n.crash(host, false) }

// PowerOff is Crash without a word to the peers: they see silence until Start, and a
// reset then.
func (n *Network) PowerOff(host string) { n.crash(host, true) }

func (n *Network) crash(host string, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[host] = true
	for addr, l := range n.listeners {
		if l.host == host {
			delete(n.listeners, addr)
			l.end()
		}
	}
	for addr, p := range n.packets {
		if p.host == host {
			delete(n.packets, addr)
			p.end()
		}
	}
	for c := range n.conns {
		if c.host == host {
			c.dead = true
			c.out.dark = silent
			c.out.reset()
			c.in.segments, c.in.size = nil, 0
			c.in.wake()
			c.forget()
		}
	}
	n.wake()
}

// Start lets a crashed host listen and dial again.
func (n *Network) Start(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.down, host)
	for c := range n.conns {
		if c.host == host {
			c.out.dark = false
		}
	}
	n.wake()
}

// wake tells everyone who waits to look again. Caller holds mu.
func (n *Network) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
	for c := range n.conns {
		c.in.wake()
		c.out.wake()
	}
}

type listener struct {
	net  *Network
	addr Addr
	host string
	// Guarded by net.mu:
	queue   []*conn
	closed  bool
	changed chan struct{}
}

func (l *listener) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// end closes the listener and resets what was not accepted. Caller holds net.mu.
func (l *listener) end() {
	l.closed = true
	for _, c := range l.queue {
		c.out.reset()
		c.in.reset()
	}
	l.queue = nil
	l.wake()
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	for {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: "sim", Addr: l.addr, Err: net.ErrClosed}
		}
		if len(l.queue) > 0 {
			c := l.queue[0]
			l.queue = l.queue[1:]
			return c, nil
		}
		changed := l.changed
		l.net.mu.Unlock()
		<-changed
		l.net.mu.Lock()
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	delete(l.net.listeners, string(l.addr))
	l.end()
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }
