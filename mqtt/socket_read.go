package mqtt

import (
	"errors"
	"os"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// run begins the reader's goroutine: with layers above the link it goes on in a new one,
// since the stack that a handshake needs is large, and reading needs little.
func (k *socket) run() {
	if k.ln.layered() {
		if err := k.setUp(); err == nil {
			go k.read()
			return
		}
	} else {
		k.up.Store(true)
	}
	k.read()
}

// read is the reader's goroutine.
func (k *socket) read() {
	if k.up.Load() {
		k.readPackets()
	}
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
			k.unreadable(err)
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

// unreadable ends a connection that cannot be read any more.
func (k *socket) unreadable(err error) {
	var pe *packet.Error
	if errors.As(err, &pe) { // by a layer that understands it no more
		k.c.fail(err)
		return
	}
	k.c.end(networkFailure()) // the first end counts, so this may be one by hangup
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
	k.in.top = &k.link // what is in it does not matter any more
	until := time.Now().Add(linger)
	for {
		k.link.SetReadDeadline(until)
		_, err := k.in.fill(0)
		k.in.data = nil
		if err != nil && !(errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(until)) {
			return
		}
	}
}
