package mqtt

import (
	"io"
	"net"
	"runtime"
	"syscall"
)

// link is the network connection below all layers of a transport. Reading it need not
// block, so that whoever waits for data, crypto/tls included, can let go of its buffers
// meanwhile: see readBuffer.tryRead.
type link struct {
	net.Conn
	raw syscall.RawConn // nil: reading always blocks
	// ahead has been read already, behind a PROXY header. Owned by the reader.
	ahead []byte
	// polled: the connection has been found readable, or may be, and is read by fd
	// without blocking. Owned by the reader.
	polled bool
	fd     uintptr
	// computing: the reader holds one of slots, which it gives back while it waits for
	// the network. Owned by the reader; false once anybody else writes.
	computing bool
	slots     slots
}

// slots bound how many TLS handshakes compute at once. When a fleet comes back after an
// outage, thousands of them would otherwise take their turns on the processors before
// anything else, the heartbeats between nodes among it.
type slots chan struct{}

func newSlots() slots { return make(slots, max(1, runtime.GOMAXPROCS(0)/2)) }

// begin waits for a slot.
func (l *link) begin() {
	l.slots <- struct{}{}
	l.computing = true
}

// end gives the slot back.
func (l *link) end() {
	<-l.slots
	l.computing = false
}

// Read implements io.Reader for the reader's goroutine.
func (l *link) Read(p []byte) (int, error) {
	if len(l.ahead) > 0 {
		n := copy(p, l.ahead)
		l.ahead = l.ahead[n:]
		if len(l.ahead) == 0 {
			l.ahead = nil
		}
		return n, nil
	}
	if !l.polled {
		if l.computing {
			l.end()
			defer l.begin()
		}
		return l.Conn.Read(p)
	}
	n, err := readFD(l.fd, p)
	switch {
	case err == syscall.EAGAIN:
		return 0, errWouldBlock
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements io.Writer.
func (l *link) Write(p []byte) (int, error) {
	if l.computing {
		l.end()
		defer l.begin()
	}
	return l.Conn.Write(p)
}

// errWouldBlock is what reading returns while there is nothing to read.
var errWouldBlock net.Error = wouldBlock{}

// wouldBlock is a temporary error: crypto/tls goes on where it was at the next call.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to read yet" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }
