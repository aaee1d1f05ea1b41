package packet

// Unsubscribe is an UNSUBSCRIBE packet.
type Unsubscribe struct {
	PacketID uint16
	Props    *Properties // user properties; nil when there are none
	Filters  []string    // not checked beyond UTF-8
}

// Type implements Packet.
func (*Unsubscribe) Type() Type { return TypeUnsubscribe }

func (d *decoder) unsubscribe() *Unsubscribe {
	u := &Unsubscribe{PacketID: d.packetID(by(d.version, "MQTT-2.2.1-3", "MQTT-2.3.1-1"))}
	u.Props = d.properties(TypeUnsubscribe)
	for d.left() > 0 {
		u.Filters = append(u.Filters, d.string("topic filter")) // [MQTT-3.10.3-1]
	}
	if len(u.Filters) == 0 {
		d.protocol("MQTT-3.10.3-2", "UNSUBSCRIBE has no topic filter")
	}
	return u
}

// AppendTo implements Packet.
func (u *Unsubscribe) AppendTo(dst []byte, version byte) []byte {
	dst = begin(dst, TypeUnsubscribe, 2) // [MQTT-3.10.1-1]
	at := len(dst)
	dst = appendU16(dst, u.PacketID)
	dst = appendProperties(dst, version, u.Props)
	for _, f := range u.Filters {
		dst = appendText(dst, f)
	}
	return prefixLength(dst, at)
}

// Unsuback is an UNSUBACK packet.
type Unsuback struct {
	PacketID uint16
	// Codes has one code for each filter of the UNSUBSCRIBE, in its order
	// [MQTT-3.11.3-1]. It is not sent before MQTT 5.
	Codes []ReasonCode
	Props *Properties // reason string and user properties; nil when there are none
}

// Type implements Packet.
func (*Unsuback) Type() Type { return TypeUnsuback }

func (d *decoder) unsuback() *Unsuback {
	u := &Unsuback{PacketID: d.packetID(by(d.version, "MQTT-2.2.1-6", "MQTT-2.3.1-7"))}
	if d.version < V5 {
		return u
	}
	u.Props = d.properties(TypeUnsuback)
	for d.left() > 0 {
		u.Codes = append(u.Codes, d.reasonCode(TypeUnsuback, "MQTT-3.11.3-2"))
	}
	if len(u.Codes) == 0 {
		d.protocol("MQTT-3.11.3-1", "UNSUBACK has no code")
	}
	return u
}

// AppendTo implements Packet.
func (u *Unsuback) AppendTo(dst []byte, version byte) []byte {
	dst = begin(dst, TypeUnsuback, 0)
	at := len(dst)
	dst = appendU16(dst, u.PacketID)
	if version >= V5 {
		dst = appendProperties(dst, version, u.Props)
		for _, c := range u.Codes {
			dst = append(dst, byte(c))
		}
	}
	return prefixLength(dst, at)
}
