package mqtt

import (
	"io"
	"net"
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

// errWouldBlock is what reading returns while there is nothing to read.
var errWouldBlock net.Error = wouldBlock{}

// wouldBlock is a temporary error: crypto/tls goes on where it was at the next call.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to read yet" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }
