package mqtt

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// linger is how long a closing connection waits for its client to take the last
// bytes and to close.
const linger = time.Second

// socket is the transport side of a connection: it reads, writes and keeps time. It
// has one goroutine that reads, one that writes while there is something to write,
// and no buffer while it is idle.
type socket struct {
	c    conn
	srv  *Server
	ln   *listener
	link link

	// up: the layers of the transport are there, and MQTT may be written. The reader
	// sets tls and ws before.
	up  atomic.Bool
	tls *tls.Conn       // nil: plain
	ws  *webSocketLayer // nil: no WebSocket

	// deadline, on Server.now, is when the client must have sent something; 0: never.
	deadline atomic.Int64
	// patience is the time that the client has between packets in milliseconds; 0: any
	// time; -1: there is no session yet, and deadline stays as it is.
	patience atomic.Int64
	// writing, on Server.now, is when the write that is going on began; 0: none is.
	writing atomic.Int64

	in     readBuffer  // owned by the reader
	waited bool        // at the gate; owned by the reader
	waits  atomic.Bool // at the gate, for the timekeeper
	pings  int         // of what is in the buffer, answered already; owned by the reader
	broken bool        // writing failed; owned by the flusher

	halves atomic.Int32 // reader and writer that have not finished
}

// serve runs a new connection, which is counted in the listener's already.
func (s *Server) serve(nc net.Conn, ln *listener) {
	k := &socket{srv: s, ln: ln, link: link{Conn: nc, raw: rawConn(nc), slots: s.handshakes}}
	k.c.init(s, k, ln.limits, Client{Listener: ln.o.Name, Remote: nc.RemoteAddr()})
	k.in.init(&k.link)
	k.halves.Store(2)
	k.patience.Store(-1)
	k.deadline.Store(s.now() + ln.limits.ConnectTimeout.Milliseconds())
	s.mu.Lock()
	if s.stopping() {
		s.mu.Unlock()
		nc.Close()
		ln.open.Add(-1)
		return
	}
	s.tasks.Add(1) // before Shutdown waits
	s.sockets.add(k)
	s.mu.Unlock()
	s.metrics.Connections.Add(1)
	go k.run()
}

// halfClosed is called once by the reader and once by the last flusher.
func (k *socket) halfClosed() {
	if k.halves.Add(-1) > 0 {
		return
	}
	k.link.Close()
	k.srv.sockets.remove(k)
	k.srv.metrics.Connections.Add(-1)
	k.ln.open.Add(-1)
	k.srv.tasks.Done()
}

// wake implements wire.
func (k *socket) wake() { go k.flush() }

// hangup implements wire.
func (k *socket) hangup() {
	k.link.SetWriteDeadline(time.Now().Add(linger)) // frees a flusher that is stuck
	k.link.SetReadDeadline(time.Unix(1, 0))         // wakes the reader; it goes on to drain
}

// established implements wire.
func (k *socket) established(keepAliveSeconds uint16) {
	k.patience.Store(int64(keepAliveSeconds) * 1500) // [MQTT-3.1.2-22]
	k.touch()
}

// touch moves the deadline: the client has sent something.
func (k *socket) touch() {
	switch p := k.patience.Load(); {
	case p > 0:
		k.deadline.Store(k.srv.now() + p)
	case p == 0:
		k.deadline.Store(0)
	}
}

// flush writes what is in the out buffer until it is empty. After the last bytes of
// a closing connection it closes the sending side.
func (k *socket) flush() {
	for {
		b, last := k.c.take()
		if b == nil {
			if last {
				k.closeSending()
				k.halfClosed()
			}
			return
		}
		n := b.size
		if !k.broken {
			k.broken = k.write(b) != nil
		}
		b.release()
		k.c.wrote(n)
		if k.broken {
			k.c.end(networkFailure())
		}
	}
}

// writeAtOnce is the number of bytes of one write: if a socket takes less within
// Limits.WriteTimeout it counts as stuck.
const writeAtOnce = 64 << 10

// write writes a batch, in steps in which progress shows.
func (k *socket) write(b *batch) error {
	for rest := b.pieces; len(rest) > 0; {
		step, n := 0, 0
		for step < len(rest) && (step == 0 || n+len(rest[step]) <= writeAtOnce) {
			n += len(rest[step])
			step++
		}
		v := rest[:step:step]
		if n > writeAtOnce { // one large piece
			v, n = net.Buffers{rest[0][:writeAtOnce]}, writeAtOnce
			rest[0] = rest[0][writeAtOnce:]
			step = 0
		}
		rest = rest[step:]
		if err := k.send(v, n); err != nil {
			return err
		}
	}
	return nil
}

// keepTime ends connections that are late, until the server stops. One slow scan
// over all is cheaper than a timer for each.
func (s *Server) keepTime() {
	const interval = 250 * time.Millisecond
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		now := s.now()
		s.tellSys(now)
		s.sockets.each(func(k *socket) {
			if d := k.deadline.Load(); d != 0 && now > d {
				k.c.timedOut()
			}
			if k.waits.Load() {
				k.c.reconsider()
			}
			if w := k.writing.Load(); w != 0 && now-w > k.c.limits.WriteTimeout.Milliseconds() {
				k.c.end(networkFailure())
			}
		})
	}
}

// socketSet holds all sockets, in shards so that connecting clients do not wait for
// a scan.
type socketSet [16]struct {
	mu sync.Mutex
	m  map[*socket]struct{}
}

func (s *socketSet) init() {
	for i := range s {
		s[i].m = map[*socket]struct{}{}
	}
}

func (s *socketSet) add(k *socket) {
	shard := &s[k.c.id%uint64(len(s))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.m[k] = struct{}{}
}

func (s *socketSet) remove(k *socket) {
	shard := &s[k.c.id%uint64(len(s))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.m, k)
}

// each calls fn for all sockets, with no lock held.
func (s *socketSet) each(fn func(*socket)) {
	var ks []*socket
	for i := range s {
		shard := &s[i]
		ks = ks[:0]
		shard.mu.Lock()
		for k := range shard.m {
			ks = append(ks, k)
		}
		shard.mu.Unlock()
		for _, k := range ks {
			fn(k)
		}
	}
}
