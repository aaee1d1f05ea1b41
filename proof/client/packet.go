// Package client is a small MQTT 3.1.1 and 5.0 client that speaks packet by packet, so
// that a fault can be put between any two of them, and records everything in a history.
// It has a codec of its own: a mistake in a broker's codec must not be able to hide.
package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Packet types [MQTT 5, 2.1.2].
const (
	CONNECT     = 1
	CONNACK     = 2
	PUBLISH     = 3
	PUBACK      = 4
	PUBREC      = 5
	PUBREL      = 6
	PUBCOMP     = 7
	SUBSCRIBE   = 8
	SUBACK      = 9
	UNSUBSCRIBE = 10
	UNSUBACK    = 11
	PINGREQ     = 12
	PINGRESP    = 13
	DISCONNECT  = 14
	AUTH        = 15
)

var typeNames = [...]string{
	CONNECT: history.Connect, CONNACK: history.Connack, PUBLISH: history.Publish,
	PUBACK: history.Puback, PUBREC: history.Pubrec, PUBREL: history.Pubrel, PUBCOMP: history.Pubcomp,
	SUBSCRIBE: history.Subscribe, SUBACK: history.Suback, UNSUBSCRIBE: history.Unsubscribe,
	UNSUBACK: history.Unsuback, PINGREQ: history.Pingreq, PINGRESP: history.Pingresp,
	DISCONNECT: history.Disconnect, AUTH: history.Auth,
}

// TypeName returns the standard's name of a packet type.
func TypeName(t byte) string {
	if t == 0 || int(t) >= len(typeNames) {
		return fmt.Sprintf("TYPE%d", t)
	}
	return typeNames[t]
}

// Packet is any packet in either direction. Fields that a type does not have are zero.
type Packet struct {
	Type   byte
	Dup    bool
	Retain bool
	QoS    byte
	ID     uint16
	Topic  string
	// Payload is the application message of a PUBLISH.
	Payload        []byte
	SessionPresent bool
	// Code is the reason code, or the return code of a 3.1.1 CONNACK.
	Code    byte
	Codes   []byte // of SUBACK and UNSUBACK
	Filters []history.Filter
	Props   Properties
	Connect *ConnectFields // of CONNECT
}

// ConnectFields are what only a CONNECT has.
type ConnectFields struct {
	Version   byte // 3, 4 or 5
	Clean     bool
	KeepAlive uint16 // seconds
	ClientID  string
	Will      *Will
	Username  string
	Password  []byte
}

// Will is the will of a connection.
type Will struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Delay   uint32 // seconds; MQTT 5 only
	// Props are its further properties; MQTT 5 only.
	Props Properties
}

// MessageID returns what identifies the application message with this payload: its text
// up to the first '|', at most 64 bytes.
func MessageID(payload []byte) string {
	s := string(payload[:min(len(payload), 64)])
	if i := strings.IndexByte(s, '|'); i >= 0 {
		s = s[:i]
	}
	return s
}

// Sum is the hash of a payload as it stands in a history.
func Sum(payload []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(payload) // a hash never fails
	return h.Sum64()
}

// ErrMalformed is returned for bytes that are not a packet of the protocol.
var ErrMalformed = errors.New("client: malformed packet")

const maxPacket = 268_435_455 // [MQTT 5, 2.1.4]

// ReadPacket reads one packet in the given protocol version (4 or 5).
func ReadPacket(r io.Reader, version byte) (*Packet, error) {
	var head [1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	length, shift := 0, 0
	for {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		length |= int(b[0]&0x7f) << shift
		if b[0]&0x80 == 0 {
			break
		}
		if shift += 7; shift > 21 {
			return nil, fmt.Errorf("%w: remaining length", ErrMalformed)
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return Decode(head[0], body, version)
}

// Decode decodes the body of a packet whose first byte is head.
func Decode(head byte, body []byte, version byte) (*Packet, error) {
	p := &Packet{Type: head >> 4}
	flags := head & 0x0f
	want := byte(0)
	if p.Type == PUBREL || p.Type == SUBSCRIBE || p.Type == UNSUBSCRIBE {
		want = 2 // [MQTT-2.1.3-1]
	}
	if p.Type != PUBLISH && flags != want {
		return nil, fmt.Errorf("%w: flags %#x of %s", ErrMalformed, flags, TypeName(p.Type))
	}
	d := &decoder{b: body, v5: version >= 5}
	switch p.Type {
	case CONNECT:
		d.connect(p)
	case CONNACK:
		ack := d.u8()
		p.SessionPresent = ack&1 == 1
		if ack > 1 {
			d.fail("connect acknowledge flags") // [MQTT-3.2.2-1]
		}
		p.Code = d.u8()
		p.Props = d.props()
	case PUBLISH:
		d.publish(p, flags)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		p.ID = d.id()
		if d.v5 && len(d.b) > 0 {
			p.Code = d.u8()
			if len(d.b) > 0 {
				p.Props = d.props()
			}
		}
	case SUBSCRIBE, UNSUBSCRIBE:
		d.filters(p)
	case SUBACK, UNSUBACK:
		p.ID = d.id()
		p.Props = d.props()
		p.Codes, d.b = d.b, nil
	case PINGREQ, PINGRESP:
	case DISCONNECT, AUTH:
		if d.v5 && len(d.b) > 0 {
			p.Code = d.u8()
			if len(d.b) > 0 {
				p.Props = d.props()
			}
		}
	default:
		d.fail("packet type")
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes after the packet's end")
	}
	if d.err != nil {
		return nil, fmt.Errorf("%s: %w", TypeName(p.Type), d.err)
	}
	return p, nil
}

// Encode returns the bytes of p in the given protocol version.
func Encode(p *Packet, version byte) ([]byte, error) {
	e := &encoder{v5: version >= 5}
	flags := byte(0)
	switch p.Type {
	case CONNECT:
		e.connect(p)
	case CONNACK:
		e.u8(boolBit(p.SessionPresent, 0))
		e.u8(p.Code)
		e.props(p.Props)
	case PUBLISH:
		flags = boolBit(p.Dup, 3) | p.QoS<<1 | boolBit(p.Retain, 0)
		e.str(p.Topic)
		if p.QoS > 0 {
			e.u16(p.ID)
		}
		e.props(p.Props)
		e.b = append(e.b, p.Payload...)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		if p.Type == PUBREL {
			flags = 2
		}
		e.u16(p.ID)
		if e.v5 && (p.Code != 0 || p.Props.size() > 0) {
			e.u8(p.Code)
			e.props(p.Props)
		}
	case SUBSCRIBE, UNSUBSCRIBE:
		flags = 2
		e.filters(p)
	case SUBACK, UNSUBACK:
		e.u16(p.ID)
		e.props(p.Props)
		e.b = append(e.b, p.Codes...)
	case PINGREQ, PINGRESP:
	case DISCONNECT, AUTH:
		if e.v5 && (p.Code != 0 || p.Props.size() > 0) {
			e.u8(p.Code)
			e.props(p.Props)
		}
	default:
		return nil, fmt.Errorf("%w: type %d", ErrMalformed, p.Type)
	}
	if len(e.b) > maxPacket {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(e.b))
	}
	out := binary.AppendUvarint([]byte{p.Type<<4 | flags}, uint64(len(e.b))) // the same encoding as MQTT's
	return append(out, e.b...), nil
}

func boolBit(b bool, shift uint) byte {
	if b {
		return 1 << shift
	}
	return 0
}
