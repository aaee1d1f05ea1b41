package fsm

import "github.com/flotilla-mqtt/flotilla/proto/logpb"

// Status says what became of a lane op.
type Status byte

// What became of a lane op (design §4).
const (
	// Taken: the mark has moved to the op's number; Code says how it went.
	Taken Status = iota
	// Duplicate: the op was taken before; the result is that of the first time.
	Duplicate
	// Gap: an item before this one is missing; nothing has changed.
	Gap
	// Closed: the source gateway's incarnation has been ended; nothing has changed.
	Closed
)

// Result codes. Those of 0x80 and above are MQTT 5 reason codes.
const (
	// CodeOK is the default result.
	CodeOK uint32 = 0
	// CodeFenced: the epoch is not that of the session's current owner.
	CodeFenced uint32 = 1
	// CodePending: the flow goes on; it ends with an entry in Effects.Completed.
	CodePending uint32 = 2
	// CodeProtocolError: the op makes no sense, e.g. a packet id of 0.
	CodeProtocolError uint32 = 0x82
	// CodeFilterInvalid: the topic filter is malformed.
	CodeFilterInvalid uint32 = 0x8F
	// CodeUnknownPacketID: no flow has this packet id.
	CodeUnknownPacketID uint32 = 0x92
	// CodeQuota: there is no room for the message or subscription.
	CodeQuota uint32 = 0x97
)

// Outcome is what one entry brought.
type Outcome struct {
	// Results has one element per LaneOp of the entry, in order; ops of the
	// leader included (Source and Seq 0).
	Results []Result
	Effects Effects
}

// Result is the answer to one op.
type Result struct {
	Source, Seq uint64
	Status      Status
	Code        uint32
	// Bytes is an encoded ConnectResult, SubscribeResult or UnsubscribeResult;
	// nil for other ops and for refused ones.
	Bytes []byte
}

// Effects is what the leader has to do now. Everything in it is immutable.
type Effects struct {
	// Push holds new deliveries for sessions with an owner: at most one Push per
	// connection, its items in sending order. The order between sessions means
	// nothing.
	Push []Push
	// Outbox holds the new outbox items by Seq.
	Outbox []*OutboxItem
	// Shared holds messages for members of groups at QoS 0, to be tried once: these
	// connections need not be of sessions of this partition.
	Shared []Push
	// Completed: these PUBCOMPs may go out.
	Completed []Completed
	// Kick: these connections lost their session and must be closed.
	Kick []Connection
	// OwnerGone: these previous owners complete nothing any more.
	OwnerGone []Connection
	// Interest holds the filters that the entry touched at the edge between no
	// and one subscriber, sorted, with their state after the entry. It is empty
	// exactly if Version did not grow.
	Interest []InterestChange
	// Version is the interest's version after the entry.
	Version uint64
	// Closed: gateway incarnations that the entry closed, as named in the op.
	Closed []uint64
	// Checkpoint is the id of the last Checkpoint op in the entry; 0: none.
	Checkpoint uint64
	// Dropped tells what was dropped, for metrics and the log.
	Dropped []Drop
}

// Connection is one connection's ownership of a session.
type Connection struct {
	ClientID string
	Gateway  uint64
	Epoch    uint64
}

// Completed ends the flow of a retained QoS 2 message: its retained partition has it.
type Completed struct {
	Connection
	PacketID uint16
}

// InterestChange is the state of one filter in the partition's interest.
type InterestChange struct {
	Filter string
	Added  bool // false: nobody here wants it any more
	Groups bool // some group wants it, and messages of QoS 0 as well
}

// Push brings deliveries to the connection that owns a session.
type Push struct {
	Connection
	Items []Delivery
}

// Delivery is one step of an outgoing flow.
type Delivery struct {
	// Seq orders the deliveries of one session, strictly growing; 0 for QoS 0.
	Seq      uint64
	PacketID uint16 // 0 for QoS 0
	QoS      byte
	// Release: write PUBREL; Message is nil.
	Release bool
	// Dup: the message may have been sent on an earlier connection [MQTT-3.3.1-1].
	Dup bool
	// Retained is the RETAIN flag to send [MQTT-3.3.1-8], [MQTT-3.3.1-12].
	Retained        bool
	SubscriptionIDs []uint32
	// Message is a message of the state: its expiry is a deadline on the
	// partition's clock. Do not change it.
	Message *logpb.Message
}

// OutboxItem is a message that the partition has committed to hand on. It is
// immutable: a change of state makes a new one.
type OutboxItem struct {
	Seq     uint64
	Message *logpb.Message // expiry: deadline on the partition's clock
	// AfterClose is the gateway incarnation that a destination must close before
	// it takes the message; 0: none.
	AfterClose uint64
	// WaitClient and WaitPacketID name the session flow that waits for the
	// retained partition; empty: none.
	WaitClient   string
	WaitPacketID uint16
	// Stored: the retained partition has the message (also if it is this one).
	Stored bool
	// Group, if it is not empty, is for Destination alone, a partition or gateway;
	// there is no Message then. The expiry of messages in it is a deadline on the
	// partition's clock.
	Group       []*logpb.GroupItem
	Destination uint64

	msg  *message
	msgs []*message // of Group's elements; nil: it has none
	size int64      // of msgs
}

// Class is the class of session in which something was dropped.
type Class byte

// The classes of sessions.
const (
	ConnectedSession Class = iota
	OfflineSession
	// SharedGroup is no session but a group, with what it has not assigned yet.
	SharedGroup
	classes
)

// String is the metric label of the class.
func (c Class) String() string { return [...]string{"connected", "offline", "shared"}[c] }

// Reason says why something was dropped.
type Reason byte

// The reasons for dropping.
const (
	// QueueFull: a queue limit was reached.
	QueueFull Reason = iota
	// Expired: the message expiry interval had passed.
	Expired
	// TooLarge: the message cannot fit the client's Maximum Packet Size.
	TooLarge
	// SessionExpired: the session ended with messages still queued.
	SessionExpired
	// CleanStart: the client asked for a new session.
	CleanStart
	// SessionDeleted: an operator deleted the session.
	SessionDeleted
	// GroupEnded: the last member left with messages still queued in the group.
	GroupEnded
	// InDelivery: a QoS 2 message was on its way to a member of a group whose gateway
	// has ended, and may have come there [MQTT-4.8.2-5].
	InDelivery
	reasons
)

// String is the metric label of the reason.
func (r Reason) String() string {
	return [...]string{"queue_full", "expired", "too_large", "session_expired", "clean_start", "session_deleted",
		"group_ended", "in_delivery"}[r]
}

// Drop counts messages of one session, or of one group, that were dropped for one
// reason.
type Drop struct {
	ClientID string
	Group    string // filter with its $share prefix; then there is no ClientID
	Class    Class
	Reason   Reason
	N        uint64
	// First: it is the session's or group's first drop for a limit (not for its own end),
	// the one to be logged.
	First bool
}
