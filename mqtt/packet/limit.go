package packet

// AppendLimited appends a packet that must not be longer than limit bytes, the
// receiver's Maximum Packet Size (0: no limit). If it is too long, user properties and
// then the reason string, which only explain, are left out: [MQTT-3.2.2-19]
// [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] and their like for each packet. ok is
// false, and nothing is appended, when it is too long even so [MQTT-3.1.2-24].
func AppendLimited(dst []byte, p Packet, version byte, limit uint32) (out []byte, ok bool) {
	at := len(dst)
	dst = p.AppendTo(dst, version)
	if limit == 0 || uint64(len(dst)-at) <= uint64(limit) {
		return dst, true
	}
	for _, props := range diagnostics(p) {
		q := withProperties(p, props)
		if q == nil {
			break
		}
		if dst = q.AppendTo(dst[:at], version); uint64(len(dst)-at) <= uint64(limit) {
			return dst, true
		}
	}
	return dst[:at], false
}

// diagnostics returns the properties of p without user properties, and then without
// reason string too; or nothing if it has no properties that only explain.
func diagnostics(p Packet) []Properties {
	var whole Properties
	switch p := p.(type) {
	case *Connack:
		whole = p.Props
	case *Disconnect:
		whole = p.Props
	case *Auth:
		whole = p.Props
	case *Ack:
		whole = Value(p.Props, whole)
	case *Suback:
		whole = Value(p.Props, whole)
	case *Unsuback:
		whole = Value(p.Props, whole)
	default:
		return nil
	}
	whole.User = nil
	bare := whole
	bare.ReasonString = nil
	return []Properties{whole, bare}
}

// withProperties returns a copy of p with other properties.
func withProperties(p Packet, props Properties) Packet {
	switch p := p.(type) {
	case *Connack:
		q := *p
		q.Props = props
		return &q
	case *Disconnect:
		q := *p
		q.Props = props
		return &q
	case *Auth:
		q := *p
		q.Props = props
		return &q
	case *Ack:
		q := *p
		if q.Props = nil; props.ReasonString != nil {
			q.Props = &props
		}
		return &q
	case *Suback:
		q := *p
		q.Props = &props
		return &q
	case *Unsuback:
		q := *p
		q.Props = &props
		return &q
	}
	return nil
}
