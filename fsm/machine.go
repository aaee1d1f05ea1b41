package fsm

import (
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// Machine is one partition's state machine. It is for one goroutine at a time.
type Machine struct {
	partition, partitions uint32

	// State: what a snapshot holds.

	applied   uint64
	time      int64 // partition clock, milliseconds
	settings  *logpb.Settings
	lastEpoch uint64
	lastStamp uint64 // of a GroupMember
	outboxSeq uint64
	version   uint64                // of the interest
	slots     map[string]*slot      // by client id
	groups    map[string]*groupSlot // by filter, with its $share prefix
	lanes     map[uint64]*lane      // by source
	closed    map[uint64]uint64     // highest closed incarnation by node
	outbox    map[uint64]*OutboxItem
	retained  topic.Store[*retained]

	// Indices: they follow from the state.

	list         []*session // list[i] is places[i].s: what Snapshot copies
	places       []*slot
	lastOrder    uint64
	tree         topic.Tree[uint64, subRef]
	groupTree    topic.Tree[uint64, *groupSlot] // by the filter that messages must match
	interest     map[string]wants               // by filter
	gateways     map[uint64]gatewayRefs
	timers       timers
	expiries     expiries
	retainedList []*message // retainedList[i] is retainedAt[i].msg
	retainedAt   []*retained
	stats        Stats

	// gen grows with each snapshot; sessions of an older one are copied before
	// they are changed.
	gen    uint64
	broken error // why the machine stopped

	// Scratch, meaningful only within one Apply.

	decoder   decoder
	effects   *Effects
	touched   map[string]struct{} // filters at an edge of the interest
	hits      []hit
	hitSerial uint64
	matching  string // publisher of the message that is being matched
	onMatch   func(filter string, key uint64, ref subRef)
	groupHits []*groupSlot
	onGroup   func(filter string, key uint64, sl *groupSlot)
	posts     map[uint64]*OutboxItem // by destination: what this entry has for it
	local     []posted               // for this partition
}

// New returns the empty state machine of a partition: partition is below partitions.
func New(partition, partitions uint32) *Machine {
	m := &Machine{
		partition: partition, partitions: partitions,
		settings: &logpb.Settings{},
		slots:    map[string]*slot{},
		lanes:    map[uint64]*lane{},
		closed:   map[uint64]uint64{},
		outbox:   map[uint64]*OutboxItem{},
		interest: map[string]wants{},
		groups:   map[string]*groupSlot{},
		posts:    map[uint64]*OutboxItem{},
		gateways: map[uint64]gatewayRefs{},
		touched:  map[string]struct{}{},
	}
	m.onMatch = m.matched
	m.onGroup = func(_ string, _ uint64, sl *groupSlot) { m.groupHits = append(m.groupHits, sl) }
	return m
}

// Applied is the index of the last applied entry; 0: none.
func (m *Machine) Applied() uint64 { return m.applied }

// Time is the partition's clock: the stamp of the last applied entry, in
// milliseconds.
func (m *Machine) Time() int64 { return m.time }

// Settings are those of the last Lead; the caller must not change them.
func (m *Machine) Settings() *logpb.Settings { return m.settings }
