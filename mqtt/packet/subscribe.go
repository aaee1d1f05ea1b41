package packet

import "strings"

// Subscription is one topic filter of a SUBSCRIBE with its options. All but Filter and
// QoS exist in MQTT 5 only.
type Subscription struct {
	Filter            string // not checked beyond UTF-8: each filter has its own answer in SUBACK
	QoS               byte   // the maximum wanted
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0: send retained messages; 1: if the subscription is new; 2: do not
}

// Subscribe is a SUBSCRIBE packet.
type Subscribe struct {
	PacketID       uint16
	SubscriptionID uint32      // 0: none
	Props          *Properties // user properties; nil when there are none
	Filters        []Subscription
}

// Type implements Packet.
func (*Subscribe) Type() Type { return TypeSubscribe }

func (d *decoder) subscribe() *Subscribe {
	s := &Subscribe{PacketID: d.packetID(by(d.version, "MQTT-2.2.1-3", "MQTT-2.3.1-1"))}
	if p := d.properties(TypeSubscribe); p != nil {
		if p.SubscriptionIDs != nil {
			s.SubscriptionID, p.SubscriptionIDs = p.SubscriptionIDs[0], nil
		}
		if p.User != nil {
			s.Props = p
		}
	}
	for d.left() > 0 {
		f := Subscription{Filter: d.string("topic filter")} // [MQTT-3.8.3-1]
		d.options(&f)
		s.Filters = append(s.Filters, f)
	}
	if len(s.Filters) == 0 {
		d.protocol(by(d.version, "MQTT-3.8.3-2", "MQTT-3.8.3-3"), "SUBSCRIBE has no topic filter")
	}
	return s
}

// options reads the Subscription Options (section 3.8.3.1), or the QoS before MQTT 5.
func (d *decoder) options(f *Subscription) {
	b := d.u8("subscription options")
	f.QoS = b & 3
	if d.version < V5 {
		if b > 2 {
			d.malformed("MQTT-3-8.3-4", "requested QoS is not 0, 1 or 2, or reserved bits are set")
		}
		return
	}
	f.NoLocal = b&4 != 0
	f.RetainAsPublished = b&8 != 0
	f.RetainHandling = b >> 4 & 3
	switch {
	case b&0xC0 != 0:
		d.malformed("MQTT-3.8.3-5", "reserved subscription options are set")
	case f.QoS == 3:
		d.protocol("3.8.3.1", "maximum QoS is 3")
	case f.RetainHandling == 3:
		d.protocol("3.8.3.1", "retain handling is 3")
	case f.NoLocal && strings.HasPrefix(f.Filter, "$share/"):
		d.protocol("MQTT-3.8.3-4", "no local on a shared subscription")
	}
}

// AppendTo implements Packet.
func (s *Subscribe) AppendTo(dst []byte, version byte) []byte {
	dst = begin(dst, TypeSubscribe, 2) // [MQTT-3.8.1-1]
	at := len(dst)
	dst = appendU16(dst, s.PacketID)
	if version >= V5 {
		var p Properties
		if s.Props != nil {
			p = *s.Props
		}
		if s.SubscriptionID != 0 {
			p.SubscriptionIDs = []uint32{s.SubscriptionID}
		}
		dst = appendProperties(dst, version, &p)
	}
	for i := range s.Filters {
		dst = appendText(dst, s.Filters[i].Filter)
		dst = append(dst, s.Filters[i].options(version))
	}
	return prefixLength(dst, at)
}

func (f *Subscription) options(version byte) byte {
	if version < V5 {
		return f.QoS
	}
	return f.QoS | b2i(f.NoLocal)<<2 | b2i(f.RetainAsPublished)<<3 | f.RetainHandling<<4
}

// Suback is a SUBACK packet.
type Suback struct {
	PacketID uint16
	// Codes has one code for each filter of the SUBSCRIBE, in its order
	// [MQTT-3.9.3-1]. Before MQTT 5 every failure is sent as 0x80.
	Codes []ReasonCode
	Props *Properties // reason string and user properties; nil when there are none
}

// Type implements Packet.
func (*Suback) Type() Type { return TypeSuback }

func (d *decoder) suback() *Suback {
	s := &Suback{PacketID: d.packetID(by(d.version, "MQTT-2.2.1-6", "MQTT-2.3.1-7"))}
	s.Props = d.properties(TypeSuback)
	for d.left() > 0 {
		c := d.reasonCode(TypeSuback, "MQTT-3.9.3-2")
		if d.version < V5 && c > UnspecifiedError {
			d.protocol("MQTT-3.9.3-2", "return code of SUBACK is reserved")
		}
		s.Codes = append(s.Codes, c)
	}
	if len(s.Codes) == 0 {
		d.protocol(by(d.version, "MQTT-3.8.4-6", "MQTT-3.8.4-5"), "SUBACK has no code")
	}
	return s
}

// AppendTo implements Packet.
func (s *Suback) AppendTo(dst []byte, version byte) []byte {
	dst = begin(dst, TypeSuback, 0)
	at := len(dst)
	dst = appendU16(dst, s.PacketID)
	dst = appendProperties(dst, version, s.Props)
	for _, c := range s.Codes {
		if version < V5 && c.Failed() {
			c = UnspecifiedError // 0x80 is the only failure there [MQTT-3.9.3-2]
		}
		dst = append(dst, byte(c))
	}
	return prefixLength(dst, at)
}
