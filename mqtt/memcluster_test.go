package mqtt

import (
	"math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// memCluster is a cluster of one node with one partition, in memory: what is asked
// takes effect at once, and all answers and all calls of the gateway come in order
// from another goroutine. Time does not pass in it: no session expires while it is
// offline, unless its interval is 0.
type memCluster struct {
	gw    Gateway
	calls later

	mu       sync.Mutex
	epoch    uint64
	source   uint64
	sessions map[string]*memSession
	interest map[string]Interest
	retained topic.Store[*flow.Message]
	down     bool
	// jitter delays every answer by up to this, and so changes their order.
	jitter time.Duration
	late   tally // delayed answers that are not given
	// refuse, if set, decides on the error of Publish and Receive.
	refuse func(m *flow.Message) error
	log    []string // of Disconnects and wills, for tests
}

type memSession struct {
	flow.Session
	owner    uint64
	expiry   uint32
	window   int
	will     *flow.Will
	subs     map[string]flow.Subscription
	queue    []flow.Delivery
	inflight []*memFlight
	inbound  map[uint16]*flow.Message
	lastID   uint16
	seq      uint64
}

type memFlight struct {
	flow.Delivery
}

func newMemCluster() *memCluster {
	return &memCluster{sessions: map[string]*memSession{}, interest: map[string]Interest{}}
}

// answer calls a done function later.
func (m *memCluster) answer(fn func()) {
	if m.jitter == 0 {
		m.calls.do(fn)
		return
	}
	m.late.Add(1)
	time.AfterFunc(rand.N(m.jitter), func() {
		defer m.late.Done()
		fn()
	})
}

func (m *memCluster) Available() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.down
}

func (m *memCluster) Connect(c flow.Connect, done func(flow.Session, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	epoch := m.epoch
	old := m.sessions[c.ClientID]
	var oldOwner uint64
	if old != nil {
		if oldOwner = old.owner; oldOwner != 0 {
			m.publishWill(old)
		}
		if c.CleanStart || old.expiry == 0 {
			old = nil
		}
	}
	present := old != nil
	if !present {
		old = &memSession{subs: map[string]flow.Subscription{}, inbound: map[uint16]*flow.Message{}}
		m.sessions[c.ClientID] = old
	}
	old.Session = flow.Session{ClientID: c.ClientID, Epoch: epoch, Present: present, Ephemeral: !present && c.Expiry == 0}
	old.owner, old.expiry, old.window, old.will = epoch, c.Expiry, int(c.Window), c.Will
	s := old.Session
	for _, sub := range old.subs {
		s.Subscriptions = append(s.Subscriptions, sub)
	}
	for _, f := range old.inflight {
		old.seq++
		f.Seq, f.Dup = old.seq, !f.Release
		m.push(old, f.Delivery)
	}
	m.fill(old)
	answer := func() { done(s, nil) }
	if oldOwner == 0 {
		m.answer(answer)
		return
	}
	m.calls.do(func() { m.gw.Close(c.ClientID, oldOwner, func() { m.answer(answer) }) })
}

func (m *memCluster) publishWill(s *memSession) {
	if s.will == nil {
		return
	}
	w := s.will.Message
	s.will = nil
	m.log = append(m.log, "will "+w.Topic)
	m.route(&w)
}

func (m *memCluster) Disconnect(clientID string, epoch uint64, d flow.Disconnect, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[clientID]
	if s == nil || s.owner != epoch {
		m.log = append(m.log, "fenced disconnect "+clientID)
		m.answer(func() { done(flow.ErrFenced) })
		return
	}
	reason := "lost"
	if d.Reason == flow.Normal {
		reason, s.will = "normal", nil
	}
	m.log = append(m.log, reason+" disconnect "+clientID)
	m.publishWill(s)
	if s.owner = 0; d.SetExpiry {
		s.expiry = d.Expiry
	}
	if s.expiry == 0 {
		delete(m.sessions, clientID)
	}
	m.answer(func() { done(nil) })
}

func (m *memCluster) Publish(msg *flow.Message, done func(bool, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	matched, err := false, error(nil)
	if m.refuse != nil {
		err = m.refuse(msg)
	}
	if err == nil {
		matched = m.route(msg)
	}
	if done != nil {
		m.answer(func() { done(matched, err) })
	}
}

// route delivers a message to everybody.
func (m *memCluster) route(msg *flow.Message) (matched bool) {
	m.source++
	msg.ID = flow.MessageID{Source: 1, Seq: m.source}
	if msg.Retain {
		if len(msg.Payload) == 0 {
			m.retained.Delete(msg.Topic)
		} else {
			m.retained.Put(msg.Topic, msg)
		}
	}
	for _, s := range m.sessions {
		if s.Ephemeral || msg.QoS == 0 {
			continue
		}
		if d, ok := s.match(msg, s.list()); ok && d.QoS > 0 {
			matched = true
			s.queue = append(s.queue, d)
			m.fill(s)
		}
	}
	var want Interest
	for f, i := range m.interest {
		if topic.Match(f, msg.Topic) {
			want |= i
		}
	}
	if m.gw == nil {
		return matched
	}
	switch {
	case msg.QoS == 0 && want&WantQoS0 != 0, msg.QoS > 0 && want&(WantReliable|WantDowngraded) == WantDowngraded:
		m.calls.do(func() { m.gw.Route(msg, false) })
	case msg.QoS > 0 && want&WantReliable != 0:
		m.calls.do(func() { m.gw.Route(msg, true) })
	default:
		return matched
	}
	return true
}

func (s *memSession) list() (subs []flow.Subscription) {
	for _, sub := range s.subs {
		subs = append(subs, sub)
	}
	return subs
}

func (s *memSession) match(msg *flow.Message, subs []flow.Subscription) (d flow.Delivery, ok bool) {
	d.Message = msg
	for _, sub := range subs {
		if !topic.Match(sub.Filter, msg.Topic) || sub.NoLocal && msg.Publisher == s.ClientID {
			continue
		}
		ok = true
		d.QoS = max(d.QoS, min(sub.QoS, msg.QoS))
		d.Retained = d.Retained || sub.RetainAsPublished && msg.Retain
		if sub.ID != 0 {
			d.SubscriptionIDs = append(d.SubscriptionIDs, sub.ID)
		}
	}
	return d, ok
}

// fill moves the queue into flight as far as the window allows.
func (m *memCluster) fill(s *memSession) {
	for s.owner != 0 && len(s.queue) > 0 && len(s.inflight) < s.window {
		d := s.queue[0]
		s.queue = s.queue[1:]
		for s.lastID++; s.lastID == 0 || s.flight(s.lastID) != nil; s.lastID++ {
		}
		s.seq++
		d.PacketID, d.Seq = s.lastID, s.seq
		s.inflight = append(s.inflight, &memFlight{Delivery: d})
		m.push(s, d)
	}
}

func (s *memSession) flight(id uint16) *memFlight {
	for _, f := range s.inflight {
		if f.PacketID == id {
			return f
		}
	}
	return nil
}

func (m *memCluster) push(s *memSession, d flow.Delivery) {
	id, epoch := s.ClientID, s.owner
	m.calls.do(func() { m.gw.Deliver(id, epoch, []flow.Delivery{d}) })
}

func (m *memCluster) owned(clientID string, epoch uint64) *memSession {
	if s := m.sessions[clientID]; s != nil && s.owner == epoch {
		return s
	}
	return nil
}

func (m *memCluster) Receive(clientID string, epoch uint64, id uint16, msg *flow.Message, done func(bool, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.owned(clientID, epoch)
	var err error
	switch {
	case s == nil:
		err = flow.ErrFenced
	case s.inbound[id] != nil:
	case m.refuse != nil && m.refuse(msg) != nil:
		err = m.refuse(msg)
	default:
		s.inbound[id] = msg
	}
	m.answer(func() { done(true, err) })
}

func (m *memCluster) Release(clientID string, epoch uint64, id uint16, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.owned(clientID, epoch)
	var err error
	switch {
	case s == nil:
		err = flow.ErrFenced
	case s.inbound[id] == nil:
		err = flow.ErrUnknownPacketID
	default:
		msg := s.inbound[id]
		delete(s.inbound, id)
		m.route(msg)
	}
	m.answer(func() { done(err) })
}

func (m *memCluster) Subscribe(clientID string, epoch uint64, subs []flow.Subscription, done func([]flow.Subscribed, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.owned(clientID, epoch)
	if s == nil {
		m.answer(func() { done(nil, flow.ErrFenced) })
		return
	}
	answers := make([]flow.Subscribed, len(subs))
	var wanted []flow.Subscription
	for i, sub := range subs {
		_, existed := s.subs[sub.Filter]
		s.subs[sub.Filter] = sub
		answers[i] = flow.Subscribed{Code: sub.QoS, Existed: existed}
		if sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed {
			wanted = append(wanted, sub)
		}
	}
	for _, msg := range m.matchRetained(wanted) {
		d, ok := s.match(msg, wanted)
		d.Retained = true
		switch {
		case !ok:
		case d.QoS == 0:
			m.push(s, d)
		default:
			s.queue = append(s.queue, d)
		}
	}
	m.fill(s)
	m.answer(func() { done(answers, nil) })
}

func (m *memCluster) matchRetained(subs []flow.Subscription) (msgs []*flow.Message) {
	seen := map[string]*flow.Message{}
	for _, sub := range subs {
		m.retained.MatchFilter(sub.Filter, func(name string, msg *flow.Message) bool {
			seen[name] = msg
			return true
		})
	}
	for _, msg := range seen {
		msgs = append(msgs, msg)
	}
	sort.Slice(msgs, func(i, j int) bool { return msgs[i].Topic < msgs[j].Topic })
	return msgs
}

func (m *memCluster) Unsubscribe(clientID string, epoch uint64, filters []string, done func([]bool, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.owned(clientID, epoch)
	if s == nil {
		m.answer(func() { done(nil, flow.ErrFenced) })
		return
	}
	existed := make([]bool, len(filters))
	for i, f := range filters {
		_, existed[i] = s.subs[f]
		delete(s.subs, f)
	}
	m.answer(func() { done(existed, nil) })
}

func (m *memCluster) Ack(clientID string, epoch uint64, acks []flow.Ack, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.owned(clientID, epoch)
	err := error(nil)
	if s == nil {
		err, acks = flow.ErrFenced, nil
	}
	for _, a := range acks {
		f := s.flight(a.PacketID)
		if f == nil {
			continue
		}
		if a.Kind == flow.Pubrec && !a.Failed {
			f.Release, f.Message = true, nil
			continue
		}
		for i := range s.inflight {
			if s.inflight[i] == f {
				s.inflight = append(s.inflight[:i], s.inflight[i+1:]...)
				break
			}
		}
	}
	if s != nil {
		m.fill(s)
	}
	if done != nil {
		m.answer(func() { done(err) })
	}
}

// JoinGroup, LeaveGroup and Taken: nothing is ever assigned; machine_shared_test.go has
// a group that assigns.
func (m *memCluster) JoinGroup(_ string, _ uint64, _ flow.Membership, done func(bool, error)) {
	m.answer(func() { done(false, nil) })
}

func (m *memCluster) LeaveGroup(_, _ string, done func(bool, error)) {
	m.answer(func() { done(true, nil) })
}

func (m *memCluster) Taken(string, string, []uint64) {}

func (m *memCluster) SetInterest(changes []InterestChange, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ch := range changes {
		if ch.Want == 0 {
			delete(m.interest, ch.Filter)
		} else {
			m.interest[ch.Filter] = ch.Want
		}
	}
	if done != nil {
		m.answer(func() { done(nil) })
	}
}

func (m *memCluster) Retained(filters []string, done func([]*flow.Message, int, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	subs := make([]flow.Subscription, len(filters))
	for i, f := range filters {
		subs[i].Filter = f
	}
	msgs := m.matchRetained(subs)
	m.answer(func() { done(msgs, 0, nil) })
}
