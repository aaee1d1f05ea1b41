package fsm

import (
	"maps"
	"slices"

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
	oldWills              map[Connection]*logpb.Will // of previous owners
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
			m.e.Interest = append(m.e.Interest, InterestChange{Filter: f, Added: m.interest()[f]})
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
	if op.Refuse != 0 && !m.holds(body) {
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
			}, true, 0)
		}
	case *logpb.DeleteSession:
		if s := m.sessions[op.ClientId]; s != nil && s.exists {
			m.kick(s, false)
			m.end(s, SessionDeleted)
		}
	}
	return CodeOK
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
