// Package websocket is the server's half of RFC 6455 as MQTT uses it: binary messages
// that are one stream of bytes. It has no buffer, goroutine or connection of its own:
// Decoder takes frames apart in the buffer they were read into, so that an idle
// WebSocket costs hardly more than an idle socket. Extensions are not offered.
package websocket

import (
	"encoding/binary"
	"unicode/utf8"
)

// Opcode is the type of a frame.
type Opcode byte

// The opcodes of RFC 6455, 5.2.
const (
	opContinuation Opcode = 0
	opText         Opcode = 1
	Binary         Opcode = 2
	Close          Opcode = 8
	Ping           Opcode = 9
	Pong           Opcode = 10
)

func (o Opcode) control() bool { return o&8 != 0 }

// Status says in a Close frame why.
type Status uint16

// The statuses of RFC 6455, 7.4.1, that this package uses.
const (
	NormalClosure   Status = 1000
	ProtocolError   Status = 1002
	UnsupportedData Status = 1003
	noStatus        Status = 1005 // never on the wire: a Close frame without one
	InvalidPayload  Status = 1007
)

// MaxControl is the largest payload of a control frame.
const MaxControl = 125

// Error is a frame that the client must not send. The connection must be closed with
// its Status.
type Error struct {
	Status Status
	Clause string // of MQTT or RFC 6455
	Detail string
}

func (e *Error) Error() string { return "websocket: " + e.Detail + " [" + e.Clause + "]" }

// ClosedError is the client's Close frame: nothing comes behind it.
type ClosedError struct{ Status Status }

func (e *ClosedError) Error() string { return "websocket: closed by the client" }

// Reply is the status of the Close frame that answers.
func (e *ClosedError) Reply() Status {
	if e.Status == noStatus {
		return NormalClosure
	}
	return e.Status
}

const maxHeader = 14

// Decoder takes a client's frames apart as their bytes come, in any pieces. The zero
// value is ready.
type Decoder struct {
	head    [maxHeader]byte // of the frame that has begun
	have    uint8           // bytes of head so far
	inFrame bool            // head is complete, left and key are valid
	started bool            // a message has begun and not ended
	op      Opcode
	fin     bool
	pos     uint8 // position in key
	key     [4]byte
	left    uint64 // payload bytes still to come
	payload []byte // of a control frame so far
}

// Decode takes bytes from the network and puts what is MQTT among them at the front of p:
// the payload of binary messages, n bytes. control is called for each Ping and Pong with
// a payload that it must not keep; its error ends the decoding. After an error, which may
// be a *ClosedError, the n bytes are good and the Decoder is not.
func (d *Decoder) Decode(p []byte, control func(Opcode, []byte) error) (n int, err error) {
	for rest := p; ; {
		if !d.inFrame {
			var complete bool
			if rest, complete, err = d.header(rest); err != nil || !complete {
				return n, err
			}
		}
		part := rest[:min(uint64(len(rest)), d.left)]
		rest = rest[len(part):]
		d.left -= uint64(len(part))
		d.unmask(part)
		if d.op.control() {
			d.payload = append(d.payload, part...)
		} else {
			n += copy(p[n:], part)
		}
		if d.left > 0 {
			return n, nil
		}
		if err := d.ended(control); err != nil {
			return n, err
		}
	}
}

// header takes the bytes of a header; complete: that was all of it.
func (d *Decoder) header(p []byte) (rest []byte, complete bool, err error) {
	for len(p) > 0 {
		want := 2
		if d.have >= 2 {
			want = d.headerSize()
		}
		taken := copy(d.head[d.have:want], p)
		d.have += uint8(taken)
		p = p[taken:]
		switch {
		case int(d.have) < want:
			return nil, false, nil
		case want > 2:
			return p, true, d.begin()
		}
		if err := d.check(); err != nil {
			return nil, false, err
		}
	}
	return nil, false, nil
}

// headerSize follows from the first two bytes, of a masked frame.
func (d *Decoder) headerSize() int {
	switch d.head[1] & 0x7f {
	case 127:
		return 14
	case 126:
		return 8
	}
	return 6
}

// check refuses a frame by its first two bytes.
func (d *Decoder) check() error {
	d.op, d.fin = Opcode(d.head[0]&0x0f), d.head[0]&0x80 != 0
	bad := func(clause, detail string) error {
		return &Error{Status: ProtocolError, Clause: clause, Detail: detail}
	}
	switch {
	case d.head[0]&0x70 != 0:
		return bad("RFC 6455 5.2", "frame of an extension that was not agreed on")
	case d.head[1]&0x80 == 0:
		return bad("RFC 6455 5.1", "frame that is not masked")
	}
	switch d.op {
	case opText:
		return &Error{Status: UnsupportedData, Clause: "MQTT-6.0.0-1", Detail: "text frame"}
	case Binary:
		if d.started {
			return bad("RFC 6455 5.4", "new message within a fragmented one")
		}
	case opContinuation:
		if !d.started {
			return bad("RFC 6455 5.4", "continuation of no message")
		}
	case Close, Ping, Pong:
		if !d.fin || d.head[1]&0x7f > MaxControl {
			return bad("RFC 6455 5.5", "control frame that is fragmented or too long")
		}
	default:
		return &Error{Status: UnsupportedData, Clause: "MQTT-6.0.0-1", Detail: "frame of an unknown type"}
	}
	return nil
}

// begin starts the payload once the header is complete.
func (d *Decoder) begin() error {
	size := d.headerSize()
	switch size {
	case 14:
		d.left = binary.BigEndian.Uint64(d.head[2:])
	case 8:
		d.left = uint64(binary.BigEndian.Uint16(d.head[2:]))
	default:
		d.left = uint64(d.head[1] & 0x7f)
	}
	if d.left>>63 != 0 {
		return &Error{Status: ProtocolError, Clause: "RFC 6455 5.2", Detail: "frame length beyond 63 bits"}
	}
	copy(d.key[:], d.head[size-4:])
	d.have, d.pos, d.inFrame = 0, 0, true
	return nil
}

// ended is called when a frame is complete.
func (d *Decoder) ended(control func(Opcode, []byte) error) error {
	d.inFrame = false
	if !d.op.control() {
		d.started = !d.fin
		return nil
	}
	payload := d.payload
	d.payload = nil
	if d.op == Close {
		return closed(payload)
	}
	return control(d.op, payload)
}

// closed is the error for a Close frame.
func closed(payload []byte) error {
	if len(payload) == 0 {
		return &ClosedError{Status: noStatus}
	}
	if len(payload) == 1 {
		return &Error{Status: ProtocolError, Clause: "RFC 6455 5.5.1", Detail: "half a status in a Close frame"}
	}
	s := Status(binary.BigEndian.Uint16(payload))
	switch {
	case s < 1000, s >= 1004 && s <= 1006, s >= 1015 && s < 3000, s >= 5000:
		return &Error{Status: ProtocolError, Clause: "RFC 6455 7.4", Detail: "status in a Close frame that may not be there"}
	case !utf8.Valid(payload[2:]):
		return &Error{Status: InvalidPayload, Clause: "RFC 6455 5.5.1", Detail: "reason in a Close frame that is not UTF-8"}
	}
	return &ClosedError{Status: s}
}

// unmask takes the client's mask off the next bytes of the frame.
func (d *Decoder) unmask(p []byte) {
	var key [8]byte
	for i := range key {
		key[i] = d.key[(int(d.pos)+i)&3]
	}
	d.pos = uint8((int(d.pos) + len(p)) & 3)
	word := binary.LittleEndian.Uint64(key[:])
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^word)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= key[i]
	}
}

// AppendHeader appends the header of a whole message, or control frame, with n bytes of
// payload.
func AppendHeader(b []byte, op Opcode, n int) []byte {
	b = append(b, 0x80|byte(op))
	switch {
	case n < 126:
		return append(b, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
}

// AppendClose appends a Close frame.
func AppendClose(b []byte, s Status) []byte {
	return binary.BigEndian.AppendUint16(AppendHeader(b, Close, 2), uint16(s))
}
