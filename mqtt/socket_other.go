//go:build !unix

package mqtt

import (
	"net"
	"syscall"
)

// rawConn returns nil: every connection has its own read buffer here.
func rawConn(net.Conn) syscall.RawConn { return nil }

func readFD(uintptr, []byte) (int, error) { return 0, syscall.EAGAIN }
