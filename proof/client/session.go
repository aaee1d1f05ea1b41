package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// SessionConfig says how a Session behaves.
type SessionConfig struct {
	// Options of every CONNECT; Clean is given for each.
	Options
	Dial     Dialer
	Recorder *history.Recorder
	// Window is how many QoS 1 and 2 messages may be on their way at once; 0 means 20. The
	// broker's Receive Maximum lowers it.
	Window int
	// OnMessage gets each message that is delivered to the application, once for QoS 2. It
	// is called by the goroutine that reads the connection and must not call the session.
	OnMessage func(p *Packet)
	// HoldAck, if set, may return true for a PUBLISH or PUBREL that is then not
	// acknowledged on this connection. Same rules as for OnMessage.
	HoldAck func(p *Packet) bool
	// NextWill, if set, gives the will of each connection.
	NextWill func() *Will
}

// ErrNotConnected is returned by what needs a connection.
var ErrNotConnected = errors.New("client: not connected")

// ErrSessionLost ends the messages of a session that the broker no longer has.
var ErrSessionLost = errors.New("client: the broker has no session")

var errDisconnected = errors.New("the broker sent DISCONNECT")

// Token is one QoS 1 or 2 message on its way.
type Token struct {
	done chan struct{}
	// Code and Err are set before Done is closed.
	code byte
	err  error
}

// Done is closed when the broker has answered for good.
func (t *Token) Done() <-chan struct{} { return t.done }

// Wait waits for the broker's answer: the reason code of PUBACK, PUBCOMP or a refusing PUBREC.
func (t *Token) Wait(ctx context.Context) (byte, error) {
	select {
	case <-t.done:
		return t.code, t.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

type outState byte

const (
	outQueued   outState = iota // never sent
	outSent                     // PUBLISH sent, no answer seen
	outReleased                 // PUBREC seen: only PUBREL from now on
)

type outgoing struct {
	packet Packet
	state  outState
	token  *Token
}

// Session is a client that keeps its session state as the standard demands
// [MQTT-4.1.0-1]: unacknowledged messages are sent again in order, with DUP set and the
// same ids [MQTT-4.4.0-1], PUBRELs too, and received QoS 2 ids are remembered until
// PUBREL, whatever DUP says. It does not connect by itself.
type Session struct {
	cfg   SessionConfig
	conn  atomic.Pointer[Conn] // nil while not connected; others' packets are ignored
	loops sync.WaitGroup       // the pumps and pingers

	mu       lock            // held while sending: see lock
	out      []*outgoing     // guarded by mu; in the order of their first sending
	released []*outgoing     // guarded by mu; in the order of their PUBREC
	received map[uint16]bool // guarded by mu; QoS 2 ids between PUBLISH and PUBREL
	nextID   uint16          // guarded by mu
	busy     map[uint16]bool // guarded by mu; ids of SUBSCRIBE and UNSUBSCRIBE
	window   int             // guarded by mu
	old      []*Conn         // guarded by mu; given up by takeover
}

// NewSession returns a session that has never connected.
func NewSession(cfg SessionConfig) *Session {
	if cfg.Window == 0 {
		cfg.Window = 20
	}
	return &Session{cfg: cfg, mu: newLock(), received: map[uint16]bool{}, busy: map[uint16]bool{}}
}

// Conn returns the current connection, or nil.
func (s *Session) Conn() *Conn { return s.conn.Load() }

// Connected says whether there is a connection that has not been found ended.
func (s *Session) Connected() bool {
	c := s.conn.Load()
	return c != nil && c.Err() == nil
}

// Leave is how a Session leaves its present connection when it connects anew.
type Leave byte

// LeaveAbort resets it, LeaveClose closes it without DISCONNECT, LeaveOpen does neither:
// the broker has to end it.
const (
	LeaveAbort Leave = iota
	LeaveClose
	LeaveOpen
)

// Connect connects to a node, takes up the session there and sends again what is
// unanswered. It returns Session Present.
func (s *Session) Connect(ctx context.Context, target Target, clean bool, leave Leave) (bool, error) {
	s.leave(leave)
	o := s.cfg.Options
	o.Clean = clean
	if s.cfg.NextWill != nil {
		o.Will = s.cfg.NextWill()
	}
	c, ack, err := Dial(ctx, s.cfg.Dial, target, s.cfg.Recorder, o)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window = s.cfg.Window
	if m := ack.Props.Get(PropReceiveMaximum); m != nil {
		s.window = min(s.window, int(*m))
	}
	if !ack.SessionPresent {
		s.forget()
	}
	s.conn.Store(c)
	// The broker may already send and stop reading until it is read from, so the pump must
	// run while the resends go out; it waits for mu before it touches the session.
	s.loops.Go(func() { s.pump(c) })
	if o.KeepAlive > 0 {
		s.loops.Go(func() { s.ping(c, time.Duration(o.KeepAlive)*time.Second) })
	}
	s.resend(c)
	s.flush(c)
	return ack.SessionPresent, nil
}

func (s *Session) leave(how Leave) {
	c := s.conn.Swap(nil)
	if c == nil {
		return
	}
	switch how {
	case LeaveOpen:
		s.mu.Lock()
		s.old = append(s.old, c)
		s.mu.Unlock()
	case LeaveClose:
		c.Close()
	default:
		c.Abort()
	}
}

// forget drops the state of a session that the broker does not have. Caller holds mu.
func (s *Session) forget() {
	var queued []*outgoing
	for _, o := range s.out {
		if o.state == outQueued {
			queued = append(queued, o)
			continue
		}
		o.token.err = ErrSessionLost
		close(o.token.done)
	}
	s.out, s.released, s.received = queued, nil, map[uint16]bool{}
}

// resend sends again what is unanswered. Caller holds mu. A failed write ends the
// connection, and the next one does it again.
func (s *Session) resend(c *Conn) {
	for _, o := range s.released {
		if c.Ack(PUBREL, o.packet.ID, 0) != nil {
			return
		}
	}
	for _, o := range s.out {
		if o.state == outSent {
			p := o.packet
			p.Dup = true // [MQTT-3.3.1-1]
			if c.Publish(p) != nil {
				return
			}
		}
	}
}

// flush sends queued messages as far as the window allows. Caller holds mu.
func (s *Session) flush(c *Conn) {
	if c == nil {
		return
	}
	inflight := 0
	for _, o := range s.out {
		if o.state != outQueued {
			inflight++
		}
	}
	for _, o := range s.out {
		if o.state != outQueued {
			continue
		}
		if inflight >= s.window {
			return
		}
		if o.packet.ID == 0 {
			o.packet.ID = s.freeID()
		}
		o.state = outSent // also if the write fails: part of it may have arrived
		inflight++
		if c.Publish(o.packet) != nil {
			return
		}
	}
}

// freeID returns an id that nothing uses [MQTT-2.2.1-3]. Caller holds mu.
func (s *Session) freeID() uint16 {
	for {
		s.nextID++
		used := s.nextID == 0 || s.busy[s.nextID]
		for _, o := range s.out {
			used = used || o.packet.ID == s.nextID
		}
		if !used {
			return s.nextID
		}
	}
}

// Publish sends a QoS 1 or 2 message, now or when there is room and a connection. Its
// order among the session's messages is that of the calls.
func (s *Session) Publish(p Packet) *Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Type, p.ID = PUBLISH, 0
	o := &outgoing{packet: p, token: &Token{done: make(chan struct{})}}
	s.out = append(s.out, o)
	s.flush(s.conn.Load())
	return o.token
}

// PublishQoS0 sends a QoS 0 message if there is a connection.
func (s *Session) PublishQoS0(p Packet) error {
	c := s.conn.Load()
	if c == nil {
		return ErrNotConnected
	}
	p.QoS, p.ID = 0, 0
	return c.Publish(p)
}

// Unanswered returns how many QoS 1 and 2 messages have no final answer yet.
func (s *Session) Unanswered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.out)
}

// Subscribe subscribes on the current connection.
func (s *Session) Subscribe(ctx context.Context, filters ...history.Filter) ([]byte, error) {
	var codes []byte
	err := s.withID(func(c *Conn, id uint16) (err error) {
		codes, err = c.Subscribe(ctx, id, filters...)
		return err
	})
	return codes, err
}

// Unsubscribe unsubscribes on the current connection.
func (s *Session) Unsubscribe(ctx context.Context, filters ...string) error {
	return s.withID(func(c *Conn, id uint16) error { return c.Unsubscribe(ctx, id, filters...) })
}

func (s *Session) withID(do func(c *Conn, id uint16) error) error {
	c := s.conn.Load()
	if c == nil {
		return ErrNotConnected
	}
	s.mu.Lock()
	id := s.freeID()
	s.busy[id] = true
	s.mu.Unlock()
	err := do(c, id)
	if err != nil {
		// The id may still be in use on this connection, so the connection must go.
		c.Abort()
	}
	s.mu.Lock()
	delete(s.busy, id)
	s.mu.Unlock()
	return err
}

// Drop resets the connection; the session state stays.
func (s *Session) Drop() { s.leave(LeaveAbort) }

// Disconnect ends the connection with a DISCONNECT.
func (s *Session) Disconnect() error {
	c := s.conn.Swap(nil)
	if c == nil {
		return ErrNotConnected
	}
	return c.Disconnect(0, nil)
}

// Close resets every connection, given-up ones too, and waits for the goroutines.
func (s *Session) Close() {
	s.leave(LeaveAbort)
	s.mu.Lock()
	old := s.old
	s.old = nil
	s.mu.Unlock()
	for _, c := range old {
		c.Abort()
	}
	s.loops.Wait()
}

func isFlow(p *Packet) bool { return p.Type >= PUBLISH && p.Type <= PUBCOMP || p.Type == DISCONNECT }

// pump runs in its own goroutine until its connection ends.
func (s *Session) pump(c *Conn) {
	for {
		p, err := c.Take(context.Background(), isFlow)
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conn.Load() == c {
			s.handle(c, p)
		}
		s.mu.Unlock()
	}
}

// handle obeys one packet. Caller holds mu. Errors of sending end the connection, which
// is all that is to be done about them.
func (s *Session) handle(c *Conn, p *Packet) {
	switch p.Type {
	case PUBLISH:
		s.deliver(c, p)
	case PUBREL:
		delete(s.received, p.ID)
		if s.cfg.HoldAck == nil || !s.cfg.HoldAck(p) {
			_ = c.Ack(PUBCOMP, p.ID, 0)
		}
	case PUBACK, PUBREC, PUBCOMP:
		s.answered(c, p)
	case DISCONNECT:
		c.end(history.In, errDisconnected)
	}
}

func (s *Session) deliver(c *Conn, p *Packet) {
	if p.QoS < 2 || !s.received[p.ID] {
		if p.QoS == 2 {
			s.received[p.ID] = true
		}
		if s.cfg.OnMessage != nil {
			s.cfg.OnMessage(p)
		}
	}
	if p.QoS == 0 || s.cfg.HoldAck != nil && s.cfg.HoldAck(p) {
		return
	}
	if p.QoS == 1 {
		_ = c.Ack(PUBACK, p.ID, 0)
		return
	}
	_ = c.Ack(PUBREC, p.ID, 0)
}

func (s *Session) answered(c *Conn, p *Packet) {
	for i, o := range s.out {
		if o.packet.ID != p.ID || o.state == outQueued {
			continue
		}
		switch {
		case p.Type == PUBREC && p.Code < 0x80 && o.packet.QoS == 2:
			if o.state == outSent {
				o.state = outReleased
				s.released = append(s.released, o)
			}
			_ = c.Ack(PUBREL, p.ID, 0)
			return
		case p.Type == PUBACK && o.packet.QoS == 1,
			p.Type == PUBREC && o.packet.QoS == 2,
			p.Type == PUBCOMP && o.state == outReleased:
			s.out = append(s.out[:i:i], s.out[i+1:]...)
			for j, r := range s.released {
				if r == o {
					s.released = append(s.released[:j:j], s.released[j+1:]...)
					break
				}
			}
			o.token.code = p.Code
			close(o.token.done)
			s.flush(c)
		}
		return
	}
}

// ping runs in its own goroutine until its connection ends, and ends it when a PINGREQ is
// not answered within the keep-alive time.
func (s *Session) ping(c *Conn, keepAlive time.Duration) {
	ticker := time.NewTicker(keepAlive / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-c.done:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), keepAlive)
		err := c.Send(&Packet{Type: PINGREQ})
		if err == nil {
			_, err = c.Await(ctx, PINGRESP, 0)
		}
		cancel()
		if err != nil {
			c.end(history.Out, fmt.Errorf("keep alive: %w", err))
			return
		}
	}
}
