package cluster

import (
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// This file is the part of mqtt.Cluster that concerns one session.

// Connect makes the connection the owner of its session.
func (n *Node) Connect(c flow.Connect, done func(flow.Session, error)) {
	g := n.ingress()
	if g == nil {
		done(flow.Session{}, flow.ErrUnavailable)
		return
	}
	p := g.part(c.ClientID)
	p.mu.Lock()
	p.connecting[c.ClientID]++
	p.mu.Unlock()
	op := &logpb.Connect{
		ClientId: c.ClientID, Username: c.Username, Protocol: uint32(c.Protocol), CleanStart: c.CleanStart,
		Expiry: c.Expiry, Window: uint32(c.Window), MaxPacket: c.MaxPacket,
	}
	if c.Will != nil {
		will := c.Will.Message
		will.ID = g.messageID()
		op.Will = &logpb.Will{Message: messageToLog(&will), Delay: c.Will.Delay}
	}
	p.ask(&logpb.Op{Body: &logpb.Op_Connect{Connect: op}}, func(code uint32, result []byte, err error) {
		g.connected(p, c.ClientID, code, result, err, done)
	})
}

func (g *ingress) connected(p *ingressPart, clientID string, code uint32, result []byte, err error, done func(flow.Session, error)) {
	var r logpb.ConnectResult
	if err := opError(code, err); err != nil {
		p.connectDone(clientID, 0)
		done(flow.Session{}, err)
		return
	}
	if err := r.UnmarshalVT(result); err != nil {
		g.n.fatal(err)
		done(flow.Session{}, flow.ErrUnavailable)
		return
	}
	p.connectDone(clientID, r.Epoch)
	s := flow.Session{ClientID: clientID, Epoch: r.Epoch, Present: r.Present, Ephemeral: r.Ephemeral}
	for _, sub := range r.Subscriptions {
		s.Subscriptions = append(s.Subscriptions, subscriptionFromLog(sub))
	}
	if mutant.TakeoverUnfenced {
		r.Previous = nil
	}
	g.kicks.closeAll(clientID, r.Previous, func() {
		g.gate(func(err error) { done(s, err) })
	})
}

// connectDone notes the result of a Connect; epoch 0: it failed.
func (p *ingressPart) connectDone(clientID string, epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch != 0 {
		key := connection{clientID, epoch}
		if p.sessions[key] == nil {
			p.sessions[key] = &position{}
		}
	}
	if p.connecting[clientID]--; p.connecting[clientID] <= 0 {
		delete(p.connecting, clientID)
	}
}

// Disconnect ends the ownership.
func (n *Node) Disconnect(clientID string, epoch uint64, d flow.Disconnect, done func(error)) {
	g := n.ingress()
	if g == nil {
		done(flow.ErrUnavailable)
		return
	}
	p := g.part(clientID)
	op := &logpb.Disconnect{
		ClientId: clientID, Epoch: epoch, Lost: d.Reason == flow.Lost, SetExpiry: d.SetExpiry, Expiry: d.Expiry,
	}
	p.ask(&logpb.Op{Body: &logpb.Op_Disconnect{Disconnect: op}}, func(code uint32, _ []byte, err error) {
		p.mu.Lock()
		delete(p.sessions, connection{clientID, epoch})
		p.mu.Unlock()
		done(opError(code, err))
	})
}

// Receive stores a QoS 2 message.
func (n *Node) Receive(clientID string, epoch uint64, packetID uint16, m *flow.Message, done func(bool, error)) {
	g := n.ingress()
	if g == nil {
		done(false, flow.ErrUnavailable)
		return
	}
	m.ID = g.messageID()
	var buf [8]target
	matched := len(n.routes.match(m.Topic, buf[:0])) > 0
	if mutant.QoS2InMemory {
		done(matched, nil)
		done = func(bool, error) {}
	}
	op := &logpb.Receive{ClientId: clientID, Epoch: epoch, PacketId: uint32(packetID), Message: messageToLog(m)}
	g.part(clientID).ask(&logpb.Op{Body: &logpb.Op_Receive{Receive: op}}, func(code uint32, _ []byte, err error) {
		if err := opError(code, err); err != nil {
			done(false, err)
			return
		}
		g.gate(func(err error) { done(matched, err) })
	})
}

// Release hands the stored message on.
func (n *Node) Release(clientID string, epoch uint64, packetID uint16, done func(error)) {
	g := n.ingress()
	if g == nil {
		done(flow.ErrUnavailable)
		return
	}
	p := g.part(clientID)
	answer := func(err error) {
		if err != nil {
			done(err)
			return
		}
		g.gate(done)
	}
	// The flow may be completed by the retained partition at any time after the
	// Release is applied, so the wait is registered before it is asked.
	if !p.startRelease(connection{clientID, epoch}, packetID, answer) {
		done(flow.ErrFenced)
		return
	}
	op := &logpb.Release{ClientId: clientID, Epoch: epoch, PacketId: uint32(packetID)}
	p.ask(&logpb.Op{Body: &logpb.Op_Release{Release: op}}, func(code uint32, _ []byte, err error) {
		if err == nil && code == fsm.CodePending {
			waits, unsure := p.pendRelease(connection{clientID, epoch}, packetID)
			if unsure {
				n.sendAttach(g, p.partition, false)
			}
			if waits {
				return // Completed will come, by itself or after an Attach
			}
			err = flow.ErrFenced // the next connection gets the PUBCOMP
		} else {
			err = opError(code, err)
		}
		p.endRelease(connection{clientID, epoch}, packetID, err)
	})
}

// completed ends the flow of a retained QoS 2 message.
func (p *ingressPart) completed(c *peerpb.Completed) {
	p.endRelease(connection{c.ClientId, c.Epoch}, uint16(c.PacketId), nil)
}

// startRelease registers a PUBREL; false: the connection is gone.
func (p *ingressPart) startRelease(c connection, packetID uint16, done func(error)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[c]
	if s == nil {
		return false
	}
	if s.releasing == nil {
		s.releasing = make(map[uint16]*releasing)
	}
	r := s.releasing[packetID]
	if r == nil {
		r = &releasing{}
		s.releasing[packetID] = r
	}
	r.done = append(r.done, done) // more than one: the client repeats its PUBREL
	return true
}

// pendRelease notes that PUBCOMP has to wait; false: there is nobody to wait.
// unsure: only another Attach tells whether it is due already.
func (p *ingressPart) pendRelease(c connection, packetID uint16) (waits, unsure bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[c]
	if s == nil || s.fenced || s.releasing[packetID] == nil {
		return s == nil || !s.fenced, false
	}
	r := s.releasing[packetID]
	r.pending = true
	return true, r.unsure
}

// endRelease answers a PUBREL, if it is not answered.
func (p *ingressPart) endRelease(c connection, packetID uint16, err error) {
	p.mu.Lock()
	var r *releasing
	if s := p.sessions[c]; s != nil {
		r = s.releasing[packetID]
		delete(s.releasing, packetID)
	}
	p.mu.Unlock()
	if r != nil {
		r.finish(err)
	}
}

// fence ends what connections of a client wait for though all they asked is
// committed: the connection that took over gets it.
func (p *ingressPart) fence(clientID string, epoch uint64) {
	p.mu.Lock()
	var open []*releasing
	for c, s := range p.sessions {
		if c.client != clientID || c.epoch > epoch {
			continue
		}
		s.fenced = true
		for id, r := range s.releasing {
			if r.pending {
				open = append(open, r)
				delete(s.releasing, id)
			}
		}
	}
	p.mu.Unlock()
	for _, r := range open {
		r.finish(flow.ErrFenced)
	}
}

// Ack reports a subscriber's acknowledgements.
func (n *Node) Ack(clientID string, epoch uint64, acks []flow.Ack, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	g := n.ingress()
	if g == nil {
		done(flow.ErrUnavailable)
		return
	}
	op := &logpb.Acks{ClientId: clientID, Epoch: epoch}
	for _, a := range acks {
		id := uint32(a.PacketID)
		switch {
		case a.Kind == flow.Puback:
			op.Pubacks = append(op.Pubacks, id)
		case a.Kind == flow.Pubcomp:
			op.Pubcomps = append(op.Pubcomps, id)
		case a.Failed:
			op.FailedPubrecs = append(op.FailedPubrecs, id)
		default:
			op.Pubrecs = append(op.Pubrecs, id)
		}
	}
	g.part(clientID).ask(&logpb.Op{Body: &logpb.Op_Acks{Acks: op}}, func(code uint32, _ []byte, err error) {
		done(opError(code, err))
	})
}

// Unsubscribe removes subscriptions of a stored session.
func (n *Node) Unsubscribe(clientID string, epoch uint64, filters []string, done func([]bool, error)) {
	g := n.ingress()
	if g == nil {
		done(nil, flow.ErrUnavailable)
		return
	}
	if mutant.UnsubackEarly {
		done(make([]bool, len(filters)), nil)
		done = func([]bool, error) {}
	}
	op := &logpb.Unsubscribe{ClientId: clientID, Epoch: epoch, Filters: filters}
	g.part(clientID).ask(&logpb.Op{Body: &logpb.Op_Unsubscribe{Unsubscribe: op}}, func(code uint32, result []byte, err error) {
		if err := opError(code, err); err != nil {
			done(nil, err)
			return
		}
		var r logpb.UnsubscribeResult
		if err := r.UnmarshalVT(result); err != nil {
			n.fatal(err)
			return
		}
		g.awaitPosted(g.part(clientID).partition, r.Posted, func() {
			if g.hasEnded() {
				done(nil, flow.ErrUnavailable)
				return
			}
			g.gate(func(err error) { done(r.Existed, err) })
		})
	})
}

// Subscribe adds subscriptions to a stored session. SUBACK waits until the
// op is committed, every member routes by it, and the retained messages it
// asks for are in the session's queue.
func (n *Node) Subscribe(clientID string, epoch uint64, subs []flow.Subscription, done func([]flow.Subscribed, error)) {
	g := n.ingress()
	if g == nil {
		done(nil, flow.ErrUnavailable)
		return
	}
	p := g.part(clientID)
	op := &logpb.Subscribe{ClientId: clientID, Epoch: epoch}
	for _, s := range subs {
		op.Subscriptions = append(op.Subscriptions, subscriptionToLog(s))
	}
	p.ask(&logpb.Op{Body: &logpb.Op_Subscribe{Subscribe: op}}, func(code uint32, result []byte, err error) {
		if err := opError(code, err); err != nil {
			done(nil, err)
			return
		}
		var r logpb.SubscribeResult
		if err := r.UnmarshalVT(result); err != nil {
			n.fatal(err)
			return
		}
		g.subscribed(p, clientID, epoch, &r, done)
	})
}

func (g *ingress) subscribed(p *ingressPart, clientID string, epoch uint64, r *logpb.SubscribeResult, done func([]flow.Subscribed, error)) {
	out := make([]flow.Subscribed, len(r.Codes))
	for i, code := range r.Codes {
		out[i] = flow.Subscribed{Code: byte(code), Existed: r.Existed[i]}
	}
	finish := func() {
		if g.hasEnded() {
			done(nil, flow.ErrUnavailable)
			return
		}
		g.gate(func(err error) { done(out, err) })
	}
	p.whenSettled(r.Version, func() {
		g.awaitPosted(p.partition, r.Posted, func() {
			if len(r.Retained) == 0 {
				finish()
				return
			}
			// Only now: a retained message that is published after this read is
			// routed to the subscription, one published before it is in the answer.
			g.answerHold(p, clientID, epoch, r, finish)
		})
	})
}

// answerHold reads the retained messages that a hold waits for and brings them
// to the session.
func (g *ingress) answerHold(p *ingressPart, clientID string, epoch uint64, r *logpb.SubscribeResult, done func()) {
	g.reads.read(r.Retained, func(msgs []*logpb.Message, _ int, err error) {
		if err != nil {
			done() // the incarnation has ended
			return
		}
		answers := splitRetained(msgs)
		pending := new(atomic.Int32)
		pending.Store(int32(len(answers)))
		for i, part := range answers {
			op := &logpb.RetainedAnswer{
				ClientId: clientID, Epoch: epoch, Hold: r.Hold, Messages: part, More: i < len(answers)-1,
			}
			p.ask(&logpb.Op{Body: &logpb.Op_RetainedAnswer{RetainedAnswer: op}}, func(uint32, []byte, error) {
				if pending.Add(-1) == 0 {
					done()
				}
			})
		}
	})
}

// splitRetained cuts retained messages into ops of bounded size; at least one.
func splitRetained(msgs []*logpb.Message) [][]*logpb.Message {
	var parts [][]*logpb.Message
	start, size := 0, 0
	for i, m := range msgs {
		size += m.SizeVT()
		if size > maxFrameBytes {
			parts = append(parts, msgs[start:i+1])
			start, size = i+1, 0
		}
	}
	return append(parts, msgs[start:])
}
