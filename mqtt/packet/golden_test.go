package packet

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// wire turns a readable form into bytes: hex digits, and text between quotes.
func wire(s string) []byte {
	var b []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		h, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(part))
		if err != nil {
			panic(err)
		}
		b = append(b, h...)
	}
	return b
}

type golden struct {
	name    string
	version byte
	wire    string
	packet  Packet
	oneWay  bool // valid, but not the form that the encoder chooses
}

// TestGolden compares every packet in every version with its bytes, both ways.
func TestGolden(t *testing.T) {
	var tables []golden
	for _, table := range [][]golden{goldenConnect, goldenConnack, goldenPublish, goldenAcks, goldenSubscribe, goldenOthers, goldenSame} {
		tables = append(tables, table...)
	}
	type kind struct {
		typ     Type
		version byte
	}
	seen := map[kind]bool{}
	for _, g := range tables {
		t.Run(g.packet.Type().String()+"/"+g.name, func(t *testing.T) {
			seen[kind{g.packet.Type(), g.version}] = true
			b := wire(g.wire)
			header, start, n, err := Frame(b)
			if err != nil || start+n != len(b) {
				t.Fatalf("Frame = start %d, length %d, %v; packet has %d bytes", start, n, err, len(b))
			}
			p, err := Decode(header, b[start:], g.version)
			if err != nil {
				t.Fatal(err)
			}
			if p.Type() != TypePublish { // only that one may refer to its input
				for i := range b {
					b[i] = 0xee
				}
			}
			if !reflect.DeepEqual(p, g.packet) {
				t.Errorf("decoded %+v\nwant    %+v", p, g.packet)
			}
			if got := g.packet.AppendTo([]byte("before"), g.version); !g.oneWay && string(got) != "before"+string(wire(g.wire)) {
				t.Errorf("encoded % x\nwant    % x", got[6:], wire(g.wire))
			}
		})
	}
	for typ := TypeConnect; typ <= TypeAuth; typ++ {
		for version := V31; version <= V5; version++ {
			if !seen[kind{typ, version}] && (typ != TypeAuth || version == V5) {
				t.Errorf("no golden bytes for %v of version %d", typ, version)
			}
		}
	}
}

var goldenConnect = []golden{
	{"3.1", V31, "10 11 0006'MQIsdp' 03 02 003c 0003'abc'",
		&Connect{Version: V31, CleanStart: true, KeepAlive: 60, ClientID: "abc"}, false},
	{"3.1 user name flag without user name", V31, "10 11 0006'MQIsdp' 03 c2 003c 0003'abc'",
		&Connect{Version: V31, CleanStart: true, KeepAlive: 60, ClientID: "abc"}, true},
	{"3.1.1", V311, "10 0f 0004'MQTT' 04 00 003c 0003'abc'",
		&Connect{Version: V311, KeepAlive: 60, ClientID: "abc"}, false},
	{"3.1.1 empty client id", V311, "10 0c 0004'MQTT' 04 02 0000 0000",
		&Connect{Version: V311, CleanStart: true}, false},
	{"3.1.1 everything", V311, "10 20 0004'MQTT' 04 f6 ffff 0001'c' 0003'a/b' 0003'bye' 0002'me' 0003 00ff10",
		&Connect{Version: V311, CleanStart: true, KeepAlive: 65535, ClientID: "c", HasUsername: true, Username: "me",
			HasPassword: true, Password: []byte{0, 255, 16},
			Will: &Will{Message: Publish{Topic: "a/b", Payload: []byte("bye"), QoS: 2, Retain: true}}}, false},
	{"5 empty", V5, "10 0d 0004'MQTT' 05 00 0000 00 0000",
		&Connect{Version: V5}, false},
	{"5 password without user name", V5, "10 11 0004'MQTT' 05 40 0000 00 0000 0002'pw'",
		&Connect{Version: V5, HasPassword: true, Password: []byte("pw")}, false},
	{"5 all properties", V5, `10 46 0004'MQTT' 05 02 000a
		34 11 00000e10 15 0005'SCRAM' 16 0002 cafe 17 00 19 01 21 000a 22 0005 27 00010000
		26 0001'a' 0001'1' 26 0001'a' 0001'2' 26 0000 0000 0005'c-one'`,
		&Connect{Version: V5, CleanStart: true, KeepAlive: 10, ClientID: "c-one", Props: Properties{
			SessionExpiry: new(uint32(3600)), AuthMethod: new("SCRAM"), AuthData: []byte{0xca, 0xfe},
			RequestProblemInfo: new(false), RequestResponseInfo: new(true), ReceiveMaximum: new(uint16(10)),
			TopicAliasMaximum: new(uint16(5)), MaximumPacketSize: new(uint32(65536)),
			User: []UserProperty{{"a", "1"}, {"a", "2"}, {"", ""}}}}, false},
	{"5 will", V5, `10 36 0004'MQTT' 05 0c 0000 00 0001'c'
		22 02 0000003c 18 0000000a 01 01 03 0004'text' 08 0001'r' 09 0001 ff 26 0001'k' 0001'v'
		0001'w' 0000`,
		&Connect{Version: V5, ClientID: "c", Will: &Will{Delay: 10, Message: Publish{
			Topic: "w", Payload: []byte{}, QoS: 1, Expiry: 60, HasExpiry: true,
			Forward: wire("01 01 03 0004'text' 08 0001'r' 09 0001 ff 26 0001'k' 0001'v'")}}}, false},
}

var goldenConnack = []golden{
	{"3.1", V31, "20 02 00 00", &Connack{}, false},
	{"3.1 reserved byte is ignored", V31, "20 02 01 00", &Connack{}, true},
	{"3.1.1 session present", V311, "20 02 01 00", &Connack{SessionPresent: true}, false},
	{"3.1.1 protocol level", V311, "20 02 00 01", &Connack{Code: UnsupportedProtocolVersion}, false},
	{"3.1.1 identifier", V311, "20 02 00 02", &Connack{Code: ClientIdentifierNotValid}, false},
	{"3.1.1 unavailable", V311, "20 02 00 03", &Connack{Code: ServerUnavailable}, false},
	{"3.1.1 bad password", V311, "20 02 00 04", &Connack{Code: BadUserNameOrPassword}, false},
	{"3.1.1 not authorized", V311, "20 02 00 05", &Connack{Code: NotAuthorized}, false},
	{"5", V5, "20 03 01 00 00", &Connack{SessionPresent: true}, false},
	{"5 all properties", V5, `20 41 00 00
		3e 11 0000003c 12 0002'id' 13 001e 15 0001'm' 16 0000 1a 0001'i' 1c 0001's' 1f 0003'why'
		21 0014 22 0010 24 01 25 00 27 00100000 28 00 29 01 2a 00
		26 0001'k' 0001'v'`,
		&Connack{Props: Properties{
			SessionExpiry: new(uint32(60)), AssignedClientID: new("id"), ServerKeepAlive: new(uint16(30)),
			AuthMethod: new("m"), AuthData: []byte{}, ResponseInfo: new("i"), ServerReference: new("s"),
			ReasonString: new("why"), ReceiveMaximum: new(uint16(20)), TopicAliasMaximum: new(uint16(16)),
			MaximumQoS: new(byte(1)), RetainAvailable: new(false), MaximumPacketSize: new(uint32(1 << 20)),
			WildcardAvailable: new(false), SubscriptionIDAvailable: new(true), SharedAvailable: new(false),
			User: []UserProperty{{"k", "v"}}}}, false},
	{"5 refused", V5, "20 09 00 87 06 1f 0003'why'", &Connack{Code: NotAuthorized, Props: Properties{ReasonString: new("why")}}, false},
}

var goldenPublish = []golden{
	{"3.1 QoS 0", V31, "30 05 0003'a/b'", &Publish{Topic: "a/b", Payload: []byte{}}, false},
	{"3.1.1 QoS 0", V311, "31 08 0003'a/b' 'hey'", &Publish{Topic: "a/b", Payload: []byte("hey"), Retain: true}, false},
	{"3.1.1 QoS 1 again", V311, "3a 08 0003'a/b' 0102 ff", &Publish{Topic: "a/b", Payload: []byte{255}, QoS: 1, Dup: true, PacketID: 0x102}, false},
	{"3.1.1 QoS 2", V311, "34 07 0003'a/b' ffff", &Publish{Topic: "a/b", Payload: []byte{}, QoS: 2, PacketID: 65535}, false},
	{"5 QoS 0", V5, "30 07 0003'a/b' 00 'x'", &Publish{Topic: "a/b", Payload: []byte("x")}, false},
	{"5 alias only", V5, "32 09 0000 0007 03 23 0001 'x'", &Publish{Payload: []byte("x"), QoS: 1, PacketID: 7, TopicAlias: 1}, false},
	{"5 all properties", V5, `3d 34 0001't' 1234
		2d 02 00000e10 0b 01 0b ffffff7f 23 0009
		01 01 03 0004'text' 08 0001'r' 09 0001 ff 26 0001'b' 0001'1' 26 0001'a' 0000 'p'`,
		&Publish{Topic: "t", Payload: []byte("p"), QoS: 2, Dup: true, Retain: true, PacketID: 0x1234,
			Expiry: 3600, HasExpiry: true, SubscriptionIDs: []uint32{1, MaxRemaining}, TopicAlias: 9,
			Forward: wire("01 01 03 0004'text' 08 0001'r' 09 0001 ff 26 0001'b' 0001'1' 26 0001'a' 0000")}, false},
	{"5 forwarded properties scattered", V5, `30 17 0001't'
		13 01 00 02 00000000 26 0001'b' 0001'1' 0b 05 09 0000`,
		&Publish{Topic: "t", Payload: []byte{}, HasExpiry: true, SubscriptionIDs: []uint32{5},
			Forward: wire("01 00 26 0001'b' 0001'1' 09 0000")}, true},
}

var goldenAcks = []golden{
	{"3.1", V31, "40 02 0001", &Ack{Kind: TypePuback, PacketID: 1}, false},
	{"3.1.1", V311, "50 02 0001", &Ack{Kind: TypePubrec, PacketID: 1}, false},
	{"3.1 again", V31, "6a 02 0001", &Ack{Kind: TypePubrel, PacketID: 1}, true},
	{"3.1.1", V311, "62 02 0001", &Ack{Kind: TypePubrel, PacketID: 1}, false},
	{"3.1.1", V311, "70 02 ffff", &Ack{Kind: TypePubcomp, PacketID: 65535}, false},
	{"5 short", V5, "40 02 0001", &Ack{Kind: TypePuback, PacketID: 1}, false},
	{"5 success spelled out", V5, "40 03 0001 00", &Ack{Kind: TypePuback, PacketID: 1}, true},
	{"5 empty properties spelled out", V5, "40 04 0001 00 00", &Ack{Kind: TypePuback, PacketID: 1}, true},
	{"5 no subscribers", V5, "40 03 0001 10", &Ack{Kind: TypePuback, PacketID: 1, Code: NoMatchingSubscribers}, false},
	{"5 quota", V5, "50 03 0001 97", &Ack{Kind: TypePubrec, PacketID: 1, Code: QuotaExceeded}, false},
	{"5 not found", V5, "62 03 0001 92", &Ack{Kind: TypePubrel, PacketID: 1, Code: PacketIdentifierNotFound}, false},
	{"5 properties", V5, "70 11 0001 92 0d 1f 0003'why' 26 0001'k' 0001'v'",
		&Ack{Kind: TypePubcomp, PacketID: 1, Code: PacketIdentifierNotFound,
			Props: &Properties{ReasonString: new("why"), User: []UserProperty{{"k", "v"}}}}, false},
	{"5 properties of success", V5, "40 0a 0001 00 06 1f 0003'why'",
		&Ack{Kind: TypePuback, PacketID: 1, Props: &Properties{ReasonString: new("why")}}, false},
}

var goldenSubscribe = []golden{
	{"3.1", V31, "82 06 0001 0001'a' 01", &Subscribe{PacketID: 1, Filters: []Subscription{{Filter: "a", QoS: 1}}}, false},
	{"3.1 again", V31, "8a 06 0001 0001'a' 01", &Subscribe{PacketID: 1, Filters: []Subscription{{Filter: "a", QoS: 1}}}, true},
	{"3.1.1", V311, "82 0c 0001 0003'a/+' 02 0001'#' 00",
		&Subscribe{PacketID: 1, Filters: []Subscription{{Filter: "a/+", QoS: 2}, {Filter: "#"}}}, false},
	{"5", V5, "82 07 0001 00 0001'a' 2e",
		&Subscribe{PacketID: 1, Filters: []Subscription{{Filter: "a", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}}, false},
	{"5 properties", V5, "82 11 0001 0a 0b 8001 26 0001'k' 0001'v' 0001'a' 10",
		&Subscribe{PacketID: 1, SubscriptionID: 128, Props: &Properties{User: []UserProperty{{"k", "v"}}},
			Filters: []Subscription{{Filter: "a", RetainHandling: 1}}}, false},
	{"3.1.1", V311, "90 05 0001 00 02 80", &Suback{PacketID: 1, Codes: []ReasonCode{0, 2, 0x80}}, false},
	{"5", V5, "90 0c 0001 06 1f 0003'why' 01 8f 97", &Suback{PacketID: 1, Codes: []ReasonCode{GrantedQoS1, TopicFilterInvalid, QuotaExceeded},
		Props: &Properties{ReasonString: new("why")}}, false},
	{"3.1", V31, "aa 05 0001 0001'a'", &Unsubscribe{PacketID: 1, Filters: []string{"a"}}, true},
	{"3.1.1", V311, "a2 09 0001 0001'a' 0002'+/'", &Unsubscribe{PacketID: 1, Filters: []string{"a", "+/"}}, false},
	{"5", V5, "a2 0d 0001 07 26 0001'k' 0001'v' 0001'a'", &Unsubscribe{PacketID: 1, Filters: []string{"a"},
		Props: &Properties{User: []UserProperty{{"k", "v"}}}}, false},
	{"3.1.1", V311, "b0 02 0001", &Unsuback{PacketID: 1}, false},
	{"5", V5, "b0 05 0001 00 00 11", &Unsuback{PacketID: 1, Codes: []ReasonCode{Success, NoSubscriptionExisted}}, false},
}

var goldenOthers = []golden{
	{"3.1.1", V311, "c0 00", &Pingreq{}, false},
	{"5", V5, "d0 00", &Pingresp{}, false},
	{"3.1.1", V311, "e0 00", &Disconnect{}, false},
	{"5 short", V5, "e0 00", &Disconnect{}, false},
	{"5 code only", V5, "e0 01 04", &Disconnect{Code: DisconnectWithWill}, true},
	{"5 code", V5, "e0 02 8e 00", &Disconnect{Code: SessionTakenOver}, false},
	{"5 properties", V5, "e0 15 00 13 11 00000000 1c 0001's' 1f 0000 26 0001'k' 0001'v'",
		&Disconnect{Props: Properties{SessionExpiry: new(uint32(0)), ServerReference: new("s"), ReasonString: new(""),
			User: []UserProperty{{"k", "v"}}}}, false},
	{"5 empty", V5, "f0 00", &Auth{}, false},
	{"5", V5, "f0 0b 18 09 15 0001'm' 16 0002 0102",
		&Auth{Code: ContinueAuthentication, Props: Properties{AuthMethod: new("m"), AuthData: []byte{1, 2}}}, false},
}

// goldenSame are packets that look the same in several versions.
var goldenSame = []golden{
	{"PUBACK 3.1.1", V311, "40 02 ffff", &Ack{Kind: TypePuback, PacketID: 65535}, false},
	{"PUBREC 3.1", V31, "50 02 0001", &Ack{Kind: TypePubrec, PacketID: 1}, false},
	{"PUBCOMP 3.1", V31, "70 02 0001", &Ack{Kind: TypePubcomp, PacketID: 1}, false},
	{"SUBACK 3.1", V31, "90 05 0001 000102", &Suback{PacketID: 1, Codes: []ReasonCode{0, 1, 2}}, false},
	{"UNSUBACK 3.1", V31, "b0 02 0001", &Unsuback{PacketID: 1}, false},
	{"PINGREQ 3.1", V31, "c0 00", &Pingreq{}, false},
	{"PINGREQ 5", V5, "c0 00", &Pingreq{}, false},
	{"PINGRESP 3.1", V31, "d0 00", &Pingresp{}, false},
	{"PINGRESP 3.1.1", V311, "d0 00", &Pingresp{}, false},
	{"DISCONNECT 3.1", V31, "e0 00", &Disconnect{}, false},
}

// TestOlderVersionsLeaveOut shows what cannot be said before MQTT 5.
func TestOlderVersionsLeaveOut(t *testing.T) {
	why := &Properties{ReasonString: new("why")}
	for _, c := range []struct {
		name   string
		packet Packet
		want   string
	}{
		{"ack code", &Ack{Kind: TypePuback, PacketID: 1, Code: NotAuthorized, Props: why}, "40 02 0001"},
		{"failures of SUBACK are 0x80", &Suback{PacketID: 1, Codes: []ReasonCode{1, QuotaExceeded}, Props: why}, "90 04 0001 01 80"}, // 3.1.1 [MQTT-3.9.3-2]
		{"codes of UNSUBACK", &Unsuback{PacketID: 1, Codes: []ReasonCode{0}, Props: why}, "b0 02 0001"},
		{"code of DISCONNECT", &Disconnect{Code: SessionTakenOver, Props: *why}, "e0 00"},
		{"busy", &Connack{Code: ServerBusy, Props: *why}, "20 02 00 03"},
		{"no return code fits", &Connack{Code: MalformedPacket}, ""},                                // 3.1.1 [MQTT-3.2.2-6]
		{"refused: no session", &Connack{Code: NotAuthorized, SessionPresent: true}, "20 02 00 05"}, // 3.1.1 [MQTT-3.2.2-4]
		{"properties of PUBLISH", &Publish{Topic: "t", TopicAlias: 1, HasExpiry: true, SubscriptionIDs: []uint32{1}, Forward: wire("0100")}, "30 03 0001't'"},
		{"options of SUBSCRIBE", &Subscribe{PacketID: 1, SubscriptionID: 1, Filters: []Subscription{{Filter: "a", QoS: 1, NoLocal: true, RetainHandling: 2}}}, "82 06 0001 0001'a' 01"},
	} {
		if got := c.packet.AppendTo(nil, V311); !bytes.Equal(got, wire(c.want)) {
			t.Errorf("%s: % x, want % x", c.name, got, wire(c.want))
		}
	}
	if got := (&Connack{SessionPresent: true}).AppendTo(nil, V31); !bytes.Equal(got, wire("20 02 00 00")) {
		t.Errorf("session present in MQTT 3.1: % x", got)
	}
}

// TestLengthsGrow checks packets around the sizes at which their lengths need another
// byte, which have to be moved to make room for it.
func TestLengthsGrow(t *testing.T) {
	for _, edge := range []int{1 << 7, 1 << 14, 1 << 21} {
		for size := edge - 12; size < edge+12; size++ {
			props := Properties{User: []UserProperty{}}
			for left := size; left > 0; left -= 60_000 {
				props.User = append(props.User, UserProperty{"k", strings.Repeat("v", min(left, 60_000))})
			}
			codes := make([]ReasonCode, size)
			for _, p := range []Packet{
				&Disconnect{Code: ServerBusy, Props: props},
				&Suback{PacketID: 7, Codes: codes},
				&Suback{PacketID: 7, Codes: codes, Props: &props},
			} {
				b := p.AppendTo([]byte("before"), V5)[len("before"):]
				header, start, n, err := Frame(b)
				if err != nil || start+n != len(b) {
					t.Fatalf("Frame = start %d, length %d, %v; packet has %d bytes", start, n, err, len(b))
				}
				q, err := Decode(header, b[start:], V5)
				if err != nil || !reflect.DeepEqual(p, q) {
					t.Fatalf("%T of size %d is not what it was: %v", p, size, err)
				}
			}
		}
	}
}
