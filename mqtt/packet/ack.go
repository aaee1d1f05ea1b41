package packet

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP.
type Ack struct {
	Kind     Type // one of the four
	PacketID uint16
	Code     ReasonCode // always 0 before MQTT 5
	// Props may hold a reason string and user properties. It is nil when there are
	// none, as nearly always: acknowledgements are many and must be small.
	Props *Properties
}

// Type implements Packet.
func (a *Ack) Type() Type { return a.Kind }

// DecodeAck decodes a PUBACK, PUBREC, PUBREL or PUBCOMP into *a, which is overwritten.
// It allocates only for properties.
func DecodeAck(header byte, body []byte, version byte, a *Ack) error {
	d := decoder{buf: body, version: version}
	*a = Ack{Kind: Type(header >> 4)}
	d.flags(header)
	a.PacketID = d.packetID(by(version, "MQTT-2.2.1-5", "MQTT-2.3.1-6"))
	if version >= V5 && d.left() > 0 { // both may be left out: section 3.4.2.1
		a.Code = d.reasonCode(a.Kind, ackClause(a.Kind))
		if d.left() > 0 {
			a.Props = d.properties(a.Kind)
		}
	}
	d.end()
	return d.error()
}

func ackClause(t Type) string {
	switch t {
	case TypePuback:
		return "MQTT-3.4.2-1"
	case TypePubrec:
		return "MQTT-3.5.2-1"
	case TypePubrel:
		return "MQTT-3.6.2-1"
	}
	return "MQTT-3.7.2-1"
}

// reasonCode reads a reason code that must be one of those listed for the packet type.
func (d *decoder) reasonCode(t Type, clause string) ReasonCode {
	c := ReasonCode(d.u8("reason code"))
	if !c.ValidIn(t) {
		d.protocol(clause, "reason code of "+t.String()+" is not one of its codes")
	}
	return c
}

// AppendTo implements Packet.
func (a *Ack) AppendTo(dst []byte, version byte) []byte {
	var flags byte
	if a.Kind == TypePubrel {
		flags = 2 // [MQTT-3.6.1-1]
	}
	dst = begin(dst, a.Kind, flags)
	at := len(dst)
	dst = appendU16(dst, a.PacketID)
	if version >= V5 && (a.Code != Success || a.Props != nil) {
		dst = append(dst, byte(a.Code))
		if a.Props != nil {
			dst = appendProperties(dst, version, a.Props)
		}
	}
	return prefixLength(dst, at)
}
