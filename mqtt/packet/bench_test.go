package packet

import (
	"fmt"
	"testing"
)

func benchPublish() Publish {
	return Publish{
		Topic: "fleet/eu/vehicle/4711/speed", QoS: 1, PacketID: 1, Payload: make([]byte, 256), HasExpiry: true, Expiry: 60,
		Forward: AppendForward(nil, &Properties{ContentType: new("application/json"), User: []UserProperty{{"trace", "0123456789abcdef"}}}),
	}
}

// TestAllocations holds the promises of the package about memory.
func TestAllocations(t *testing.T) {
	p := benchPublish()
	scattered := wire("0001't' 0a 01 01 02 00000001 03 0000")
	for _, version := range []byte{V311, V5} {
		packet := AppendPublish(nil, version, &p)
		header, start, _, err := Frame(packet)
		if err != nil {
			t.Fatal(err)
		}
		body, dst := packet[start:], make([]byte, 0, 1024)
		encoded := EncodePublish(version, &p)
		ack := Ack{Kind: TypePuback, PacketID: 1, Code: NoMatchingSubscribers}
		ackBody := ack.AppendTo(nil, version)[2:]
		var q Publish
		for _, c := range []struct {
			name string
			max  float64
			fn   func()
		}{
			{"Decode PUBLISH", 2, func() { _, _ = Decode(header, body, version) }},
			{"DecodePublish of a new topic", 1, func() { q.Topic = ""; _ = DecodePublish(header, body, version, &q) }},
			{"DecodePublish of the same topic", 0, func() { _ = DecodePublish(header, body, version, &q) }},
			{"DecodePublish scattered", 1, func() { q.Topic = "t"; _ = DecodePublish(0x30, scattered, V5, &q) }},
			{"DecodeAck", 0, func() { _ = DecodeAck(0x40, ackBody, version, &ack) }},
			{"AppendPublish", 0, func() { dst = AppendPublish(dst[:0], version, &p) }},
			{"EncodedPublish.AppendTo", 0, func() { dst = encoded.AppendTo(dst[:0], 7, false) }},
			{"Ack.AppendTo", 0, func() { dst = ack.AppendTo(dst[:0], version) }},
			{"CheckPayloadFormat", 0, func() { _ = p.CheckPayloadFormat() }},
			{"Frame", 0, func() { _, _, _, _ = Frame(packet) }},
		} {
			if n := testing.AllocsPerRun(100, c.fn); n > c.max {
				t.Errorf("version %d: %s allocates %v times, want at most %v", version, c.name, n, c.max)
			}
		}
	}
}

func BenchmarkDecodePublish(b *testing.B) {
	for _, version := range []byte{V311, V5} {
		b.Run(fmt.Sprint("v", version), func(b *testing.B) {
			p := benchPublish()
			packet := AppendPublish(nil, version, &p)
			_, start, _, _ := Frame(packet)
			var q Publish
			b.ReportAllocs()
			for b.Loop() {
				q.Topic = ""
				if err := DecodePublish(packet[0], packet[start:], version, &q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	p := benchPublish()
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendPublish(dst[:0], V5, &p)
	}
}

func BenchmarkEncodedPublish(b *testing.B) {
	p := benchPublish()
	e := EncodePublish(V5, &p)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = e.AppendTo(dst[:0], 1, false)
	}
}

func BenchmarkDecodeAck(b *testing.B) {
	body := []byte{0, 1}
	var a Ack
	b.ReportAllocs()
	for b.Loop() {
		if err := DecodeAck(0x40, body, V5, &a); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendAck(b *testing.B) {
	a := Ack{Kind: TypePuback, PacketID: 1}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = a.AppendTo(dst[:0], V5)
	}
}

func BenchmarkDecodeConnect(b *testing.B) {
	c := &Connect{Version: V5, CleanStart: true, KeepAlive: 60, ClientID: "bench-client-1", Props: Properties{SessionExpiry: new(uint32(60))}}
	packet := c.AppendTo(nil, V5)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(packet[0], packet[2:], 0); err != nil {
			b.Fatal(err)
		}
	}
}
