package packet

// UserProperty is one name-value pair. The same name may appear more than once.
type UserProperty struct{ Name, Value string }

// Properties are the properties of MQTT 5 (section 2.2.2). A nil field is absent. The
// zero value has none. Which packets may carry a property is said by the table in
// section 2.2.2.2; decoding enforces it, encoding writes what is given.
//
// PUBLISH and wills keep theirs in another form: see [Publish].
type Properties struct {
	PayloadFormat           *byte   // 1: the payload is UTF-8
	MessageExpiry           *uint32 // seconds
	ContentType             *string
	ResponseTopic           *string
	CorrelationData         []byte
	SubscriptionIDs         []uint32 // 1..268,435,455
	SessionExpiry           *uint32  // seconds; 0xFFFFFFFF: never
	AssignedClientID        *string
	ServerKeepAlive         *uint16 // seconds
	AuthMethod              *string
	AuthData                []byte
	RequestProblemInfo      *bool // absent: true
	WillDelay               *uint32
	RequestResponseInfo     *bool // absent: false
	ResponseInfo            *string
	ServerReference         *string
	ReasonString            *string
	ReceiveMaximum          *uint16 // not 0; absent: 65,535
	TopicAliasMaximum       *uint16 // absent: 0
	TopicAlias              *uint16 // not 0
	MaximumQoS              *byte   // 0 or 1; absent: 2
	RetainAvailable         *bool   // absent: true
	User                    []UserProperty
	MaximumPacketSize       *uint32 // bytes, not 0; absent: no limit
	WildcardAvailable       *bool   // absent: true
	SubscriptionIDAvailable *bool   // absent: true
	SharedAvailable         *bool   // absent: true
}

// Value returns what a property is set to, or def when it is absent.
func Value[T any](property *T, def T) T {
	if property == nil {
		return def
	}
	return *property
}

// The property identifiers.
const (
	propPayloadFormat           = 0x01
	propMessageExpiry           = 0x02
	propContentType             = 0x03
	propResponseTopic           = 0x08
	propCorrelationData         = 0x09
	propSubscriptionID          = 0x0B
	propSessionExpiry           = 0x11
	propAssignedClientID        = 0x12
	propServerKeepAlive         = 0x13
	propAuthMethod              = 0x15
	propAuthData                = 0x16
	propRequestProblemInfo      = 0x17
	propWillDelay               = 0x18
	propRequestResponseInfo     = 0x19
	propResponseInfo            = 0x1A
	propServerReference         = 0x1C
	propReasonString            = 0x1F
	propReceiveMaximum          = 0x21
	propTopicAliasMaximum       = 0x22
	propTopicAlias              = 0x23
	propMaximumQoS              = 0x24
	propRetainAvailable         = 0x25
	propUser                    = 0x26
	propMaximumPacketSize       = 0x27
	propWildcardAvailable       = 0x28
	propSubscriptionIDAvailable = 0x29
	propSharedAvailable         = 0x2A
)

// typeWill stands for the Will Properties in the table of places.
const typeWill Type = 0

// places is a set of packet types, by 1<<Type.
type places uint16

const (
	atWill        places = 1 << typeWill
	atConnect     places = 1 << TypeConnect
	atConnack     places = 1 << TypeConnack
	atPublish     places = 1 << TypePublish
	atAcks        places = 1<<TypePuback | 1<<TypePubrec | 1<<TypePubrel | 1<<TypePubcomp
	atSubscribe   places = 1 << TypeSubscribe
	atSuback      places = 1<<TypeSuback | 1<<TypeUnsuback
	atUnsubscribe places = 1 << TypeUnsubscribe
	atDisconnect  places = 1 << TypeDisconnect
	atAuth        places = 1 << TypeAuth
)

// properties is table 2-4 of MQTT 5.0: names and the packets they may appear in.
var properties = [propSharedAvailable + 1]struct {
	name string
	at   places
}{
	propPayloadFormat:           {"payload format indicator", atPublish | atWill},
	propMessageExpiry:           {"message expiry interval", atPublish | atWill},
	propContentType:             {"content type", atPublish | atWill},
	propResponseTopic:           {"response topic", atPublish | atWill},
	propCorrelationData:         {"correlation data", atPublish | atWill},
	propSubscriptionID:          {"subscription identifier", atPublish | atSubscribe},
	propSessionExpiry:           {"session expiry interval", atConnect | atConnack | atDisconnect},
	propAssignedClientID:        {"assigned client identifier", atConnack},
	propServerKeepAlive:         {"server keep alive", atConnack},
	propAuthMethod:              {"authentication method", atConnect | atConnack | atAuth},
	propAuthData:                {"authentication data", atConnect | atConnack | atAuth},
	propRequestProblemInfo:      {"request problem information", atConnect},
	propWillDelay:               {"will delay interval", atWill},
	propRequestResponseInfo:     {"request response information", atConnect},
	propResponseInfo:            {"response information", atConnack},
	propServerReference:         {"server reference", atConnack | atDisconnect},
	propReasonString:            {"reason string", atConnack | atAcks | atSuback | atDisconnect | atAuth},
	propReceiveMaximum:          {"receive maximum", atConnect | atConnack},
	propTopicAliasMaximum:       {"topic alias maximum", atConnect | atConnack},
	propTopicAlias:              {"topic alias", atPublish},
	propMaximumQoS:              {"maximum QoS", atConnack},
	propRetainAvailable:         {"retain available", atConnack},
	propUser:                    {"user property", atWill | atConnect | atConnack | atPublish | atAcks | atSubscribe | atSuback | atUnsubscribe | atDisconnect | atAuth},
	propMaximumPacketSize:       {"maximum packet size", atConnect | atConnack},
	propWildcardAvailable:       {"wildcard subscription available", atConnack},
	propSubscriptionIDAvailable: {"subscription identifier available", atConnack},
	propSharedAvailable:         {"shared subscription available", atConnack},
}

// section narrows the decoder to the property section that begins here and returns
// what the caller gives back to leave it. An absent section is an empty one.
func (d *decoder) section() (whole []byte) {
	whole = d.buf
	n := d.varint("property length")
	if d.err == nil && n > len(d.buf)-d.off {
		d.malformed("2.2.2.1", "property length exceeds the packet")
	}
	if d.err == nil {
		d.buf = d.buf[:d.off+n]
	}
	return whole
}

// property reads a property identifier and checks that the property may appear here
// and has not appeared before, which seen records.
func (d *decoder) property(where Type, seen *uint64) (id byte, name string) {
	id = d.u8("property identifier")
	if d.err != nil {
		return 0, ""
	}
	if int(id) >= len(properties) || properties[id].at&(1<<where) == 0 {
		d.malformed("2.2.2.2", "property has no place in this packet: "+propertyName(id))
		return 0, ""
	}
	repeats := id == propUser || id == propSubscriptionID && where == TypePublish
	if *seen&(1<<id) != 0 && !repeats {
		d.protocol("2.2.2.2", properties[id].name+" appears twice")
		return 0, ""
	}
	*seen |= 1 << id
	return id, properties[id].name
}

func propertyName(id byte) string {
	if int(id) < len(properties) && properties[id].name != "" {
		return properties[id].name
	}
	return "unknown identifier"
}
