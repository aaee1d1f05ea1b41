package control

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// opFormat and snapshotFormat are the formats this release writes.
const (
	opFormat       = 1
	snapshotFormat = 1
)

// machine is the group's state machine. Raft calls it from one goroutine.
type machine struct {
	state   *State
	publish func(*State)
	fatal   func(error)
	broken  atomic.Bool // met something it does not know: it has stopped
}

// Apply returns a result. It is deterministic: no clock, no randomness.
func (m *machine) Apply(entry *raft.Log) any {
	if m.broken.Load() {
		return result{code: ctlpb.Code_REFUSED}
	}
	op := new(ctlpb.Op)
	if err := op.UnmarshalVT(entry.Data); err != nil {
		return m.stop(fmt.Errorf("control: log entry %d: %w", entry.Index, err))
	}
	if op.Format != opFormat || op.Body == nil {
		return m.stop(fmt.Errorf("%w (log entry %d, format %d)", ErrUnknownOp, entry.Index, op.Format))
	}
	next, res, err := m.state.apply(entry.Index, entry.Term, op)
	if err != nil {
		return m.stop(err)
	}
	if next != m.state {
		m.state = next
		m.publish(next)
	}
	return res
}

// stop ends this replica: it must not guess what the entry means.
func (m *machine) stop(err error) any {
	m.broken.Store(true)
	m.fatal(err)
	return result{code: ctlpb.Code_REFUSED, detail: err.Error()}
}

// Snapshot shares the immutable state.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if m.broken.Load() {
		return nil, errors.New("control: the state machine has stopped")
	}
	return snapshot{m.state}, nil
}

// Restore replaces the state by a snapshot.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s, err := decodeState(data)
	if err != nil {
		m.stop(err)
		return err
	}
	m.state = s
	m.publish(s)
	return nil
}

type snapshot struct{ state *State }

// Persist writes the state.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	data, err := encodeState(s.state)
	if err == nil {
		_, err = sink.Write(data)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release has nothing to do.
func (s snapshot) Release() {}
