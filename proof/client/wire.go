package client

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Property identifiers [MQTT 5, 2.2.2.2].
const (
	PropPayloadFormat         = 0x01
	PropMessageExpiry         = 0x02
	PropContentType           = 0x03
	PropResponseTopic         = 0x08
	PropCorrelationData       = 0x09
	PropSubscriptionID        = 0x0B
	PropSessionExpiry         = 0x11
	PropAssignedClientID      = 0x12
	PropServerKeepAlive       = 0x13
	PropAuthMethod            = 0x15
	PropAuthData              = 0x16
	PropRequestProblemInfo    = 0x17
	PropWillDelay             = 0x18
	PropRequestResponseInfo   = 0x19
	PropResponseInfo          = 0x1A
	PropServerReference       = 0x1C
	PropReasonString          = 0x1F
	PropReceiveMaximum        = 0x21
	PropTopicAliasMaximum     = 0x22
	PropTopicAlias            = 0x23
	PropMaximumQoS            = 0x24
	PropRetainAvailable       = 0x25
	PropUser                  = 0x26
	PropMaximumPacketSize     = 0x27
	PropWildcardSubAvailable  = 0x28
	PropSubscriptionAvailable = 0x29
	PropSharedSubAvailable    = 0x2A
)

type kind byte

const (
	kindByte kind = iota + 1
	kindU16
	kindU32
	kindVar
	kindText // UTF-8 strings and binary data look the same on the wire
	kindPair
)

func kindOf(id byte) kind {
	switch id {
	case PropPayloadFormat, PropRequestProblemInfo, PropRequestResponseInfo, PropMaximumQoS, PropRetainAvailable,
		PropWildcardSubAvailable, PropSubscriptionAvailable, PropSharedSubAvailable:
		return kindByte
	case PropServerKeepAlive, PropReceiveMaximum, PropTopicAliasMaximum, PropTopicAlias:
		return kindU16
	case PropMessageExpiry, PropSessionExpiry, PropWillDelay, PropMaximumPacketSize:
		return kindU32
	case PropSubscriptionID:
		return kindVar
	case PropContentType, PropResponseTopic, PropCorrelationData, PropAssignedClientID, PropAuthMethod, PropAuthData,
		PropResponseInfo, PropServerReference, PropReasonString:
		return kindText
	case PropUser:
		return kindPair
	}
	return 0
}

// Properties are the properties of an MQTT 5 packet.
type Properties struct {
	Int             map[byte]uint32 // numbers of every width
	Text            map[byte]string // strings and binary data
	User            [][2]string     // in order
	SubscriptionIDs []uint32
}

func (p Properties) size() int {
	return len(p.Int) + len(p.Text) + len(p.User) + len(p.SubscriptionIDs)
}

func (p Properties) clone() Properties {
	p.Int, p.Text = maps.Clone(p.Int), maps.Clone(p.Text)
	return p
}

// Set sets a numeric property and returns p for chaining.
func (p *Properties) Set(id byte, v uint32) *Properties {
	if p.Int == nil {
		p.Int = make(map[byte]uint32)
	}
	p.Int[id] = v
	return p
}

// Get returns a numeric property, or nil when it is absent.
func (p Properties) Get(id byte) *uint32 {
	if v, ok := p.Int[id]; ok {
		return &v
	}
	return nil
}

type encoder struct {
	b  []byte
	v5 bool
}

func (e *encoder) u8(v byte)    { e.b = append(e.b, v) }
func (e *encoder) u16(v uint16) { e.b = binary.BigEndian.AppendUint16(e.b, v) }
func (e *encoder) u32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *encoder) str(s string) { e.u16(uint16(len(s))); e.b = append(e.b, s...) }

func (e *encoder) props(p Properties) {
	if !e.v5 {
		return
	}
	in := &encoder{v5: true}
	for _, id := range slices.Sorted(maps.Keys(p.Int)) {
		in.u8(id)
		switch v := p.Int[id]; kindOf(id) {
		case kindByte:
			in.u8(byte(v))
		case kindU16:
			in.u16(uint16(v))
		case kindU32:
			in.u32(v)
		case kindVar:
			in.b = binary.AppendUvarint(in.b, uint64(v))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Text)) {
		in.u8(id)
		in.str(p.Text[id])
	}
	for _, v := range p.SubscriptionIDs {
		in.u8(PropSubscriptionID)
		in.b = binary.AppendUvarint(in.b, uint64(v))
	}
	for _, kv := range p.User {
		in.u8(PropUser)
		in.str(kv[0])
		in.str(kv[1])
	}
	e.b = binary.AppendUvarint(e.b, uint64(len(in.b)))
	e.b = append(e.b, in.b...)
}

func (e *encoder) connect(p *Packet) {
	c := p.Connect
	if c.Version == 3 {
		e.str("MQIsdp")
	} else {
		e.str("MQTT")
	}
	e.u8(c.Version)
	flags := boolBit(c.Clean, 1) | boolBit(c.Username != "", 7) | boolBit(c.Password != nil, 6)
	if c.Will != nil {
		flags |= 1<<2 | c.Will.QoS<<3 | boolBit(c.Will.Retain, 5)
	}
	e.u8(flags)
	e.u16(c.KeepAlive)
	e.props(p.Props)
	e.str(c.ClientID)
	if c.Will != nil {
		wp := c.Will.Props.clone()
		if c.Will.Delay > 0 {
			wp.Set(PropWillDelay, c.Will.Delay)
		}
		e.props(wp)
		e.str(c.Will.Topic)
		e.str(string(c.Will.Payload))
	}
	if c.Username != "" {
		e.str(c.Username)
	}
	if c.Password != nil {
		e.str(string(c.Password))
	}
}

func (e *encoder) filters(p *Packet) {
	e.u16(p.ID)
	e.props(p.Props)
	for _, f := range p.Filters {
		e.str(f.Filter)
		if p.Type == UNSUBSCRIBE {
			continue
		}
		o := f.QoS
		if e.v5 {
			o |= boolBit(f.NoLocal, 2) | boolBit(f.RetainAsPublished, 3) | f.RetainHandling<<4
		}
		e.u8(o)
	}
}

// decoder reads a packet's body; after the first error it reads zeros.
type decoder struct {
	b   []byte
	v5  bool
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("too short")
		return make([]byte, min(n, 8))
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u8() byte    { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }

func (d *decoder) id() uint16 {
	id := d.u16()
	if id == 0 {
		d.fail("packet identifier 0") // [MQTT-2.2.1-3]
	}
	return id
}

func (d *decoder) data() []byte {
	n := int(d.u16())
	if n > len(d.b) {
		d.fail("string too short")
		return nil
	}
	return d.take(n)
}

func (d *decoder) str() string {
	s := d.data()
	if !utf8.Valid(s) {
		d.fail("invalid UTF-8") // [MQTT-1.5.4-1]
	}
	return string(s)
}

func (d *decoder) uvarint() uint32 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 4 {
		d.fail("variable byte integer")
		return 0
	}
	d.b = d.b[n:]
	return uint32(v)
}

func (d *decoder) props() (p Properties) {
	if !d.v5 {
		return p
	}
	n := int(d.uvarint())
	if n > len(d.b) {
		d.fail("property length")
		return p
	}
	in := &decoder{b: d.b[:n], v5: true}
	d.b = d.b[n:]
	for len(in.b) > 0 && in.err == nil {
		in.property(&p)
	}
	if in.err != nil && d.err == nil {
		d.err = in.err
		d.b = nil
	}
	return p
}

func (d *decoder) property(p *Properties) {
	id := d.u8()
	var v uint32
	switch kindOf(id) {
	case kindByte:
		v = uint32(d.u8())
	case kindU16:
		v = uint32(d.u16())
	case kindU32:
		v = d.u32()
	case kindVar:
		p.SubscriptionIDs = append(p.SubscriptionIDs, d.uvarint())
		return
	case kindText:
		if p.Text == nil {
			p.Text = make(map[byte]string)
		}
		if _, twice := p.Text[id]; twice {
			d.fail("a property twice")
		}
		p.Text[id] = string(d.data())
		return
	case kindPair:
		p.User = append(p.User, [2]string{d.str(), d.str()})
		return
	default:
		d.fail("unknown property")
		return
	}
	if p.Get(id) != nil {
		d.fail("a property twice")
	}
	p.Set(id, v)
}

func (d *decoder) publish(p *Packet, flags byte) {
	p.Dup, p.QoS, p.Retain = flags&8 != 0, flags>>1&3, flags&1 != 0
	if p.QoS == 3 {
		d.fail("QoS 3") // [MQTT-3.3.1-4]
	}
	if p.Dup && p.QoS == 0 {
		d.fail("DUP at QoS 0") // [MQTT-3.3.1-2]
	}
	p.Topic = d.str()
	if p.QoS > 0 {
		p.ID = d.id()
	}
	p.Props = d.props()
	p.Payload, d.b = d.b, nil
}

func (d *decoder) filters(p *Packet) {
	p.ID = d.id()
	p.Props = d.props()
	for len(d.b) > 0 && d.err == nil {
		f := history.Filter{Filter: d.str()}
		if p.Type == SUBSCRIBE {
			o := d.u8()
			f.QoS, f.NoLocal, f.RetainAsPublished, f.RetainHandling = o&3, o&4 != 0, o&8 != 0, o>>4&3
		}
		p.Filters = append(p.Filters, f)
	}
}

func (d *decoder) connect(p *Packet) {
	if d.str() != "MQTT" {
		d.fail("protocol name")
	}
	c := &ConnectFields{Version: d.u8()}
	p.Connect = c
	d.v5 = c.Version >= 5
	flags := d.u8()
	c.Clean = flags&2 != 0
	c.KeepAlive = d.u16()
	p.Props = d.props()
	c.ClientID = d.str()
	if flags&4 != 0 {
		c.Will = &Will{QoS: flags >> 3 & 3, Retain: flags&32 != 0}
		if delay := d.props().Get(PropWillDelay); delay != nil {
			c.Will.Delay = *delay
		}
		c.Will.Topic = d.str()
		c.Will.Payload = d.data()
	}
	if flags&128 != 0 {
		c.Username = d.str()
	}
	if flags&64 != 0 {
		c.Password = d.data()
	}
}
