package packet

// Connack is a CONNACK packet.
type Connack struct {
	SessionPresent bool // does not exist in MQTT 3.1
	// Code is translated into a return code before MQTT 5; see
	// [ReasonCode.ConnectReturnCode].
	Code  ReasonCode
	Props Properties
}

// Type implements Packet.
func (*Connack) Type() Type { return TypeConnack }

func (d *decoder) connack() *Connack {
	c := &Connack{}
	flags := d.u8("connect acknowledge flags")
	if d.version != V31 { // the byte is reserved there
		c.SessionPresent = flags&1 != 0
		if flags > 1 {
			d.malformed("MQTT-3.2.2-1", "reserved connect acknowledge flags are set")
		}
	}
	if d.version >= V5 {
		c.Code = d.reasonCode(TypeConnack, "MQTT-3.2.2-8")
	} else if code, ok := fromConnectReturnCode(d.u8("return code")); ok {
		c.Code = code
	} else {
		d.malformed("3.2.2.3", "connect return code is reserved")
	}
	if c.SessionPresent && c.Code != Success {
		d.protocol(by(d.version, "MQTT-3.2.2-6", "MQTT-3.2.2-4"), "session present in a CONNACK that refuses")
	}
	if p := d.properties(TypeConnack); p != nil {
		c.Props = *p
	}
	return c
}

// AppendTo implements Packet. Before MQTT 5 it appends nothing when no return code
// fits: the connection is then closed without a CONNACK [MQTT-3.2.2-6 of 3.1.1].
func (c *Connack) AppendTo(dst []byte, version byte) []byte {
	code, ok := byte(c.Code), true
	if version < V5 {
		code, ok = c.Code.ConnectReturnCode()
	}
	if !ok {
		return dst
	}
	present := c.SessionPresent && c.Code == Success && version != V31 // [MQTT-3.2.2-6]
	dst = begin(dst, TypeConnack, 0)
	at := len(dst)
	dst = append(dst, b2i(present), code)
	dst = appendProperties(dst, version, &c.Props)
	return prefixLength(dst, at)
}
