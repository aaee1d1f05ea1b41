//go:build !mutants

package mutant

// In a build that is not made for this every mutant is the constant false: the compiler
// leaves no trace of the places that ask.
const (
	AckBeforeCommit        = false
	CommitWithoutSync      = false
	DedupeClearedAtConnect = false
	DedupeExpires          = false
	DedupeOnNode           = false
	DeposedLeaderGrants    = false
	ExpiredLeaseTrusted    = false
	FirstResultForgotten   = false
	MarkApart              = false
	MarksForgotten         = false
	NewIDOnRedelivery      = false
	PacketIDOutsideApply   = false
	PubrelBeforeCommit     = false
	PubrelStateLost        = false
	QoS2InMemory           = false
	RangesOverMap          = false
	ReadsClock             = false
	RetainedFromFollower   = false
	ShortLogAccepted       = false
	SnapshotWithoutInbound = false
	SnapshotWithoutMarks   = false
	SubackEarly            = false
	TakeoverUnfenced       = false
	UnadmittedVotes        = false
	UnsubackEarly          = false
	WillDroppedWithNode    = false
)

// Outside returns what no replica can agree on: a number of this process.
func Outside() uint64 { return 0 }

// Clock returns this process's clock in milliseconds.
func Clock() int64 { return 0 }
