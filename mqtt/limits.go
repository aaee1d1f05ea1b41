package mqtt

import (
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
)

// Overflow says what happens to a message for an ephemeral session whose queue
// is full. Every message dropped is counted, and the first of each session logged.
type Overflow byte

// What to do when the queue of an ephemeral session is full.
const (
	// DropOldest makes room by dropping the message that has waited longest.
	DropOldest Overflow = iota
	// DropNewest drops the message that has just come.
	DropNewest
	// DisconnectClient closes the connection, and the session with it (0x97).
	DisconnectClient
)

// Limits are the bounds and capabilities of a gateway; CONNACK announces those
// that MQTT 5 has properties for. The zero value stands for [DefaultLimits].
type Limits struct {
	// MaxPacket is the largest packet accepted, in bytes; at least 128.
	MaxPacket uint32
	// ReceiveMaximum is how many QoS 1 and 2 messages an MQTT 5 client may have
	// unfinished; 1..65535. For older clients it is how many may be unanswered
	// before their socket is no longer read.
	ReceiveMaximum uint16
	// TopicAliasMaximum bounds the topic aliases per connection, in each direction.
	TopicAliasMaximum uint16
	// MaxInflight caps the window of unacknowledged messages to a client; 1..65535.
	MaxInflight uint16
	// MaxQoS is the highest QoS that clients may publish with; 0..2.
	MaxQoS byte
	// RetainAvailable, WildcardAvailable, SubscriptionIDAvailable and SharedAvailable are
	// the capabilities of the same name in CONNACK.
	RetainAvailable         bool
	WildcardAvailable       bool
	SubscriptionIDAvailable bool
	SharedAvailable         bool
	// ResponseInformation is what MQTT 5 clients are told that ask for it, with %c for
	// their client identifier: where they may expect answers. "": nothing.
	ResponseInformation string
	// ServerReference names other servers. MQTT 5 clients get it, with 0x9C, when this
	// server stops or cannot serve them. "": none.
	ServerReference string
	// ServerMoved refuses all clients with 0x9D and ServerReference.
	ServerMoved bool
	// CopyPerSubscription sends one copy of a message for each subscription that matches
	// it; otherwise overlapping subscriptions make one copy. It holds for ephemeral
	// sessions and QoS 0; the cluster must decide alike for all else.
	CopyPerSubscription bool
	// MaxKeepAlive, in seconds, is the longest keep alive of MQTT 5 clients: one that
	// asks for more, or for none, is told this one. Older clients cannot be told. 0: any.
	MaxKeepAlive uint16
	// AllowAnonymous lets clients in of whom nobody knows who they are.
	AllowAnonymous bool
	// CertUsername makes a name in a verified client certificate the user name; then
	// CONNECT's does not count, and no password is asked for.
	CertUsername auth.CertName
	// CloseUnauthorized closes a connection on which something is published that the
	// Authenticator does not allow, where no acknowledgement can say so: before MQTT 5,
	// and at QoS 0. Otherwise the message is dropped and counted.
	CloseUnauthorized bool
	// MaxSessionExpiry caps the session expiry interval, in seconds;
	// flow.NeverExpires: no cap.
	MaxSessionExpiry uint32
	// MaxSubscriptions is the number of subscriptions per session; 0: no limit.
	MaxSubscriptions int
	// MaxTopicLevels bounds the levels of topic names and filters; 0: no limit.
	MaxTopicLevels int
	// QueueMessages and QueueBytes bound the queue of each ephemeral session, and
	// OnFull says what happens beyond.
	QueueMessages int
	QueueBytes    int
	OnFull        Overflow
	// OutBuffer, in bytes, bounds what has been encoded for a socket and is not
	// written yet. Beyond it QoS 0 is dropped and QoS 1 and 2 wait in the queue.
	OutBuffer int
	// UnansweredBytes bounds the publishes of one connection that the cluster has
	// not answered yet. Beyond it the socket is not read.
	UnansweredBytes int
	// CheckPayloadFormat refuses payloads (0x99) that are not UTF-8 although their
	// Payload Format Indicator says so.
	CheckPayloadFormat bool
	// ConnectTimeout is how long a client may take to send its CONNECT,
	// SessionTimeout how long the cluster may take to find the session, and
	// WriteTimeout how long a socket may take nothing of what is written to it.
	ConnectTimeout time.Duration
	SessionTimeout time.Duration
	WriteTimeout   time.Duration
}

// DefaultLimits suit fleets of devices.
func DefaultLimits() Limits {
	return Limits{
		MaxPacket:               1 << 20,
		ReceiveMaximum:          1024,
		TopicAliasMaximum:       64,
		MaxInflight:             1024,
		MaxQoS:                  2,
		RetainAvailable:         true,
		WildcardAvailable:       true,
		SubscriptionIDAvailable: true,
		SharedAvailable:         true,
		AllowAnonymous:          true,
		MaxSessionExpiry:        flow.NeverExpires,
		QueueMessages:           10_000,
		QueueBytes:              16 << 20,
		OutBuffer:               1 << 20,
		UnansweredBytes:         4 << 20,
		ConnectTimeout:          10 * time.Second,
		SessionTimeout:          30 * time.Second,
		WriteTimeout:            20 * time.Second,
	}
}
