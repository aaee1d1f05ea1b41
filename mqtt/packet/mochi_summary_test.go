package packet

import (
	"github.com/mochi-mqtt/server/v2/packets"
)

// fields is what both codecs can say about a packet.
type fields struct {
	Header   [3]any
	ID       uint16
	Topic    string
	Payload  string
	Codes    []byte
	Filters  []Subscription
	Connect  [8]any
	Will     [4]any
	Props    fieldsProps
	WillProp fieldsProps
}

// fieldsProps are the properties, absent ones with their zero value where mochi does
// not tell them apart.
type fieldsProps struct {
	User     []UserProperty
	IDs      []int
	Texts    [9]string
	Numbers  [7]uint32
	Presence [8]bool
	Flags    [8]byte
}

func summary(p Packet, version byte) fields {
	var f fields
	switch p := p.(type) {
	case *Connect:
		f.Connect = [8]any{p.Version, p.CleanStart, p.KeepAlive, p.ClientID, p.HasUsername, p.Username, p.HasPassword, string(p.Password)}
		f.Props = props(&p.Props)
		if w := p.Will; w != nil {
			f.Will = [4]any{w.Message.Topic, string(w.Message.Payload), w.Message.QoS, w.Message.Retain}
			f.WillProp = messageProps(&w.Message, w.Delay)
		}
	case *Connack:
		f.Connect[0], f.Props = p.SessionPresent, props(&p.Props)
		f.Codes = []byte{byte(p.Code)}
		if version < V5 {
			f.Codes[0], _ = p.Code.ConnectReturnCode()
		}
	case *Publish:
		f.Header = [3]any{p.QoS, p.Dup, p.Retain}
		f.ID, f.Topic, f.Payload = p.PacketID, p.Topic, string(p.Payload)
		f.Props = messageProps(p, 0)
	case *Ack:
		f.ID, f.Codes, f.Props = p.PacketID, []byte{byte(p.Code)}, props(p.Props)
	case *Subscribe:
		f.ID, f.Filters, f.Props = p.PacketID, p.Filters, props(p.Props)
		if p.SubscriptionID != 0 {
			f.Props.IDs = []int{int(p.SubscriptionID)}
		}
	case *Suback:
		f.ID, f.Codes, f.Props = p.PacketID, bytesOf(p.Codes), props(p.Props)
	case *Unsubscribe:
		f.ID, f.Props = p.PacketID, props(p.Props)
		for _, filter := range p.Filters {
			f.Filters = append(f.Filters, Subscription{Filter: filter})
		}
	case *Unsuback:
		f.ID, f.Codes, f.Props = p.PacketID, bytesOf(p.Codes), props(p.Props)
	case *Disconnect:
		f.Codes, f.Props = []byte{byte(p.Code)}, props(&p.Props)
	case *Auth:
		f.Codes, f.Props = []byte{byte(p.Code)}, props(&p.Props)
	}
	return f
}

func bytesOf(codes []ReasonCode) []byte {
	b := []byte{}
	for _, c := range codes {
		b = append(b, byte(c))
	}
	return b
}

func messageProps(p *Publish, delay uint32) fieldsProps {
	all, err := ParseForward(p.Forward)
	if err != nil {
		panic(err)
	}
	all.SubscriptionIDs = p.SubscriptionIDs
	if p.HasExpiry {
		all.MessageExpiry = &p.Expiry
	}
	if p.TopicAlias != 0 {
		all.TopicAlias = &p.TopicAlias
	}
	all.WillDelay = &delay
	return props(&all)
}

func props(p *Properties) (f fieldsProps) {
	if p == nil {
		return f
	}
	f.User = p.User
	for _, id := range p.SubscriptionIDs {
		f.IDs = append(f.IDs, int(id))
	}
	f.Texts = [9]string{
		Value(p.ContentType, ""), Value(p.ResponseTopic, ""), string(p.CorrelationData), Value(p.AssignedClientID, ""),
		Value(p.AuthMethod, ""), string(p.AuthData), Value(p.ResponseInfo, ""), Value(p.ServerReference, ""), Value(p.ReasonString, ""),
	}
	f.Numbers = [7]uint32{
		Value(p.MessageExpiry, 0), Value(p.SessionExpiry, 0), uint32(Value(p.ServerKeepAlive, 0)), Value(p.WillDelay, 0),
		uint32(Value(p.ReceiveMaximum, 0)), uint32(Value(p.TopicAliasMaximum, 0))<<16 | uint32(Value(p.TopicAlias, 0)), Value(p.MaximumPacketSize, 0),
	}
	f.Presence = [8]bool{
		p.PayloadFormat != nil, p.SessionExpiry != nil, p.ServerKeepAlive != nil, p.RequestProblemInfo != nil,
		p.MaximumQoS != nil, p.RetainAvailable != nil, p.WildcardAvailable != nil, p.SharedAvailable != nil,
	}
	f.Flags = [8]byte{
		Value(p.PayloadFormat, 0), b2i(Value(p.RequestProblemInfo, false)), b2i(Value(p.RequestResponseInfo, false)), Value(p.MaximumQoS, 0),
		b2i(Value(p.RetainAvailable, false)), b2i(Value(p.WildcardAvailable, false)), b2i(Value(p.SubscriptionIDAvailable, false)), b2i(Value(p.SharedAvailable, false)),
	}
	return f
}

func mochiSummary(m *packets.Packet, version byte) fields {
	f := fields{Props: mochiProps(&m.Properties)}
	switch m.FixedHeader.Type {
	case packets.Connect:
		c := &m.Connect
		f.Connect = [8]any{m.ProtocolVersion, c.Clean, c.Keepalive, c.ClientIdentifier, c.UsernameFlag, string(c.Username), c.PasswordFlag, string(c.Password)}
		if c.WillFlag {
			f.Will = [4]any{c.WillTopic, string(c.WillPayload), c.WillQos, c.WillRetain}
			f.WillProp = mochiProps(&c.WillProperties)
		}
	case packets.Connack:
		f.Connect[0], f.Codes = m.SessionPresent && version != V31, []byte{m.ReasonCode}
	case packets.Publish:
		f.Header = [3]any{m.FixedHeader.Qos, m.FixedHeader.Dup, m.FixedHeader.Retain}
		f.ID, f.Topic, f.Payload = m.PacketID, m.TopicName, string(m.Payload)
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		f.ID, f.Codes = m.PacketID, []byte{m.ReasonCode}
	case packets.Subscribe, packets.Unsubscribe:
		f.ID = m.PacketID
		for _, s := range m.Filters {
			f.Filters = append(f.Filters, Subscription{s.Filter, s.Qos, s.NoLocal, s.RetainAsPublished, s.RetainHandling})
		}
	case packets.Suback, packets.Unsuback:
		f.ID, f.Codes = m.PacketID, append([]byte{}, m.ReasonCodes...)
	case packets.Disconnect, packets.Auth:
		f.Codes = []byte{m.ReasonCode}
	}
	return f
}

func mochiProps(p *packets.Properties) (f fieldsProps) {
	for _, u := range p.User {
		f.User = append(f.User, UserProperty{u.Key, u.Val})
	}
	f.IDs = append(f.IDs, p.SubscriptionIdentifier...)
	f.Texts = [9]string{
		p.ContentType, p.ResponseTopic, string(p.CorrelationData), p.AssignedClientID,
		p.AuthenticationMethod, string(p.AuthenticationData), p.ResponseInfo, p.ServerReference, p.ReasonString,
	}
	f.Numbers = [7]uint32{
		p.MessageExpiryInterval, p.SessionExpiryInterval, uint32(p.ServerKeepAlive), p.WillDelayInterval,
		uint32(p.ReceiveMaximum), uint32(p.TopicAliasMaximum)<<16 | uint32(p.TopicAlias), p.MaximumPacketSize,
	}
	f.Presence = [8]bool{
		p.PayloadFormatFlag, p.SessionExpiryIntervalFlag, p.ServerKeepAliveFlag, p.RequestProblemInfoFlag,
		p.MaximumQosFlag, p.RetainAvailableFlag, p.WildcardSubAvailableFlag, p.SharedSubAvailableFlag,
	}
	f.Flags = [8]byte{
		p.PayloadFormat, p.RequestProblemInfo, p.RequestResponseInfo, p.MaximumQos,
		p.RetainAvailable, p.WildcardSubAvailable, p.SubIDAvailable, p.SharedSubAvailable,
	}
	return f
}
