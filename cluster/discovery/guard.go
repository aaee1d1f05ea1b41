package discovery

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// guard is memberlist's transport with a look at what comes: memberlist refuses what no
// key fits, but tells nobody in a form that could be counted.
type guard struct {
	*memberlist.NetTransport
	keys    *keyring
	refused func(from net.Addr)

	packets chan *memberlist.Packet
	streams chan net.Conn
	end     chan struct{} // closed by Shutdown
	once    sync.Once
	wg      sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*guard)(nil)

func newGuard(nt *memberlist.NetTransport, keys *keyring, refused func(net.Addr)) *guard {
	g := &guard{
		NetTransport: nt, keys: keys, refused: refused,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), end: make(chan struct{}),
	}
	g.wg.Go(g.passPackets)
	g.wg.Go(g.passStreams)
	return g
}

func (g *guard) passPackets() {
	for {
		select {
		case p := <-g.NetTransport.PacketCh():
			if !g.keys.opens(p.Buf, nil) {
				g.refused(p.From)
				continue
			}
			select {
			case g.packets <- p:
			case <-g.end:
				return
			}
		case <-g.end:
			return
		}
	}
}

func (g *guard) passStreams() {
	for {
		select {
		case c := <-g.NetTransport.StreamCh():
			select {
			case g.streams <- &guardedConn{Conn: c, g: g}:
			case <-g.end:
				_ = c.Close() // nobody will read it
				return
			}
		case <-g.end:
			return
		}
	}
}

// PacketCh implements memberlist.Transport.
func (g *guard) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh implements memberlist.Transport.
func (g *guard) StreamCh() <-chan net.Conn { return g.streams }

// DialTimeout implements memberlist.Transport.
func (g *guard) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.guarded(g.NetTransport.DialTimeout(addr, timeout))
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (g *guard) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.guarded(g.NetTransport.DialAddressTimeout(addr, timeout))
}

func (g *guard) guarded(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &guardedConn{Conn: c, g: g}, nil
}

// Shutdown implements memberlist.Transport.
func (g *guard) Shutdown() error {
	err := g.NetTransport.Shutdown()
	g.once.Do(func() { close(g.end) })
	g.wg.Wait()
	return err
}

// What memberlist sends on a stream is one message: its type, its length, and what is
// sealed.
const (
	encryptedMessage = 10
	streamHeader     = 5
	maxStreamMessage = 20 << 20 // memberlist's own limit
)

// guardedConn looks at the message that it brings before memberlist does, which then
// refuses it by itself, with an answer that lets the other side know.
// One goroutine reads.
type guardedConn struct {
	net.Conn
	g    *guard
	once sync.Once
	seen bytes.Buffer // what was read for the check
	err  error        // what ended that
}

// Read implements net.Conn.
func (c *guardedConn) Read(b []byte) (int, error) {
	c.once.Do(func() {
		var fits bool
		if fits, c.err = c.check(); c.err == nil && !fits {
			c.g.refused(c.RemoteAddr())
		}
	})
	switch {
	case c.seen.Len() > 0:
		return c.seen.Read(b)
	case c.err != nil:
		return 0, c.err
	}
	return c.Conn.Read(b)
}

// check reads the message and finds out whether a key fits. It reads no further when it
// knows that none does.
func (c *guardedConn) check() (fits bool, err error) {
	if _, err := io.CopyN(&c.seen, c.Conn, streamHeader); err != nil {
		return false, err
	}
	size := binary.BigEndian.Uint32(c.seen.Bytes()[1:])
	if c.seen.Bytes()[0] != encryptedMessage || size > maxStreamMessage {
		return false, nil
	}
	if _, err := io.CopyN(&c.seen, c.Conn, int64(size)); err != nil {
		return false, err
	}
	b := c.seen.Bytes()
	return c.g.keys.opens(b[streamHeader:], b[:streamHeader]), nil
}
