// Package flow is the vocabulary between a gateway, which terminates MQTT, and
// the cluster, which keeps sessions and moves messages: plain values, no
// behaviour. Package mqtt speaks it from above, package cluster from below, so
// that neither needs to import the other.
package flow

import "errors"

// QoS levels.
const (
	AtMostOnce  byte = 0
	AtLeastOnce byte = 1
	ExactlyOnce byte = 2
)

// NeverExpires is the session expiry interval that means "no expiry"
// [MQTT 5.0 3.1.2.11.2].
const NeverExpires uint32 = 0xFFFFFFFF

// MessageID names one accepted application message in the whole cluster, for
// ever. Source is the lane source that first carried it (a partition or a
// gateway incarnation), Seq its number there.
type MessageID struct {
	Source uint64
	Seq    uint64
}

// Message is one application message on its way through the cluster. It is
// immutable once handed on: receivers share it.
type Message struct {
	ID      MessageID
	Topic   string
	Payload []byte
	QoS     byte // as published
	Retain  bool // the RETAIN flag as published
	// Props are the MQTT 5 properties that go to subscribers unaltered (payload
	// format, content type, response topic, correlation data, user
	// properties), already in wire form.
	Props []byte
	// HasExpiry says that the publisher set a message expiry interval. Expiry is
	// what is left of it, in milliseconds, at the time the message changes hands.
	HasExpiry bool
	Expiry    int64
	// Publisher is the client id of the publishing client, for No Local
	// [MQTT-3.8.3-3]. Empty for messages that no client published.
	Publisher string
}

// Will is the message a session leaves behind [MQTT-3.1.2-8].
type Will struct {
	Message Message
	Delay   uint32 // seconds; 0 on 3.1.1
}

// Connect asks for a session on behalf of a new connection.
type Connect struct {
	ClientID   string
	Username   string
	Protocol   byte // 3, 4 or 5
	CleanStart bool
	// Expiry is the session expiry interval in seconds. A 3.1 or 3.1.1 client
	// has 0 with clean session and NeverExpires without.
	Expiry uint32
	// Window is how many QoS 1 and 2 messages may be in flight to the client
	// at once (its Receive Maximum, capped by ours); 1..65535.
	Window uint16
	// MaxPacket is the client's Maximum Packet Size in bytes; 0: no limit.
	MaxPacket uint32
	Will      *Will
}

// Session is what a Connect brought: the connection owns it until its epoch
// is superseded.
type Session struct {
	ClientID string
	// Epoch is the ownership number: greater than that of every earlier owner
	// of the session.
	Epoch   uint64
	Present bool // Session Present [MQTT-3.2.2-2]
	// Ephemeral sessions have no state in the partition: subscriptions, queue
	// and outgoing flows live in the gateway and end with the connection.
	Ephemeral bool
	// Subscriptions of a resumed session.
	Subscriptions []Subscription
}

// Subscription is one topic filter of a session with its options.
type Subscription struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte   // 0, 1 or 2
	ID                uint32 // Subscription Identifier; 0: none
}

// Subscribed is the outcome of one filter of a SUBSCRIBE.
type Subscribed struct {
	Code    byte // reason code
	Existed bool // a subscription with this filter was replaced
}

// AckKind is the kind of a subscriber's acknowledgement.
type AckKind byte

// The acknowledgements a subscriber sends.
const (
	Puback AckKind = iota
	Pubrec
	Pubcomp
)

// Ack is one acknowledgement by a subscriber of a message in flight to it.
type Ack struct {
	Kind     AckKind
	PacketID uint16
	// Failed: a PUBREC (or PUBACK) with a reason code of 0x80 or more, which
	// ends the flow [MQTT-4.3.3-4].
	Failed bool
}

// Delivery is one step of an outgoing QoS 1 or 2 flow of a session whose
// state is in a partition. The gateway writes it to the client.
type Delivery struct {
	// Seq orders deliveries of one session; it never goes back. A gateway
	// ignores a delivery at or below the last it has taken on a connection.
	Seq      uint64
	PacketID uint16
	QoS      byte // 1 or 2; 0: unreliable, PacketID and Seq are 0
	// Release: the client has the message (PUBREC is committed); write PUBREL.
	Release bool
	// Dup: the message may have been sent on an earlier connection [MQTT-3.3.1-1].
	Dup bool
	// Retained: the RETAIN flag to send [MQTT-3.3.1-8], [MQTT-3.3.1-12].
	Retained bool
	// SubscriptionIDs of all matching subscriptions [MQTT-3.3.4-3].
	SubscriptionIDs []uint32
	Message         *Message
	// Group, if not empty, is the filter of a shared subscription of an ephemeral
	// session, which has no flows in a partition: the gateway chooses the packet
	// identifier, Seq is 0, and Item names the message in the group. Stamp is that of
	// the Membership it was assigned to.
	Group       string
	Stamp, Item uint64
}

// Membership is how a connection of an ephemeral session stands in a group.
type Membership struct {
	Filter string // of the shared subscription, with its $share prefix
	// Stamp is greater than that of every earlier membership of the connection in the
	// group. What was assigned with an earlier one counts only if Kept has its item.
	Stamp             uint64
	Window            uint16 // most QoS 1 and 2 messages to be assigned at once
	QoS               byte
	RetainAsPublished bool
	ID                uint32 // Subscription Identifier; 0: none
	Kept              []uint64
}

// DisconnectReason says how a connection ended.
type DisconnectReason byte

// How a connection ended.
const (
	// Lost: without a DISCONNECT, or with one that asks for the will
	// [MQTT-3.1.2-8]; the will is published.
	Lost DisconnectReason = iota
	// Normal: DISCONNECT with reason 0x00 discards the will [MQTT-3.1.2-10].
	Normal
)

// Disconnect ends a connection's ownership of its session.
type Disconnect struct {
	Reason DisconnectReason
	// SetExpiry: the DISCONNECT carried a session expiry interval, Expiry.
	SetExpiry bool
	Expiry    uint32
}

// InterestChange is the new state of one filter in a gateway's interest.
type InterestChange struct {
	Filter string
	Want   Interest
}

// Interest says which messages a gateway wants for a filter.
type Interest byte

// Interest bits. Zero removes the filter.
const (
	// WantQoS0: messages published at QoS 0 (some local session subscribes).
	WantQoS0 Interest = 1 << iota
	// WantDowngraded: messages of QoS 1 and 2 by the unreliable path, because
	// some local session subscribes at QoS 0.
	WantDowngraded
	// WantReliable: messages of QoS 1 and 2 by an exactly-once lane, because
	// some ephemeral session subscribes at QoS 1 or 2.
	WantReliable
	// WantShared: some group of a partition shares a subscription, and takes messages
	// of QoS 0 as well.
	WantShared
)

// Inspection is what a gateway tells an operator of a connection.
type Inspection struct {
	Remote, Listener string
	KeepAlive        uint16 // seconds; 0: off
	// Of an ephemeral session, which lives in its gateway:
	Subscriptions []Subscription
	Queued        int // messages
	QueuedBytes   int64
	Inflight      int // outgoing flows
}

// Errors with which the cluster answers a gateway.
var (
	// ErrFenced: another connection owns the session now; this one must close
	// and complete nothing [MQTT-3.1.4-3].
	ErrFenced = errors.New("flow: the session has a newer connection")
	// ErrQuota: no room for the message (reason code 0x97).
	ErrQuota = errors.New("flow: quota exceeded")
	// ErrUnavailable: the node cannot serve clients now (no lease, or its
	// incarnation was ended); the connection must close.
	ErrUnavailable = errors.New("flow: the node cannot serve clients now")
	// ErrUnknownPacketID: no such packet identifier (reason code 0x92).
	ErrUnknownPacketID = errors.New("flow: packet identifier not found")
)
