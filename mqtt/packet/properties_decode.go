package packet

import "bytes"

// properties reads a property section with its length, or nothing before MQTT 5. The
// result is nil when there are none.
func (d *decoder) properties(where Type) *Properties {
	if d.version < V5 || d.err != nil {
		return nil
	}
	whole := d.section()
	p := d.propertyList(where)
	d.buf = whole
	return p
}

// propertyList reads properties up to the end of the buffer.
func (d *decoder) propertyList(where Type) *Properties {
	var p *Properties
	var seen uint64
	for d.left() > 0 {
		id, name := d.property(where, &seen)
		if p == nil {
			p = &Properties{}
		}
		switch {
		case d.err != nil:
			return nil
		case !d.common(p, id, name):
			d.limits(p, id, name)
		}
	}
	if p != nil && p.AuthData != nil && p.AuthMethod == nil {
		d.protocol("3.1.2.11.10", "authentication data without authentication method")
	}
	return p
}

// common reads what describes a message, a session or a failure. It returns false for
// a property that it does not know.
func (d *decoder) common(p *Properties, id byte, name string) bool {
	switch id {
	case propPayloadFormat:
		p.PayloadFormat = new(b2i(d.bool(name)))
	case propMessageExpiry:
		p.MessageExpiry = new(d.u32(name))
	case propContentType:
		p.ContentType = new(d.string(name)) // [MQTT-3.3.2-19]
	case propResponseTopic:
		p.ResponseTopic = new(string(d.responseTopic()))
	case propCorrelationData:
		p.CorrelationData = d.copy(name)
	case propSubscriptionID:
		p.SubscriptionIDs = append(p.SubscriptionIDs, d.subscriptionID())
	case propSessionExpiry:
		p.SessionExpiry = new(d.u32(name))
	case propAssignedClientID:
		p.AssignedClientID = new(d.string(name))
	case propAuthMethod:
		p.AuthMethod = new(d.string(name))
	case propAuthData:
		p.AuthData = d.copy(name)
	case propWillDelay:
		p.WillDelay = new(d.u32(name))
	case propResponseInfo:
		p.ResponseInfo = new(d.string(name))
	case propServerReference:
		p.ServerReference = new(d.string(name))
	case propReasonString:
		p.ReasonString = new(d.string(name))
	case propTopicAlias:
		p.TopicAlias = new(d.topicAlias())
	case propUser:
		p.User = append(p.User, UserProperty{d.string(name), d.string(name)}) // [MQTT-1.5.7-1]
	default:
		return false
	}
	return true
}

// limits reads what CONNECT and CONNACK agree on.
func (d *decoder) limits(p *Properties, id byte, name string) {
	switch id {
	case propServerKeepAlive:
		p.ServerKeepAlive = new(d.u16(name))
	case propRequestProblemInfo:
		p.RequestProblemInfo = new(d.bool(name))
	case propRequestResponseInfo:
		p.RequestResponseInfo = new(d.bool(name))
	case propReceiveMaximum:
		p.ReceiveMaximum = new(d.u16(name))
		if *p.ReceiveMaximum == 0 {
			d.protocol("3.1.2.11.3", "receive maximum is 0")
		}
	case propTopicAliasMaximum:
		p.TopicAliasMaximum = new(d.u16(name))
	case propMaximumQoS:
		p.MaximumQoS = new(b2i(d.bool(name)))
	case propRetainAvailable:
		p.RetainAvailable = new(d.bool(name))
	case propMaximumPacketSize:
		p.MaximumPacketSize = new(d.u32(name))
		if *p.MaximumPacketSize == 0 {
			d.protocol("3.1.2.11.4", "maximum packet size is 0")
		}
	case propWildcardAvailable:
		p.WildcardAvailable = new(d.bool(name))
	case propSubscriptionIDAvailable:
		p.SubscriptionIDAvailable = new(d.bool(name))
	case propSharedAvailable:
		p.SharedAvailable = new(d.bool(name))
	}
}

// bool reads a byte that is 0 or 1; anything else is a protocol error.
func (d *decoder) bool(name string) bool {
	b := d.u8(name)
	if b > 1 {
		d.protocol("2.2.2.2", name+" is neither 0 nor 1")
	}
	return b == 1
}

// copy reads Binary Data into memory of its own. It is not nil, even when empty.
func (d *decoder) copy(name string) []byte {
	if b := bytes.Clone(d.binary(name)); b != nil {
		return b
	}
	return []byte{}
}

func (d *decoder) responseTopic() []byte {
	b := d.topicName("response topic", "MQTT-3.3.2-14") // [MQTT-3.3.2-13] by reading text
	if len(b) == 0 {
		d.protocol("MQTT-4.7.3-1", "response topic is empty")
	}
	return b
}

func (d *decoder) subscriptionID() uint32 {
	id := d.varint("subscription identifier")
	if id == 0 {
		d.protocol("3.8.2.1.2", "subscription identifier is 0")
	}
	return uint32(id)
}

func (d *decoder) topicAlias() uint16 {
	alias := d.u16("topic alias")
	if alias == 0 {
		d.fail(TopicAliasInvalid, "MQTT-3.3.2-8", "topic alias is 0")
	}
	return alias
}
