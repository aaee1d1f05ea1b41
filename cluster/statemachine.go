package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/fsm"
)

// stateMachine is a partition's fsm.Machine behind raft.FSM. Raft's goroutine
// applies; the leader reads in between.
type stateMachine struct {
	partition, partitions uint32
	fatal                 func(error)

	mu sync.Mutex
	m  *fsm.Machine // guarded by mu
	// lead is this node's leadership of the partition, if any: it is told of
	// every entry from its own first one on. Guarded by mu.
	lead *leader
	// checkpointed is the index of the last Checkpoint applied. Guarded by mu.
	checkpointed uint64

	// installed counts snapshots that a leader sent; set when the replica runs.
	installed atomic.Pointer[atomic.Uint64]

	frozen chan *fsm.Snapshot // states at checkpoints, to be digested
}

func newStateMachine(partition, partitions uint32, fatal func(error)) *stateMachine {
	return &stateMachine{partition: partition, partitions: partitions, fatal: fatal, m: fsm.New(partition, partitions),
		frozen: make(chan *fsm.Snapshot, 1)}
}

// errNewer says what to do about data that this release does not know.
var errNewer = errors.New("a newer release wrote this: start that release, or a newer one, on this data folder")

// explain adds to an error of the state machine what to do about it.
func explain(err error) error {
	if errors.Is(err, fsm.ErrFormat) || errors.Is(err, fsm.ErrUnknownOp) {
		return fmt.Errorf("%w: %w", errNewer, err)
	}
	return err
}

// Apply carries out an entry. An entry that cannot be applied ends the process:
// going on would make this replica differ from the others.
func (s *stateMachine) Apply(l *raft.Log) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := s.m.Apply(l.Index, l.Data)
	if err != nil {
		err = explain(err)
		s.fatal(err)
		return err
	}
	if out.Effects.Checkpoint != 0 {
		s.freeze(l.Index)
	}
	ld := s.lead
	if ld == nil {
		return nil
	}
	if !ld.barrier {
		if !bytes.Equal(l.Data, ld.firstEntry) {
			return nil // of an earlier leader: Pending covers it
		}
		ld.barrier = true
		ld.box.put(event{started: s.m.Pending(), outcome: out})
		return nil
	}
	ld.box.put(event{outcome: out})
	return nil
}

// freeze keeps the state for digestLoop. While that is busy with an earlier one,
// as when a log is replayed, this one is left out. Called with mu held.
func (s *stateMachine) freeze(index uint64) {
	s.checkpointed = index
	if len(s.frozen) < cap(s.frozen) { // nobody else sends
		s.frozen <- s.m.Snapshot()
	}
}

// setLeader makes ld the one who is told of entries; nil: nobody.
func (s *stateMachine) setLeader(ld *leader) {
	s.mu.Lock()
	s.lead = ld
	s.mu.Unlock()
}

// read runs fn on the state, between two entries.
func (s *stateMachine) read(fn func(*fsm.Machine)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(s.m)
}

// Snapshot freezes the state; it is written while the machine goes on.
func (s *stateMachine) Snapshot() (raft.FSMSnapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return snapshot{s.m.Snapshot()}, nil
}

// Restore replaces the state by a snapshot.
func (s *stateMachine) Restore(r io.ReadCloser) error {
	defer r.Close()
	m, err := fsm.Restore(s.partition, s.partitions, r)
	if err != nil {
		if err = explain(err); errors.Is(err, errNewer) {
			s.fatal(err) // Raft would try another snapshot, or the same one for ever
		}
		return err
	}
	s.mu.Lock()
	s.m = m
	s.mu.Unlock()
	if c := s.installed.Load(); c != nil {
		c.Add(1)
	}
	return nil
}

// snapshot is a frozen state on its way to disk.
type snapshot struct{ s *fsm.Snapshot }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.s.WriteTo(sink); err != nil {
		_ = sink.Cancel() // the error that made it useless is the one that counts
		return err
	}
	return sink.Close()
}

func (s snapshot) Release() { s.s.Release() }
