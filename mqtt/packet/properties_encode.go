package packet

// appendProperties appends a property section with its length [MQTT-2.2.2-1], or
// nothing before MQTT 5. p may be nil.
func appendProperties(dst []byte, version byte, p *Properties) []byte {
	if version < V5 {
		return dst
	}
	dst = append(dst, 0)
	if p == nil {
		return dst
	}
	at := len(dst)
	return prefixLength(p.appendTo(dst), at)
}

// appendTo appends the properties in the order of their identifiers, the user
// properties last and in their own order [MQTT-3.1.3-10].
func (p *Properties) appendTo(dst []byte) []byte {
	dst = appendByte(dst, propPayloadFormat, p.PayloadFormat)
	dst = appendFour(dst, propMessageExpiry, p.MessageExpiry)
	dst = appendString(dst, propContentType, p.ContentType)
	dst = appendString(dst, propResponseTopic, p.ResponseTopic)
	dst = appendBytes(dst, propCorrelationData, p.CorrelationData)
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, propSubscriptionID), int(id))
	}
	dst = appendFour(dst, propSessionExpiry, p.SessionExpiry)
	dst = appendString(dst, propAssignedClientID, p.AssignedClientID)
	dst = appendTwo(dst, propServerKeepAlive, p.ServerKeepAlive)
	dst = appendString(dst, propAuthMethod, p.AuthMethod)
	dst = appendBytes(dst, propAuthData, p.AuthData)
	dst = appendBool(dst, propRequestProblemInfo, p.RequestProblemInfo)
	dst = appendFour(dst, propWillDelay, p.WillDelay)
	dst = appendBool(dst, propRequestResponseInfo, p.RequestResponseInfo)
	dst = appendString(dst, propResponseInfo, p.ResponseInfo)
	dst = appendString(dst, propServerReference, p.ServerReference)
	dst = appendString(dst, propReasonString, p.ReasonString)
	dst = appendTwo(dst, propReceiveMaximum, p.ReceiveMaximum)
	dst = appendTwo(dst, propTopicAliasMaximum, p.TopicAliasMaximum)
	dst = appendTwo(dst, propTopicAlias, p.TopicAlias)
	dst = appendByte(dst, propMaximumQoS, p.MaximumQoS)
	dst = appendBool(dst, propRetainAvailable, p.RetainAvailable)
	dst = appendFour(dst, propMaximumPacketSize, p.MaximumPacketSize)
	dst = appendBool(dst, propWildcardAvailable, p.WildcardAvailable)
	dst = appendBool(dst, propSubscriptionIDAvailable, p.SubscriptionIDAvailable)
	dst = appendBool(dst, propSharedAvailable, p.SharedAvailable)
	for _, u := range p.User {
		dst = appendText(appendText(append(dst, propUser), u.Name), u.Value)
	}
	return dst
}

func appendByte(dst []byte, id byte, v *byte) []byte {
	if v == nil {
		return dst
	}
	return append(dst, id, *v)
}

func appendBool(dst []byte, id byte, v *bool) []byte {
	if v == nil {
		return dst
	}
	return append(dst, id, b2i(*v))
}

func appendTwo(dst []byte, id byte, v *uint16) []byte {
	if v == nil {
		return dst
	}
	return appendU16(append(dst, id), *v)
}

func appendFour(dst []byte, id byte, v *uint32) []byte {
	if v == nil {
		return dst
	}
	return appendU32(append(dst, id), *v)
}

func appendString(dst []byte, id byte, v *string) []byte {
	if v == nil {
		return dst
	}
	return appendText(append(dst, id), *v)
}

func appendBytes(dst []byte, id byte, v []byte) []byte {
	if v == nil {
		return dst
	}
	return appendText(append(dst, id), v)
}
