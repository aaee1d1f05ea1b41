package fsm

// Stats is what a partition holds. Counters are kept as it goes on; drops and
// unknown acknowledgements count from the machine's creation or restore.
type Stats struct {
	Sessions      int // stored or connected
	Connected     int
	Ephemeral     int // of the connected ones
	Queued        int // messages in queues, held ones included
	QueuedBytes   int64
	Inflight      int // outgoing flows
	Inbound       int // QoS 2 packet ids held
	Retained      int
	RetainedBytes int64
	Outbox        int
	OutboxBytes   int64
	Subscriptions int
	Filters       int // distinct filters in the interest

	Groups           int // shared subscriptions
	Members          int // of all groups
	GroupQueued      int // messages that wait in groups for a member
	GroupQueuedBytes int64
	GroupAssigned    int // messages that members have not acknowledged

	Bytes       int64
	UnknownAcks uint64
	Dropped     [classes][reasons]uint64
}

// Classes and Reasons enumerate the indices of Stats.Dropped.
const (
	Classes = classes
	Reasons = reasons
)

// Stats counts what the partition holds. It is cheap.
func (m *Machine) Stats() Stats {
	s := m.stats
	s.Outbox, s.Filters = len(m.outbox), len(m.interest)
	return s
}

// Bytes is the approximate memory of the messages held in queues, flows, outbox
// and retained store, each counted once however many sessions share it.
func (m *Machine) Bytes() int64 { return m.stats.Bytes }
