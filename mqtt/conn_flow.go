package mqtt

import (
	"errors"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
)

// outflow is the sending side of a connection's QoS 1 and 2 flows. For a persistent
// session, which has them in its partition, it knows the packet identifiers and
// gathers acknowledgements; for an ephemeral one it is all there is. conn.mu owns it.
type outflow struct {
	flights map[uint16]flight
	peak    int     // most flights since the map was made
	pubrels answers // order PUBRELs as their PUBRECs came [MQTT-4.6.0-4]

	// Of persistent sessions: acknowledgements for the cluster. recs are PUBRECs,
	// whose commit is waited for; the first has number firstRec in pubrels.
	acks     []flow.Ack
	recs     []flow.Ack
	firstRec uint32
	due      bool // acks are needed: the partition's window is filling up
	armed    bool // the server's timer will flush acks

	// Of ephemeral sessions.
	lastID     uint16 // the packet identifier given last; they count from 1
	queue      fifo[message]
	queueBytes int
	shared     fifo[message]      // what groups have assigned, apart from queue
	shares     map[uint16]shareOf // by packet identifier; nil: none
}

// flight is the state of one outgoing flow.
type flight byte

const (
	awaitsPuback flight = iota + 1
	awaitsPubrec
	commitsPubrec // PUBREC is there, the cluster has not stored it yet
	awaitsPubcomp
)

func (c *conn) outflow() *outflow {
	if c.flows == nil {
		c.flows = &outflow{flights: map[uint16]flight{}}
	}
	return c.flows
}

func (o *outflow) sent(id uint16, qos byte) {
	o.flights[id] = awaitsPuback
	if qos == flow.ExactlyOnce {
		o.flights[id] = awaitsPubrec
	}
	o.peak = max(o.peak, len(o.flights))
}

// landed forgets a flow. After a burst it gives the memory back.
func (o *outflow) landed(id uint16) {
	delete(o.flights, id)
	if len(o.flights) == 0 && o.peak > 64 {
		o.flights, o.peak = map[uint16]flight{}, 0
	}
}

func (o *outflow) released(id uint16) { o.flights[id] = awaitsPubcomp }

// newID finds a packet identifier that is not in use [MQTT-2.2.1-4]. There is one,
// since the window is never larger than the number of identifiers.
func (o *outflow) newID() uint16 {
	for id := o.lastID + 1; ; id++ {
		if _, used := o.flights[id]; id != 0 && !used {
			return id
		}
	}
}

// handleAck takes a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *conn) handleAck(header byte, body []byte) error {
	var a packet.Ack
	if err := packet.DecodeAck(header, body, c.opts.version, &a); err != nil {
		return err
	}
	if a.Kind == packet.TypePubrel {
		c.handlePubrel(&a)
		return nil
	}
	c.mu.Lock()
	defer c.unlock()
	if c.phase != phaseOpen {
		return nil
	}
	o := c.outflow()
	state := o.flights[a.PacketID]
	switch {
	case a.Kind == packet.TypePuback && state == awaitsPuback:
		c.finish(flow.Ack{Kind: flow.Puback, PacketID: a.PacketID, Failed: a.Code.Failed()})
	case a.Kind == packet.TypePubcomp && state == awaitsPubcomp:
		c.finish(flow.Ack{Kind: flow.Pubcomp, PacketID: a.PacketID})
	case a.Kind == packet.TypePubrec:
		c.handlePubrec(o, state, &a)
	default:
		c.srv.metrics.UnknownAcks.Add(1)
	}
	return nil
}

// handlePubrec answers a PUBREC with PUBREL [MQTT-4.3.3-4].
func (c *conn) handlePubrec(o *outflow, state flight, a *packet.Ack) {
	switch {
	case state == awaitsPubrec && a.Code.Failed(): // the flow has ended [MQTT-4.4.0-2]
		c.finish(flow.Ack{Kind: flow.Pubrec, PacketID: a.PacketID, Failed: true})
	case state == awaitsPubrec && c.ephemeral, state == awaitsPubcomp:
		o.flights[a.PacketID] = awaitsPubcomp
		c.flightTaken(a.PacketID)
		c.sendAck(packet.TypePubrel, a.PacketID, packet.Success)
	case state == awaitsPubrec && mutant.PubrelBeforeCommit:
		o.released(a.PacketID)
		c.sendAck(packet.TypePubrel, a.PacketID, packet.Success)
		c.ackLater(flow.Ack{Kind: flow.Pubrec, PacketID: a.PacketID})
	case state == awaitsPubrec:
		o.flights[a.PacketID] = commitsPubrec
		n := o.pubrels.add(a.PacketID)
		if len(o.recs) == 0 {
			o.firstRec = n
			c.ask(0)
		}
		o.recs = append(o.recs, flow.Ack{Kind: flow.Pubrec, PacketID: a.PacketID})
	case state == commitsPubrec: // PUBREL follows
	case a.Code.Failed():
		c.srv.metrics.UnknownAcks.Add(1)
	default:
		c.srv.metrics.UnknownAcks.Add(1)
		c.sendAck(packet.TypePubrel, a.PacketID, packet.PacketIdentifierNotFound)
	}
}

// finish ends an outgoing flow by the client's acknowledgement.
func (c *conn) finish(a flow.Ack) {
	c.flows.landed(a.PacketID)
	if c.ephemeral {
		c.flightTaken(a.PacketID) // also if the client refuses it [MQTT-4.8.2-6]
		c.fillWindow()
		return
	}
	c.ackLater(a)
}

// ackLater gathers an acknowledgement for the cluster. It goes when the reader has
// handled what it has read and half of the window is gathered or the window is
// full, otherwise after ackDelay.
func (c *conn) ackLater(a flow.Ack) {
	o := c.outflow()
	o.acks = append(o.acks, a)
	o.due = o.due || len(o.flights)+len(o.acks) >= int(c.opts.window)
	c.ackSoon(len(o.acks))
}

// ackSoon sees to it that n gathered acknowledgements go in time.
func (c *conn) ackSoon(n int) {
	o := c.outflow()
	o.due = o.due || n >= int(c.opts.window)/2
	if !o.armed {
		o.armed = true
		c.srv.ackers.add(c)
	}
}

func (c *conn) takeAcks() []flow.Ack {
	if c.flows == nil {
		return nil
	}
	o := c.flows
	acks := o.acks
	o.acks, o.due = nil, false
	return acks
}

// readBatchDone is called by the reader when it has handled all that it has read.
func (c *conn) readBatchDone() {
	c.mu.Lock()
	o := c.flows
	if o == nil || !o.due && len(o.recs) == 0 {
		c.mu.Unlock()
		return
	}
	if c.ephemeral {
		if o.due = false; c.phase == phaseOpen { // settle has the rest
			c.takenSoFar()
		}
		c.mu.Unlock()
		c.tellGroups()
		return
	}
	recs, first := o.recs, o.firstRec
	o.recs = nil
	o.acks = append(o.acks, recs...)
	if c.phase == phaseClosing {
		if len(recs) > 0 {
			c.answered(0) // nobody waits for them
		}
		c.mu.Unlock() // settle tells the cluster
		return
	}
	acks := c.takeAcks()
	epoch := c.epoch
	c.mu.Unlock()
	var done func(error)
	if len(recs) > 0 {
		done = func(err error) {
			if err != nil && !errors.Is(err, flow.ErrFenced) {
				err = flow.ErrUnavailable // there is no other way to say no to a PUBREC
			}
			c.complete(0, err, func(packet.ReasonCode) { c.pubrel(first, recs) })
		}
	}
	c.srv.cluster.Ack(c.client.ID, epoch, acks, done)
}

// pubrel notes that PUBRECs are stored and sends the PUBRELs that are due.
func (c *conn) pubrel(first uint32, recs []flow.Ack) {
	o := c.flows
	for i := range recs {
		o.pubrels.ready(first+uint32(i), packet.Success)
	}
	for a, ok := o.pubrels.next(); ok; a, ok = o.pubrels.next() {
		o.released(a.id)
		c.sendAck(packet.TypePubrel, a.id, packet.Success)
	}
}

// flushAcks hands gathered acknowledgements to the cluster.
func (c *conn) flushAcks() {
	c.mu.Lock()
	if c.flows != nil {
		c.flows.armed = false
	}
	var acks []flow.Ack
	if c.phase == phaseOpen { // settle has the rest
		acks = c.takeAcks()
		c.takenSoFar()
	}
	if len(acks) > 0 {
		c.asked++ // so that Disconnect does not come before
	}
	epoch := c.epoch
	c.mu.Unlock()
	c.tellGroups()
	if len(acks) == 0 {
		return
	}
	c.srv.cluster.Ack(c.client.ID, epoch, acks, nil)
	c.mu.Lock()
	c.asked--
	c.mu.Unlock()
	c.settle() // if it was closing
}

// putFlow sends a message of QoS 1 or 2 to an ephemeral session, or queues it while
// the window is full or the client does not read.
func (c *conn) putFlow(x message, f *fanout) {
	o := c.outflow()
	if o.queue.len() == 0 && c.windowOpen() {
		c.startFlow(x, f)
		return
	}
	l := c.limits
	size := x.size()
	full := func() bool { return o.queue.len() >= l.QueueMessages || o.queueBytes+size > l.QueueBytes }
	for full() && l.OnFull == DropOldest && o.queue.len() > 0 {
		c.dequeue()
		c.drop(DropQueueFull)
	}
	if full() {
		c.drop(DropQueueFull)
		if l.OnFull == DisconnectClient {
			c.srv.later.do(func() { c.end(ending{Code: packet.QuotaExceeded}) })
		}
		return
	}
	x.ids = append([]uint32(nil), x.ids...) // the caller's slice is reused
	o.queue.push(x)
	o.queueBytes += size
	c.srv.metrics.QueuedMessages.Add(1)
	c.srv.metrics.QueuedBytes.Add(int64(size))
}

// windowOpen says whether one more flow may start [MQTT-3.3.4-9] [MQTT-4.9.0-2].
func (c *conn) windowOpen() bool {
	return len(c.flows.flights) < int(c.opts.window) && c.outBytes <= c.limits.OutBuffer
}

func (c *conn) startFlow(x message, f *fanout) {
	o := c.flows
	id := o.newID()
	switch {
	case x.m.HasExpiry && x.expired(c.srv.now()):
		c.drop(DropExpired) // [MQTT-3.3.2-5]
	case !c.sendPublish(&outgoing{message: x, id: id}, f):
		c.drop(DropTooLarge)
	default:
		o.lastID = id
		o.sent(id, x.qos)
		if x.share.in != nil {
			o.keepShare(id, x.share)
		}
		return
	}
	c.shareTaken(x.share)
}

// fillWindow starts flows of queued messages while the window is open.
func (c *conn) fillWindow() {
	if c.flows == nil {
		return
	}
	o := c.flows
	for o.queue.len()+o.shared.len() > 0 && c.windowOpen() {
		if o.shared.len() > 0 && (o.queue.len() == 0 || o.lastID&1 == 0) { // in turn
			c.startShared()
			continue
		}
		c.startFlow(c.dequeue(), nil)
	}
}

func (c *conn) dequeue() message {
	x := c.flows.queue.pop()
	c.flows.queueBytes -= x.size()
	c.srv.metrics.QueuedMessages.Add(-1)
	c.srv.metrics.QueuedBytes.Add(-int64(x.size()))
	return x
}

// dropQueued lets go of what an ephemeral session has not sent when it ends.
func (c *conn) dropQueued() {
	n := 0
	for _, h := range c.holds {
		n += len(h.held)
	}
	for c.flows != nil && c.flows.queue.len() > 0 {
		c.dequeue()
		n++
	}
	c.srv.metrics.Dropped[DropEnded].Add(uint64(n))
}
