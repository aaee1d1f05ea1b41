package fsm

import (
	"errors"
	"fmt"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// Format is the version of entries and snapshots.
const Format = 1

// maxPacketIDs is how many packet ids there are, and the greatest of them.
const maxPacketIDs = 65535

// Errors of Apply. Each means that replicas may no longer agree: the process must stop.
var (
	// ErrFormat: an entry or snapshot of a version this release does not know.
	ErrFormat = errors.New("fsm: unknown format")
	// ErrUnknownOp: an op of a later release.
	ErrUnknownOp = errors.New("fsm: unknown op")
	// ErrMalformed: an entry, op or snapshot that cannot be what was written.
	ErrMalformed = errors.New("fsm: malformed")
	// ErrOrder: an index or a time that goes back.
	ErrOrder = errors.New("fsm: out of order")
	// ErrBroken: an earlier Apply failed.
	ErrBroken = errors.New("fsm: stopped by an earlier error")
)

// Apply carries out one log entry, an encoded logpb.Entry. It does not keep data.
// After an error the state is not to be trusted, and every further Apply fails.
func (m *Machine) Apply(index uint64, data []byte) (*Outcome, error) {
	if m.broken != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, m.broken)
	}
	out, err := m.apply(index, data)
	if err != nil {
		m.broken = fmt.Errorf("entry %d of partition %d: %w", index, m.partition, err)
		return nil, m.broken
	}
	return out, nil
}

func (m *Machine) apply(index uint64, data []byte) (*Outcome, error) {
	entry := &logpb.Entry{}
	if err := entry.UnmarshalVTUnsafe(data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	switch {
	case entry.Format != Format:
		return nil, fmt.Errorf("%w: entry format %d", ErrFormat, entry.Format)
	case index <= m.applied:
		return nil, fmt.Errorf("%w: index %d after %d", ErrOrder, index, m.applied)
	case entry.Time < m.time:
		return nil, fmt.Errorf("%w: time %d after %d", ErrOrder, entry.Time, m.time)
	}
	m.applied, m.time = index, entry.Time
	if mutant.ReadsClock {
		m.time = mutant.Clock()
	}
	out := &Outcome{Results: make([]Result, 0, len(entry.Ops))}
	m.effects = &out.Effects
	for _, op := range entry.Ops {
		r, err := m.applyOp(op)
		if err != nil {
			return nil, err
		}
		out.Results = append(out.Results, r)
	}
	for _, c := range entry.Confirms {
		m.confirm(c)
	}
	m.settleInterest()
	m.effects = nil
	clear(m.posts)
	return out, nil
}

// applyOp admits one op to its lane and carries it out. Also ops that are not
// taken must be of a kind that is known: replicas stop at the same entry.
func (m *Machine) applyOp(lop *logpb.LaneOp) (Result, error) {
	op, err := m.decoder.decode(lop.Op, lop.Source, lop.IsLeader)
	if err != nil {
		return Result{}, err
	}
	if lop.IsLeader {
		r := Result{Code: lop.Refuse}
		if lop.Refuse == 0 {
			r.Code = m.leaderOp(op)
			m.runPosted()
		}
		return r, nil
	}
	r := m.admit(lop)
	if r.Status != Taken {
		return r, nil
	}
	if r.Code = lop.Refuse; r.Code == 0 || m.holds(op) {
		r.Code, r.Bytes = m.laneOp(lop.Source, op)
		m.runPosted()
	}
	m.remember(&r)
	return r, nil
}

// laneOp carries out an op that came over a lane.
func (m *Machine) laneOp(source uint64, op any) (code uint32, result []byte) {
	switch op := op.(type) {
	case *logpb.Publish:
		code = m.publish(source, op)
	case *logpb.Acks:
		code = m.acks(op)
	case *logpb.Receive:
		code = m.receive(op)
	case *logpb.Release:
		code = m.release(op)
	case *logpb.RetainedAnswer:
		code = m.retainedAnswer(op)
	case *logpb.Connect:
		code, result = m.connect(source, op)
	case *logpb.Disconnect:
		code = m.disconnect(op)
	case *logpb.Subscribe:
		code, result = m.subscribe(op)
	case *logpb.Unsubscribe:
		code, result = m.unsubscribe(op)
	case *logpb.Group:
		code, result = m.group(source, op)
	}
	return code, result
}

// leaderOp carries out an op of the leader itself.
func (m *Machine) leaderOp(op any) (code uint32) {
	switch op := op.(type) {
	case *logpb.Lead:
		if op.Settings != nil {
			m.settings = op.Settings
		}
		if mutant.DedupeOnNode {
			m.forgetInbound(func(*session) bool { return true })
		}
	case *logpb.CloseGateway:
		m.closeGateway(op.Gateway)
	case *logpb.OutboxDone:
		m.outboxDone(op)
	case *logpb.Tick:
		m.tick()
	case *logpb.OwnerClosed:
		m.ownersClosed(op)
	case *logpb.Checkpoint:
		m.effects.Checkpoint = op.Id
		if mutant.DedupeExpires {
			m.forgetInbound(func(s *session) bool { return s.owner == 0 })
		}
	case *logpb.DeleteSession:
		code = m.deleteSession(op.ClientId)
	}
	return code
}
