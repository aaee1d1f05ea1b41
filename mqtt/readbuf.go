package mqtt

import (
	"io"
	"sync"
)

const (
	readChunk = 16 << 10
	// stashSize is how much of an incomplete packet is kept without a chunk.
	stashSize = 64
	// streamBuffer is the buffer of a transport that is not a plain socket.
	streamBuffer = 4 << 10
)

var readPool = sync.Pool{New: func() any { return new([readChunk]byte) }}

// readBuffer is what has been read and not handled. Over a socket that can be polled it
// takes a pooled chunk only when there is something to read.
type readBuffer struct {
	link *link
	top  io.Reader             // link, or the layer above it that MQTT is read from
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

func (r *readBuffer) init(l *link) {
	r.link, r.top, r.try = l, l, r.tryRead
}

// fill reads at least one byte more. need is the size of the packet that data begins
// with, 0 if not known.
func (r *readBuffer) fill(need int) (n int, err error) {
	r.need = need
	for n == 0 && err == nil { // a layer may take all that came for itself
		n, err = r.read()
	}
	if n <= 0 {
		return 0, err
	}
	r.data = r.data[:len(r.data)+n]
	return n, nil
}

func (r *readBuffer) read() (n int, err error) {
	if r.link.raw == nil {
		if len(r.data) == 0 && len(r.back) > streamBuffer {
			r.back = nil // made for a large packet
		}
		return r.top.Read(r.room())
	}
	if err := r.link.raw.Read(r.try); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// tryRead is called when the socket may be readable; false: it was not.
func (r *readBuffer) tryRead(fd uintptr) bool {
	r.link.fd, r.link.polled = fd, true
	r.n, r.err = r.top.Read(r.room())
	r.link.polled = false
	if r.err == errWouldBlock {
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
	case r.link.raw != nil && size <= readChunk:
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
