package packet

// Connect is a CONNECT packet.
type Connect struct {
	Version    byte // V31, V311 or V5
	CleanStart bool // Clean Session before MQTT 5
	KeepAlive  uint16
	// ClientID is empty when the server shall choose one.
	ClientID    string
	Will        *Will // nil: none
	HasUsername bool
	Username    string
	HasPassword bool
	Password    []byte
	Props       Properties
}

// Will is the will of a CONNECT: a message, and how long to wait with it. Of Message
// are used Topic, Payload, QoS, Retain, Expiry, HasExpiry and Forward; none of them
// refers to the decoded buffer.
type Will struct {
	Delay   uint32 // seconds
	Message Publish
}

// Type implements Packet.
func (*Connect) Type() Type { return TypeConnect }

const (
	flagReserved   = 1 << 0
	flagCleanStart = 1 << 1
	flagWill       = 1 << 2
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUsername   = 1 << 7
)

func (d *decoder) connect() *Connect {
	c := &Connect{}
	d.version = 0 // until it is known
	d.protocolLevel(c)
	d.connectFields(c)
	if d.err != nil && d.err.Version == 0 {
		d.err.Version = d.version
	}
	return c
}

// connectFields reads what follows the protocol level.
func (d *decoder) connectFields(c *Connect) {
	flags := d.u8("connect flags")
	d.connectFlags(flags)
	c.CleanStart = flags&flagCleanStart != 0
	c.KeepAlive = d.u16("keep alive")
	if p := d.properties(TypeConnect); p != nil {
		c.Props = *p
	}
	c.ClientID = d.string("client identifier") // [MQTT-3.1.3-3] [MQTT-3.1.3-4]
	d.emptyClientID(c)
	if flags&flagWill != 0 {
		c.Will = d.will(flags)
	}
	if flags&flagUsername != 0 && !d.missingIn31() { // [MQTT-3.1.2-17]
		c.HasUsername, c.Username = true, d.string("user name")
	}
	if flags&flagPassword != 0 && !d.missingIn31() { // [MQTT-3.1.2-19]
		c.HasPassword, c.Password = true, d.copy("password")
	}
	if d.left() > 0 { // [MQTT-3.1.2-16] [MQTT-3.1.2-18]
		d.malformed("MQTT-3.1.4-1", "bytes follow the last field that the connect flags announce")
	}
}

// missingIn31 allows what MQTT 3.1 asks servers to allow (section 3.1): the flag of user
// name or password is set, but the packet ends before it.
func (d *decoder) missingIn31() bool { return d.version == V31 && d.left() == 0 }

// protocolLevel reads protocol name and level.
func (d *decoder) protocolLevel(c *Connect) {
	name := d.string("protocol name")
	if d.err == nil && name != "MQTT" && name != "MQIsdp" {
		d.fail(UnsupportedProtocolVersion, "MQTT-3.1.2-1", "protocol name is neither MQTT nor MQIsdp")
		return
	}
	level := d.u8("protocol level")
	switch {
	case d.err != nil:
	case name == "MQIsdp" && level == V31, name == "MQTT" && (level == V311 || level == V5):
		c.Version, d.version = level, level
	default:
		d.fail(UnsupportedProtocolVersion, "MQTT-3.1.2-2", "protocol level is not supported")
		d.err.Version = d.layout()
	}
}

// layout guesses the version in which a client of an unknown protocol level understands a
// CONNACK: the one in which its CONNECT makes sense. No packet does in both.
func (d *decoder) layout() byte {
	rest := decoder{buf: d.buf, off: d.off, version: V5}
	rest.connectFields(&Connect{})
	if rest.err != nil {
		return V311
	}
	return V5
}

// connectFlags checks the connect flags byte (section 3.1.2.3).
func (d *decoder) connectFlags(flags byte) {
	switch {
	case flags&flagReserved != 0:
		d.malformed("MQTT-3.1.2-3", "reserved connect flag is set")
	case flags&flagWill == 0 && flags>>3&3 != 0:
		d.malformed(by(d.version, "MQTT-3.1.2-11", "MQTT-3.1.2-13"), "will QoS without will flag")
	case flags&flagWill == 0 && flags&flagWillRetain != 0:
		d.malformed(by(d.version, "MQTT-3.1.2-13", "MQTT-3.1.2-15"), "will retain without will flag")
	case flags>>3&3 == 3:
		d.malformed(by(d.version, "MQTT-3.1.2-12", "MQTT-3.1.2-14"), "will QoS is 3")
	case d.version < V5 && flags&flagPassword != 0 && flags&flagUsername == 0:
		d.malformed("MQTT-3.1.2-22", "password flag without user name flag")
	}
}

// emptyClientID checks who may leave the choice of a client identifier to the server.
func (d *decoder) emptyClientID(c *Connect) {
	if c.ClientID != "" || d.err != nil {
		return
	}
	switch {
	case d.version == V31:
		d.fail(ClientIdentifierNotValid, "3.1", "client identifier is empty, which MQTT 3.1 does not allow")
	case d.version == V311 && !c.CleanStart:
		d.fail(ClientIdentifierNotValid, "MQTT-3.1.3-8", "client identifier is empty and clean session is not set")
	}
}

func (d *decoder) will(flags byte) *Will {
	w := &Will{Message: Publish{QoS: flags >> 3 & 3, Retain: flags&flagWillRetain != 0}}
	if d.version >= V5 {
		d.messageProperties(&w.Message, &w.Delay, typeWill)
		w.Message.Forward = append([]byte(nil), w.Message.Forward...) // outlives the buffer
	}
	w.Message.Topic = string(d.topicName("will topic", by(d.version, "MQTT-4.7.0-1", "MQTT-4.7.1-1"))) // [MQTT-3.1.3-11]
	if w.Message.Topic == "" {
		d.protocol("MQTT-4.7.3-1", "will topic is empty")
	}
	w.Message.Payload = d.copy("will payload") // [MQTT-3.1.2-9]
	return w
}

// AppendTo implements Packet. The packet is of c.Version; the argument is ignored.
func (c *Connect) AppendTo(dst []byte, _ byte) []byte {
	dst = begin(dst, TypeConnect, 0)
	at := len(dst)
	name := "MQTT"
	if c.Version == V31 {
		name = "MQIsdp"
	}
	dst = append(appendText(dst, name), c.Version, c.flags())
	dst = appendU16(dst, c.KeepAlive)
	dst = appendProperties(dst, c.Version, &c.Props)
	dst = appendText(dst, c.ClientID)
	if c.Will != nil {
		dst = c.Will.appendTo(dst, c.Version)
	}
	if c.HasUsername {
		dst = appendText(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendText(dst, c.Password)
	}
	return prefixLength(dst, at)
}

func (c *Connect) flags() byte {
	var flags byte
	if c.CleanStart {
		flags |= flagCleanStart
	}
	if c.HasUsername {
		flags |= flagUsername
	}
	if c.HasPassword {
		flags |= flagPassword
	}
	if w := c.Will; w != nil {
		flags |= flagWill | w.Message.QoS<<3
		if w.Message.Retain {
			flags |= flagWillRetain
		}
	}
	return flags
}

func (w *Will) appendTo(dst []byte, version byte) []byte {
	if version >= V5 {
		dst = append(dst, 0)
		at := len(dst)
		if w.Message.HasExpiry {
			dst = appendU32(append(dst, propMessageExpiry), w.Message.Expiry)
		}
		if w.Delay != 0 {
			dst = appendU32(append(dst, propWillDelay), w.Delay)
		}
		dst = prefixLength(append(dst, w.Message.Forward...), at)
	}
	return appendText(appendText(dst, w.Message.Topic), w.Message.Payload)
}
