package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// decoder reads the fields of a packet one after the other. The first error sticks:
// later reads return zero values, so that a decoding function reads like the table
// in the specification and looks at the error once.
type decoder struct {
	buf     []byte // ends where the packet, or its property section, ends
	off     int
	version byte
	err     *Error
}

// fail records an error unless there is one.
func (d *decoder) fail(code ReasonCode, clause, detail string) {
	if d.err == nil {
		d.err = &Error{Code: code, Clause: clause, Detail: detail}
	}
}

func (d *decoder) malformed(clause, detail string) { d.fail(MalformedPacket, clause, detail) }
func (d *decoder) protocol(clause, detail string)  { d.fail(ProtocolError, clause, detail) }

// error returns the sticky error without the trap of a typed nil.
func (d *decoder) error() error {
	if d.err == nil {
		return nil
	}
	return d.err
}

// left is the number of bytes not read yet; 0 after an error, so that loops end.
func (d *decoder) left() int {
	if d.err != nil {
		return 0
	}
	return len(d.buf) - d.off
}

// take reads n bytes. They are a part of the input.
func (d *decoder) take(n int, field string) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.buf)-d.off {
		d.malformed(by(d.version, "2.1.4", "2.2.3"), "packet ends within "+field)
		return nil
	}
	b := d.buf[d.off : d.off+n : d.off+n]
	d.off += n
	return b
}

func (d *decoder) u8(field string) byte {
	if b := d.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16(field string) uint16 {
	if b := d.take(2, field); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32(field string) uint32 {
	if b := d.take(4, field); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a Variable Byte Integer (section 1.5.5).
func (d *decoder) varint(field string) int {
	v := 0
	for i := range 4 {
		b := d.u8(field)
		if d.err != nil {
			return 0
		}
		v |= int(b&0x7f) << (7 * i)
		if b == 0 && i > 0 {
			d.malformed("MQTT-1.5.5-1", field+" has needless bytes")
			return 0
		}
		if b < 0x80 {
			return v
		}
	}
	d.malformed("1.5.5", field+" has more than four bytes")
	return 0
}

// binary reads Binary Data (section 1.5.6). It is a part of the input.
func (d *decoder) binary(field string) []byte { return d.take(int(d.u16(field)), field) }

// text reads the bytes of a UTF-8 Encoded String (section 1.5.4) and checks them.
func (d *decoder) text(field string) []byte {
	b := d.binary(field)
	switch {
	case !utf8.Valid(b): // surrogates and overlong forms included
		d.malformed(by(d.version, "MQTT-1.5.4-1", "MQTT-1.4.0-1"), field+" is not well-formed UTF-8")
		return nil
	case bytes.IndexByte(b, 0) >= 0:
		d.malformed(by(d.version, "MQTT-1.5.4-2", "MQTT-1.4.0-2"), field+" contains U+0000")
		return nil
	}
	return b
}

func (d *decoder) string(field string) string { return string(d.text(field)) }

// topicName reads a topic name. It may be empty; the caller knows whether that is
// allowed. Wildcards are not, by the given clause.
func (d *decoder) topicName(field, clause string) []byte {
	b := d.text(field)
	if bytes.IndexByte(b, '+') >= 0 || bytes.IndexByte(b, '#') >= 0 {
		d.protocol(clause, field+" contains a wildcard")
	}
	return b
}

// packetID reads a Packet Identifier, which is never 0.
func (d *decoder) packetID(clause string) uint16 {
	id := d.u16("packet identifier")
	if id == 0 {
		d.protocol(clause, "packet identifier is 0")
	}
	return id
}

// end checks that nothing follows the packet.
func (d *decoder) end() {
	if d.left() > 0 {
		d.malformed(by(d.version, "2.1.4", "2.2.3"), "bytes follow the last field")
	}
}

// flags checks the lower four bits of the first byte of all packets but PUBLISH.
func (d *decoder) flags(header byte) {
	t, flags := Type(header>>4), header&0x0f
	var want byte
	switch t {
	case TypePubrel, TypeSubscribe, TypeUnsubscribe:
		want = 2
		if d.version == V31 {
			flags &^= 8 // MQTT 3.1 sends these at QoS 1, with DUP when repeated
		}
	}
	if flags != want {
		d.malformed(flagsClause(t, d.version), "reserved flags of "+t.String()+" are wrong")
	}
}

func flagsClause(t Type, version byte) string {
	switch t {
	case TypePubrel:
		return "MQTT-3.6.1-1"
	case TypeSubscribe:
		return "MQTT-3.8.1-1"
	case TypeUnsubscribe:
		return "MQTT-3.10.1-1"
	case TypeDisconnect:
		return "MQTT-3.14.1-1"
	case TypeAuth:
		return "MQTT-3.15.1-1"
	}
	return by(version, "MQTT-2.1.3-1", "MQTT-2.2.2-2")
}
