//go:build unix

package mqtt

import (
	"net"
	"syscall"
)

// rawConn returns the way to read a plain socket only when it is readable, so that
// no buffer is needed while it is not; nil for other transports.
func rawConn(nc net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	var err error
	switch nc := nc.(type) {
	case *net.TCPConn:
		raw, err = nc.SyscallConn()
	case *net.UnixConn:
		raw, err = nc.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return raw
}

func readFD(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
