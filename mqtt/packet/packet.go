// Package packet encodes and decodes the control packets of MQTT 3.1 (MQIsdp),
// 3.1.1 and 5.0, for servers and for clients.
//
// [Frame] finds the packets in a byte stream, [Decode] turns one into a value, and
// every value has AppendTo for the way back. The hot packets have paths that
// allocate little or nothing: [DecodePublish], [DecodeAck], [AppendPublish] and
// [EncodedPublish].
//
// Decoding checks all that the specification demands of a single packet without
// knowing the connection's state; each check names its normative statement. What
// depends on the direction is in [CheckFromClient]. Statement numbers are those of
// MQTT 5.0, or of 3.1.1 on a connection of an older version.
//
// Encoding takes values as they are given. A string or byte string longer than
// 65,535 bytes, or a packet longer than [MaxRemaining], cannot be expressed: the
// encoder panics, since anything it could write would break the stream.
package packet

// The protocol versions, by their level in CONNECT.
const (
	V31  byte = 3
	V311 byte = 4
	V5   byte = 5
)

// Type is the type of a control packet: the upper four bits of its first byte.
type Type byte

// The packet types. 0 is forbidden, and so is 15 (AUTH) before MQTT 5.
const (
	TypeConnect Type = iota + 1
	TypeConnack
	TypePublish
	TypePuback
	TypePubrec
	TypePubrel
	TypePubcomp
	TypeSubscribe
	TypeSuback
	TypeUnsubscribe
	TypeUnsuback
	TypePingreq
	TypePingresp
	TypeDisconnect
	TypeAuth
)

var typeNames = [16]string{
	"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE",
	"SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

// String returns the name that the specification uses.
func (t Type) String() string { return typeNames[t&15] }

// Packet is one control packet: *Connect, *Connack, *Publish, *Ack, *Subscribe,
// *Suback, *Unsubscribe, *Unsuback, *Pingreq, *Pingresp, *Disconnect or *Auth.
type Packet interface {
	// Type returns the packet's type.
	Type() Type
	// AppendTo appends the whole packet in its wire form for a protocol version.
	// What the version cannot express (properties, most reason codes) is left out.
	AppendTo(dst []byte, version byte) []byte
}

// Decode decodes one packet. header is its first byte, body what follows the fixed
// header (its length is the Remaining Length), version the version of the
// connection, which a CONNECT ignores. Errors are of type *Error.
//
// Strings are copied. The payload and Forward of a PUBLISH are parts of body; all
// other byte strings are copies.
func Decode(header byte, body []byte, version byte) (Packet, error) {
	t := Type(header >> 4)
	switch t {
	case TypePublish:
		p := &Publish{}
		if err := DecodePublish(header, body, version, p); err != nil {
			return nil, err
		}
		return p, nil
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp:
		p := &Ack{}
		if err := DecodeAck(header, body, version, p); err != nil {
			return nil, err
		}
		return p, nil
	}
	d := decoder{buf: body, version: version}
	d.flags(header)
	p := d.packet(t)
	d.end()
	if d.err != nil {
		return nil, d.err
	}
	return p, nil
}

// packet decodes the body of all packets that have no path of their own.
func (d *decoder) packet(t Type) Packet {
	switch t {
	case TypeConnect:
		return d.connect()
	case TypeConnack:
		return d.connack()
	case TypeSubscribe:
		return d.subscribe()
	case TypeSuback:
		return d.suback()
	case TypeUnsubscribe:
		return d.unsubscribe()
	case TypeUnsuback:
		return d.unsuback()
	case TypePingreq:
		return &Pingreq{}
	case TypePingresp:
		return &Pingresp{}
	case TypeDisconnect:
		return d.disconnect()
	case TypeAuth:
		if d.version >= V5 {
			return d.auth()
		}
	}
	d.fail(MalformedPacket, by(d.version, "2.1.2", "2.2.1"), "packet type "+t.String()+" is reserved")
	return nil
}

// CheckFromClient checks the rules for packets that a client sends to a server,
// beyond those that hold in both directions.
func CheckFromClient(p Packet) error {
	switch p := p.(type) {
	case *Publish:
		return p.CheckFromClient()
	case *Connack, *Suback, *Unsuback, *Pingresp:
		return &Error{Code: ProtocolError, Clause: "2.1.2", Detail: p.Type().String() + " is sent by servers only"}
	case *Auth:
		if p.Code == Success {
			return &Error{Code: ProtocolError, Clause: "MQTT-3.15.2-1", Detail: "AUTH with reason code 0x00 is sent by servers only"}
		}
	}
	return nil
}
