package mqtt

import "sync/atomic"

// Metrics counts what a gateway does. All fields are for any goroutine; counters
// never go back, gauges are marked so.
type Metrics struct {
	Connections    atomic.Int64 // gauge: open network connections
	Sessions       atomic.Int64 // gauge: connections that own a session
	Subscriptions  atomic.Int64 // gauge: entries of the local subscription tree
	QueuedMessages atomic.Int64 // gauge: messages queued for ephemeral sessions
	QueuedBytes    atomic.Int64 // gauge
	Accepted       atomic.Uint64
	TooMany        atomic.Uint64 // connections beyond their listener's MaxConnections
	// SetupFailed counts connections that ended before MQTT began, by what failed.
	SetupFailed     [setupSteps]atomic.Uint64
	BytesReceived   atomic.Uint64
	BytesSent       atomic.Uint64
	PacketsReceived [16]atomic.Uint64 // by packet type
	PacketsSent     [16]atomic.Uint64 // by packet type
	// PublishReceived and PublishSent count PUBLISH packets by QoS.
	PublishReceived [3]atomic.Uint64
	PublishSent     [3]atomic.Uint64
	// Refused counts CONNACKs by reason code, Closed closed connections by the
	// reason code that fits (0x00: closed by the client with DISCONNECT; 0x80:
	// network failure), RefusedPublish and RefusedSubscribe single packets that
	// were refused while the connection went on.
	Refused          [256]atomic.Uint64
	Closed           [256]atomic.Uint64
	RefusedPublish   [256]atomic.Uint64
	RefusedSubscribe [256]atomic.Uint64
	// Dropped counts messages that a subscriber did not get, by reason.
	Dropped [dropReasons]atomic.Uint64
	// RevokedSubscriptions counts subscriptions that a session lost when it was resumed,
	// since the rules do not allow them (any more).
	RevokedSubscriptions atomic.Uint64
	// UnknownAcks counts acknowledgements with a packet identifier that is not in use.
	UnknownAcks atomic.Uint64
	// RetainedIncomplete counts SUBSCRIBEs for which a partition did not tell its
	// retained messages in time.
	RetainedIncomplete atomic.Uint64
	// BackPressure counts how often a socket was no longer read because the
	// cluster had too much of its connection unanswered.
	BackPressure atomic.Uint64
}

// SetupStep is a step of a transport between a new network connection and MQTT.
type SetupStep byte

// The steps of Metrics.SetupFailed.
const (
	SetupProxy     SetupStep = iota // the PROXY header
	SetupTLS                        // the TLS handshake
	SetupWebSocket                  // the request for a WebSocket
	setupSteps
)

// String returns the value of a "reason" label.
func (s SetupStep) String() string {
	return [...]string{"proxy_header", "tls_handshake", "websocket_request"}[s]
}

// SetupSteps lists all steps, for export.
func SetupSteps() []SetupStep { return []SetupStep{SetupProxy, SetupTLS, SetupWebSocket} }

// DropReason says why a subscriber did not get a message.
type DropReason byte

// The reasons of Metrics.Dropped.
const (
	DropQueueFull     DropReason = iota // the queue of an ephemeral session was full
	DropSlowSocket                      // QoS 0, and the client does not read fast enough
	DropExpired                         // the message expired before it could be sent [MQTT-3.3.2-5]
	DropTooLarge                        // larger than the client's Maximum Packet Size [MQTT-3.1.2-25]
	DropEnded                           // still queued when an ephemeral session ended
	DropNotAuthorized                   // kept by a session whose client may not read it (any more)
	dropReasons
)

// String returns the value of a "reason" label.
func (r DropReason) String() string {
	return [...]string{"queue_full", "slow_socket", "expired", "too_large", "session_ended", "not_authorized"}[r]
}

// DropReasons lists all reasons, for export.
func DropReasons() []DropReason {
	return []DropReason{DropQueueFull, DropSlowSocket, DropExpired, DropTooLarge, DropEnded, DropNotAuthorized}
}
