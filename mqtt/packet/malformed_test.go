package packet

import (
	"errors"
	"testing"
)

type malformed struct {
	name    string
	version byte
	header  string
	body    string
	code    ReasonCode
	clause  string
}

// TestMalformed checks code and clause for each rule that a packet can break.
func TestMalformed(t *testing.T) {
	for _, table := range [][]malformed{malformedConnect, malformedConnack, malformedPublish, malformedProperties, malformedAcks, malformedSubscribe, malformedOthers} {
		for _, m := range table {
			header := wire(m.header)[0]
			t.Run(Type(header>>4).String()+"/"+m.name, func(t *testing.T) {
				p, err := Decode(header, wire(m.body), m.version)
				var e *Error
				if !errors.As(err, &e) {
					t.Fatalf("accepted as %+v, error %v", p, err)
				}
				if e.Code != m.code || e.Clause != m.clause {
					t.Errorf("error is %v, want %v [%s]", e, m.code, m.clause)
				}
			})
		}
	}
}

const (
	bad81 = MalformedPacket
	bad82 = ProtocolError
)

var malformedConnect = []malformed{
	{"empty", 0, "10", "", bad81, "2.2.3"},
	{"flags", 0, "11", "0004'MQTT' 05 00 0000 00 0000", bad81, "MQTT-2.2.2-2"},
	{"protocol name", 0, "10", "0004'HTTP' 04 02 0000 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-1"},
	{"level 3 with the new name", 0, "10", "0004'MQTT' 03 02 0000 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-2"},
	{"level 4 with the old name", 0, "10", "0006'MQIsdp' 04 02 0000 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-2"},
	{"level 6", 0, "10", "0004'MQTT' 06 02 0000 00 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-2"},
	{"reserved flag", 0, "10", "0004'MQTT' 05 01 0000 00 0000", bad81, "MQTT-3.1.2-3"},
	{"will QoS without will", 0, "10", "0004'MQTT' 05 08 0000 00 0000", bad81, "MQTT-3.1.2-11"},
	{"will QoS without will, 3.1.1", 0, "10", "0004'MQTT' 04 0a 0000 0000", bad81, "MQTT-3.1.2-13"},
	{"will QoS 3", 0, "10", "0004'MQTT' 05 1c 0000 00 0000 00 0001'w' 0000", bad81, "MQTT-3.1.2-12"},
	{"will QoS 3, 3.1.1", 0, "10", "0004'MQTT' 04 1e 0000 0000 0001'w' 0000", bad81, "MQTT-3.1.2-14"},
	{"will retain without will", 0, "10", "0004'MQTT' 05 20 0000 00 0000", bad81, "MQTT-3.1.2-13"},
	{"will retain without will, 3.1.1", 0, "10", "0004'MQTT' 04 22 0000 0000", bad81, "MQTT-3.1.2-15"},
	{"password without user name, 3.1.1", 0, "10", "0004'MQTT' 04 42 0000 0000 0001'p'", bad81, "MQTT-3.1.2-22"},
	{"no client id", 0, "10", "0004'MQTT' 05 00 0000 00", bad81, "2.1.4"},
	{"client id is not UTF-8", 0, "10", "0004'MQTT' 05 00 0000 00 0001 ff", bad81, "MQTT-1.5.4-1"},
	{"client id has a surrogate", 0, "10", "0004'MQTT' 05 00 0000 00 0003 eda080", bad81, "MQTT-1.5.4-1"},
	{"client id is not UTF-8, 3.1.1", 0, "10", "0004'MQTT' 04 00 0000 0001 ff", bad81, "MQTT-1.4.0-1"},
	{"client id has U+0000", 0, "10", "0004'MQTT' 05 00 0000 00 0002 6100", bad81, "MQTT-1.5.4-2"},
	{"client id has U+0000, 3.1.1", 0, "10", "0004'MQTT' 04 00 0000 0002 6100", bad81, "MQTT-1.4.0-2"},
	{"empty client id without clean session", 0, "10", "0004'MQTT' 04 00 0000 0000", ClientIdentifierNotValid, "MQTT-3.1.3-8"},
	{"empty client id in 3.1", 0, "10", "0006'MQIsdp' 03 02 0000 0000", ClientIdentifierNotValid, "3.1"},
	{"will without topic", 0, "10", "0004'MQTT' 05 04 0000 00 0001'c' 00", bad81, "2.1.4"},     // [MQTT-3.1.2-9]
	{"will without payload", 0, "10", "0004'MQTT' 04 06 0000 0001'c' 0001'w'", bad81, "2.2.3"}, // [MQTT-3.1.2-9]
	{"will topic is empty", 0, "10", "0004'MQTT' 05 04 0000 00 0001'c' 00 0000 0000", bad82, "MQTT-4.7.3-1"},
	{"will topic is not UTF-8", 0, "10", "0004'MQTT' 05 04 0000 00 0001'c' 00 0001 80 0000", bad81, "MQTT-1.5.4-1"}, // [MQTT-3.1.3-11]
	{"user name is missing", 0, "10", "0004'MQTT' 05 80 0000 00 0001'c'", bad81, "2.1.4"},                           // [MQTT-3.1.2-17]
	{"user name is not UTF-8", 0, "10", "0004'MQTT' 05 80 0000 00 0001'c' 0001 ff", bad81, "MQTT-1.5.4-1"},          // [MQTT-3.1.3-12]
	{"user name is not UTF-8, 3.1.1", 0, "10", "0004'MQTT' 04 80 0000 0001'c' 0001 ff", bad81, "MQTT-1.4.0-1"},
	{"user name has U+0000", 0, "10", "0004'MQTT' 05 80 0000 00 0001'c' 0001 00", bad81, "MQTT-1.5.4-2"}, // [MQTT-3.1.3-12]
	{"user name has U+0000, 3.1.1", 0, "10", "0004'MQTT' 04 80 0000 0001'c' 0001 00", bad81, "MQTT-1.4.0-2"},
	{"will topic has a wildcard", 0, "10", "0004'MQTT' 05 04 0000 00 0001'c' 00 0001'#' 0001'p'", bad82, "MQTT-4.7.0-1"},
	{"will topic has a wildcard, 3.1.1", 0, "10", "0004'MQTT' 04 06 0000 0001'c' 0001'#' 0001'p'", bad82, "MQTT-4.7.1-1"},
	{"password is missing", 0, "10", "0004'MQTT' 05 c0 0000 00 0001'c' 0001'u'", bad81, "2.1.4"},                  // [MQTT-3.1.2-19]
	{"user name without flag", 0, "10", "0004'MQTT' 05 00 0000 00 0001'c' 0001'u'", bad81, "MQTT-3.1.4-1"},        // [MQTT-3.1.2-16]
	{"password without flag", 0, "10", "0004'MQTT' 05 80 0000 00 0001'c' 0001'u' 0001'p'", bad81, "MQTT-3.1.4-1"}, // [MQTT-3.1.2-18]
	{"receive maximum 0", 0, "10", "0004'MQTT' 05 00 0000 03 21 0000 0000", bad82, "3.1.2.11.3"},
	{"maximum packet size 0", 0, "10", "0004'MQTT' 05 00 0000 05 27 00000000 0000", bad82, "3.1.2.11.4"},
	{"problem information 2", 0, "10", "0004'MQTT' 05 00 0000 02 17 02 0000", bad82, "2.2.2.2"},
	{"response information 2", 0, "10", "0004'MQTT' 05 00 0000 02 19 02 0000", bad82, "2.2.2.2"},
	{"authentication data alone", 0, "10", "0004'MQTT' 05 00 0000 04 16 0001 00 0000", bad82, "3.1.2.11.10"},
	{"session expiry twice", 0, "10", "0004'MQTT' 05 00 0000 0a 11 00000000 11 00000000 0000", bad82, "2.2.2.2"},
	{"topic alias has no place", 0, "10", "0004'MQTT' 05 00 0000 03 23 0001 0000", bad81, "2.2.2.2"},
	{"will delay among the wrong properties", 0, "10", "0004'MQTT' 05 00 0000 05 18 00000001 0000", bad81, "2.2.2.2"},
	{"topic alias in a will", 0, "10", "0004'MQTT' 05 04 0000 00 0001'c' 03 23 0001 0001'w' 0000", bad81, "2.2.2.2"},
	{"subscription identifier in a will", 0, "10", "0004'MQTT' 05 04 0000 00 0001'c' 02 0b 01 0001'w' 0000", bad81, "2.2.2.2"},
	{"will delay twice", 0, "10", "0004'MQTT' 05 04 0000 00 0001'c' 0a 18 00000001 18 00000001 0001'w' 0000", bad82, "2.2.2.2"},
}

// TestConnectErrorVersion checks in which version a refusal would be understood.
func TestConnectErrorVersion(t *testing.T) {
	for _, c := range []struct {
		body string
		want byte
	}{
		{"0004'MQTT' 06 02 0000 00 0000", V5}, // answered with 0x84 [MQTT-3.1.2-2]
		{"0004'MQTT' 03 02 0000 0000", V311},  // answered with 0x01 [MQTT-3.1.2-2]
		{"0004'MQTT' 84 02 0000 0000", V311},  // a bridge's bit
		{"0006'MQIsdp' 05 02 0000 0000", V311},
		{"0004'HTTP' 05 02 0000 0000", 0}, // [MQTT-3.1.2-1]
		{"0004'MQ", 0},
		{"0004'MQTT' 05 01 0000 00 0000", V5},
		{"0004'MQTT' 05 00 0000 02 17 02 0000", V5},
		{"0004'MQTT' 04 00 0000 0000", V311}, // [MQTT-3.1.3-8]
		{"0006'MQIsdp' 03 02 0000 0000", V31},
	} {
		body := c.body
		if n := len(body); body[n-2:] == "MQ" {
			body += "'" // a name cut short
		}
		_, err := Decode(0x10, wire(body), 0)
		var e *Error
		if !errors.As(err, &e) || e.Version != c.want {
			t.Errorf("%s: error %+v, want version %d", c.body, e, c.want)
		}
	}
}

var malformedConnack = []malformed{
	{"flags", V5, "21", "00 00 00", bad81, "MQTT-2.1.3-1"},
	{"reserved acknowledge flags", V5, "20", "02 00 00", bad81, "MQTT-3.2.2-1"},
	{"reason code", V5, "20", "00 01 00", bad82, "MQTT-3.2.2-8"},
	{"return code", V311, "20", "00 06", bad81, "3.2.2.3"},
	{"session present and refused", V5, "20", "01 87 00", bad82, "MQTT-3.2.2-6"},
	{"session present and refused", V311, "20", "01 05", bad82, "MQTT-3.2.2-4"},
	{"no properties", V5, "20", "00 00", bad81, "2.1.4"}, // [MQTT-2.2.2-1]
	{"maximum QoS 2", V5, "20", "00 00 02 24 02", bad82, "2.2.2.2"},
	{"retain available 2", V5, "20", "00 00 02 25 02", bad82, "2.2.2.2"},
	{"bytes behind", V311, "20", "00 00 00", bad81, "2.2.3"},
}

var malformedPublish = []malformed{
	{"QoS 3", V5, "36", "0001't' 0001 00", bad81, "MQTT-3.3.1-4"},
	{"DUP at QoS 0", V5, "38", "0001't' 00", bad81, "MQTT-3.3.1-2"},
	{"topic with #", V5, "30", "0003'a/#' 00", bad82, "MQTT-3.3.2-2"},
	{"topic with +", V311, "30", "0003'a/+'", bad82, "MQTT-3.3.2-2"},
	{"topic is not UTF-8", V5, "30", "0001 ff 00", bad81, "MQTT-1.5.4-1"}, // [MQTT-3.3.2-1]
	{"topic is not UTF-8", V311, "30", "0001 ff", bad81, "MQTT-1.4.0-1"},
	{"topic has U+0000", V5, "30", "0001 00 00", bad81, "MQTT-1.5.4-2"},
	{"topic is cut off", V5, "30", "0003'a/'", bad81, "2.1.4"}, // [MQTT-3.3.2-1]
	{"no topic and no alias", V5, "30", "0000 00", bad82, "3.3.2.1"},
	{"no topic", V311, "30", "0000", bad82, "MQTT-4.7.3-1"},
	{"packet id 0", V5, "32", "0001't' 0000 00", bad82, "MQTT-2.2.1-3"},
	{"packet id 0", V311, "34", "0001't' 0000", bad82, "MQTT-2.3.1-1"},
	{"packet id is missing", V5, "32", "0001't' 00", bad81, "2.1.4"},
	{"no properties", V5, "30", "0001't'", bad81, "2.1.4"}, // [MQTT-2.2.2-1]
	{"topic alias 0", V5, "30", "0001't' 03 23 0000", TopicAliasInvalid, "MQTT-3.3.2-8"},
	{"topic alias 0 and then another", V5, "30", "0001't' 06 23 0000 23 0001", TopicAliasInvalid, "MQTT-3.3.2-8"},
	{"topic alias twice", V5, "30", "0001't' 06 23 0001 23 0002", bad82, "2.2.2.2"},
	{"subscription identifier 0", V5, "30", "0001't' 02 0b 00", bad82, "3.8.2.1.2"},
	{"subscription identifier of five bytes", V5, "30", "0001't' 06 0b ffffffff01", bad81, "1.5.5"},
	{"subscription identifier with needless bytes", V5, "30", "0001't' 03 0b 8100", bad81, "MQTT-1.5.5-1"},
	{"response topic with wildcard", V5, "30", "0001't' 04 08 0001'+'", bad82, "MQTT-3.3.2-14"},
	{"response topic is not UTF-8", V5, "30", "0001't' 04 08 0001 ff", bad81, "MQTT-1.5.4-1"}, // [MQTT-3.3.2-13]
	{"response topic is empty", V5, "30", "0001't' 03 08 0000", bad82, "MQTT-4.7.3-1"},
	{"content type is not UTF-8", V5, "30", "0001't' 04 03 0001 ff", bad81, "MQTT-1.5.4-1"}, // [MQTT-3.3.2-19]
	{"payload format 2", V5, "30", "0001't' 02 01 02", bad82, "2.2.2.2"},
	{"content type twice", V5, "30", "0001't' 06 03 0000 03 0000", bad82, "2.2.2.2"},
	{"correlation data is cut off by the property section", V5, "30", "0001't' 04 09 0002 ff 'payload'", bad81, "2.1.4"},
	{"user property without value", V5, "30", "0001't' 04 26 0001'k'", bad81, "2.1.4"},                 // [MQTT-1.5.7-1]
	{"user property is not UTF-8", V5, "30", "0001't' 06 26 0000 0001 ff", bad81, "MQTT-1.5.4-1"},      // [MQTT-1.5.7-1]
	{"user property name is not UTF-8", V5, "30", "0001't' 06 26 0001 ff 0000", bad81, "MQTT-1.5.4-1"}, // [MQTT-1.5.7-1]
	{"session expiry has no place", V5, "30", "0001't' 05 11 00000000", bad81, "2.2.2.2"},
}

var malformedProperties = []malformed{
	{"unknown property", V5, "e0", "00 02 7f 00", bad81, "2.2.2.2"},
	{"property identifier 0", V5, "e0", "00 02 00 00", bad81, "2.2.2.2"},
	{"property identifier of two bytes", V5, "e0", "00 03 8001 00", bad81, "2.2.2.2"},
	{"length exceeds the packet", V5, "e0", "00 05 1f 0000", bad81, "2.2.2.1"},
	{"length exceeds the packet that ends with it", V5, "e0", "00 30", bad81, "2.2.2.1"},
	{"length with needless bytes", V5, "e0", "00 8000", bad81, "MQTT-1.5.5-1"},
	{"length of five bytes", V5, "e0", "00 8080808001", bad81, "1.5.5"},
	{"length of six bytes", V5, "e0", "00 808080808000", bad81, "1.5.5"},
	{"length is cut off", V5, "e0", "00 80", bad81, "2.1.4"},
	{"value is cut off", V5, "e0", "00 03 11 0000", bad81, "2.1.4"},
	{"reason string twice", V5, "e0", "00 06 1f 0000 1f 0000", bad82, "2.2.2.2"},
}

var malformedAcks = []malformed{
	{"PUBACK flags", V5, "42", "0001", bad81, "MQTT-2.1.3-1"},
	{"PUBACK flags", V311, "41", "0001", bad81, "MQTT-2.2.2-2"},
	{"PUBREL flags", V5, "60", "0001", bad81, "MQTT-3.6.1-1"},
	{"PUBREL flags", V311, "6a", "0001", bad81, "MQTT-3.6.1-1"},
	{"PUBREL flags", V31, "60", "0001", bad81, "MQTT-3.6.1-1"},
	{"packet id 0", V5, "40", "0000", bad82, "MQTT-2.2.1-5"},
	{"packet id 0", V311, "50", "0000", bad82, "MQTT-2.3.1-6"},
	{"packet id is cut off", V311, "50", "00", bad81, "2.2.3"},
	{"reason code in 3.1.1", V311, "40", "0001 00", bad81, "2.2.3"},
	{"PUBACK reason code", V5, "40", "0001 92", bad82, "MQTT-3.4.2-1"},
	{"PUBREC reason code", V5, "50", "0001 01", bad82, "MQTT-3.5.2-1"},
	{"PUBREL reason code", V5, "62", "0001 10", bad82, "MQTT-3.6.2-1"},
	{"PUBCOMP reason code", V5, "70", "0001 97", bad82, "MQTT-3.7.2-1"},
	{"bytes behind", V5, "40", "0001 00 00 00", bad81, "2.1.4"},
	{"property without place", V5, "40", "0001 00 03 21 0001", bad81, "2.2.2.2"},
}

var malformedSubscribe = []malformed{
	{"flags", V5, "80", "0001 00 0001'a' 00", bad81, "MQTT-3.8.1-1"},
	{"flags", V311, "8a", "0001 0001'a' 00", bad81, "MQTT-3.8.1-1"},
	{"flags", V31, "84", "0001 0001'a' 00", bad81, "MQTT-3.8.1-1"},
	{"packet id 0", V5, "82", "0000 00 0001'a' 00", bad82, "MQTT-2.2.1-3"},
	{"packet id 0", V311, "82", "0000 0001'a' 00", bad82, "MQTT-2.3.1-1"},
	{"no filter", V5, "82", "0001 00", bad82, "MQTT-3.8.3-2"},
	{"no filter", V311, "82", "0001", bad82, "MQTT-3.8.3-3"},
	{"filter is not UTF-8", V5, "82", "0001 00 0001 ff 00", bad81, "MQTT-1.5.4-1"}, // [MQTT-3.8.3-1]
	{"no options", V5, "82", "0001 00 0001'a'", bad81, "2.1.4"},
	{"QoS 3", V5, "82", "0001 00 0001'a' 03", bad82, "3.8.3.1"},
	{"QoS 3", V311, "82", "0001 0001'a' 03", bad81, "MQTT-3-8.3-4"},
	{"reserved bits", V311, "82", "0001 0001'a' 04", bad81, "MQTT-3-8.3-4"},
	{"reserved bits", V5, "82", "0001 00 0001'a' 40", bad81, "MQTT-3.8.3-5"},
	{"retain handling 3", V5, "82", "0001 00 0001'a' 30", bad82, "3.8.3.1"},
	{"no local and shared", V5, "82", "0001 00 000a'$share/g/a' 04", bad82, "MQTT-3.8.3-4"},
	{"subscription identifier 0", V5, "82", "0001 02 0b 00 0001'a' 00", bad82, "3.8.2.1.2"},
	{"two subscription identifiers", V5, "82", "0001 04 0b 01 0b 02 0001'a' 00", bad82, "2.2.2.2"},
	{"reason string has no place", V5, "82", "0001 03 1f 0000 0001'a' 00", bad81, "2.2.2.2"},
	{"SUBACK packet id 0", V5, "90", "0000 00 00", bad82, "MQTT-2.2.1-6"},
	{"SUBACK packet id 0", V311, "90", "0000 00", bad82, "MQTT-2.3.1-7"},
	{"SUBACK without code", V5, "90", "0001 00", bad82, "MQTT-3.8.4-6"},
	{"SUBACK without code", V311, "90", "0001", bad82, "MQTT-3.8.4-5"},
	{"SUBACK reason code", V5, "90", "0001 00 11", bad82, "MQTT-3.9.3-2"},
	{"SUBACK return code", V311, "90", "0001 87", bad82, "MQTT-3.9.3-2"},
	{"UNSUBSCRIBE flags", V5, "a0", "0001 00 0001'a'", bad81, "MQTT-3.10.1-1"},
	{"UNSUBSCRIBE flags", V311, "aa", "0001 0001'a'", bad81, "MQTT-3.10.1-1"},
	{"UNSUBSCRIBE packet id 0", V311, "a2", "0000 0001'a'", bad82, "MQTT-2.3.1-1"},
	{"UNSUBSCRIBE no filter", V5, "a2", "0001 00", bad82, "MQTT-3.10.3-2"},
	{"UNSUBSCRIBE filter is not UTF-8", V5, "a2", "0001 00 0001 ff", bad81, "MQTT-1.5.4-1"}, // [MQTT-3.10.3-1]
	{"UNSUBACK reason code", V5, "b0", "0001 00 01", bad82, "MQTT-3.11.3-2"},
	{"UNSUBACK without code", V5, "b0", "0001 00", bad82, "MQTT-3.11.3-1"},
	{"UNSUBACK with code in 3.1.1", V311, "b0", "0001 00", bad81, "2.2.3"},
}

var malformedOthers = []malformed{
	{"type 0", V5, "00", "", bad81, "2.1.2"},
	{"AUTH before 5", V311, "f0", "00 00", bad81, "2.2.1"},
	{"PINGREQ flags", V5, "c1", "", bad81, "MQTT-2.1.3-1"},
	{"PINGREQ with body", V5, "c0", "00", bad81, "2.1.4"},
	{"PINGRESP flags", V311, "d8", "", bad81, "MQTT-2.2.2-2"},
	{"DISCONNECT flags", V5, "e1", "", bad81, "MQTT-3.14.1-1"},
	{"DISCONNECT flags", V311, "e2", "", bad81, "MQTT-3.14.1-1"},
	{"DISCONNECT with body", V311, "e0", "00", bad81, "2.2.3"},
	{"DISCONNECT reason code", V5, "e0", "01", bad82, "MQTT-3.14.2-1"},
	{"AUTH flags", V5, "f1", "", bad81, "MQTT-3.15.1-1"},
	{"AUTH reason code", V5, "f0", "87 04 15 0001'm'", bad82, "MQTT-3.15.2-1"},
	{"AUTH without method", V5, "f0", "18 00", bad82, "3.15.2.2.2"},
	{"AUTH without property length", V5, "f0", "18", bad81, "2.1.4"},
}

func TestFrame(t *testing.T) {
	for _, c := range []struct {
		in            string
		start, length int
	}{
		{"c0 00", 2, 0},
		{"30 7f", 2, 127},
		{"30 8001", 3, 128},
		{"30 ff7f 00", 3, 16383},
		{"30 808001", 4, 16384},
		{"30 ffffff7f", 5, MaxRemaining},
	} {
		header, start, length, err := Frame(wire(c.in))
		if err != nil || header != wire(c.in)[0] || start != c.start || length != c.length {
			t.Errorf("Frame(%s) = %x, %d, %d, %v", c.in, header, start, length, err)
		}
	}
	for _, in := range []string{"", "30", "30 80", "30 ffffff"} {
		if _, _, _, err := Frame(wire(in)); !errors.Is(err, ErrShort) {
			t.Errorf("Frame(%s): error %v, want ErrShort", in, err)
		}
	}
	for in, clause := range map[string]string{"30 8000": "MQTT-1.5.5-1", "30 ff808000": "MQTT-1.5.5-1", "30 ffffffff": "1.5.5"} {
		_, _, _, err := Frame(wire(in))
		var e *Error
		if !errors.As(err, &e) || e.Code != MalformedPacket || e.Clause != clause {
			t.Errorf("Frame(%s): error %v, want 0x81 [%s]", in, err, clause)
		}
	}
}

func TestCheckFromClient(t *testing.T) {
	for _, c := range []struct {
		packet Packet
		clause string // "": allowed
	}{
		{&Publish{Topic: "t", SubscriptionIDs: []uint32{1}}, "MQTT-3.3.4-6"},
		{&Publish{Topic: "t"}, ""},
		{&Connack{}, "2.1.2"},
		{&Suback{}, "2.1.2"},
		{&Unsuback{}, "2.1.2"},
		{&Pingresp{}, "2.1.2"},
		{&Pingreq{}, ""},
		{&Auth{}, "MQTT-3.15.2-1"},
		{&Auth{Code: ContinueAuthentication}, ""},
	} {
		err := CheckFromClient(c.packet)
		var e *Error
		if errors.As(err, &e) != (c.clause != "") || e != nil && (e.Clause != c.clause || e.Code != ProtocolError) {
			t.Errorf("%T: %v, want %q", c.packet, err, c.clause)
		}
	}
}
