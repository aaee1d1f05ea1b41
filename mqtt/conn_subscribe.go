package mqtt

import (
	"errors"
	"strings"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// subscriptionOp is one change of a connection's local subscriptions. Ops are
// applied one at a time and in the order in which the client asked: those of an
// ephemeral session at once, those of others when the cluster has answered.
type subscriptionOp struct {
	ready bool
	apply func()
}

// changeSubscriptions applies what is ready, unless somebody is at it. When the
// connection is closing it takes all its subscriptions away instead.
func (c *conn) changeSubscriptions() {
	c.mu.Lock()
	if c.changing {
		c.mu.Unlock()
		return
	}
	c.changing = true
	for c.phase != phaseClosing && len(c.ops) > 0 && c.ops[0].ready {
		op := c.ops[0]
		c.ops[0] = nil
		c.ops = c.ops[1:]
		c.mu.Unlock()
		op.apply()
		c.mu.Lock()
	}
	var gone map[string]struct{}
	if c.phase == phaseClosing {
		gone, c.filters, c.ops = c.filters, nil, nil
	} else if len(c.ops) == 0 {
		c.ops = nil
	}
	c.changing = false
	c.mu.Unlock()
	if len(gone) > 0 {
		filters := make([]string, 0, len(gone))
		for f := range gone {
			filters = append(filters, f)
		}
		c.srv.subs.remove(c, filters)
	}
}

// remember notes filters that go into the local tree.
func (c *conn) remember(subs []flow.Subscription) {
	if c.filters == nil {
		c.filters = make(map[string]struct{}, len(subs))
	}
	for _, s := range subs {
		c.filters[s.Filter] = struct{}{}
	}
}

// handleSubscribe takes a SUBSCRIBE.
func (c *conn) handleSubscribe(p *packet.Subscribe) error {
	if err := c.fits(len(p.Filters)); err != nil {
		return err
	}
	grants := c.srv.grants.Load()
	codes := make([]packet.ReasonCode, len(p.Filters))
	var subs []flow.Subscription
	var places []int // of subs in codes
	for i, f := range p.Filters {
		codes[i] = c.maySubscribe(f.Filter, p.SubscriptionID)
		if codes[i].Failed() {
			c.srv.metrics.RefusedSubscribe[codes[i]].Add(1)
			continue
		}
		codes[i] = packet.ReasonCode(f.QoS)
		if !c.limits.RetainAvailable {
			f.RetainHandling = 2
		}
		subs = append(subs, flow.Subscription{
			Filter: f.Filter, QoS: f.QoS, NoLocal: f.NoLocal, RetainAsPublished: f.RetainAsPublished,
			RetainHandling: f.RetainHandling, ID: p.SubscriptionID,
		})
		places = append(places, i)
	}
	c.mu.Lock()
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return nil
	}
	if len(subs) == 0 {
		c.send(&packet.Suback{PacketID: p.PacketID, Codes: codes, Props: c.diagnosis(codes...)}) // [MQTT-3.8.4-1]
		c.unlock()
		return nil
	}
	c.subscribes()
	op := &subscriptionOp{ready: c.ephemeral}
	s := &subscribing{c: c, id: p.PacketID, codes: codes, places: places, subs: subs, grants: grants}
	c.enqueue(op, s.applyEphemeral, s.applyPersistent)
	if c.ephemeral {
		return nil
	}
	c.srv.cluster.Subscribe(c.client.ID, c.epoch, subs, func(answers []flow.Subscribed, err error) {
		s.answers, s.err = answers, err
		c.opAnswered(op)
	})
	return nil
}

// fits checks that the answer with n codes is not larger than the client allows: it
// must be sent, and must not be [MQTT-3.1.2-24].
func (c *conn) fits(n int) error {
	const rest = packet.MaxHeader + 3 // identifier and no properties
	if c.opts.maxPacket > 0 && n+rest > int(c.opts.maxPacket) {
		return &packet.Error{Code: packet.PacketTooLarge, Clause: "MQTT-3.1.2-24", Detail: "the answer would exceed the client's maximum packet size"}
	}
	return nil
}

// enqueue adds an op and releases mu. That of an ephemeral session is applied; for
// another the caller asks the cluster, which is counted here.
func (c *conn) enqueue(op *subscriptionOp, ephemeral, persistent func()) {
	op.apply = persistent
	if c.ephemeral {
		op.apply = ephemeral
	} else {
		c.asked++
	}
	c.ops = append(c.ops, op)
	c.mu.Unlock()
	if c.ephemeral {
		c.changeSubscriptions()
	}
}

// opAnswered notes that the cluster has answered an op of a persistent session.
func (c *conn) opAnswered(op *subscriptionOp) {
	c.mu.Lock()
	c.asked--
	op.ready = true
	c.mu.Unlock()
	c.changeSubscriptions()
	c.settle()
}

// askMore notes a question to the cluster, unless the connection is closing: then
// nothing may be asked.
func (c *conn) askMore() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseClosing {
		return false
	}
	c.asked++
	return true
}

// maySubscribe checks one filter.
func (c *conn) maySubscribe(filter string, id uint32) packet.ReasonCode {
	l := c.limits
	_, _, shared, err := topic.ParseShared(filter)
	switch {
	case err != nil || c.tooDeep(filter):
		return packet.TopicFilterInvalid
	case shared && !l.SharedAvailable:
		return packet.SharedSubscriptionsNotSupported
	case id != 0 && !l.SubscriptionIDAvailable:
		return packet.SubscriptionIdentifiersNotSupported
	case !l.WildcardAvailable && strings.ContainsAny(filter, "+#"):
		return packet.WildcardSubscriptionsNotSupported
	case !c.maySubscribeTo(&c.client, filter):
		return packet.NotAuthorized
	}
	return packet.Success
}

// subscribing is a SUBSCRIBE on its way to SUBACK.
type subscribing struct {
	c      *conn
	id     uint16
	codes  []packet.ReasonCode // one for each filter of the packet [MQTT-3.8.4-6]
	places []int               // where in codes the answer to each of subs goes
	subs   []flow.Subscription
	hold   *hold               // of an ephemeral session that wants retained messages
	sys    []flow.Subscription // to the broker's own topics, whose present values are wanted
	grants uint64              // of Server.grants, when it was allowed

	// Of a persistent session: the cluster's answer.
	answers []flow.Subscribed
	err     error
}

// applyEphemeral makes the subscriptions of an ephemeral session, which exist
// nowhere but here. Live messages that match them wait from now on behind the
// retained ones.
func (s *subscribing) applyEphemeral() {
	c := s.c
	limit := c.limits.MaxSubscriptions
	var granted, shared, wantRetained []flow.Subscription
	for i, sub := range s.subs {
		_, existed := c.filters[sub.Filter]
		if !existed && limit > 0 && len(c.filters) >= limit {
			s.refuse(i, packet.QuotaExceeded)
			continue
		}
		if isShared(sub.Filter) { // never with retained messages [MQTT 5.0 4.8.2]
			shared = append(shared, sub)
			c.remember(shared[len(shared)-1:])
			continue
		}
		granted = append(granted, sub)
		c.remember(granted[len(granted)-1:])
		if sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed {
			wantRetained = append(wantRetained, sub) // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
		}
	}
	c.mu.Lock()
	if c.phase == phaseClosing {
		c.mu.Unlock()
		return
	}
	c.asked++
	s.sys = ofSys(wantRetained)
	if len(wantRetained) > 0 {
		s.hold = &hold{subs: wantRetained}
		c.holds = append(c.holds, s.hold)
	}
	done := awaitAll(1+len(shared), s.routed)
	for _, sub := range shared {
		m := c.join(sub)
		c.tell(func() {
			c.srv.cluster.JoinGroup(c.client.ID, c.epoch, m, func(_ bool, err error) { done(err) })
		})
	}
	c.mu.Unlock()
	c.tellGroups()
	c.srv.subs.set(c, granted, false, done)
}

// applyPersistent takes over into the local tree what the partition has granted.
func (s *subscribing) applyPersistent() {
	c := s.c
	if s.err != nil && !errors.Is(s.err, flow.ErrQuota) {
		c.end(refusal(s.err))
		return
	}
	var granted []flow.Subscription
	for i, sub := range s.subs {
		code := packet.QuotaExceeded
		if s.err == nil {
			code = packet.ReasonCode(s.answers[i].Code)
		}
		if code.Failed() {
			s.refuse(i, code)
			continue
		}
		s.codes[s.places[i]] = code
		sub.QoS = byte(code)
		granted = append(granted, sub)
		if sub.RetainHandling == 0 || sub.RetainHandling == 1 && !s.answers[i].Existed {
			s.sys = append(s.sys, ofSys(granted[len(granted)-1:])...)
		}
	}
	if !c.askMore() {
		return
	}
	c.remember(granted)
	local, _ := splitShared(granted) // the others are the partitions' alone
	c.srv.subs.set(c, local, false, s.routed)
}

func (s *subscribing) refuse(i int, code packet.ReasonCode) {
	s.codes[s.places[i]] = code
	s.c.srv.metrics.RefusedSubscribe[code].Add(1)
}

// routed: every member routes by the subscriptions, so SUBACK may be sent. Only now
// may the retained messages be read: what they do not show comes live.
func (s *subscribing) routed(err error) {
	c := s.c
	present := c.srv.sys.match(s.sys)
	c.mu.Lock()
	c.asked--
	c.subscribed()
	open := c.phase == phaseOpen
	if open && err == nil {
		c.send(&packet.Suback{PacketID: s.id, Codes: s.codes, Props: c.diagnosis(s.codes...)}) // [MQTT-3.8.4-2]
		for _, x := range present {
			c.sendAtMostOnce(x, nil)
		}
		if c.subscribing == 0 {
			c.deliverEarly()
		}
		if s.hold != nil {
			c.asked++
		}
	}
	c.unlock()
	switch {
	case !open:
		c.settle()
	case err != nil:
		c.end(refusal(err))
	case s.hold != nil:
		c.srv.cluster.Retained(s.hold.filters(), s.retained)
	}
	c.unchanged(s.grants)
}

// handleUnsubscribe takes an UNSUBSCRIBE.
func (c *conn) handleUnsubscribe(p *packet.Unsubscribe) error {
	if err := c.fits(len(p.Filters)); err != nil {
		return err
	}
	u := &unsubscribing{c: c, id: p.PacketID, codes: make([]packet.ReasonCode, len(p.Filters))}
	for i, f := range p.Filters {
		if topic.ValidFilter(f) != nil {
			u.codes[i] = packet.TopicFilterInvalid
			continue
		}
		u.filters = append(u.filters, f)
		u.places = append(u.places, i)
	}
	c.mu.Lock()
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return nil
	}
	c.unanswered++
	op := &subscriptionOp{ready: c.ephemeral}
	c.enqueue(op, u.applyEphemeral, u.applyPersistent)
	if c.ephemeral {
		return nil
	}
	c.srv.cluster.Unsubscribe(c.client.ID, c.epoch, u.filters, func(existed []bool, err error) {
		u.existed, u.err = existed, err
		c.opAnswered(op)
	})
	return nil
}

// unsubscribing is an UNSUBSCRIBE on its way to UNSUBACK.
type unsubscribing struct {
	c       *conn
	id      uint16
	codes   []packet.ReasonCode
	places  []int // of filters in codes
	filters []string
	existed []bool // one for each of filters
	err     error
}

func (u *unsubscribing) applyEphemeral() {
	u.existed = u.c.srv.subs.remove(u.c, u.filters) // [MQTT-3.10.4-1]
	u.forget()
	if !u.leaveShared() {
		u.finish()
	}
}

// forget takes the filters off the connection's own list.
func (u *unsubscribing) forget() {
	for _, f := range u.filters {
		delete(u.c.filters, f)
	}
}

func (u *unsubscribing) applyPersistent() {
	if u.err != nil {
		u.c.end(refusal(u.err))
		return
	}
	u.c.srv.subs.remove(u.c, u.filters)
	u.forget()
	u.finish()
}

// finish sends UNSUBACK, whether there were subscriptions or not [MQTT-3.10.4-5].
func (u *unsubscribing) finish() {
	c := u.c
	for i := range u.filters {
		if !u.existed[i] {
			u.codes[u.places[i]] = packet.NoSubscriptionExisted
		}
	}
	c.mu.Lock()
	c.ungate(0)
	if c.phase == phaseOpen {
		c.send(&packet.Unsuback{PacketID: u.id, Codes: u.codes, Props: c.diagnosis(u.codes...)})
	}
	c.unlock()
}
