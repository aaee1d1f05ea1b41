package fsm

import (
	"maps"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// model is what the machine should do, written as plainly as possible: maps and
// slices, everything looked for by going through all of it.
type model struct {
	partition, partitions uint32
	time                  int64
	set                   *logpb.Settings
	lastEpoch, outboxSeq  uint64
	version               uint64
	sessions              map[string]*mSession
	marks                 map[uint64]uint64
	results               map[uint64]map[uint64]Result
	closed                map[uint64]uint64
	outbox                map[uint64]*OutboxItem
	retained              map[string]*logpb.Message
	unknownAcks           uint64
	e                     *Effects
	touched               map[string]bool
}

type mSession struct {
	id             string
	c              *logpb.Connect
	exists         bool // false: only previous owners are remembered
	owner, epoch   uint64
	ephemeral      bool
	expiry         uint32
	expiresAt      int64
	will           *logpb.Will
	willAt         int64
	willAfterClose uint64
	previous       []Connection
	subs           map[string]*logpb.Subscription
	queue          []mQueued
	inflight       []*mFlight // by seq
	inbound        map[uint16]*mInbound
	lastID         uint16
	lastSeq        uint64
	holds          []*mHold
	lastHold       uint64
	answered       []mQueued
	dropped        uint64
}

type mQueued struct {
	msg      *logpb.Message
	qos      uint32
	retained bool
	ids      []uint32
}

type mFlight struct {
	mQueued
	seq    uint64
	id     uint16
	first  uint64 // epoch
	sent   uint64 // epoch of the connection that its PUBLISH or PUBREL was sent on
	pubrec bool
	counts bool // against the window of the connection
}

type mInbound struct {
	msg     *logpb.Message
	waiting uint64
}

type mHold struct {
	id      uint64
	filters []string
	held    []mQueued
}

func newModel(partition, partitions uint32) *model {
	return &model{
		partition: partition, partitions: partitions, set: &logpb.Settings{}, sessions: map[string]*mSession{},
		marks: map[uint64]uint64{}, results: map[uint64]map[uint64]Result{}, closed: map[uint64]uint64{},
		outbox: map[uint64]*OutboxItem{}, retained: map[string]*logpb.Message{},
	}
}

// apply carries out an entry given by the bodies of its ops.
func (m *model) apply(time int64, ops []*logpb.LaneOp, bodies []any, confirms []*logpb.Confirm) *Outcome {
	m.time = time
	out := &Outcome{}
	m.e, m.touched = &out.Effects, map[string]bool{}
	before := m.interest()
	for i, op := range ops {
		out.Results = append(out.Results, m.op(op, bodies[i]))
	}
	for _, c := range confirms {
		for seq := range m.results[c.Source] {
			if seq <= c.Seq {
				delete(m.results[c.Source], seq)
			}
		}
	}
	m.note(before)
	if len(m.touched) > 0 {
		m.version++
		for _, f := range slices.Sorted(maps.Keys(m.touched)) {
			m.e.Interest = append(m.e.Interest, InterestChange{f, m.interest()[f]})
		}
	}
	m.e.Version = m.version
	return out
}

func (m *model) op(op *logpb.LaneOp, body any) Result {
	if op.IsLeader {
		return Result{Code: m.leader(body)}
	}
	r := Result{Source: op.Source, Seq: op.Seq}
	if m.isClosed(op.Source) {
		r.Status = Closed
		return r
	}
	switch mark := m.marks[op.Source]; {
	case op.Seq <= mark:
		r = m.results[op.Source][op.Seq]
		r.Source, r.Seq, r.Status = op.Source, op.Seq, Duplicate
		return r
	case op.Prev > mark:
		r.Status = Gap
		return r
	}
	m.marks[op.Source] = op.Seq
	before := m.interest()
	if op.Refuse != 0 {
		r.Code = op.Refuse
	} else {
		r.Code, r.Bytes = m.lane(op.Source, body)
	}
	m.note(before)
	if r.Bytes != nil || r.Code != 0 {
		if m.results[op.Source] == nil {
			m.results[op.Source] = map[uint64]Result{}
		}
		if !m.isClosed(op.Source) {
			m.results[op.Source][op.Seq] = r
		}
	}
	return r
}

// note remembers the filters that came or went since.
func (m *model) note(before map[string]bool) {
	now := m.interest()
	for f := range now {
		if !before[f] {
			m.touched[f] = true
		}
	}
	for f := range before {
		if !now[f] {
			m.touched[f] = true
		}
	}
}

func (m *model) interest() map[string]bool {
	all := map[string]bool{}
	for _, s := range m.sessions {
		for f, sub := range s.subs {
			if sub.Qos > 0 {
				all[f] = true
			}
		}
	}
	return all
}

func (m *model) isClosed(g uint64) bool {
	i, ok := m.closed[g>>40]
	return isGateway(g) && ok && g&(1<<40-1) <= i
}

func (m *model) ids() []string { return slices.Sorted(maps.Keys(m.sessions)) }

func (m *model) lane(source uint64, body any) (uint32, []byte) {
	switch op := body.(type) {
	case *logpb.Connect:
		return CodeOK, m.connect(source, op)
	case *logpb.Disconnect:
		return m.disconnect(op), nil
	case *logpb.Publish:
		if op.AfterClose != 0 {
			m.closeGateway(op.AfterClose)
		}
		msg := m.deadline(op.Message)
		if op.Store {
			m.store(msg)
		}
		code := CodeOK
		if op.Deliver && m.deliver(msg) && m.set.QueueFull == logpb.QueueFull_REFUSE && isGateway(source) && msg.Qos == 1 {
			code = CodeQuota
		}
		return code, nil
	}
	id, epoch := clientOf(body)
	s := m.sessions[id]
	if s == nil || s.owner == 0 || s.epoch != epoch {
		return CodeFenced, nil
	}
	switch op := body.(type) {
	case *logpb.Subscribe:
		if s.ephemeral {
			return CodeFenced, nil
		}
		return CodeOK, m.subscribe(s, op)
	case *logpb.Unsubscribe:
		if s.ephemeral {
			return CodeFenced, nil
		}
		return CodeOK, m.unsubscribe(s, op)
	case *logpb.Receive:
		return m.receive(s, op), nil
	case *logpb.Release:
		return m.release(s, op), nil
	case *logpb.Acks:
		m.acks(s, op)
	case *logpb.RetainedAnswer:
		m.answer(s, op)
	}
	return CodeOK, nil
}

func clientOf(body any) (string, uint64) {
	x := body.(interface {
		GetClientId() string
		GetEpoch() uint64
	})
	return x.GetClientId(), x.GetEpoch()
}

func (m *model) leader(body any) uint32 {
	switch op := body.(type) {
	case *logpb.Lead:
		m.set = op.Settings
	case *logpb.CloseGateway:
		m.closeGateway(op.Gateway)
	case *logpb.OutboxDone:
		m.outboxDone(op)
	case *logpb.Tick:
		m.tick()
	case *logpb.Checkpoint:
		m.e.Checkpoint = op.Id
	case *logpb.OwnerClosed:
		if s := m.sessions[op.ClientId]; s != nil {
			m.gone(s, func(c Connection) bool {
				return slices.ContainsFunc(op.Owners, func(o *logpb.Owner) bool { return o.Gateway == c.Gateway && o.Epoch == c.Epoch })
			})
		}
	case *logpb.DeleteSession:
		if s := m.sessions[op.ClientId]; s != nil && s.exists {
			m.kick(s)
			m.end(s, SessionDeleted)
		}
	}
	return CodeOK
}

func (m *model) connect(source uint64, op *logpb.Connect) []byte {
	s := m.sessions[op.ClientId]
	if s == nil {
		s = &mSession{id: op.ClientId}
		m.sessions[op.ClientId] = s
	}
	if s.willAt != 0 && s.willAt <= m.time {
		m.will(s)
	}
	if s.expiresAt != 0 && s.expiresAt <= m.time {
		m.end(s, SessionExpired)
		m.sessions[s.id] = s
	}
	present := s.exists && !s.ephemeral && !op.CleanStart
	connected := s.owner != 0
	m.kick(s)
	if connected {
		m.releaseAll(s)
	}
	if present && connected && s.will != nil && s.will.Delay == 0 {
		m.will(s)
	}
	if s.exists && !present {
		reason := SessionExpired
		if op.CleanStart {
			reason = CleanStart
		}
		m.end(s, reason)
		m.sessions[s.id] = s
	}
	m.lastEpoch++
	s.c, s.exists, s.owner, s.epoch = op, true, source, m.lastEpoch
	s.will, s.willAt, s.willAfterClose, s.expiresAt = op.Will, 0, 0, 0
	s.expiry = m.cap(op.Expiry)
	if !present {
		s.ephemeral = s.expiry == 0
		s.subs, s.inbound = map[string]*logpb.Subscription{}, map[uint16]*mInbound{}
	}
	for _, f := range s.inflight {
		f.counts = false
	}
	m.fill(s)
	r := &logpb.ConnectResult{Epoch: s.epoch, Present: present, Ephemeral: s.ephemeral}
	for _, p := range s.previous {
		r.Previous = append(r.Previous, &logpb.Owner{Gateway: p.Gateway, Epoch: p.Epoch})
	}
	if present {
		for _, f := range slices.Sorted(maps.Keys(s.subs)) {
			r.Subscriptions = append(r.Subscriptions, s.subs[f])
		}
	}
	return marshal(r)
}

func (m *model) cap(expiry uint32) uint32 {
	if m.set.MaxExpiry != 0 {
		return min(expiry, m.set.MaxExpiry)
	}
	return expiry
}

// kick makes the owner, if there is one, a previous one.
func (m *model) kick(s *mSession) {
	if s.owner == 0 {
		return
	}
	c := Connection{s.id, s.owner, s.epoch}
	s.previous = append(s.previous, c)
	m.e.Kick = append(m.e.Kick, c)
	s.owner = 0
}

func (m *model) gone(s *mSession, which func(Connection) bool) (found bool) {
	for _, c := range s.previous {
		if which(c) {
			found = true
			m.e.OwnerGone = append(m.e.OwnerGone, c)
		}
	}
	s.previous = slices.DeleteFunc(s.previous, which)
	m.tidy(s)
	return found
}

func (m *model) tidy(s *mSession) {
	if !s.exists && len(s.previous) == 0 {
		delete(m.sessions, s.id)
	}
}

func (m *model) disconnect(op *logpb.Disconnect) uint32 {
	s := m.sessions[op.ClientId]
	switch {
	case s == nil:
		return CodeFenced
	case s.owner != 0 && s.epoch == op.Epoch:
		if op.SetExpiry && s.expiry != 0 {
			s.expiry = m.cap(op.Expiry)
		}
		m.leave(s, op.Lost, 0)
	case !m.gone(s, func(c Connection) bool { return c.Epoch == op.Epoch }):
		return CodeFenced
	}
	return CodeOK
}

func (m *model) leave(s *mSession, lost bool, closed uint64) {
	s.owner = 0
	m.releaseAll(s)
	s.willAfterClose = closed
	if !lost {
		s.will = nil
	}
	end := int64(1<<63 - 1)
	if s.expiry != 0xFFFFFFFF {
		end = m.time + int64(s.expiry)*1000
		s.expiresAt = end
	}
	if s.will != nil {
		s.willAt = min(m.time+int64(s.will.Delay)*1000, end)
		if s.willAt == m.time {
			m.will(s)
		}
	}
	if s.expiry == 0 {
		m.end(s, SessionExpired)
	}
}

func (m *model) end(s *mSession, reason Reason) {
	if s.will != nil {
		m.will(s)
	}
	lost := uint64(len(s.queue))
	for _, h := range s.holds {
		lost += uint64(len(h.held))
	}
	for _, f := range s.inflight {
		if !f.pubrec {
			lost++
		}
	}
	m.drop(s, OfflineSession, reason, lost)
	before := m.interest()
	*s = mSession{id: s.id, previous: s.previous}
	m.note(before)
	m.tidy(s)
}

func (m *model) drop(s *mSession, class Class, reason Reason, n uint64) {
	if n == 0 {
		return
	}
	limit := reason == QueueFull || reason == Expired || reason == TooLarge
	m.e.Dropped = append(m.e.Dropped, Drop{s.id, class, reason, n, limit && s.dropped == 0})
	if limit {
		s.dropped += n
	}
}

func (m *model) will(s *mSession) {
	w, closed := s.will, s.willAfterClose
	s.will, s.willAt, s.willAfterClose = nil, 0, 0
	msg := m.deadline(w.Message)
	msg.IdSource, msg.IdSeq = uint64(m.partition), m.outboxSeq+1
	m.handOn(msg, closed, "", 0)
}

func (m *model) deadline(pb *logpb.Message) *logpb.Message {
	c := proto.Clone(pb).(*logpb.Message)
	if c.HasExpiry {
		c.Expiry += m.time
	} else {
		c.Expiry = 0
	}
	return c
}

func (m *model) closeGateway(g uint64) {
	if m.isClosed(g) {
		return
	}
	m.closed[g>>40] = g & (1<<40 - 1)
	m.e.Closed = append(m.e.Closed, g)
	for source := range m.marks {
		if m.isClosed(source) {
			delete(m.marks, source)
			delete(m.results, source)
		}
	}
	for _, id := range m.ids() {
		s := m.sessions[id]
		m.gone(s, func(c Connection) bool { return m.isClosed(c.Gateway) })
		if s.owner != 0 && m.isClosed(s.owner) {
			m.leave(s, true, g)
		}
	}
}

// tick carries out what is due one by one: the earliest first, then by client id.
func (m *model) tick() {
	for {
		at, s := m.due()
		if s == nil || at > m.time {
			break
		}
		if s.willAt != 0 && s.willAt <= m.time {
			m.will(s)
		} else {
			m.end(s, SessionExpired)
		}
	}
	for name, msg := range m.retained {
		if msg.HasExpiry && msg.Expiry <= m.time {
			delete(m.retained, name)
		}
	}
}

func (m *model) due() (at int64, due *mSession) {
	for _, id := range m.ids() {
		s := m.sessions[id]
		for _, t := range []int64{s.willAt, s.expiresAt} {
			if t != 0 && (due == nil || t < at) {
				at, due = t, s
			}
		}
	}
	return at, due
}

func (m *model) deadlineOf() (at int64, ok bool) {
	at, s := m.due()
	ok = s != nil
	for _, msg := range m.retained {
		if msg.HasExpiry && (!ok || msg.Expiry < at) {
			at, ok = msg.Expiry, true
		}
	}
	return at, ok
}

func (m *model) store(msg *logpb.Message) {
	if len(msg.Payload) == 0 {
		delete(m.retained, msg.Topic)
		return
	}
	m.retained[msg.Topic] = msg
}

func (m *model) handOn(msg *logpb.Message, closed uint64, client string, id uint16) {
	m.outboxSeq++
	item := &OutboxItem{Seq: m.outboxSeq, Message: msg, AfterClose: closed, WaitClient: client, WaitPacketID: id}
	if msg.Retain && PartitionOf(msg.Topic, m.partitions) == m.partition {
		item.Stored = true
		m.store(msg)
	}
	m.outbox[item.Seq] = item
	m.e.Outbox = append(m.e.Outbox, item)
	m.deliver(msg)
}

func (m *model) outboxDone(op *logpb.OutboxDone) {
	complete := func(item *OutboxItem) {
		s := m.sessions[item.WaitClient]
		if s == nil || s.inbound[item.WaitPacketID] == nil || s.inbound[item.WaitPacketID].waiting != item.Seq {
			return
		}
		delete(s.inbound, item.WaitPacketID)
		if s.owner != 0 {
			m.e.Completed = append(m.e.Completed, Completed{Connection{s.id, s.owner, s.epoch}, item.WaitPacketID})
		}
	}
	for _, seq := range op.Stored {
		if item := m.outbox[seq]; item != nil && !item.Stored {
			complete(item)
			m.outbox[seq] = &OutboxItem{Seq: seq, Message: item.Message, AfterClose: item.AfterClose, Stored: true}
		}
	}
	for _, seq := range op.Done {
		if item := m.outbox[seq]; item != nil {
			complete(item)
			delete(m.outbox, seq)
		}
	}
}

func (m *model) subscribe(s *mSession, op *logpb.Subscribe) []byte {
	r := &logpb.SubscribeResult{}
	for _, sub := range op.Subscriptions {
		before := m.interest()
		_, existed := s.subs[sub.Filter]
		code := sub.Qos
		switch {
		case topic.ValidFilter(sub.Filter) != nil:
			code, existed = CodeFilterInvalid, false
		case strings.HasPrefix(sub.Filter, "$share/"):
			code = CodeSharedUnsupported
		case !existed && m.set.MaxSubscriptions != 0 && len(s.subs) >= int(m.set.MaxSubscriptions):
			code = CodeQuota
		default:
			s.subs[sub.Filter] = sub
			if (sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed) && !slices.Contains(r.Retained, sub.Filter) {
				r.Retained = append(r.Retained, sub.Filter)
			}
		}
		m.note(before)
		r.Codes, r.Existed = append(r.Codes, code), append(r.Existed, existed)
	}
	if len(r.Retained) > 0 {
		s.lastHold++
		r.Hold = s.lastHold
		s.holds = append(s.holds, &mHold{id: r.Hold, filters: slices.Clone(r.Retained)})
	}
	r.Version = m.version
	if len(m.touched) > 0 {
		r.Version++
	}
	return marshal(r)
}

func (m *model) unsubscribe(s *mSession, op *logpb.Unsubscribe) []byte {
	r := &logpb.UnsubscribeResult{}
	for _, f := range op.Filters {
		before := m.interest()
		_, existed := s.subs[f]
		delete(s.subs, f)
		m.note(before)
		r.Existed = append(r.Existed, existed)
		for _, h := range slices.Clone(s.holds) {
			if i := slices.Index(h.filters, f); existed && i >= 0 {
				h.filters = slices.Delete(h.filters, i, i+1)
				if len(h.filters) == 0 {
					m.releaseHold(s, h)
				}
			}
		}
	}
	m.fill(s)
	return marshal(r)
}

func (m *model) receive(s *mSession, op *logpb.Receive) uint32 {
	id := uint16(op.PacketId)
	switch {
	case op.PacketId == 0 || op.PacketId > 65535:
		return CodeProtocolError
	case s.inbound[id] != nil:
		return CodeOK
	case m.set.MaxInbound != 0 && len(s.inbound) >= int(m.set.MaxInbound):
		return CodeQuota
	}
	s.inbound[id] = &mInbound{msg: m.deadline(op.Message)}
	return CodeOK
}

func (m *model) release(s *mSession, op *logpb.Release) uint32 {
	id := uint16(op.PacketId)
	in := s.inbound[id]
	switch {
	case op.PacketId == 0 || op.PacketId > 65535:
		return CodeProtocolError
	case in == nil:
		return CodeUnknownPacketID
	case in.waiting != 0:
		return CodePending
	case in.msg.Retain && PartitionOf(in.msg.Topic, m.partitions) != m.partition:
		in.waiting = m.outboxSeq + 1
		m.handOn(in.msg, 0, s.id, id)
		return CodePending
	}
	delete(s.inbound, id)
	m.handOn(in.msg, 0, "", 0)
	return CodeOK
}

func (m *model) answer(s *mSession, op *logpb.RetainedAnswer) {
	var h *mHold
	held := map[messageID]bool{}
	for _, x := range s.holds {
		if x.id == op.Hold {
			h = x
		}
		for _, q := range x.held {
			held[idOf(q.msg)] = true
		}
	}
	if h == nil {
		return
	}
	for _, pb := range op.Messages {
		if pb.HasExpiry && pb.Expiry <= 0 || held[idOf(pb)] {
			continue
		}
		subs := map[string]*logpb.Subscription{}
		for _, f := range h.filters {
			if s.subs[f] != nil {
				subs[f] = s.subs[f]
			}
		}
		q, ok := combine(subs, s.id, pb)
		if !ok {
			continue
		}
		q.msg, q.retained = m.deadline(pb), true
		if q.qos == 0 {
			m.push(s, Delivery{Retained: true, SubscriptionIDs: q.ids, Message: q.msg})
		} else {
			s.answered = append(s.answered, q)
			s.answered = s.answered[max(0, len(s.answered)-64):]
			m.enqueue(s, q)
		}
	}
	if !op.More {
		m.releaseHold(s, h)
		m.fill(s)
	}
}

// combine is what a session gets of a message by some of its subscriptions.
func combine(subs map[string]*logpb.Subscription, client string, pb *logpb.Message) (q mQueued, ok bool) {
	q.msg = pb
	for _, f := range slices.Sorted(maps.Keys(subs)) {
		sub := subs[f]
		if !topic.Match(f, pb.Topic) || sub.NoLocal && pb.Publisher == client {
			continue
		}
		ok = true
		q.qos = max(q.qos, min(sub.Qos, pb.Qos))
		q.retained = q.retained || sub.RetainAsPublished && pb.Retain
		if sub.Id != 0 {
			q.ids = append(q.ids, sub.Id)
		}
	}
	return q, ok
}

func (m *model) deliver(msg *logpb.Message) (full bool) {
	for _, id := range m.ids() {
		s := m.sessions[id]
		var copies []mQueued
		if m.set.CopyPerSubscription {
			for _, f := range slices.Sorted(maps.Keys(s.subs)) {
				if q, ok := combine(map[string]*logpb.Subscription{f: s.subs[f]}, s.id, msg); ok {
					copies = append(copies, q)
				}
			}
		} else if q, ok := combine(s.subs, s.id, msg); ok {
			copies = append(copies, q)
		}
		for _, q := range copies {
			if q.qos == 0 {
				continue
			}
			if s.overtaken(q) {
				continue
			}
			if msg.HasExpiry && msg.Expiry <= m.time {
				m.drop(s, s.class(), Expired, 1)
				continue
			}
			if h := s.holdFor(msg.Topic); h != nil {
				if m.room(s, q) {
					h.held = append(h.held, q)
				} else {
					full = true
				}
				continue
			}
			full = !m.enqueue(s, q) || full
		}
	}
	return full
}

// overtaken: the session has this message already, as a retained one, and nothing
// older of its source on the topic since.
func (s *mSession) overtaken(q mQueued) bool {
	var keep []mQueued
	for _, a := range s.answered {
		same := a.msg.Topic == q.msg.Topic && a.msg.IdSource == q.msg.IdSource
		if same && a.msg.IdSeq == q.msg.IdSeq && a.qos >= q.qos {
			return true
		}
		if !same || a.msg.IdSeq <= q.msg.IdSeq {
			keep = append(keep, a)
		}
	}
	s.answered = keep
	return false
}

func (s *mSession) class() Class {
	if s.owner != 0 {
		return ConnectedSession
	}
	return OfflineSession
}

func (s *mSession) holdFor(name string) *mHold {
	for _, h := range s.holds {
		for _, f := range h.filters {
			if topic.Match(f, name) {
				return h
			}
		}
	}
	return nil
}

func (m *model) releaseHold(s *mSession, h *mHold) {
	s.holds = slices.DeleteFunc(s.holds, func(x *mHold) bool { return x == h })
	for _, q := range h.held {
		if other := s.holdFor(q.msg.Topic); other != nil {
			other.held = append(other.held, q)
		} else {
			s.queue = append(s.queue, q)
		}
	}
}

func (m *model) releaseAll(s *mSession) {
	holds := s.holds
	s.holds = nil
	for _, h := range holds {
		s.queue = append(s.queue, h.held...)
	}
}

// enqueue: a message that can be sent at once needs no room in the queue.
func (m *model) enqueue(s *mSession, q mQueued) bool {
	if len(s.queue) == 0 && m.open(s) {
		s.queue = append(s.queue, q)
		m.fill(s)
		return true
	}
	if !m.room(s, q) {
		return false
	}
	s.queue = append(s.queue, q)
	m.fill(s)
	return true
}

func (m *model) room(s *mSession, q mQueued) bool {
	fits := func() bool {
		n, bytes := len(s.queue), sizeOf(q.msg)
		for _, x := range s.queue {
			bytes += sizeOf(x.msg)
		}
		for _, h := range s.holds {
			for _, x := range h.held {
				n, bytes = n+1, bytes+sizeOf(x.msg)
			}
		}
		return (m.set.MaxQueueMessages == 0 || n < int(m.set.MaxQueueMessages)) &&
			(m.set.MaxQueueBytes == 0 || bytes <= int64(m.set.MaxQueueBytes))
	}
	if fits() {
		return true
	}
	for len(s.queue) > 0 && s.queue[0].msg.HasExpiry && s.queue[0].msg.Expiry <= m.time {
		s.queue = s.queue[1:]
		m.drop(s, s.class(), Expired, 1)
	}
	if m.set.QueueFull == logpb.QueueFull_DROP_OLDEST && (m.set.MaxQueueBytes == 0 || sizeOf(q.msg) <= int64(m.set.MaxQueueBytes)) {
		n := len(s.queue)
		for len(s.queue) > 0 && !fits() {
			s.queue = s.queue[1:]
		}
		m.drop(s, s.class(), QueueFull, uint64(n-len(s.queue)))
	}
	if fits() {
		return true
	}
	m.drop(s, s.class(), QueueFull, 1)
	return false
}

// windowOpen counts what was sent on this connection and is not acknowledged.
func (m *model) windowOpen(s *mSession) bool {
	var n, bytes int64
	for _, f := range s.inflight {
		if f.counts {
			n++
			if !f.pubrec {
				bytes += sizeOf(f.msg)
			}
		}
	}
	window := int64(65535)
	if s.c.Window != 0 {
		window = int64(s.c.Window)
	}
	if m.set.MaxInflight != 0 {
		window = min(window, int64(m.set.MaxInflight))
	}
	return n < window && (m.set.MaxInflightBytes == 0 || n == 0 || bytes < int64(m.set.MaxInflightBytes))
}

// open: all old flows are sent again and there is room for a new one.
func (m *model) open(s *mSession) bool {
	return s.owner != 0 && !slices.ContainsFunc(s.inflight, func(f *mFlight) bool { return f.sent != s.epoch }) && m.windowOpen(s)
}

func (m *model) tooLarge(s *mSession, q mQueued) bool {
	size := 6 + len(q.msg.Topic) + len(q.msg.Payload)
	if s.c.Protocol >= 5 {
		size += 1 + len(q.msg.Props)
	}
	return s.c.MaxPacket != 0 && size > int(s.c.MaxPacket)
}

func (m *model) fill(s *mSession) {
	if s.owner == 0 {
		return
	}
	for _, f := range slices.Clone(s.inflight) {
		if f.sent == s.epoch {
			continue
		}
		if !f.pubrec && m.tooLarge(s, f.mQueued) {
			m.drop(s, s.class(), TooLarge, 1)
			s.inflight = slices.DeleteFunc(s.inflight, func(x *mFlight) bool { return x == f })
			continue
		}
		if !f.pubrec && !m.windowOpen(s) {
			break
		}
		f.sent, f.counts = s.epoch, !f.pubrec
		m.push(s, m.delivery(s, f))
	}
	for len(s.queue) > 0 && m.open(s) {
		q := s.queue[0]
		s.queue = s.queue[1:]
		switch {
		case q.msg.HasExpiry && q.msg.Expiry <= m.time:
			m.drop(s, s.class(), Expired, 1)
			continue
		case m.tooLarge(s, q):
			m.drop(s, s.class(), TooLarge, 1)
			continue
		}
		for used := true; used; {
			s.lastID++
			used = s.lastID == 0 || slices.ContainsFunc(s.inflight, func(f *mFlight) bool { return f.id == s.lastID })
		}
		s.lastSeq++
		f := &mFlight{mQueued: q, seq: s.lastSeq, id: s.lastID, first: s.epoch, sent: s.epoch, counts: true}
		s.inflight = append(s.inflight, f)
		m.push(s, m.delivery(s, f))
	}
}

func (m *model) delivery(s *mSession, f *mFlight) Delivery {
	if f.pubrec {
		return Delivery{Seq: f.seq, PacketID: f.id, QoS: 2, Release: true}
	}
	return Delivery{
		Seq: f.seq, PacketID: f.id, QoS: byte(f.qos), Dup: f.first != s.epoch,
		Retained: f.retained, SubscriptionIDs: f.ids, Message: f.msg,
	}
}

func (m *model) push(s *mSession, d Delivery) {
	c := Connection{s.id, s.owner, s.epoch}
	for i := range m.e.Push {
		if m.e.Push[i].Connection == c {
			m.e.Push[i].Items = append(m.e.Push[i].Items, d)
			return
		}
	}
	m.e.Push = append(m.e.Push, Push{c, []Delivery{d}})
}

func (m *model) acks(s *mSession, op *logpb.Acks) {
	remove := func(ids []uint32, ok func(*mFlight) bool) {
		for _, id := range ids {
			n := len(s.inflight)
			s.inflight = slices.DeleteFunc(s.inflight, func(f *mFlight) bool { return uint32(f.id) == id && ok(f) })
			if len(s.inflight) == n {
				m.unknownAcks++
			}
		}
	}
	remove(op.Pubacks, func(f *mFlight) bool { return f.qos == 1 })
	remove(op.FailedPubrecs, func(f *mFlight) bool { return f.qos == 2 && !f.pubrec })
	for _, id := range op.Pubrecs {
		i := slices.IndexFunc(s.inflight, func(f *mFlight) bool { return uint32(f.id) == id && f.qos == 2 })
		if i < 0 {
			m.unknownAcks++
			continue
		}
		s.inflight[i].pubrec = true
	}
	remove(op.Pubcomps, func(f *mFlight) bool { return f.pubrec })
	m.fill(s)
}

func (m *model) attach(id string, epoch, position uint64) (push []Push, ok bool) {
	s := m.sessions[id]
	if s == nil || s.owner == 0 || s.epoch != epoch {
		return nil, false
	}
	var items []Delivery
	for _, f := range s.inflight {
		if f.sent == s.epoch && f.seq > position {
			items = append(items, m.delivery(s, f))
		}
	}
	sort.Slice(items, func(i, j int) bool { return items[i].Seq < items[j].Seq })
	if items != nil {
		push = []Push{{Connection{id, s.owner, epoch}, items}}
	}
	return push, true
}
