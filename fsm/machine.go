package fsm

import (
	"io"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

type message struct{}

// Machine is one partition's state machine.
type Machine struct {
	partition, partitions uint32
	applied               uint64
	time                  int64
}

// New returns the empty state machine of a partition.
func New(partition, partitions uint32) *Machine {
	return &Machine{partition: partition, partitions: partitions}
}

// Apply carries out one log entry (an encoded logpb.Entry).
func (m *Machine) Apply(index uint64, data []byte) (*Outcome, error) { return &Outcome{}, nil }

// Applied is the index of the last applied entry.
func (m *Machine) Applied() uint64 { return m.applied }

// Time is the partition's clock, in milliseconds.
func (m *Machine) Time() int64 { return m.time }

// Pending is what a new leader has to do: Outbox, Kick and Version are filled.
// Deliveries are not in it: gateways ask for them (Attach).
func (m *Machine) Pending() *Effects { return &Effects{} }

// Attach returns the deliveries of a session after a position.
func (m *Machine) Attach(clientID string, epoch, position uint64) (push []Push, ok bool) {
	return nil, false
}

// Releasing tells whether a released packet id still waits for its retained partition.
func (m *Machine) Releasing(clientID string, epoch uint64, packetID uint16) bool { return false }

// Mark is the number of the last item taken from a source.
func (m *Machine) Mark(source uint64) (mark uint64, closed bool) { return 0, false }

// StoredResults are the unconfirmed results of a source with Seq > after.
func (m *Machine) StoredResults(source uint64, after uint64) []Result { return nil }

// RetainedMatch visits the retained messages that match a filter.
func (m *Machine) RetainedMatch(filter string, fn func(*logpb.Message) bool) {}

// Interest is the partition's whole interest.
func (m *Machine) Interest() (version uint64, filters func(fn func(filter string))) {
	return 0, func(func(string)) {}
}

// NextDeadline is when the next Tick is due.
func (m *Machine) NextDeadline() (at int64, ok bool) { return 0, false }

// Owners visits the gateways that own sessions, or have marks or previous-owner entries.
func (m *Machine) Owners(fn func(gateway uint64, sessions int)) {}

// Stats counts what the partition holds.
func (m *Machine) Stats() Stats { return Stats{} }

// Bytes is the approximate memory of the messages held.
func (m *Machine) Bytes() int64 { return 0 }

// Snapshot freezes the state.
func (m *Machine) Snapshot() *Snapshot { return &Snapshot{} }

// Snapshot is a frozen state.
type Snapshot struct{}

// WriteTo writes the snapshot.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return 0, nil }

// Applied is the index of the last entry in the snapshot.
func (s *Snapshot) Applied() uint64 { return 0 }

// Digest is the SHA-256 of what WriteTo writes.
func (s *Snapshot) Digest() [32]byte { return [32]byte{} }

// Release lets go of the frozen state.
func (s *Snapshot) Release() {}

// Restore reads a snapshot.
func Restore(partition, partitions uint32, r io.Reader) (*Machine, error) {
	return New(partition, partitions), nil
}

// PartitionOf maps a client id or topic to its partition.
func PartitionOf(key string, partitions uint32) uint32 { return 0 }

// Validate checks an encoded op before a leader proposes it.
func Validate(op []byte, isLeader bool) error { return nil }
