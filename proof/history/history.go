// Package history is the record of what clients of a broker saw and did: one event
// per packet, per end of a connection and per fault, in one total order. It is the only
// input of the checker, so it says what happened in the words of the standard and
// nothing about how a broker works.
package history

// Type says what an event means for the operation it belongs to.
type Type string

// An operation begins with Invoke. OK and Fail are the broker's answers. Info is
// everything else: deliveries, faults, ends of connections. An Invoke without an answer
// may or may not have happened, for ever.
const (
	Invoke Type = "invoke"
	OK     Type = "ok"
	Fail   Type = "fail"
	Info   Type = "info"
)

// Direction is seen from the client.
type Direction string

// Out is written by the client, In was read by it; None is for what is no packet.
const (
	Out  Direction = "out"
	In   Direction = "in"
	None Direction = ""
)

// The packets of MQTT, and the events that are no packets.
const (
	Connect     = "CONNECT"
	Connack     = "CONNACK"
	Publish     = "PUBLISH"
	Puback      = "PUBACK"
	Pubrec      = "PUBREC"
	Pubrel      = "PUBREL"
	Pubcomp     = "PUBCOMP"
	Subscribe   = "SUBSCRIBE"
	Suback      = "SUBACK"
	Unsubscribe = "UNSUBSCRIBE"
	Unsuback    = "UNSUBACK"
	Pingreq     = "PINGREQ"
	Pingresp    = "PINGRESP"
	Disconnect  = "DISCONNECT"
	Auth        = "AUTH"

	// Close is the end of a connection: Out when the client ended it, In when it found
	// it ended.
	Close = "CLOSE"
	// Fault is an injected fault: Node is the node that suffers, Detail the kind.
	Fault = "FAULT"
	// Heal ends all faults. What was acknowledged must arrive within a bound of it.
	Heal = "HEAL"
	// Quiet says that the workload has stopped, that every client is connected and that
	// nothing more is expected.
	Quiet = "QUIET"
)

// Kinds of faults (Event.Detail of a Fault).
const (
	FaultKill      = "kill"
	FaultPause     = "pause"
	FaultResume    = "resume"
	FaultPartition = "partition"
	FaultReset     = "reset"
	FaultStop      = "stop"
	FaultStart     = "start"
	FaultDisk      = "disk"
	FaultClock     = "clock"
	FaultSlow      = "slow"
	// FaultOver ends the faults on Node (empty: on all nodes). A history without it has only
	// faults that are over at once, or whose clients do not notice for how long they last.
	FaultOver = "over"
)

// Filter is one subscription of a SUBSCRIBE, or one filter of an UNSUBSCRIBE.
type Filter struct {
	Filter  string `json:"filter"`
	QoS     byte   `json:"qos"`
	NoLocal bool   `json:"no_local,omitempty"`
	// RetainAsPublished and RetainHandling are those of MQTT 5.
	RetainAsPublished bool `json:"rap,omitempty"`
	RetainHandling    byte `json:"rh,omitempty"`
}

// Will is the will of a CONNECT.
type Will struct {
	Topic   string `json:"topic"`
	Message string `json:"message"`
	Sum     uint64 `json:"sum,omitempty"`
	QoS     byte   `json:"qos"`
	Retain  bool   `json:"retain,omitempty"`
	// Delay is the will delay interval in seconds.
	Delay uint32 `json:"delay,omitempty"`
}

// NeverExpires is the session expiry interval that means never [MQTT 5, 3.1.2.11.2].
const NeverExpires = 0xFFFFFFFF

// Event is one line of a history. Fields that do not apply are zero.
type Event struct {
	// Seq is the place in the total order, from 1. An Out packet is recorded before it is
	// written and an In packet after it is read, so if a's Seq is below b's then b did
	// not happen before a.
	Seq uint64 `json:"seq"`
	// Time is in nanoseconds since the recorder was made; it never goes back.
	Time    int64     `json:"time"`
	Process string    `json:"process,omitempty"`
	Client  string    `json:"client,omitempty"`
	Conn    uint64    `json:"conn,omitempty"` // unique in a history, from 1
	Node    string    `json:"node,omitempty"`
	Dir     Direction `json:"dir,omitempty"`
	Type    Type      `json:"type"`
	Packet  string    `json:"packet"`
	ID      uint16    `json:"id,omitempty"`
	Dup     bool      `json:"dup,omitempty"`
	QoS     byte      `json:"qos,omitempty"`
	Retain  bool      `json:"retain,omitempty"`
	Topic   string    `json:"topic,omitempty"`
	// Message identifies an application message in all its copies; a checker needs it to
	// be unique per PUBLISH of an application. Sum is a hash of the payload.
	Message string `json:"message,omitempty"`
	Sum     uint64 `json:"sum,omitempty"`
	// Size is the length of the payload in bytes: 0 deletes a retained message.
	Size int `json:"size,omitempty"`
	// MessageExpiry is in seconds, as carried by the packet; nil: none.
	MessageExpiry  *uint32  `json:"message_expiry,omitempty"`
	Filters        []Filter `json:"filters,omitempty"`
	Codes          []byte   `json:"codes,omitempty"` // of SUBACK and UNSUBACK
	SessionPresent bool     `json:"session_present,omitempty"`
	Reason         byte     `json:"reason,omitempty"`

	// Of CONNECT. Expiry is in seconds; 3.1.1 sessions that are kept have NeverExpires.
	Version        byte   `json:"version,omitempty"`
	Clean          bool   `json:"clean,omitempty"`
	Expiry         uint32 `json:"expiry,omitempty"`
	ReceiveMaximum uint16 `json:"receive_maximum,omitempty"`
	Will           *Will  `json:"will,omitempty"`
	// SetExpiry is the session expiry of a DISCONNECT or CONNACK that carries one.
	SetExpiry *uint32 `json:"set_expiry,omitempty"`

	// Detail is for people, and the kind of a Fault.
	Detail string `json:"detail,omitempty"`
}
