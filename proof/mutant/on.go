//go:build mutants

package mutant

import (
	"math/rand/v2"
	"os"
	"time"
)

// chosen is the mutant that this process is; it never changes.
var chosen = os.Getenv(Variable)

// The mutants, in the order of the alphabet. What each breaks is told in its line.
var (
	// AckBeforeCommit: PUBACK goes out when the message is on its way to the partitions.
	AckBeforeCommit = chosen == "ack-before-commit"
	// CommitWithoutSync: log and marks are written, but not fsynced.
	CommitWithoutSync = chosen == "commit-without-fsync"
	// DedupeClearedAtConnect: the QoS 2 ids that a client has in use go when it connects.
	DedupeClearedAtConnect = chosen == "dedupe-cleared-at-connect"
	// DedupeExpires: the QoS 2 ids of a client that is away for a while are swept away.
	DedupeExpires = chosen == "dedupe-expires"
	// DedupeOnNode: only the leader's memory knows which QoS 2 ids are in use.
	DedupeOnNode = chosen == "dedupe-on-node"
	// DeposedLeaderGrants: the control group's leader grants leases without asking a quorum.
	DeposedLeaderGrants = chosen == "deposed-leader-grants"
	// ExpiredLeaseTrusted: a node goes on when its lease has run out.
	ExpiredLeaseTrusted = chosen == "expired-lease-trusted"
	// FirstResultForgotten: a repeated op is answered "done", not with its first result.
	FirstResultForgotten = chosen == "first-result-forgotten"
	// MarkApart: a lane's mark moves when the source confirms, not with the op's effect.
	MarkApart = chosen == "mark-apart"
	// MarksForgotten: with a gateway's end all that is known of it goes.
	MarksForgotten = chosen == "marks-forgotten"
	// NewIDOnRedelivery: what is sent again on a new connection gets a new packet id.
	NewIDOnRedelivery = chosen == "new-id-on-redelivery"
	// PacketIDOutsideApply: each replica chooses packet ids by itself.
	PacketIDOutsideApply = chosen == "packet-id-outside-apply"
	// PubrelBeforeCommit: PUBREL answers PUBREC before the partition has stored that.
	PubrelBeforeCommit = chosen == "pubrel-before-commit"
	// PubrelStateLost: a new connection gets no PUBREL for what the old one left open.
	PubrelStateLost = chosen == "pubrel-state-lost"
	// QoS2InMemory: PUBREC goes out while the message is in this node's memory only.
	QoS2InMemory = chosen == "qos2-in-memory"
	// RangesOverMap: the state is written in the order of a map.
	RangesOverMap = chosen == "ranges-over-map"
	// ReadsClock: apply takes the time from the process instead of the entry.
	ReadsClock = chosen == "reads-clock"
	// RetainedFromFollower: retained messages are read from whatever replica is nearest.
	RetainedFromFollower = chosen == "retained-from-follower"
	// ShortLogAccepted: a log that ends before its high-water mark is taken as it is.
	ShortLogAccepted = chosen == "short-log-accepted"
	// SnapshotWithoutInbound: a snapshot lacks the QoS 2 ids that are in use.
	SnapshotWithoutInbound = chosen == "snapshot-without-inbound"
	// SnapshotWithoutMarks: a snapshot lacks the marks of lanes.
	SnapshotWithoutMarks = chosen == "snapshot-without-marks"
	// SubackEarly: SUBACK goes out before every member routes by the subscription.
	SubackEarly = chosen == "suback-early"
	// TakeoverUnfenced: CONNACK does not wait for the end of the old connection.
	TakeoverUnfenced = chosen == "takeover-unfenced"
	// UnadmittedVotes: a replica on an empty disk votes, under its old name.
	UnadmittedVotes = chosen == "unadmitted-votes"
	// UnsubackEarly: UNSUBACK goes out before the unsubscription is committed.
	UnsubackEarly = chosen == "unsuback-early"
	// WillDroppedWithNode: wills of a dead node's clients are not published.
	WillDroppedWithNode = chosen == "will-dropped-with-node"
)

// Outside returns what no replica can agree on: a number of this process.
func Outside() uint64 { return rand.Uint64() }

// Clock returns this process's clock in milliseconds.
func Clock() int64 { return time.Now().UnixMilli() }
