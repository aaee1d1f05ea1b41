package fsm

import (
	"fmt"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// session rebuilds a session and its part of the indices and counters.
func (r *recordReader) session(body []byte) error {
	p, err := decode(body, &logpb.SessionState{})
	if err != nil {
		return err
	}
	if err := r.checkSession(p); err != nil {
		return err
	}
	r.lastID = p.ClientId
	m := r.m
	s := &session{
		gen: m.gen, id: p.ClientId, username: p.Username, protocol: p.Protocol,
		epoch: p.Epoch, owner: p.Owner, ephemeral: p.Ephemeral,
		expiry: p.Expiry, expiresAt: p.ExpiresAt, window: p.Window, maxPacket: p.MaxPacket,
		will: p.Will, willAt: p.WillAt, willAfterClose: p.WillAfterClose,
		subs:         p.Subscriptions,
		lastPacketID: uint16(p.LastPacketId), lastDelivery: p.LastDelivery, pushed: p.Pushed,
		lastHold: p.LastHold, dropped: p.Dropped,
	}
	for _, a := range p.Answered {
		s.answered = append(s.answered, answered{messageID{a.IdSource, a.IdSeq}, a.Qos, a.Topic})
	}
	sl := m.addSlot(s)
	for _, o := range p.Previous {
		s.previous = append(s.previous, previous{o.Gateway, o.Epoch, o.Will})
		m.gateway(o.Gateway, 0, 1)
	}
	m.countSession(s)
	for _, sub := range s.subs {
		if isShared(sub.Filter) {
			m.stats.Subscriptions++
			continue
		}
		m.linkSub(sl, sub)
	}
	clear(m.touched) // the version counts these already
	m.retime(sl)
	if err := r.queues(s, p); err != nil {
		return err
	}
	if err := r.inflight(s, p); err != nil {
		return err
	}
	return r.inbound(s, p)
}

func (r *recordReader) checkSession(p *logpb.SessionState) error {
	bad := p.ClientId == "" || p.ClientId <= r.lastID || p.LastPacketId > maxPacketIDs ||
		p.Pushed > p.LastDelivery || len(p.Answered) > maxAnswered || p.Epoch > r.m.lastEpoch ||
		p.Will != nil && checkMessage(p.Will.Message) != nil ||
		p.Ephemeral && p.Owner == 0 && len(p.Previous) == 0
	for i, sub := range p.Subscriptions {
		bad = bad || sub.Stamp > r.m.lastStamp || sub.Qos > 2 || topic.ValidFilter(sub.Filter) != nil ||
			i > 0 && sub.Filter <= p.Subscriptions[i-1].Filter
	}
	if bad {
		return fmt.Errorf("%w: session %q", ErrMalformed, p.ClientId)
	}
	return nil
}

// countSession adds a restored session to the counters.
func (m *Machine) countSession(s *session) {
	if s.ghost() {
		return
	}
	m.stats.Sessions++
	if s.ephemeral {
		m.stats.Ephemeral++
	}
	if s.owner != 0 {
		m.stats.Connected++
		m.gateway(s.owner, 1, 0)
	}
}

func (r *recordReader) queues(s *session, p *logpb.SessionState) error {
	for _, x := range p.Queue {
		q, err := r.queued(x)
		if err != nil {
			return err
		}
		s.queue.push(q)
		r.m.countQueued(s, q, 1)
	}
	for _, x := range p.Assigned {
		q, err := r.queued(x)
		if err != nil {
			return err
		}
		s.assigned.push(q)
		r.m.keep(q.msg)
		r.m.stats.Queued++
		r.m.stats.QueuedBytes += q.msg.size
	}
	for _, x := range p.Holds {
		h := &hold{id: x.Id, filters: x.Filters}
		for _, y := range x.Held {
			q, err := r.queued(y)
			if err != nil {
				return err
			}
			h.held = append(h.held, q)
			s.held++
			r.m.countQueued(s, q, 1)
		}
		s.holds = append(s.holds, h)
	}
	return nil
}

func (r *recordReader) queued(p *logpb.QueuedMessage) (*queued, error) {
	if p == nil || p.Qos < 1 || p.Qos > 2 {
		return nil, fmt.Errorf("%w: queued message", ErrMalformed)
	}
	msg, err := r.find(p.Message)
	if err != nil {
		return nil, err
	}
	return &queued{msg: msg, qos: p.Qos, retained: p.Retained, ids: p.SubscriptionIds, share: p.Share, item: p.Item}, nil
}

func (r *recordReader) inflight(s *session, p *logpb.SessionState) error {
	var last uint64
	for _, y := range p.Inflight {
		if y.PacketId == 0 || y.PacketId > maxPacketIDs || s.inflight.find(y.PacketId) != nil ||
			y.Delivery <= last || y.Delivery > s.lastDelivery || y.Pubrec != (y.Message == nil) ||
			y.Epoch > y.SentEpoch || y.SentEpoch > s.epoch {
			return fmt.Errorf("%w: packet id %d of %q", ErrMalformed, y.PacketId, s.id)
		}
		last = y.Delivery
		x := &flight{
			seq: y.Delivery, packetID: uint16(y.PacketId), pubrec: y.Pubrec,
			epoch: y.Epoch, sent: y.SentEpoch,
		}
		if !y.Pubrec {
			q, err := r.queued(y.Message)
			if err != nil {
				return err
			}
			x.q = q
			r.m.keep(q.msg)
		}
		s.inflight.add(x)
		r.m.stats.Inflight++
		if x.sent == s.epoch {
			s.sending++
			if x.q != nil {
				s.sendingBytes += x.q.msg.size
			}
		}
	}
	return nil
}

func (r *recordReader) inbound(s *session, p *logpb.SessionState) error {
	for _, x := range p.Inbound {
		_, twice := s.inbound[uint16(x.PacketId)]
		if x.PacketId == 0 || x.PacketId > maxPacketIDs || twice || (x.Message == 0) != (x.Waiting != 0) {
			return fmt.Errorf("%w: packet id %d from %q", ErrMalformed, x.PacketId, s.id)
		}
		in := inbound{waiting: x.Waiting}
		if x.Message != 0 {
			msg, err := r.find(x.Message)
			if err != nil {
				return err
			}
			in.msg = msg
			r.m.keep(msg)
		}
		if s.inbound == nil {
			s.inbound = make(map[uint16]inbound)
		}
		s.inbound[uint16(x.PacketId)] = in
		r.m.stats.Inbound++
	}
	return nil
}
