package mqtt

import (
	"errors"
	"strings"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// explanations say what a reason code means to a client whose single packet was refused.
var explanations = [256]string{
	packet.NotAuthorized:                       "this client may not use this topic",
	packet.TopicFilterInvalid:                  "the topic filter is not well formed, or has too many levels",
	packet.TopicNameInvalid:                    "the topic name has too many levels",
	packet.PacketIdentifierNotFound:            "no message with this packet identifier is on its way",
	packet.QuotaExceeded:                       "there is no room",
	packet.PayloadFormatInvalid:                "the payload is not UTF-8 as its format indicator says",
	packet.SharedSubscriptionsNotSupported:     "shared subscriptions are switched off",
	packet.SubscriptionIdentifiersNotSupported: "subscription identifiers are switched off",
	packet.WildcardSubscriptionsNotSupported:   "wildcards are switched off",
}

// refusals say why a CONNECT is refused.
var refusals = map[packet.ReasonCode]string{
	packet.ServerUnavailable:       "the server cannot serve clients now",
	packet.ServerMoved:             "the server has moved",
	packet.BadAuthenticationMethod: "the authentication method is not supported",
	packet.NotAuthorized:           "the client is not authorized, or its will is not",
	packet.BadUserNameOrPassword:   "bad user name or password",
	packet.ServerBusy:              "too many log in at once",
	packet.ConnectionRateExceeded:  "too many log-ins failed; try again later",
	packet.QoSNotSupported:         "the will's QoS is above the maximum",
	packet.RetainNotSupported:      "retained messages are switched off",
	packet.TopicNameInvalid:        "the will's topic has too many levels",
	packet.PayloadFormatInvalid:    "the will's payload is not UTF-8 as its format indicator says",
}

// refuseConnect is the error for a CONNECT that is well formed and not accepted.
func refuseConnect(code packet.ReasonCode, version byte) error {
	detail := refusals[code]
	if detail == "" {
		detail = "CONNECT refused"
	}
	return &packet.Error{Code: code, Clause: "MQTT-3.1.4-2", Detail: detail, Version: version}
}

// refusalProps are the properties of the CONNACK of a refusal. A client whose will goes
// beyond what there is learns what there is [MQTT-3.2.2-9].
func (c *conn) refusalProps(code packet.ReasonCode, cause error) packet.Properties {
	p := c.farewellProps(code, cause)
	switch code {
	case packet.QoSNotSupported:
		p.MaximumQoS = new(c.limits.MaxQoS)
	case packet.RetainNotSupported:
		p.RetainAvailable = new(false)
	}
	return p
}

// diagnosis is the reason string for an answer with these codes, or nil. Only failures
// are explained, and only to clients that want it [MQTT-3.1.2-29].
func (c *conn) diagnosis(codes ...packet.ReasonCode) *packet.Properties {
	if c.opts.version < packet.V5 || c.opts.laconic {
		return nil
	}
	for _, code := range codes {
		if text := explanations[code]; code.Failed() && text != "" {
			return &packet.Properties{ReasonString: &text}
		}
	}
	return nil
}

// farewellProps are the properties of the packet that ends a connection.
func (c *conn) farewellProps(code packet.ReasonCode, cause error) (p packet.Properties) {
	var pe *packet.Error
	if !c.opts.laconic && errors.As(cause, &pe) {
		p.ReasonString = &pe.Detail
	}
	if ref := c.elsewhere(); ref != "" && (code == packet.UseAnotherServer || code == packet.ServerMoved) {
		p.ServerReference = &ref
	}
	return p
}

// elsewhere names other servers; "": none is known.
func (c *conn) elsewhere() string {
	if away := c.srv.away.Load(); away != nil && c.limits.ServerReference == "" {
		return away.elsewhere
	}
	return c.limits.ServerReference
}

// redirected is the code for a connection that ends because this server cannot serve it:
// one that names another server if there is one.
func (c *conn) redirected(code packet.ReasonCode) packet.ReasonCode {
	if c.elsewhere() != "" && (code == packet.ServerShuttingDown || code == packet.ServerUnavailable) {
		return packet.UseAnotherServer
	}
	return code
}

// responseInformation is what a client is told that asks where it may be answered; "":
// nothing [MQTT-3.1.2-28].
func (c *conn) responseInformation(p *packet.Connect) string {
	info := c.limits.ResponseInformation
	if !packet.Value(p.Props.RequestResponseInfo, false) || strings.Contains(info, "%c") && strings.ContainsAny(c.client.ID, "+#") {
		return "" // no topic can be made of such an identifier
	}
	return strings.ReplaceAll(info, "%c", c.client.ID)
}
