package packet

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// publishes are packets of every shape, around the sizes at which lengths grow.
func publishes() []Publish {
	var all []Publish
	for _, size := range []int{0, 1, 100, 127, 128, 16_383, 16_384, 70_000} {
		for _, forward := range []int{0, 1, 120, 130, 16_400} {
			for qos := range byte(3) {
				p := Publish{Topic: "a/b", QoS: qos, Payload: bytes.Repeat([]byte{'x'}, size)}
				if forward > 0 {
					p.Forward = AppendForward(nil, &Properties{CorrelationData: make([]byte, forward)})
				}
				all = append(all, p)
				p.HasExpiry, p.Expiry, p.TopicAlias, p.Retain = true, 1<<31, 77, true
				p.SubscriptionIDs = []uint32{1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MaxRemaining}
				all = append(all, p)
			}
		}
	}
	return all
}

// TestEncodedPublish checks that a packet encoded once is for each receiver what it
// would be if it were encoded for that one, and that sizes are exact.
func TestEncodedPublish(t *testing.T) {
	for _, version := range []byte{V31, V311, V5} {
		for _, p := range publishes() {
			given := p
			given.PacketID, given.Dup = 0xffff, true // must not matter
			e := EncodePublish(version, &given)
			for _, id := range []uint16{1, 255, 256, 65535} {
				for _, dup := range []bool{false, true} {
					q := p
					if q.QoS > 0 {
						q.PacketID, q.Dup = id, dup
					}
					want := AppendPublish([]byte("before"), version, &q)
					got := e.AppendTo([]byte("before"), id, dup)
					if !bytes.Equal(got, want) {
						t.Fatalf("version %d, QoS %d, id %d, DUP %v: encoded once and for one differ", version, p.QoS, id, dup)
					}
					if n := len(want) - len("before"); n != PublishSize(version, &q) || n != e.Size() {
						t.Fatalf("PublishSize %d, Size %d, want %d", PublishSize(version, &q), e.Size(), n)
					}
				}
			}
		}
	}
}

func TestPublishRoundTrip(t *testing.T) {
	for _, p := range publishes() {
		if p.QoS > 0 {
			p.PacketID = 9
		}
		wire := AppendPublish(nil, V5, &p)
		header, start, _, err := Frame(wire)
		if err != nil {
			t.Fatal(err)
		}
		var q Publish
		if err := DecodePublish(header, wire[start:], V5, &q); err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("decoded %+v, %v", q, err)
		}
	}
}

// TestForwardIsAlias checks the promise that forwarded properties which stand together
// are a part of the input, and that appending to them does not write into it.
func TestForwardIsAlias(t *testing.T) {
	together := wire("0001't' 0a 02 00000001 01 01 03 0000 'payload'")
	var p Publish
	if err := DecodePublish(0x30, together, V5, &p); err != nil {
		t.Fatal(err)
	}
	if &p.Forward[0] != &together[9] || &p.Payload[0] != &together[14] {
		t.Error("Forward or Payload is a copy")
	}
	_ = append(p.Forward, 'X')
	if !bytes.HasSuffix(together, []byte("payload")) {
		t.Error("append to Forward overwrites the payload")
	}
	apart := wire("0001't' 0a 01 01 02 00000001 03 0000")
	if err := DecodePublish(0x30, apart, V5, &p); err != nil || !bytes.Equal(p.Forward, wire("01 01 03 0000")) {
		t.Errorf("Forward = % x, %v", p.Forward, err)
	}
}

// TestDecodePublishOverwrites checks that nothing of an earlier packet stays.
func TestDecodePublishOverwrites(t *testing.T) {
	all := publishes()
	p := all[len(all)-1]
	p.Topic, p.PacketID, p.Dup = "old", 5, true
	if err := DecodePublish(0x30, wire("0001't'"), V311, &p); err != nil {
		t.Fatal(err)
	}
	if want := (Publish{Topic: "t", Payload: []byte{}}); !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, want %+v", p, want)
	}
}

func TestParseForward(t *testing.T) {
	want := Properties{
		PayloadFormat: new(byte(1)), ContentType: new("text"), ResponseTopic: new("r"),
		CorrelationData: []byte{1}, User: []UserProperty{{"b", "1"}, {"a", "2"}, {"b", "3"}}, // [MQTT-3.3.2-18]
	}
	given := want
	given.MessageExpiry, given.TopicAlias, given.SubscriptionIDs = new(uint32(1)), new(uint16(1)), []uint32{1}
	b := AppendForward(nil, &given) // leaves out what does not belong there
	got, err := ParseForward(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseForward(nil); err != nil || !reflect.DeepEqual(got, Properties{}) {
		t.Errorf("empty: %+v, %v", got, err)
	}
	for _, bad := range []string{"02 00000001", "23 0001", "0b 01", "11 00000000", "01 02", "08 0001'#'", "01", "26 0001'k'"} {
		var e *Error
		if _, err := ParseForward(wire(bad)); !errors.As(err, &e) {
			t.Errorf("ParseForward(%s): %v", bad, err)
		}
	}
}

func TestCheckPayloadFormat(t *testing.T) {
	for _, c := range []struct {
		forward, payload string
		bad              bool
	}{
		{"", "\xff", false},
		{"01 00", "\xff", false},
		{"01 01", "Ω", false},
		{"01 01", "", false},
		{"01 01", "\xff", true},
		{"26 0001'k' 0001'v' 09 0001 ff 01 01", "\xff", true},
		{"26 0001'k' 0001'v'", "\xff", false},
	} {
		err := (&Publish{Forward: wire(c.forward), Payload: []byte(c.payload)}).CheckPayloadFormat()
		var e *Error
		if errors.As(err, &e) != c.bad || c.bad && e.Code != PayloadFormatInvalid {
			t.Errorf("%s with %q: %v", c.forward, c.payload, err)
		}
	}
}

// TestTooLong checks that what cannot be expressed is never written.
func TestTooLong(t *testing.T) {
	long := strings.Repeat("x", 65536)
	for name, p := range map[string]Packet{
		"topic":  &Publish{Topic: long},
		"reason": &Disconnect{Props: Properties{ReasonString: &long}},
		"packet": &Publish{Topic: "t", Payload: make([]byte, MaxRemaining)},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			p.AppendTo(nil, V5)
		}()
	}
	if n := PublishSize(V5, &Publish{Topic: "t", Payload: make([]byte, 1<<20)}); n != 1+3+3+1+1<<20 {
		t.Errorf("PublishSize = %d", n)
	}
}
