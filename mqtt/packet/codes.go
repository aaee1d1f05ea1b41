package packet

import (
	"fmt"
	"strings"
	"unicode"
)

// ReasonCode is a reason code of MQTT 5. Codes from 0x80 on mean failure. It is used
// for older versions too and translated on the wire.
type ReasonCode byte

// The reason codes (MQTT 5.0, table 2-6). 0x00 has three names.
const (
	Success                             ReasonCode = 0x00
	NormalDisconnection                 ReasonCode = 0x00
	GrantedQoS0                         ReasonCode = 0x00
	GrantedQoS1                         ReasonCode = 0x01
	GrantedQoS2                         ReasonCode = 0x02
	DisconnectWithWill                  ReasonCode = 0x04
	NoMatchingSubscribers               ReasonCode = 0x10
	NoSubscriptionExisted               ReasonCode = 0x11
	ContinueAuthentication              ReasonCode = 0x18
	ReAuthenticate                      ReasonCode = 0x19
	UnspecifiedError                    ReasonCode = 0x80
	MalformedPacket                     ReasonCode = 0x81
	ProtocolError                       ReasonCode = 0x82
	ImplementationSpecificError         ReasonCode = 0x83
	UnsupportedProtocolVersion          ReasonCode = 0x84
	ClientIdentifierNotValid            ReasonCode = 0x85
	BadUserNameOrPassword               ReasonCode = 0x86
	NotAuthorized                       ReasonCode = 0x87
	ServerUnavailable                   ReasonCode = 0x88
	ServerBusy                          ReasonCode = 0x89
	Banned                              ReasonCode = 0x8A
	ServerShuttingDown                  ReasonCode = 0x8B
	BadAuthenticationMethod             ReasonCode = 0x8C
	KeepAliveTimeout                    ReasonCode = 0x8D
	SessionTakenOver                    ReasonCode = 0x8E
	TopicFilterInvalid                  ReasonCode = 0x8F
	TopicNameInvalid                    ReasonCode = 0x90
	PacketIdentifierInUse               ReasonCode = 0x91
	PacketIdentifierNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded              ReasonCode = 0x93
	TopicAliasInvalid                   ReasonCode = 0x94
	PacketTooLarge                      ReasonCode = 0x95
	MessageRateTooHigh                  ReasonCode = 0x96
	QuotaExceeded                       ReasonCode = 0x97
	AdministrativeAction                ReasonCode = 0x98
	PayloadFormatInvalid                ReasonCode = 0x99
	RetainNotSupported                  ReasonCode = 0x9A
	QoSNotSupported                     ReasonCode = 0x9B
	UseAnotherServer                    ReasonCode = 0x9C
	ServerMoved                         ReasonCode = 0x9D
	SharedSubscriptionsNotSupported     ReasonCode = 0x9E
	ConnectionRateExceeded              ReasonCode = 0x9F
	MaximumConnectTime                  ReasonCode = 0xA0
	SubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	WildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

// in is the set of packet types that may carry a reason code.
type in uint16

const (
	inConnack    in = 1 << TypeConnack
	inPub        in = 1<<TypePuback | 1<<TypePubrec
	inRel        in = 1<<TypePubrel | 1<<TypePubcomp
	inSuback     in = 1 << TypeSuback
	inUnsuback   in = 1 << TypeUnsuback
	inDisconnect in = 1 << TypeDisconnect
	inAuth       in = 1 << TypeAuth
)

// codes is table 2-6 of MQTT 5.0.
var codes = [256]struct {
	name string
	in   in
}{
	Success:                             {"Success", inConnack | inPub | inRel | inSuback | inUnsuback | inDisconnect | inAuth},
	GrantedQoS1:                         {"Granted QoS 1", inSuback},
	GrantedQoS2:                         {"Granted QoS 2", inSuback},
	DisconnectWithWill:                  {"Disconnect with Will Message", inDisconnect},
	NoMatchingSubscribers:               {"No matching subscribers", inPub},
	NoSubscriptionExisted:               {"No subscription existed", inUnsuback},
	ContinueAuthentication:              {"Continue authentication", inAuth},
	ReAuthenticate:                      {"Re-authenticate", inAuth},
	UnspecifiedError:                    {"Unspecified error", inConnack | inPub | inSuback | inUnsuback | inDisconnect},
	MalformedPacket:                     {"Malformed Packet", inConnack | inDisconnect},
	ProtocolError:                       {"Protocol Error", inConnack | inDisconnect},
	ImplementationSpecificError:         {"Implementation specific error", inConnack | inPub | inSuback | inUnsuback | inDisconnect},
	UnsupportedProtocolVersion:          {"Unsupported Protocol Version", inConnack},
	ClientIdentifierNotValid:            {"Client Identifier not valid", inConnack},
	BadUserNameOrPassword:               {"Bad User Name or Password", inConnack},
	NotAuthorized:                       {"Not authorized", inConnack | inPub | inSuback | inUnsuback | inDisconnect},
	ServerUnavailable:                   {"Server unavailable", inConnack},
	ServerBusy:                          {"Server busy", inConnack | inDisconnect},
	Banned:                              {"Banned", inConnack},
	ServerShuttingDown:                  {"Server shutting down", inDisconnect},
	BadAuthenticationMethod:             {"Bad authentication method", inConnack | inDisconnect},
	KeepAliveTimeout:                    {"Keep Alive timeout", inDisconnect},
	SessionTakenOver:                    {"Session taken over", inDisconnect},
	TopicFilterInvalid:                  {"Topic Filter invalid", inSuback | inUnsuback | inDisconnect},
	TopicNameInvalid:                    {"Topic Name invalid", inConnack | inPub | inDisconnect},
	PacketIdentifierInUse:               {"Packet Identifier in use", inPub | inSuback | inUnsuback},
	PacketIdentifierNotFound:            {"Packet Identifier not found", inRel},
	ReceiveMaximumExceeded:              {"Receive Maximum exceeded", inDisconnect},
	TopicAliasInvalid:                   {"Topic Alias invalid", inDisconnect},
	PacketTooLarge:                      {"Packet too large", inConnack | inDisconnect},
	MessageRateTooHigh:                  {"Message rate too high", inDisconnect},
	QuotaExceeded:                       {"Quota exceeded", inConnack | inPub | inSuback | inDisconnect},
	AdministrativeAction:                {"Administrative action", inDisconnect},
	PayloadFormatInvalid:                {"Payload format invalid", inConnack | inPub | inDisconnect},
	RetainNotSupported:                  {"Retain not supported", inConnack | inDisconnect},
	QoSNotSupported:                     {"QoS not supported", inConnack | inDisconnect},
	UseAnotherServer:                    {"Use another server", inConnack | inDisconnect},
	ServerMoved:                         {"Server moved", inConnack | inDisconnect},
	SharedSubscriptionsNotSupported:     {"Shared Subscriptions not supported", inSuback | inDisconnect},
	ConnectionRateExceeded:              {"Connection rate exceeded", inConnack | inDisconnect},
	MaximumConnectTime:                  {"Maximum connect time", inDisconnect},
	SubscriptionIdentifiersNotSupported: {"Subscription Identifiers not supported", inSuback | inDisconnect},
	WildcardSubscriptionsNotSupported:   {"Wildcard Subscriptions not supported", inSuback | inDisconnect},
}

// String returns the name of the specification with the number, as
// "Malformed Packet (0x81)".
func (c ReasonCode) String() string {
	name := codes[c].name
	if name == "" {
		name = "Reserved"
	}
	return fmt.Sprintf("%s (0x%02X)", name, byte(c))
}

// Label returns the name of the specification as the value of a metric's label:
// "malformed_packet"; "reserved_0x05" for a code without a name.
func (c ReasonCode) Label() string {
	if codes[c].name == "" {
		return fmt.Sprintf("reserved_0x%02x", byte(c))
	}
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' {
			return '_'
		}
		return unicode.ToLower(r)
	}, codes[c].name)
}

// Failed says whether the code means failure: 0x80 and above.
func (c ReasonCode) Failed() bool { return c >= 0x80 }

// ValidIn says whether the specification lists the code for a packet type.
func (c ReasonCode) ValidIn(t Type) bool { return codes[c].in&(1<<t) != 0 }

// ConnectReturnCode translates a reason code into the CONNACK return code of MQTT
// 3.1 and 3.1.1. ok is false when none fits; then the connection is closed without
// a CONNACK [MQTT-3.2.2-6 of 3.1.1].
func (c ReasonCode) ConnectReturnCode() (code byte, ok bool) {
	switch c {
	case Success:
		return 0, true
	case UnsupportedProtocolVersion:
		return 1, true
	case ClientIdentifierNotValid:
		return 2, true
	case ServerUnavailable, ServerBusy, QuotaExceeded, ConnectionRateExceeded, UseAnotherServer, ServerMoved:
		return 3, true
	case BadUserNameOrPassword:
		return 4, true
	case NotAuthorized, Banned, BadAuthenticationMethod:
		return 5, true
	}
	return 0, false
}

// fromConnectReturnCode is the way back, for clients.
func fromConnectReturnCode(code byte) (c ReasonCode, ok bool) {
	switch code {
	case 0:
		return Success, true
	case 1:
		return UnsupportedProtocolVersion, true
	case 2:
		return ClientIdentifierNotValid, true
	case 3:
		return ServerUnavailable, true
	case 4:
		return BadUserNameOrPassword, true
	case 5:
		return NotAuthorized, true
	}
	return 0, false
}
