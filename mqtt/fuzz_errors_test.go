package mqtt

import (
	"slices"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// step is what a client may do, and what the standard says to it.
type step struct {
	name string
	// wire returns the packet; arg is arbitrary.
	wire func(version, arg byte) []byte
	// code is the reason code of the DISCONNECT that must follow; Success: the connection
	// goes on.
	code packet.ReasonCode
	v5   bool // exists in MQTT 5 only
}

// control is a packet whose body is given, with the empty properties of MQTT 5 where
// props says so.
func control(header byte, props bool, parts ...string) func(byte, byte) []byte {
	return func(version, _ byte) []byte {
		var body []byte
		for i, p := range parts {
			if i == 1 && props && version >= packet.V5 {
				body = append(body, 0)
			}
			body = append(body, p...)
		}
		if len(parts) < 2 && props && version >= packet.V5 {
			body = append(body, 0)
		}
		return append([]byte{header, byte(len(body))}, body...)
	}
}

// Steps that are allowed in every state.
var goodSteps = []step{
	{name: "PINGREQ", wire: control(0xc0, false)},
	{name: "PUBLISH q0", wire: control(0x30, true, "\x00\x01t", "x")},
	{name: "PUBREC for nothing", wire: control(0x50, false, "\x07\x07")},
	{name: "PUBACK for nothing", wire: control(0x40, false, "\x07\x07")},
	{name: "PUBCOMP for nothing", wire: control(0x70, false, "\x07\x07")},
	{name: "SUBSCRIBE", wire: control(0x82, true, "\x00\x05", "\x00\x01t\x01")},
	{name: "a filter that is not valid", wire: control(0x82, true, "\x00\x05", "\x00\x03#/t\x01")},
	{name: "UNSUBSCRIBE", wire: control(0xa2, true, "\x00\x05", "\x00\x01t")},
}

// Steps that end the connection in every state.
var badSteps = []step{
	{name: "reserved type 0", wire: control(0x00, false), code: packet.MalformedPacket},
	{name: "CONNACK", wire: control(0x20, false, "\x00\x00\x00"), code: packet.ProtocolError, v5: true},
	{name: "PINGRESP", wire: control(0xd0, false), code: packet.ProtocolError},
	{name: "second CONNECT", wire: func(v, _ byte) []byte { return connectPacket(v).AppendTo(nil, v) }, code: packet.ProtocolError},
	{name: "AUTH", wire: control(0xf0, false, "\x18\x04\x15\x00\x01m"), code: packet.ProtocolError, v5: true},
	{name: "flags of PINGREQ", wire: func(_, arg byte) []byte { return []byte{0xc1 + arg%15, 0} }, code: packet.MalformedPacket},
	{name: "flags of PUBREL", wire: control(0x60, false, "\x00\x01"), code: packet.MalformedPacket},
	{name: "flags of SUBSCRIBE", wire: control(0x84, true, "\x00\x05", "\x00\x01t\x01"), code: packet.MalformedPacket},
	{name: "flags of DISCONNECT", wire: control(0xe2, false), code: packet.MalformedPacket},
	{name: "QoS 3", wire: control(0x36, true, "\x00\x01t\x00\x01", "x"), code: packet.MalformedPacket},
	{name: "DUP at QoS 0", wire: control(0x38, true, "\x00\x01t", "x"), code: packet.MalformedPacket},
	{name: "wildcard in a topic name", wire: control(0x30, true, "\x00\x01#", "x"), code: packet.ProtocolError},
	{name: "empty topic name", wire: control(0x30, true, "\x00\x00", "x"), code: packet.ProtocolError},
	{name: "surrogate", wire: control(0x30, true, "\x00\x03\xed\xa0\x80", "x"), code: packet.MalformedPacket},
	{name: "U+0000", wire: control(0x30, true, "\x00\x01\x00", "x"), code: packet.MalformedPacket},
	{name: "packet identifier 0", wire: control(0x32, true, "\x00\x01t\x00\x00", "x"), code: packet.ProtocolError},
	{name: "PUBLISH cut off", wire: control(0x30, false, "\x00\x09t"), code: packet.MalformedPacket},
	{name: "SUBSCRIBE without filters", wire: control(0x82, true, "\x00\x05"), code: packet.ProtocolError},
	{name: "UNSUBSCRIBE without filters", wire: control(0xa2, true, "\x00\x05"), code: packet.ProtocolError},
	{name: "maximum QoS 3", wire: control(0x82, true, "\x00\x05", "\x00\x01t\x03"), code: packet.ProtocolError},
	{name: "PUBACK of identifier 0", wire: control(0x40, false, "\x00\x00"), code: packet.ProtocolError},
	{name: "needless byte in a length", wire: func(_, _ byte) []byte { return []byte{0xc0, 0x80, 0} }, code: packet.MalformedPacket},
	{name: "bytes behind PINGREQ", wire: control(0xc0, false, "x"), code: packet.MalformedPacket},
	{name: "topic alias 0", wire: control(0x30, false, "\x00\x01t\x03\x23\x00\x00"), code: packet.TopicAliasInvalid, v5: true},
	{name: "topic alias above the maximum", wire: control(0x30, false, "\x00\x01t\x03\x23\x00\x09"), code: packet.TopicAliasInvalid, v5: true},
	{name: "subscription identifier in PUBLISH", wire: control(0x30, false, "\x00\x01t\x02\x0b\x01"), code: packet.ProtocolError, v5: true},
	{name: "unknown property", wire: control(0x30, false, "\x00\x01t\x02\x7f\x01"), code: packet.MalformedPacket, v5: true},
	{name: "property twice", wire: control(0x30, false, "\x00\x01t\x04\x01\x01\x01\x01"), code: packet.ProtocolError, v5: true},
	{name: "reason code of PUBACK", wire: control(0x40, false, "\x00\x01\x01"), code: packet.ProtocolError, v5: true},
	{name: "DISCONNECT that keeps the session", wire: control(0xe0, false, "\x00\x05\x11\x00\x00\x00\x01"), code: packet.ProtocolError, v5: true},
}

// FuzzErrors takes a client through steps that it may do, chosen at will, until it does
// one that it may not; then the connection ends, on MQTT 5 with the very reason code that
// the standard names. What is bad in some states only is decided by a model: packet
// identifiers in flight [MQTT-3.3.4-7] and topic aliases [MQTT-3.3.2-7]. [MQTT-4.13.1-1]
// [MQTT-4.8.0-1 of 3.1.1]
func FuzzErrors(f *testing.F) {
	for _, version := range []byte{packet.V31, packet.V311, packet.V5} {
		for i := range badSteps {
			f.Add(version, []byte{0, 1, 2, 3, 4, byte(len(goodSteps) + 5 + i), 7})
		}
		for i := range 5 { // QoS 2 beyond what is allowed, with and without PUBREL; aliases
			f.Add(version, slices.Repeat([]byte{byte(len(goodSteps) + i), 1, byte(len(goodSteps)), 2, byte(len(goodSteps)), 3, byte(len(goodSteps) + 1), 3}, 3))
		}
	}
	f.Fuzz(func(t *testing.T, version byte, choices []byte) {
		version = packet.V31 + version%3
		srv, stub := newMachine(t, func(o *Options) { o.Limits.ReceiveMaximum, o.Limits.TopicAliasMaximum = 3, 8 })
		k := newClient(t, srv, stub, version).connect(nil)
		m := errorModel{version: version, open: map[byte]bool{}, aliases: map[byte]bool{}}
		for len(choices) > 1 && !k.hung {
			st, arg := m.choose(choices[0], choices[1])
			choices = choices[2:]
			if st.v5 && version < packet.V5 {
				continue
			}
			k.bytes(st.wire(version, arg))
			sent := k.packets()
			if st.code == packet.Success {
				if k.hung {
					t.Fatalf("%s ends the connection: %v", st.name, sent)
				}
				continue
			}
			if !k.hung {
				t.Fatalf("after %s the connection goes on: %v", st.name, sent)
			}
			var got packet.ReasonCode
			if len(sent) > 0 && sent[len(sent)-1].Type() == packet.TypeDisconnect {
				got = sent[len(sent)-1].(*packet.Disconnect).Code
			}
			if want := st.code; version >= packet.V5 && got != want || version < packet.V5 && got != 0 {
				t.Fatalf("after %s comes DISCONNECT %v, want %v", st.name, got, want)
			}
		}
		k.gone()
		for len(stub.wait) > 0 {
			stub.answer(0, nil)
		}
	})
}

// errorModel knows what of the past decides whether a step is allowed.
type errorModel struct {
	version byte
	open    map[byte]bool // QoS 2 packet identifiers
	aliases map[byte]bool
}

func (m *errorModel) choose(kind, arg byte) (step, byte) {
	n := int(kind) % (len(goodSteps) + 5 + len(badSteps))
	if n < len(goodSteps) {
		return goodSteps[n], arg
	}
	id := 1 + arg%6
	full := m.version >= packet.V5 && len(m.open) == 3
	switch n -= len(goodSteps); n {
	case 0: // QoS 2
		st := step{name: "PUBLISH q2", wire: control(0x34, true, "\x00\x01t\x00"+string(rune(id)), "x")}
		switch {
		case m.open[id]:
		case full:
			st.name, st.code = "PUBLISH beyond Receive Maximum", packet.ReceiveMaximumExceeded
		default:
			m.open[id] = true
		}
		return st, arg
	case 1: // PUBREL
		delete(m.open, id)
		return step{name: "PUBREL", wire: control(0x62, false, "\x00"+string(rune(id)))}, arg
	case 2: // a topic alias is set
		m.aliases[id] = true
		return step{name: "PUBLISH with alias", wire: control(0x30, false, "\x00\x01t\x03\x23\x00"+string(rune(id))), v5: true}, arg
	case 3: // and used
		st := step{name: "PUBLISH by alias", wire: control(0x30, false, "\x00\x00\x03\x23\x00"+string(rune(id))), v5: true}
		if !m.aliases[id] {
			st.name, st.code = "PUBLISH by an unknown alias", packet.ProtocolError
		}
		return st, arg
	case 4: // QoS 1
		st := step{name: "PUBLISH q1", wire: control(0x32, true, "\x00\x01t\x00"+string(rune(64+id)), "x")}
		if full {
			st.name, st.code = "PUBLISH beyond Receive Maximum", packet.ReceiveMaximumExceeded
		}
		return st, arg
	default:
		return badSteps[n-5], arg
	}
}
