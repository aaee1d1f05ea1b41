package mqtt

import (
	"io"
	"net"

	"github.com/flotilla-mqtt/flotilla/mqtt/websocket"
)

// top is where bytes are written that are not framed further.
func (k *socket) top() io.Writer {
	if k.tls != nil {
		return k.tls
	}
	return k.link.Conn
}

// send writes pieces, n bytes in all, at once: as one WebSocket message, in as few TLS
// records and system calls as it takes.
func (k *socket) send(v net.Buffers, n int) (err error) {
	var header []byte
	if k.ws != nil {
		k.ws.mu.Lock()
		defer k.ws.mu.Unlock()
		header = websocket.AppendHeader(make([]byte, 0, 10), websocket.Binary, n) // [MQTT-6.0.0-1]
	}
	k.writing.Store(max(k.srv.now(), 1))
	defer k.writing.Store(0)
	switch {
	case k.ws != nil || k.tls != nil && len(v) > 1:
		return gather(k.top(), header, v)
	case len(v) == 1:
		_, err = k.top().Write(v[0])
	default:
		all := v // WriteTo takes an address, and v would be allocated for every case
		_, err = all.WriteTo(k.link.Conn)
	}
	return err
}

// gather writes a header and pieces in chunks.
func gather(w io.Writer, header []byte, v net.Buffers) error {
	chunk := readPool.Get().(*[readChunk]byte)
	defer readPool.Put(chunk)
	n := copy(chunk[:], header)
	for _, p := range v {
		for len(p) > 0 {
			m := copy(chunk[n:], p)
			n += m
			p = p[m:]
			if n < len(chunk) {
				continue
			}
			if _, err := w.Write(chunk[:]); err != nil {
				return err
			}
			n = 0
		}
	}
	if n == 0 {
		return nil
	}
	_, err := w.Write(chunk[:n])
	return err
}

// sendFrame writes a control frame of a WebSocket.
func (k *socket) sendFrame(frame []byte) error {
	k.ws.mu.Lock()
	defer k.ws.mu.Unlock()
	k.writing.Store(max(k.srv.now(), 1))
	defer k.writing.Store(0)
	_, err := k.top().Write(frame)
	return err
}

// closeSending ends what is sent, layer by layer, so that the client reads all and then
// sees the end. Without layers that work it closes the connection.
func (k *socket) closeSending() {
	if k.broken || k.closeLayers() != nil {
		k.link.Close()
	}
}

func (k *socket) closeLayers() error {
	up := k.up.Load() // otherwise the reader may be setting tls and ws
	if up && k.ws != nil {
		status := websocket.Status(k.ws.status.Load())
		if status == 0 {
			status = websocket.NormalClosure
		}
		if err := k.sendFrame(websocket.AppendClose(nil, status)); err != nil {
			return err
		}
	}
	if up && k.tls != nil {
		if err := k.tls.CloseWrite(); err != nil {
			return err
		}
	}
	if cw, ok := k.link.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return k.link.Close()
}
