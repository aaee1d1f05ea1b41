package packet

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// laxer lists the rules by which this package refuses packets that mochi accepts: each
// clause, and what mochi lets pass.
var laxer = map[string]string{
	"2.1.4":         "bytes behind the last field, and properties that reach beyond the property section",
	"2.2.3":         "bytes behind the last field (3.1.1)",
	"2.2.1":         "AUTH before MQTT 5",
	"1.5.5":         "lengths of any number of bytes",
	"2.2.2.1":       "any property length in a DISCONNECT of two bytes",
	"2.2.2.2":       "repeated properties, and values other than 0 and 1",
	"MQTT-1.5.5-1":  "lengths with needless bytes",
	"MQTT-1.5.4-1":  "a user name that is not UTF-8 [MQTT-3.1.3-12]",
	"MQTT-1.4.0-1":  "a user name that is not UTF-8 (3.1.1)",
	"MQTT-1.5.4-2":  "a user name with U+0000 [MQTT-3.1.3-12]",
	"MQTT-1.4.0-2":  "a user name with U+0000 (3.1.1)",
	"3.1":           "an empty client identifier in MQTT 3.1",
	"MQTT-3.1.2-11": "will QoS without will flag",
	"MQTT-3.1.2-13": "will QoS without will flag (3.1.1)",
	"MQTT-3.1.2-22": "a password without user name (3.1.1)",
	"MQTT-3.1.3-8":  "an empty client identifier without clean session (3.1.1)",
	"MQTT-3.1.4-1":  "bytes behind the last field of CONNECT",
	"3.1.2.11.3":    "receive maximum 0",
	"3.1.2.11.4":    "maximum packet size 0",
	"3.1.2.11.10":   "authentication data without method",
	"MQTT-4.7.0-1":  "a will topic with wildcards",
	"MQTT-4.7.1-1":  "a will topic with wildcards (3.1.1)",
	"MQTT-4.7.3-1":  "an empty response topic",
	"MQTT-3.2.2-1":  "reserved acknowledge flags",
	"MQTT-3.2.2-4":  "session present in a refusal (3.1.1)",
	"MQTT-3.2.2-6":  "session present in a refusal",
	"MQTT-3.2.2-8":  "any CONNACK reason code",
	"3.2.2.3":       "any CONNACK return code (3.1.1)",
	"MQTT-3.3.2-14": "a response topic with wildcards",
	"MQTT-3.3.2-8":  "topic alias 0 when a second alias follows",
	"3.8.2.1.2":     "subscription identifier 0",
	"MQTT-2.2.1-5":  "packet identifier 0 in acknowledgements",
	"MQTT-2.3.1-6":  "packet identifier 0 in acknowledgements (3.1.1)",
	"MQTT-2.2.1-6":  "packet identifier 0 in SUBACK and UNSUBACK",
	"MQTT-2.3.1-7":  "packet identifier 0 in SUBACK and UNSUBACK (3.1.1)",
	"MQTT-3.4.2-1":  "any PUBACK reason code",
	"MQTT-3.5.2-1":  "any PUBREC reason code",
	"MQTT-3.6.2-1":  "any PUBREL reason code",
	"MQTT-3.7.2-1":  "any PUBCOMP reason code",
	"3.8.3.1":       "retain handling 3",
	"MQTT-3.8.3-4":  "no local on a shared subscription",
	"MQTT-3.8.3-5":  "reserved subscription options",
	"MQTT-3.8.4-5":  "a SUBACK without codes (3.1.1)",
	"MQTT-3.8.4-6":  "a SUBACK without codes",
	"MQTT-3.9.3-2":  "any SUBACK reason code",
	"MQTT-3.11.3-1": "an UNSUBACK without codes",
	"MQTT-3.11.3-2": "any UNSUBACK reason code",
	"MQTT-3.14.2-1": "any DISCONNECT reason code",
	"3.15.2.2.2":    "AUTH without authentication method",
}

// FuzzAgainstMochi compares with another codec. What both accept must have the same
// fields; where only one accepts, the difference must be a known one.
func FuzzAgainstMochi(f *testing.F) {
	seeds(func(header byte, body []byte, version byte) { f.Add(header, body, version-V31) })
	f.Fuzz(func(t *testing.T, header byte, body []byte, v byte) {
		version := anyVersion(v)
		p, err := Decode(header, body, version)
		m, mochiErr := mochiDecode(header, body, version)
		switch {
		case err == nil && mochiErr == nil:
			if mochiMisreads(p, body, version) {
				return
			}
			if ours, theirs := summary(p, version), mochiSummary(m, version); !reflect.DeepEqual(ours, theirs) {
				t.Fatalf("version %d, % x % x\nours   %+v\ntheirs %+v", version, header, body, ours, theirs)
			}
		case err == nil && !mochiTooStrict(p, body, version):
			t.Fatalf("version %d, % x % x: only mochi refuses %+v: %v", version, header, body, p, mochiErr)
		case mochiErr == nil:
			var e *Error
			if !errors.As(err, &e) || laxer[e.Clause] == "" && err != nil {
				t.Fatalf("version %d, % x % x: only mochi accepts: %v", version, header, body, err)
			}
		}
	})
}

// TestLaxerIsExact runs the tables and checks that each difference on the list exists:
// an entry too many would hide a fault.
func TestLaxerIsExact(t *testing.T) {
	found := map[string]bool{}
	seeds(func(header byte, body []byte, v byte) {
		version := anyVersion(v - V31)
		_, err := Decode(header, body, version)
		_, mochiErr := mochiDecode(header, body, version)
		var e *Error
		if errors.As(err, &e) && mochiErr == nil {
			found[e.Clause] = true
		}
	})
	for clause, what := range laxer {
		if !found[clause] {
			t.Errorf("no packet in the tables shows that mochi accepts %s [%s]", what, clause)
		}
	}
}

// mochiDecode decodes and validates as a server built on mochi does.
func mochiDecode(header byte, body []byte, version byte) (m *packets.Packet, err error) {
	defer func() {
		if r := recover(); r != nil { // it indexes beyond the end of a short SUBSCRIBE
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	m = &packets.Packet{ProtocolVersion: version}
	if err := m.FixedHeader.Decode(header); err != nil {
		return nil, err
	}
	m.FixedHeader.Remaining = len(body)
	code := packets.CodeSuccess
	switch m.FixedHeader.Type {
	case packets.Connect:
		if err = m.ConnectDecode(body); err == nil {
			code = m.ConnectValidate()
		}
	case packets.Connack:
		err = m.ConnackDecode(body)
	case packets.Publish:
		if err = m.PublishDecode(body); err == nil {
			ids := m.Properties.SubscriptionIdentifier
			m.Properties.SubscriptionIdentifier = nil // it knows the server's side only
			code = m.PublishValidate(65535)
			m.Properties.SubscriptionIdentifier = ids
		}
	case packets.Puback:
		err = m.PubackDecode(body)
	case packets.Pubrec:
		err = m.PubrecDecode(body)
	case packets.Pubrel:
		err = m.PubrelDecode(body)
	case packets.Pubcomp:
		err = m.PubcompDecode(body)
	case packets.Subscribe:
		if err = m.SubscribeDecode(body); err == nil {
			code = m.SubscribeValidate()
		}
	case packets.Suback:
		err = m.SubackDecode(body)
	case packets.Unsubscribe:
		if err = m.UnsubscribeDecode(body); err == nil {
			code = m.UnsubscribeValidate()
		}
	case packets.Unsuback:
		err = m.UnsubackDecode(body)
	case packets.Pingreq:
		err = m.PingreqDecode(body)
	case packets.Pingresp:
		err = m.PingrespDecode(body)
	case packets.Disconnect:
		err = m.DisconnectDecode(body)
	case packets.Auth:
		if err = m.AuthDecode(body); err == nil {
			code = m.AuthValidate()
		}
	default:
		err = packets.ErrNoValidPacketAvailable
	}
	if err == nil && code != packets.CodeSuccess {
		err = code
	}
	return m, err
}

// mochiTooStrict says which valid packets mochi refuses.
func mochiTooStrict(p Packet, body []byte, version byte) bool {
	switch p := p.(type) {
	case *Connect:
		return p.HasPassword && len(p.Password) == 0 || // a password may be empty
			p.Will != nil && len(p.Will.Message.Payload) == 0 || // and so may a will's payload
			p.Version == V31 // user name and password may be missing
	case *Auth:
		return len(body) == 0 // section 3.15.2.1
	case *Subscribe, *Unsubscribe:
		return version == V31 // DUP
	case *Ack:
		return version == V31 && p.Kind == TypePubrel // DUP
	}
	return false
}

// mochiMisreads says which packets mochi accepts without taking all of them in.
func mochiMisreads(p Packet, body []byte, version byte) bool {
	switch p.(type) {
	case *Disconnect:
		return len(body) == 1 // the code is overlooked: section 3.14.2.2.1
	}
	return false
}
