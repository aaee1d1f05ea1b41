package mqtt

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/pires/go-proxyproto"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/mqtt/websocket"
)

// layered says whether anything comes before MQTT on the listener's connections.
func (l *listener) layered() bool {
	return l.o.TLS != nil || l.o.WebSocket != nil || len(l.o.Proxies) > 0
}

// setUp brings up the layers between the network connection and MQTT: PROXY header,
// TLS, WebSocket. It is bounded as CONNECT is, by the deadline. When it fails the
// connection ends.
func (k *socket) setUp() error {
	step, err := SetupProxy, k.readProxyHeader()
	if err == nil && k.ln.o.TLS != nil {
		step, err = SetupTLS, k.handshake()
	}
	if err == nil && k.ln.o.WebSocket != nil {
		step, err = SetupWebSocket, k.upgrade()
	}
	if err != nil {
		e := networkFailure()
		if !errors.Is(err, io.EOF) { // a health check says nothing and leaves, as on a plain listener
			e.Setup, e.Err = &k.srv.metrics.SetupFailed[step], fmt.Errorf("%v: %w", step, err)
		}
		k.c.end(e)
		return err
	}
	k.up.Store(true)
	return nil
}

// errNoTCP is a PROXY header for something that MQTT does not run on.
var errNoTCP = errors.New("PROXY header of a connection that is not TCP")

// readProxyHeader reads the header of a connection that comes from a proxy.
func (k *socket) readProxyHeader() error {
	if !k.ln.isProxy(k.link.RemoteAddr()) {
		return nil
	}
	r := proxyReaders.Get().(*bufio.Reader)
	defer proxyReaders.Put(r)
	defer r.Reset(nil)
	r.Reset(k.link.Conn)
	if _, err := r.Peek(1); err != nil {
		return err
	}
	h, err := proxyproto.Read(r)
	if err != nil {
		return err
	}
	ahead, _ := r.Peek(r.Buffered()) // no error: they are there
	k.link.ahead = bytes.Clone(ahead)
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		return nil // the proxy's own connection, or it does not know
	}
	if _, ok := h.SourceAddr.(*net.TCPAddr); !ok {
		return errNoTCP
	}
	k.c.learn(func(c *Client) { c.Remote = h.SourceAddr })
	return nil
}

var proxyReaders = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// isProxy says whether an address is in one of the networks of proxies.
func (l *listener) isProxy(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range l.o.Proxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// handshake makes the connection TLS.
func (k *socket) handshake() error {
	tc := tls.Server(&k.link, k.ln.o.TLS)
	k.link.begin()
	defer k.link.end()
	if err := tc.Handshake(); err != nil {
		return err
	}
	k.tls, k.in.top = tc, tc
	state := tc.ConnectionState()
	k.c.learn(func(c *Client) { c.TLS = &state })
	return nil
}

// webSocketLayer is a connection's WebSocket.
type webSocketLayer struct {
	k    *socket
	from io.Reader         // the layer below
	dec  websocket.Decoder // owned by the reader
	err  error             // of dec; owned by the reader
	// mu is held while a frame is written.
	mu sync.Mutex
	// status of the Close frame to send; 0: NormalClosure.
	status atomic.Uint32
}

// subprotocols of MQTT: the name that the standards demand [MQTT-6.0.0-4], and the one
// that clients of MQTT 3.1 offer, which is older than they are.
var subprotocols = []string{"mqtt", "mqttv3.1"}

const defaultPath = "/mqtt"

// upgrade makes the connection a WebSocket.
func (k *socket) upgrade() error {
	rw := struct {
		io.Reader
		io.Writer
	}{k.in.top, k.top()}
	o := k.ln.o.WebSocket
	path := o.Path
	if path == "" {
		path = defaultPath
	}
	ahead, err := websocket.Upgrade(rw, websocket.Options{Path: path, Protocols: subprotocols, Origins: o.Origins})
	if err != nil {
		return err
	}
	k.ws = &webSocketLayer{k: k, from: k.in.top}
	if len(ahead) > 0 {
		k.ws.from = io.MultiReader(bytes.NewReader(ahead), k.in.top)
	}
	k.in.top = k.ws
	return nil
}

// Read implements io.Reader for the reader's goroutine. It returns 0 and no error when
// there was no MQTT in what came.
func (w *webSocketLayer) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.from.Read(p)
	if n <= 0 {
		return 0, err
	}
	if n, w.err = w.dec.Decode(p[:n], w.control); w.err != nil {
		w.failed()
	}
	return n, nil
}

// failed notes with which status the WebSocket is to be closed.
func (w *webSocketLayer) failed() {
	var closed *websocket.ClosedError
	var broken *websocket.Error
	switch {
	case errors.As(w.err, &closed):
		w.status.Store(uint32(closed.Reply()))
	case errors.As(w.err, &broken):
		w.status.Store(uint32(broken.Status))
		w.err = &packet.Error{Code: packet.ProtocolError, Clause: broken.Clause, Detail: broken.Detail}
	}
}

// control answers a Ping.
func (w *webSocketLayer) control(op websocket.Opcode, payload []byte) error {
	if op != websocket.Ping {
		return nil
	}
	frame := websocket.AppendHeader(make([]byte, 0, 2+websocket.MaxControl), websocket.Pong, len(payload))
	return w.k.sendFrame(append(frame, payload...))
}
