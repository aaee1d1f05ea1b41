package mqtt

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// ending says how a connection ends.
type ending struct {
	// Code is what the client is told, in DISCONNECT or, before that is allowed,
	// in CONNACK, and under which the end is counted.
	Code packet.ReasonCode
	// Version is the version of a CONNACK before CONNECT was accepted; 0: none.
	Version byte
	// Quiet: the client is told nothing, because it is gone.
	Quiet bool
	// Await: the network connection stays open until the cluster knows of the end, or
	// farewell has passed.
	Await bool
	// Flow is what the cluster is told. Its zero value is a lost connection.
	Flow flow.Disconnect
	// Err is the cause, for the log; nil: an ordinary end.
	Err error
	// Setup is under what the end is counted instead, if it came before MQTT; nil: it
	// did not.
	Setup *atomic.Uint64
}

// networkFailure is the end of a connection whose client is gone.
func networkFailure() ending {
	return ending{Code: packet.UnspecifiedError, Quiet: true}
}

// farewell is how long the network connection stays open after a DISCONNECT while its
// effects are not durable.
const farewell = 5 * time.Second

// handleDisconnect ends the connection as the client wishes. The server closes the
// network connection when what DISCONNECT asks for is durable: a client that saw it
// closed knows that its will is not published [MQTT-3.14.4-3], whatever fails then. To
// close it first is the client's right and duty [MQTT-3.14.4-1].
func (c *conn) handleDisconnect(p *packet.Disconnect) error {
	e := ending{Quiet: true, Await: true}
	if p.Code == packet.NormalDisconnection { // [MQTT-3.14.4-3]; all other codes leave the will
		e.Flow.Reason = flow.Normal
	}
	if x := p.Props.SessionExpiry; x != nil {
		if c.expiry == 0 && *x != 0 {
			return &packet.Error{Code: packet.ProtocolError, Clause: "3.14.2.2.2", Detail: "DISCONNECT makes a session last that was to end with its connection"}
		}
		e.Flow.SetExpiry, e.Flow.Expiry = true, min(*x, c.limits.MaxSessionExpiry)
	}
	c.end(e)
	return nil
}

// fail ends the connection for an error in what the client sent [MQTT-4.13.1-1].
func (c *conn) fail(err error) {
	e := ending{Code: packet.UnspecifiedError, Err: err}
	var pe *packet.Error
	if errors.As(err, &pe) {
		e.Code, e.Version = pe.Code, pe.Version
	}
	c.end(e)
}

// end closes the connection: from here on it completes nothing. Only the first call
// counts. No lock may be held.
func (c *conn) end(e ending) {
	c.mu.Lock()
	if c.phase == phaseClosing {
		c.mu.Unlock()
		return
	}
	was := c.phase
	c.phase = phaseClosing
	c.ending = e.Flow
	c.lastWords(was, e)
	c.dropQueued()
	c.early, c.holds = nil, nil
	c.readable.Broadcast()
	if e.Await {
		c.farewell = time.AfterFunc(farewell, c.part)
	}
	remote := c.client.Remote
	c.mu.Unlock()

	switch {
	case was == phaseOpen:
		c.srv.metrics.Closed[e.Code].Add(1)
	case e.Setup != nil:
		e.Setup.Add(1)
	default:
		c.srv.metrics.Refused[e.Code].Add(1)
	}
	c.log(was, e, remote)
	if !e.Await {
		c.hangup()
	}
	c.changeSubscriptions() // takes them all away
	c.settle()
}

// hangup closes the network connection when all is written.
func (c *conn) hangup() {
	c.mu.Lock()
	wake := !c.flushing
	c.flushing = true
	c.mu.Unlock()
	if wake {
		c.wire.wake()
	}
	c.wire.hangup()
}

// part ends the farewell, if there is one.
func (c *conn) part() {
	c.mu.Lock()
	open := c.farewell != nil
	if open {
		c.farewell.Stop()
		c.farewell = nil
		c.readable.Broadcast()
	}
	c.mu.Unlock()
	if open {
		c.hangup()
	}
}

// awaitPart is called by the reader before it waits for the client to close.
func (c *conn) awaitPart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.farewell != nil {
		c.readable.Wait()
	}
}

// lastWords appends the packet that tells the client why, where there is one.
func (c *conn) lastWords(was phase, e ending) {
	code := c.redirected(e.Code)
	switch {
	case e.Quiet:
	case was == phaseOpen:
		if code == packet.ServerUnavailable {
			code = packet.ServerBusy // 0x88 is for CONNACK only
		}
		if c.opts.version >= packet.V5 && code.ValidIn(packet.TypeDisconnect) {
			c.send(&packet.Disconnect{Code: code, Props: c.farewellProps(code, e.Err)}) // [MQTT-3.14.0-1]
		}
	case was == phaseNew:
		if e.Version != 0 { // the reader refuses a CONNECT: options are its own
			c.sendVersion(&packet.Connack{Code: code, Props: c.refusalProps(code, e.Err)}, e.Version)
		}
	case code.ValidIn(packet.TypeConnack):
		c.send(&packet.Connack{Code: code, Props: c.farewellProps(code, e.Err)})
	}
}

func (c *conn) log(was phase, e ending, remote net.Addr) {
	if e.Err == nil {
		return
	}
	msg := "connection closed"
	if was != phaseOpen {
		msg = "connection refused"
	}
	attrs := []any{"code", e.Code.String(), "err", e.Err, "listener", c.client.Listener, "remote", remote}
	if was != phaseNew { // before, the reader may be setting it
		attrs = append(attrs, "client", c.client.ID)
	}
	level := slog.LevelInfo
	if e.Code == packet.ServerUnavailable {
		level = slog.LevelDebug // all clients, again and again: the node says once that it cannot serve
	}
	c.srv.log.Log(context.Background(), level, msg, attrs...)
}

// timedOut ends a connection whose client, or whose session, has not come in time.
func (c *conn) timedOut() {
	c.mu.Lock()
	was := c.phase
	c.mu.Unlock()
	switch was {
	case phaseNew:
		c.end(ending{Code: packet.MaximumConnectTime})
	case phaseOpen: // [MQTT-3.1.2-22]
		c.end(ending{Code: packet.KeepAliveTimeout})
	default:
		c.end(ending{Code: packet.ServerUnavailable})
	}
}

// readerDone is called by the reader when it will ask nothing more of the cluster.
func (c *conn) readerDone() {
	c.mu.Lock()
	c.reading = false
	c.mu.Unlock()
	c.settle()
}

// settle completes the end of a closing connection once all that it asked of the
// cluster is answered.
func (c *conn) settle() {
	c.mu.Lock()
	if c.phase != phaseClosing || c.reading || c.asked > 0 || c.gone {
		c.mu.Unlock()
		return
	}
	c.gone = true
	acks := c.takeAcks()
	left := c.leaveAll()
	closers := c.closers
	c.closers = nil
	epoch, ending := c.epoch, c.ending
	c.mu.Unlock()

	if epoch != 0 {
		if len(acks) > 0 {
			c.srv.cluster.Ack(c.client.ID, epoch, acks, nil)
		}
		for _, t := range left {
			c.leaveGroup(t, func(bool, error) {}) // on an error the cluster has ended all this
		}
		c.srv.metrics.Sessions.Add(-1)
		c.srv.cluster.Disconnect(c.client.ID, epoch, ending, func(error) {
			// An error means that the ownership had passed on, or that the node lost
			// its standing: either way there is nothing left to end.
			c.part()
			c.srv.departing.Done()
		})
		c.srv.clients.remove(c)
	}
	for _, done := range closers {
		done()
	}
}
