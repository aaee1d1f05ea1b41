package packet

import (
	"slices"
	"unicode/utf8"
)

// Publish is a PUBLISH packet. Its properties are kept in two parts: those that the
// broker itself acts on have fields, those that it must hand on unaltered stay in
// their wire form, so that a message is stored and sent without taking them apart.
type Publish struct {
	// Topic may be empty only together with a topic alias.
	Topic string
	// Payload is a part of the buffer that was decoded.
	Payload []byte
	// Forward holds payload format indicator, content type, response topic,
	// correlation data and user properties in wire form and original order
	// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17]
	// [MQTT-3.3.2-18] [MQTT-3.3.2-20]; nil when there are none. After decoding it
	// is a part of the buffer if they stood together there, else a copy.
	// [ParseForward] and [AppendForward] translate.
	Forward []byte
	// SubscriptionIDs are those of the matching subscriptions; from a client there
	// are none [MQTT-3.3.4-6].
	SubscriptionIDs []uint32
	// Expiry is the Message Expiry Interval in seconds, if HasExpiry.
	Expiry uint32
	// PacketID is not 0 for QoS 1 and 2, and is not sent for QoS 0.
	PacketID uint16
	// TopicAlias is 0 when there is none.
	TopicAlias uint16
	QoS        byte
	Dup        bool
	Retain     bool
	HasExpiry  bool
}

// Type implements Packet.
func (*Publish) Type() Type { return TypePublish }

// DecodePublish decodes a PUBLISH into *p, which is overwritten. It allocates the topic,
// unless p already holds the same one, and Forward only when it cannot be a part of body.
func DecodePublish(header byte, body []byte, version byte, p *Publish) error {
	d := decoder{buf: body, version: version}
	topic := p.Topic
	*p = Publish{QoS: header >> 1 & 3, Dup: header&8 != 0, Retain: header&1 != 0}
	d.publishFlags(p)
	name := d.topicName("topic name", "MQTT-3.3.2-2")
	if p.Topic = topic; topic != string(name) {
		p.Topic = string(name)
	}
	if p.QoS > 0 {
		p.PacketID = d.packetID(by(version, "MQTT-2.2.1-3", "MQTT-2.3.1-1"))
	}
	if version >= V5 {
		d.messageProperties(p, nil, TypePublish)
	}
	if p.Topic == "" && p.TopicAlias == 0 {
		d.protocol(by(version, "3.3.2.1", "MQTT-4.7.3-1"), "topic name is empty")
	}
	p.Payload = d.take(d.left(), "payload")
	return d.error()
}

func (d *decoder) publishFlags(p *Publish) {
	switch {
	case p.QoS == 3:
		d.malformed("MQTT-3.3.1-4", "QoS is 3")
	case p.QoS == 0 && p.Dup:
		d.malformed("MQTT-3.3.1-2", "DUP is set at QoS 0") // "if invalid flags are received": section 2.1.3
	}
}

// CheckFromClient checks what a server demands of a client's PUBLISH in addition.
func (p *Publish) CheckFromClient() error {
	if len(p.SubscriptionIDs) > 0 {
		return &Error{Code: ProtocolError, Clause: "MQTT-3.3.4-6", Detail: "PUBLISH from a client has a subscription identifier"}
	}
	return nil
}

// AppendTo implements Packet.
func (p *Publish) AppendTo(dst []byte, version byte) []byte { return AppendPublish(dst, version, p) }

// AppendPublish appends a PUBLISH. It allocates only to grow dst.
func AppendPublish(dst []byte, version byte, p *Publish) []byte {
	n := publishRemaining(version, p)
	dst = slices.Grow(dst, MaxHeader+n)
	dst = append(dst, byte(TypePublish)<<4|b2i(p.Dup)<<3|p.QoS<<1|b2i(p.Retain))
	dst = appendVarint(dst, n)
	dst = appendText(dst, p.Topic)
	if p.QoS > 0 {
		dst = appendU16(dst, p.PacketID)
	}
	if version >= V5 {
		dst = appendVarint(dst, publishProperties(p))
		if p.HasExpiry {
			dst = appendU32(append(dst, propMessageExpiry), p.Expiry)
		}
		for _, id := range p.SubscriptionIDs {
			dst = appendVarint(append(dst, propSubscriptionID), int(id))
		}
		if p.TopicAlias != 0 {
			dst = appendU16(append(dst, propTopicAlias), p.TopicAlias)
		}
		dst = append(dst, p.Forward...)
	}
	return append(dst, p.Payload...)
}

// PublishSize is the exact number of bytes that AppendPublish writes, fixed header
// included: what a receiver's Maximum Packet Size limits [MQTT-3.1.2-24].
func PublishSize(version byte, p *Publish) int {
	n := publishRemaining(version, p)
	return 1 + varintSize(n) + n
}

// publishRemaining is the Remaining Length of a PUBLISH.
func publishRemaining(version byte, p *Publish) int {
	n := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if version >= V5 {
		props := publishProperties(p)
		n += varintSize(props) + props
	}
	return n
}

// publishProperties is the Property Length of a PUBLISH.
func publishProperties(p *Publish) int {
	n := len(p.Forward)
	if p.HasExpiry {
		n += 5
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintSize(int(id))
	}
	return n
}

// EncodedPublish is a PUBLISH in wire form that is sent to several receivers: all
// whose packets differ in nothing but packet identifier and DUP. It is immutable.
type EncodedPublish struct {
	wire []byte
	id   int // offset of the packet identifier in wire, or 0 at QoS 0
}

// EncodePublish encodes p for a version. Its PacketID and Dup do not matter.
func EncodePublish(version byte, p *Publish) EncodedPublish {
	first := *p
	first.Dup = false
	e := EncodedPublish{wire: AppendPublish(nil, version, &first)}
	if p.QoS > 0 {
		e.id = 1 + varintSize(publishRemaining(version, p)) + 2 + len(p.Topic)
	}
	return e
}

// Size is the number of bytes that AppendTo writes.
func (e EncodedPublish) Size() int { return len(e.wire) }

// AppendTo appends the packet for one receiver. At QoS 0 both arguments are ignored
// [MQTT-3.3.1-2] [MQTT-2.2.1-2].
func (e EncodedPublish) AppendTo(dst []byte, packetID uint16, dup bool) []byte {
	at := len(dst)
	dst = append(dst, e.wire...)
	if e.id == 0 {
		return dst
	}
	dst[at] |= b2i(dup) << 3
	dst[at+e.id], dst[at+e.id+1] = byte(packetID>>8), byte(packetID)
	return dst
}

// messageProperties reads the properties of a message into p: those of a PUBLISH, or
// those of a will, which has a delay and neither alias nor subscription identifiers.
func (d *decoder) messageProperties(p *Publish, delay *uint32, where Type) {
	whole := d.section()
	f := forward{buf: d.buf}
	var seen uint64
	for d.left() > 0 {
		at := d.off
		id, name := d.property(where, &seen)
		switch id {
		case propMessageExpiry:
			p.Expiry, p.HasExpiry = d.u32(name), true
		case propSubscriptionID:
			p.SubscriptionIDs = append(p.SubscriptionIDs, d.subscriptionID())
		case propTopicAlias:
			p.TopicAlias = d.topicAlias()
		case propWillDelay:
			*delay = d.u32(name)
		default:
			d.skipForwarded(id, name)
			f.add(at, d.off)
		}
	}
	if d.err == nil {
		p.Forward = f.bytes()
	}
	d.buf = whole
}

// skipForwarded checks one of the properties that are kept in wire form.
func (d *decoder) skipForwarded(id byte, name string) {
	switch id {
	case propPayloadFormat:
		d.bool(name)
	case propContentType:
		d.text(name) // [MQTT-3.3.2-19]
	case propResponseTopic:
		d.responseTopic()
	case propCorrelationData:
		d.binary(name)
	case propUser:
		d.text(name)
		d.text(name)
	}
}

// forward collects pieces of a buffer. While they stand together it only remembers
// where.
type forward struct {
	buf        []byte
	start, end int
	built      []byte
}

func (f *forward) add(start, end int) {
	switch {
	case f.built != nil:
		f.built = append(f.built, f.buf[start:end]...)
	case f.start == f.end:
		f.start, f.end = start, end
	case f.end == start:
		f.end = end
	default:
		f.built = make([]byte, 0, len(f.buf)-f.start)
		f.built = append(append(f.built, f.buf[f.start:f.end]...), f.buf[start:end]...)
	}
}

func (f *forward) bytes() []byte {
	if f.built != nil || f.start == f.end {
		return f.built
	}
	return f.buf[f.start:f.end:f.end]
}

// ParseForward takes the opaque Forward of a message apart. It refuses everything but
// the properties that belong there.
func ParseForward(b []byte) (Properties, error) {
	d := decoder{buf: b, version: V5}
	p := d.propertyList(TypePublish)
	if d.err != nil {
		return Properties{}, d.err
	}
	if p == nil {
		return Properties{}, nil
	}
	if p.MessageExpiry != nil || p.TopicAlias != nil || p.SubscriptionIDs != nil {
		return Properties{}, &Error{Code: ProtocolError, Clause: "3.3.2.3", Detail: "a property is forwarded that is not handed on unaltered"}
	}
	return *p, nil
}

// AppendForward appends the properties that belong into Forward, and no others.
func AppendForward(dst []byte, p *Properties) []byte {
	only := Properties{
		PayloadFormat:   p.PayloadFormat,
		ContentType:     p.ContentType,
		ResponseTopic:   p.ResponseTopic,
		CorrelationData: p.CorrelationData,
		User:            p.User,
	}
	return only.appendTo(dst)
}

// CheckPayloadFormat verifies that a payload whose Payload Format Indicator says so is
// UTF-8; if not the error has code 0x99. A receiver may check this, and need not
// (section 3.3.2.3.2). It allocates nothing unless it fails.
func (p *Publish) CheckPayloadFormat() error {
	d := decoder{buf: p.Forward, version: V5}
	var seen uint64
	for d.left() > 0 {
		id, name := d.property(TypePublish, &seen)
		if id == propPayloadFormat {
			if d.bool(name) && !utf8.Valid(p.Payload) {
				d.fail(PayloadFormatInvalid, "3.3.2.3.2", "payload is not UTF-8 as its format indicator says")
			}
			break
		}
		d.skipForwarded(id, name)
	}
	return d.error()
}
