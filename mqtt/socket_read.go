package mqtt

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// read is the reader's goroutine.
func (k *socket) read() {
	k.readPackets()
	k.c.readBatchDone()
	k.c.readerDone()
	k.c.awaitPart()
	k.drain()
	k.in.release()
	k.halfClosed()
}

// readPackets hands packets to the connection until it is closing.
func (k *socket) readPackets() {
	for need := 0; ; {
		n, err := k.in.fill(need)
		if err != nil {
			k.c.end(networkFailure()) // the first end counts, so this may be one by hangup
			return
		}
		k.srv.metrics.BytesReceived.Add(uint64(n))
		k.touch()
		need, err = k.handleAll()
		k.c.readBatchDone()
		if err != nil {
			k.c.fail(err)
			return
		}
		// Nothing more is read while the gate is shut: that is what pushes back.
		if !k.passGate(0) {
			return
		}
	}
}

// passGate waits until the next packet may be handled; false: there will be none.
func (k *socket) passGate(next packet.Type) bool {
	ok := k.c.passGate(next, k.blocked)
	if k.waited {
		k.waited = false
		k.waits.Store(false)
		k.touch()
	}
	return ok
}

// handleAll handles the packets in the buffer. need is the size of the packet that is
// there in part, 0 if not known.
func (k *socket) handleAll() (need int, err error) {
	for len(k.in.data) > 0 {
		if k.c.opts.version == 0 && packet.Type(k.in.data[0]>>4) != packet.TypeConnect {
			return 0, k.c.misplaced(packet.Type(k.in.data[0] >> 4)) // do not wait for the rest
		}
		header, start, length, err := packet.Frame(k.in.data)
		switch {
		case errors.Is(err, packet.ErrShort):
			return 0, nil
		case err != nil:
			return 0, err
		case start+length > int(k.c.limits.MaxPacket):
			return 0, &packet.Error{Code: packet.PacketTooLarge, Clause: "MQTT-3.2.2-15", Detail: "packet exceeds the maximum packet size"}
		case len(k.in.data) < start+length:
			return start + length, nil
		}
		if !k.passGate(packet.Type(header >> 4)) {
			return 0, nil
		}
		if k.pings > 0 && packet.Type(header>>4) == packet.TypePingreq {
			k.pings--
		} else if err := k.c.handle(header, k.in.data[start:start+length]); err != nil {
			return 0, err
		}
		k.in.data = k.in.data[start+length:]
	}
	return 0, nil
}

// blocked is called before the reader waits at the gate. While it waits the client is
// not to blame for silence, and the PINGREQs that are read already are answered.
func (k *socket) blocked() {
	k.waited = true // passGate sets the next deadline
	k.waits.Store(true)
	k.c.readBatchDone()
	if k.patience.Load() < 0 {
		k.deadline.Store(k.srv.now() + k.c.limits.SessionTimeout.Milliseconds())
		return
	}
	k.deadline.Store(0)
	pings := 0
	for rest := k.in.data; ; {
		header, start, length, err := packet.Frame(rest)
		if err != nil || len(rest) < start+length {
			break
		}
		if packet.Type(header>>4) == packet.TypePingreq && length == 0 {
			if pings++; pings > k.pings {
				k.c.pong()
			}
		}
		rest = rest[start+length:]
	}
	k.pings = max(k.pings, pings)
}

// drain reads and throws away what the client still sends, so that closing does not
// destroy the last packets on their way to it.
func (k *socket) drain() {
	until := time.Now().Add(linger)
	for {
		k.nc.SetReadDeadline(until)
		_, err := k.in.fill(0)
		k.in.data = nil
		if err != nil && !(errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(until)) {
			return
		}
	}
}

const (
	readChunk = 16 << 10
	// stashSize is how much of an incomplete packet is kept without a chunk.
	stashSize = 64
	// streamBuffer is the buffer of a transport that is not a plain socket.
	streamBuffer = 4 << 10
)

var readPool = sync.Pool{New: func() any { return new([readChunk]byte) }}

// readBuffer is what has been read and not handled. On a plain socket it takes a
// pooled chunk only when there is something to read.
type readBuffer struct {
	nc   net.Conn
	raw  syscall.RawConn
	try  func(fd uintptr) bool // tryRead
	data []byte                // not handled yet; at the end of what back holds, or in stash
	back []byte                // nil while parked
	// chunk is back if that is pooled.
	chunk *[readChunk]byte
	need  int
	n     int // result of tryRead
	err   error
	stash [stashSize]byte
}

func (r *readBuffer) init(nc net.Conn) {
	r.nc = nc
	if r.raw = rawConn(nc); r.raw != nil {
		r.try = r.tryRead
	}
}

// fill reads at least one byte more. need is the size of the packet that data begins
// with, 0 if not known.
func (r *readBuffer) fill(need int) (n int, err error) {
	r.need = need
	if r.raw == nil {
		if len(r.data) == 0 && len(r.back) > streamBuffer {
			r.back = nil // made for a large packet
		}
		n, err = r.nc.Read(r.room())
	} else {
		r.n, r.err = 0, nil
		if err = r.raw.Read(r.try); err == nil {
			n, err = r.n, r.err
		}
		if n <= 0 && err == nil {
			err = io.EOF
		}
	}
	if n <= 0 {
		return 0, err
	}
	r.data = r.data[:len(r.data)+n]
	return n, nil
}

// tryRead is called when the socket may be readable; false: it was not.
func (r *readBuffer) tryRead(fd uintptr) bool {
	r.n, r.err = readFD(fd, r.room())
	if errors.Is(r.err, syscall.EAGAIN) {
		r.park()
		return false
	}
	return true
}

// room returns space after data, and moves data to the front of it all.
func (r *readBuffer) room() []byte {
	n := len(r.data)
	switch {
	case r.back == nil:
		r.replace(0)
	case n == len(r.back):
		// The packet is known to be acceptable, but its sender must show that it is
		// coming before it gets all of its room.
		r.replace(min(max(r.need, n+1), 2*n))
	default:
		copy(r.back, r.data)
	}
	r.data = r.back[:n]
	return r.back[n:]
}

// replace moves data to another buffer of at least a size.
func (r *readBuffer) replace(size int) {
	old, n := r.chunk, len(r.data)
	r.chunk = nil
	switch {
	case r.raw != nil && size <= readChunk:
		r.chunk = readPool.Get().(*[readChunk]byte)
		r.back = r.chunk[:]
	default:
		r.back = make([]byte, max(size, streamBuffer))
	}
	copy(r.back, r.data[:n])
	if old != nil {
		readPool.Put(old)
	}
}

// park gives the buffer back while there is nothing to read, if what is left in it is
// little.
func (r *readBuffer) park() {
	if len(r.data) > stashSize {
		return
	}
	r.data = r.stash[:copy(r.stash[:], r.data)]
	r.release()
}

// release gives the buffer back.
func (r *readBuffer) release() {
	if r.chunk != nil {
		readPool.Put(r.chunk)
	}
	r.back, r.chunk = nil, nil
}
