package packet

// Pingreq is a PINGREQ packet.
type Pingreq struct{}

// Type implements Packet.
func (*Pingreq) Type() Type { return TypePingreq }

// AppendTo implements Packet.
func (*Pingreq) AppendTo(dst []byte, _ byte) []byte { return begin(dst, TypePingreq, 0) }

// Pingresp is a PINGRESP packet.
type Pingresp struct{}

// Type implements Packet.
func (*Pingresp) Type() Type { return TypePingresp }

// AppendTo implements Packet.
func (*Pingresp) AppendTo(dst []byte, _ byte) []byte { return begin(dst, TypePingresp, 0) }

// Disconnect is a DISCONNECT packet. Before MQTT 5 it is empty and sent by clients only.
type Disconnect struct {
	Code  ReasonCode
	Props Properties
}

// Type implements Packet.
func (*Disconnect) Type() Type { return TypeDisconnect }

func (d *decoder) disconnect() *Disconnect {
	p := &Disconnect{}
	if d.version < V5 || d.left() == 0 { // section 3.14.2.1: then the code is 0x00
		return p
	}
	p.Code = d.reasonCode(TypeDisconnect, "MQTT-3.14.2-1")
	if d.left() == 0 { // section 3.14.2.2.1
		return p
	}
	if props := d.properties(TypeDisconnect); props != nil {
		p.Props = *props
	}
	return p
}

// AppendTo implements Packet.
func (p *Disconnect) AppendTo(dst []byte, version byte) []byte {
	dst = begin(dst, TypeDisconnect, 0)
	if version < V5 {
		return dst
	}
	return appendCodeAndProperties(dst, p.Code, &p.Props)
}

// appendCodeAndProperties leaves both out when they say nothing.
func appendCodeAndProperties(dst []byte, c ReasonCode, p *Properties) []byte {
	at := len(dst)
	dst = appendProperties(append(dst, byte(c)), V5, p)
	if c == Success && len(dst) == at+2 {
		return dst[:at]
	}
	return prefixLength(dst, at)
}

// Auth is an AUTH packet, which exists in MQTT 5 only.
type Auth struct {
	Code  ReasonCode
	Props Properties
}

// Type implements Packet.
func (*Auth) Type() Type { return TypeAuth }

func (d *decoder) auth() *Auth {
	p := &Auth{}
	if d.left() == 0 { // section 3.15.2.1: then the code is 0x00
		return p
	}
	p.Code = d.reasonCode(TypeAuth, "MQTT-3.15.2-1")
	if props := d.properties(TypeAuth); props != nil {
		p.Props = *props
	}
	if p.Props.AuthMethod == nil {
		d.protocol("3.15.2.2.2", "AUTH without authentication method")
	}
	return p
}

// AppendTo implements Packet.
func (p *Auth) AppendTo(dst []byte, _ byte) []byte {
	return appendCodeAndProperties(begin(dst, TypeAuth, 0), p.Code, &p.Props)
}
