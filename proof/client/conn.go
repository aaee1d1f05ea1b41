package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Dialer opens a byte stream to an address.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

// TCP dials a real network.
func TCP(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// Target is where a client connects to: a node by its name in the history, and its address.
type Target struct {
	Node string
	Addr string
}

// Options are what a CONNECT says.
type Options struct {
	Process  string // for the history; the client id if empty
	ClientID string
	// Version is 3 (3.1), 4 (3.1.1) or 5; 0 means 5.
	Version byte
	Clean   bool
	// Expiry is the session expiry interval in seconds. For 3.1.1 it is ignored: a session
	// that is not clean never expires.
	Expiry         uint32
	KeepAlive      uint16 // seconds; 0: none
	ReceiveMaximum uint16 // 0: not sent (65535); MQTT 5 only
	Will           *Will
	Username       string
	Password       []byte
	// Props are further properties of the CONNECT.
	Props Properties
}

// ErrClosed is wrapped by every error of a connection that has ended.
var ErrClosed = errors.New("client: connection closed")

// RefusedError is returned when CONNACK refuses.
type RefusedError struct{ Code byte }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("client: connection refused: %#02x", e.Code)
}

// Conn is one network connection. Its methods may be called by any goroutine; packets
// that come in are recorded at once and wait, in order, until they are taken.
type Conn struct {
	// Number is the connection's number in the history.
	Number  uint64
	Target  Target
	opts    Options
	nc      net.Conn
	rec     *history.Recorder
	readers sync.WaitGroup // the read loop
	done    chan struct{}  // closed when the connection has ended

	mu      sync.Mutex
	in      []*Packet     // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced when in or err changes
	err     error         // guarded by mu; set once, when the connection ends

	writing lock // orders records and writes of packets that go out
}

// Open dials and returns a connection on which nothing has been sent yet.
func Open(ctx context.Context, dial Dialer, target Target, rec *history.Recorder, o Options) (*Conn, error) {
	if o.Version == 0 {
		o.Version = 5
	}
	if o.Process == "" {
		o.Process = o.ClientID
	}
	if rec == nil {
		rec = history.NewRecorder()
	}
	nc, err := dial(ctx, target.Addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", target.Node, err)
	}
	c := &Conn{Number: rec.NewConn(), Target: target, opts: o, nc: nc, rec: rec, changed: make(chan struct{}), writing: newLock(),
		done: make(chan struct{})}
	c.readers.Go(c.read)
	return c, nil
}

// Dial opens a connection, sends CONNECT and waits for the CONNACK. On an error the
// connection is closed.
func Dial(ctx context.Context, dial Dialer, target Target, rec *history.Recorder, o Options) (*Conn, *Packet, error) {
	c, err := Open(ctx, dial, target, rec, o)
	if err != nil {
		return nil, nil, err
	}
	if err := c.SendConnect(); err != nil {
		c.Abort()
		return nil, nil, err
	}
	ack, err := c.Await(ctx, CONNACK, 0)
	if err != nil {
		c.Abort()
		return nil, nil, fmt.Errorf("CONNACK of %s: %w", target.Node, err)
	}
	if ack.Code != 0 {
		c.Close()
		return nil, ack, &RefusedError{Code: ack.Code}
	}
	return c, ack, nil
}

// SendConnect sends the CONNECT of the connection's options.
func (c *Conn) SendConnect() error {
	o := c.opts
	p := &Packet{Type: CONNECT, Connect: &ConnectFields{Version: o.Version, Clean: o.Clean, KeepAlive: o.KeepAlive,
		ClientID: o.ClientID, Will: o.Will, Username: o.Username, Password: o.Password}, Props: o.Props.clone()}
	if o.Version >= 5 {
		if o.Expiry > 0 {
			p.Props.Set(PropSessionExpiry, o.Expiry)
		}
		if o.ReceiveMaximum > 0 {
			p.Props.Set(PropReceiveMaximum, uint32(o.ReceiveMaximum))
		}
	}
	return c.Send(p)
}

// Send records and writes any packet.
func (c *Conn) Send(p *Packet) error {
	b, err := Encode(p, c.opts.Version)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	err = c.err
	if err == nil {
		c.rec.Record(c.event(p, history.Out))
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.write(b)
}

// SendRaw writes bytes that are recorded only as such: malformed packets and torn ones.
func (c *Conn) SendRaw(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.write(b)
}

// writeTimeout bounds a write to a peer that has stopped reading; after it the connection ends.
const writeTimeout = 10 * time.Second

func (c *Conn) write(b []byte) error {
	err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		_, err = c.nc.Write(b)
	}
	if err != nil {
		c.end(history.In, err)
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return nil
}

// read runs in its own goroutine until the connection ends.
func (c *Conn) read() {
	r := bufio.NewReaderSize(c.nc, 16<<10)
	for {
		p, err := ReadPacket(r, c.opts.Version)
		if err != nil {
			c.end(history.In, err)
			return
		}
		c.mu.Lock()
		if c.err != nil { // the client closed it: what comes now was not seen
			c.mu.Unlock()
			return
		}
		c.rec.Record(c.event(p, history.In))
		c.in = append(c.in, p)
		c.wake()
		c.mu.Unlock()
	}
}

// wake tells every waiter to look again. Caller holds mu.
func (c *Conn) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Conn) end(dir history.Direction, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrClosed, cause)
	c.rec.Record(history.Event{Process: c.opts.Process, Client: c.opts.ClientID, Conn: c.Number, Node: c.Target.Node,
		Dir: dir, Type: history.Info, Packet: history.Close, Detail: cause.Error()})
	c.wake()
	close(c.done)
	_ = c.nc.Close() // the connection is given up; its error says nothing new
}

var errByClient = errors.New("closed by the client")

// Close ends the connection without a DISCONNECT and waits for the read loop.
func (c *Conn) Close() {
	c.end(history.Out, errByClient)
	c.readers.Wait()
}

// Abort is Close with a reset instead of an orderly end, where the network can do that.
func (c *Conn) Abort() {
	if l, ok := c.nc.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0) // without it the close is merely orderly
	}
	c.Close()
}

// Disconnect sends DISCONNECT and closes. Expiry, if not nil, is the new session expiry.
// It gives the broker a moment to close first: closing with unread data would reset the
// connection, and the DISCONNECT might be lost with it.
func (c *Conn) Disconnect(code byte, expiry *uint32) error {
	p := &Packet{Type: DISCONNECT, Code: code}
	if expiry != nil {
		p.Props.Set(PropSessionExpiry, *expiry)
	}
	err := c.Send(p)
	if err == nil {
		timer := time.NewTimer(disconnectWait)
		defer timer.Stop()
		select {
		case <-c.done:
		case <-timer.C:
		}
	}
	c.Close()
	return err
}

const disconnectWait = time.Second

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection has ended, or nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Publish sends p as it stands; ID must be set for QoS 1 and 2.
func (c *Conn) Publish(p Packet) error {
	p.Type = PUBLISH
	return c.Send(&p)
}

// Ack sends a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *Conn) Ack(packetType byte, id uint16, code byte) error {
	return c.Send(&Packet{Type: packetType, ID: id, Code: code})
}

// Subscribe sends SUBSCRIBE and waits for its SUBACK's codes.
func (c *Conn) Subscribe(ctx context.Context, id uint16, filters ...history.Filter) ([]byte, error) {
	if err := c.Send(&Packet{Type: SUBSCRIBE, ID: id, Filters: filters}); err != nil {
		return nil, err
	}
	ack, err := c.Await(ctx, SUBACK, id)
	if err != nil {
		return nil, err
	}
	return ack.Codes, nil
}

// Unsubscribe sends UNSUBSCRIBE and waits for its UNSUBACK.
func (c *Conn) Unsubscribe(ctx context.Context, id uint16, filters ...string) error {
	p := &Packet{Type: UNSUBSCRIBE, ID: id}
	for _, f := range filters {
		p.Filters = append(p.Filters, history.Filter{Filter: f})
	}
	if err := c.Send(p); err != nil {
		return err
	}
	_, err := c.Await(ctx, UNSUBACK, id)
	return err
}

// Next takes the oldest packet that has come in.
func (c *Conn) Next(ctx context.Context) (*Packet, error) {
	return c.Take(ctx, func(*Packet) bool { return true })
}

// Await takes the oldest packet of a type and id (0: any), leaving the others in place.
func (c *Conn) Await(ctx context.Context, packetType byte, id uint16) (*Packet, error) {
	p, err := c.Take(ctx, func(p *Packet) bool { return p.Type == packetType && (id == 0 || p.ID == id) })
	if err != nil {
		return nil, fmt.Errorf("awaiting %s %d: %w", TypeName(packetType), id, err)
	}
	return p, nil
}

// Take takes the oldest packet that matches, waiting until one comes, the connection
// ends or ctx is done. A packet that came before the end is still found after it.
func (c *Conn) Take(ctx context.Context, match func(*Packet) bool) (*Packet, error) {
	for {
		c.mu.Lock()
		for i, p := range c.in {
			if match(p) {
				c.in = slices.Delete(c.in, i, i+1)
				c.mu.Unlock()
				return p, nil
			}
		}
		err, changed := c.err, c.changed
		c.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// event is the line of a packet in the history.
func (c *Conn) event(p *Packet, dir history.Direction) history.Event {
	e := history.Event{Process: c.opts.Process, Client: c.opts.ClientID, Conn: c.Number, Node: c.Target.Node, Dir: dir,
		Type: history.Info, Packet: TypeName(p.Type), ID: p.ID, Dup: p.Dup, QoS: p.QoS, Retain: p.Retain, Topic: p.Topic,
		Codes: p.Codes, Filters: p.Filters, Reason: p.Code, SessionPresent: p.SessionPresent}
	switch p.Type {
	case PUBLISH:
		e.Message, e.Sum, e.Size = MessageID(p.Payload), Sum(p.Payload), len(p.Payload)
		e.MessageExpiry = p.Props.Get(PropMessageExpiry)
		if dir == history.Out {
			e.Type = history.Invoke
		}
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		if dir == history.Out {
			e.Type = history.Invoke
		}
	case CONNACK, PUBACK, PUBREC, PUBCOMP, SUBACK, UNSUBACK:
		if dir == history.In {
			e.Type = history.OK
			if p.Code >= 0x80 || p.Type == CONNACK && p.Code != 0 {
				e.Type = history.Fail
			}
		}
		e.SetExpiry = p.Props.Get(PropSessionExpiry)
	case DISCONNECT:
		e.SetExpiry = p.Props.Get(PropSessionExpiry)
	case CONNECT:
		e.Type = history.Invoke
		c.connectEvent(&e, p.Connect)
	}
	return e
}

func (c *Conn) connectEvent(e *history.Event, f *ConnectFields) {
	e.Version, e.Clean, e.Expiry = f.Version, f.Clean, c.opts.Expiry
	if f.Version < 5 {
		e.Expiry = history.NeverExpires
		if f.Clean {
			e.Expiry = 0
		}
	} else {
		e.ReceiveMaximum = c.opts.ReceiveMaximum
	}
	if w := f.Will; w != nil {
		e.Will = &history.Will{Topic: w.Topic, Message: MessageID(w.Payload), Sum: Sum(w.Payload), QoS: w.QoS,
			Retain: w.Retain, Delay: w.Delay}
	}
}
