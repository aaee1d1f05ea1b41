package client_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

func props(set ...uint32) client.Properties {
	var p client.Properties
	for i := 0; i < len(set); i += 2 {
		p.Set(byte(set[i]), set[i+1])
	}
	return p
}

func samples() []client.Packet {
	pub := props(client.PropMessageExpiry, 9, client.PropPayloadFormat, 1)
	pub.Text = map[byte]string{client.PropContentType: "text", client.PropCorrelationData: "\x00\xff"}
	pub.User = [][2]string{{"a", "1"}, {"a", "2"}}
	pub.SubscriptionIDs = []uint32{1, 300, 70000}
	return []client.Packet{
		{Type: client.CONNACK, SessionPresent: true, Props: props(client.PropReceiveMaximum, 7, client.PropMaximumQoS, 1)},
		{Type: client.CONNACK, Code: 0x87},
		{Type: client.PUBLISH, Topic: "a/b", Payload: []byte("x"), Retain: true},
		{Type: client.PUBLISH, Topic: "a", QoS: 2, ID: 65535, Dup: true, Payload: bytes.Repeat([]byte("y"), 300), Props: pub},
		{Type: client.PUBACK, ID: 1},
		{Type: client.PUBREC, ID: 2, Code: 0x10},
		{Type: client.PUBREL, ID: 3},
		{Type: client.PUBCOMP, ID: 4, Code: 0x92},
		{Type: client.SUBSCRIBE, ID: 5, Filters: []history.Filter{{Filter: "a/#", QoS: 2, NoLocal: true, RetainHandling: 1}, {Filter: "b"}}},
		{Type: client.SUBACK, ID: 5, Codes: []byte{2, 0x97}},
		{Type: client.UNSUBSCRIBE, ID: 6, Filters: []history.Filter{{Filter: "a/#"}}},
		{Type: client.UNSUBACK, ID: 6, Codes: []byte{0}},
		{Type: client.PINGREQ}, {Type: client.PINGRESP},
		{Type: client.DISCONNECT}, {Type: client.DISCONNECT, Code: 0x8e, Props: props(client.PropSessionExpiry, 3)},
		{Type: client.CONNECT, Props: props(client.PropSessionExpiry, 60), Connect: &client.ConnectFields{Version: 5, Clean: true,
			KeepAlive: 30, ClientID: "me", Username: "u", Password: []byte("p"),
			Will: &client.Will{Topic: "w", Payload: []byte("gone"), QoS: 1, Retain: true, Delay: 4}}},
	}
}

func TestCodecRoundTrip(t *testing.T) {
	for _, want := range samples() {
		raw, err := client.Encode(&want, 5)
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.ReadPacket(bytes.NewReader(raw), 5)
		if err != nil {
			t.Errorf("%s: %v", client.TypeName(want.Type), err)
			continue
		}
		if len(got.Payload) == 0 {
			got.Payload = nil
		}
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v became %+v", client.TypeName(want.Type), want, *got)
		}
	}
}

// TestCodecAgainstAnother decodes with a codec that nobody here wrote what ours has encoded.
func TestCodecAgainstAnother(t *testing.T) {
	for _, p := range samples() {
		raw, err := client.Encode(&p, 5)
		if err != nil {
			t.Fatal(err)
		}
		var head packets.FixedHeader
		if err := head.Decode(raw[0]); err != nil {
			t.Fatal(err)
		}
		length, n, err := packets.DecodeLength(bytes.NewReader(raw[1:]))
		if err != nil || 1+n+length != len(raw) {
			t.Fatalf("%s: length %d, %v", client.TypeName(p.Type), length, err)
		}
		head.Remaining = length
		other := packets.Packet{FixedHeader: head, ProtocolVersion: 5}
		if err := decodeOther(&other, raw[1+n:]); err != nil {
			t.Errorf("%s: %v", client.TypeName(p.Type), err)
			continue
		}
		same := other.PacketID == p.ID && other.ReasonCode == p.Code && other.TopicName == p.Topic &&
			bytes.Equal(other.Payload, p.Payload) && other.SessionPresent == p.SessionPresent && head.Dup == p.Dup &&
			head.Retain == p.Retain && (p.Type != client.PUBLISH || head.Qos == p.QoS) && len(other.Filters) == len(p.Filters) &&
			len(other.Properties.User) == len(p.Props.User) && other.Properties.MessageExpiryInterval == p.Props.Int[client.PropMessageExpiry] &&
			other.Properties.SessionExpiryInterval == p.Props.Int[client.PropSessionExpiry] &&
			len(other.Properties.SubscriptionIdentifier) == len(p.Props.SubscriptionIDs)
		if c := p.Connect; c != nil {
			same = same && other.Connect.ClientIdentifier == c.ClientID && other.Connect.Clean == c.Clean &&
				other.Connect.WillTopic == c.Will.Topic && other.Connect.WillProperties.WillDelayInterval == c.Will.Delay &&
				string(other.Connect.Username) == c.Username && other.Connect.WillQos == c.Will.QoS
		}
		if !same {
			t.Errorf("%s: %+v was read as %+v", client.TypeName(p.Type), p, other)
		}
	}
}

func decodeOther(p *packets.Packet, body []byte) error {
	switch p.FixedHeader.Type {
	case packets.Connect:
		return p.ConnectDecode(body)
	case packets.Connack:
		return p.ConnackDecode(body)
	case packets.Publish:
		return p.PublishDecode(body)
	case packets.Puback:
		return p.PubackDecode(body)
	case packets.Pubrec:
		return p.PubrecDecode(body)
	case packets.Pubrel:
		return p.PubrelDecode(body)
	case packets.Pubcomp:
		return p.PubcompDecode(body)
	case packets.Subscribe:
		return p.SubscribeDecode(body)
	case packets.Suback:
		return p.SubackDecode(body)
	case packets.Unsubscribe:
		return p.UnsubscribeDecode(body)
	case packets.Unsuback:
		return p.UnsubackDecode(body)
	case packets.Disconnect:
		return p.DisconnectDecode(body)
	}
	return nil // PINGREQ and PINGRESP have no body
}

func TestMalformed(t *testing.T) {
	for name, raw := range map[string][]byte{
		"packet type 0":               {0x00, 0},
		"CONNACK flags":               {0x20, 3, 2, 0, 0},
		"fixed header flags":          {0x42, 2, 0, 1},
		"PUBACK id 0":                 {0x40, 2, 0, 0},
		"QoS 3":                       {0x36, 6, 0, 1, 'a', 0, 1, 0},
		"DUP at QoS 0":                {0x38, 4, 0, 1, 'a', 0},
		"topic too short":             {0x30, 3, 0, 9, 'a'},
		"topic is not UTF-8":          {0x30, 4, 0, 1, 0xff, 0},
		"property length":             {0x30, 4, 0, 1, 'a', 9},
		"unknown property":            {0x30, 6, 0, 1, 'a', 2, 0x7f, 0},
		"a property twice":            {0x30, 8, 0, 1, 'a', 4, 1, 0, 1, 0},
		"bytes after PINGRESP":        {0xd0, 1, 0},
		"remaining length of 5 bytes": {0x30, 0x80, 0x80, 0x80, 0x80, 1},
	} {
		if p, err := client.ReadPacket(bytes.NewReader(raw), 5); !errors.Is(err, client.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if _, err := client.ReadPacket(bytes.NewReader([]byte{0x20, 9, 0}), 5); err == nil || errors.Is(err, client.ErrMalformed) {
		t.Errorf("a torn packet: %v", err)
	}
}

func TestMessageID(t *testing.T) {
	for payload, want := range map[string]string{"a/1|text": "a/1", "whole": "whole", "": "", "|x": ""} {
		if got := client.MessageID([]byte(payload)); got != want {
			t.Errorf("%q: %q", payload, got)
		}
	}
}
