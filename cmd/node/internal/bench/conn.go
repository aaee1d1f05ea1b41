package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// connectTime bounds dialling, CONNECT and SUBSCRIBE, each.
const connectTime = 30 * time.Second

// sessionExpiry is how long persistent sessions last if a run cannot clean up.
const sessionExpiry = 600

// conn is one client connection. One goroutine at a time uses it.
type conn struct {
	nc      net.Conn
	version byte
	in      []byte // in[r:w] is read and not yet taken
	r, w    int
	out     []byte // appended to, and written by flush
	server  packet.Properties
	present bool
}

// login is who connects and how.
type login struct {
	id         string
	addr       string
	version    byte
	persistent bool
	clean      bool // forget what there was
	buffer     int  // size of the read buffer
	username   string
	password   []byte
}

// RefusedError is a broker that says no.
type RefusedError struct {
	What string // CONNECT, SUBSCRIBE, PUBLISH, DISCONNECT
	Addr string
	Code packet.ReasonCode
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s: the broker answers %v to %s", e.Addr, e.Code, e.What)
}

// connect opens a connection and waits for CONNACK.
func connect(ctx context.Context, l login) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{nc: nc, version: l.version, in: make([]byte, max(l.buffer, 512))}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = c.handshake(l)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *conn) handshake(l login) error {
	p := packet.Connect{Version: l.version, ClientID: l.id, CleanStart: l.clean || !l.persistent}
	if l.username != "" {
		p.HasUsername, p.Username, p.HasPassword, p.Password = true, l.username, true, l.password
	}
	if l.version == packet.V311 && l.persistent {
		p.CleanStart = l.clean
	}
	if l.version == packet.V5 && l.persistent {
		expiry := uint32(sessionExpiry)
		p.Props.SessionExpiry = &expiry
	}
	c.out = p.AppendTo(c.out, l.version)
	ack, err := await[*packet.Connack](c)
	if err != nil {
		return err
	}
	if ack.Code != packet.Success {
		return &RefusedError{"CONNECT", l.addr, ack.Code}
	}
	c.server, c.present = ack.Props, ack.SessionPresent
	return nil
}

// subscribe asks for one filter and waits for SUBACK.
func (c *conn) subscribe(filter string, qos byte) error {
	s := packet.Subscribe{PacketID: 1, Filters: []packet.Subscription{{Filter: filter, QoS: qos}}}
	if err := c.nc.SetReadDeadline(time.Now().Add(connectTime)); err != nil {
		return err
	}
	c.out = s.AppendTo(c.out, c.version)
	ack, err := await[*packet.Suback](c)
	if err != nil {
		return err
	}
	if len(ack.Codes) != 1 || ack.Codes[0] != packet.ReasonCode(qos) {
		return &RefusedError{"SUBSCRIBE", c.nc.RemoteAddr().String(), slices.Max(append(ack.Codes, 0))}
	}
	return c.nc.SetReadDeadline(time.Time{})
}

// await sends what is to be sent and reads the one packet that must come.
func await[P packet.Packet](c *conn) (P, error) {
	var none P
	if err := c.flush(); err != nil {
		return none, err
	}
	for {
		header, body, ok, err := c.next()
		if err != nil {
			return none, err
		}
		if !ok {
			if err := c.fill(); err != nil {
				return none, err
			}
			continue
		}
		p, err := packet.Decode(header, body, c.version)
		if err != nil {
			return none, err
		}
		if want, ok := p.(P); ok {
			return want, nil
		}
		return none, c.unexpected(p)
	}
}

// unexpected is the error for a packet that ends the connection.
func (c *conn) unexpected(p packet.Packet) error {
	if d, ok := p.(*packet.Disconnect); ok {
		return &RefusedError{"the connection", c.nc.RemoteAddr().String(), d.Code}
	}
	return fmt.Errorf("%s: the broker sends an unexpected %v", c.nc.RemoteAddr(), p.Type())
}

// flush writes all that was appended to out.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

// next takes a packet that has been read completely; body is valid until fill.
func (c *conn) next() (header byte, body []byte, ok bool, err error) {
	header, start, length, err := packet.Frame(c.in[c.r:c.w])
	if errors.Is(err, packet.ErrShort) {
		return 0, nil, false, nil
	}
	if err != nil {
		return 0, nil, false, err
	}
	if c.w-c.r < start+length {
		return 0, nil, false, nil
	}
	body = c.in[c.r+start : c.r+start+length]
	c.r += start + length
	return header, body, true, nil
}

// fill reads once, making room first.
func (c *conn) fill() error {
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.in) {
		c.in = append(c.in, make([]byte, len(c.in))...)
	}
	n, err := c.nc.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// bye disconnects. If end is set the session goes too; where the protocol
// cannot say so with DISCONNECT, forget must be called.
func (c *conn) bye(end bool) error {
	d := packet.Disconnect{}
	if end && c.version == packet.V5 {
		var now uint32
		d.Props.SessionExpiry = &now
	}
	c.out = d.AppendTo(c.out, c.version)
	return errors.Join(c.nc.SetWriteDeadline(time.Now().Add(connectTime)), c.flush(), c.nc.Close())
}

// forget removes a session by connecting with a clean one.
func forget(ctx context.Context, l login) error {
	l.persistent, l.clean = false, true
	c, err := connect(ctx, l)
	if err != nil {
		return err
	}
	return c.bye(true)
}
