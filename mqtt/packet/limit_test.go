package packet

import (
	"reflect"
	"strings"
	"testing"
)

// TestAppendLimited walks the limit down over each packet that can shrink: first the
// user properties go, then the reason string, then the packet.
func TestAppendLimited(t *testing.T) {
	props := Properties{ReasonString: new("because"), User: []UserProperty{{"k", strings.Repeat("v", 200)}}}
	noUser := Properties{ReasonString: props.ReasonString}
	for _, c := range []struct {
		full, second, bare Packet
	}{
		{&Connack{Props: props}, &Connack{Props: noUser}, &Connack{}},                                                                                                                   // [MQTT-3.2.2-19] [MQTT-3.2.2-20]
		{&Ack{Kind: TypePuback, PacketID: 1, Props: &props}, &Ack{Kind: TypePuback, PacketID: 1, Props: &noUser}, &Ack{Kind: TypePuback, PacketID: 1}},                                  // [MQTT-3.4.2-2] [MQTT-3.4.2-3]
		{&Ack{Kind: TypePubrec, PacketID: 1, Props: &props}, &Ack{Kind: TypePubrec, PacketID: 1, Props: &noUser}, &Ack{Kind: TypePubrec, PacketID: 1}},                                  // [MQTT-3.5.2-2] [MQTT-3.5.2-3]
		{&Ack{Kind: TypePubrel, PacketID: 1, Props: &props}, &Ack{Kind: TypePubrel, PacketID: 1, Props: &noUser}, &Ack{Kind: TypePubrel, PacketID: 1}},                                  // [MQTT-3.6.2-2] [MQTT-3.6.2-3]
		{&Ack{Kind: TypePubcomp, PacketID: 1, Props: &props}, &Ack{Kind: TypePubcomp, PacketID: 1, Props: &noUser}, &Ack{Kind: TypePubcomp, PacketID: 1}},                               // [MQTT-3.7.2-2] [MQTT-3.7.2-3]
		{&Suback{PacketID: 1, Codes: []ReasonCode{0}, Props: &props}, &Suback{PacketID: 1, Codes: []ReasonCode{0}, Props: &noUser}, &Suback{PacketID: 1, Codes: []ReasonCode{0}}},       // [MQTT-3.9.2-1] [MQTT-3.9.2-2]
		{&Unsuback{PacketID: 1, Codes: []ReasonCode{0}, Props: &props}, &Unsuback{PacketID: 1, Codes: []ReasonCode{0}, Props: &noUser}, &Unsuback{PacketID: 1, Codes: []ReasonCode{0}}}, // [MQTT-3.11.2-1] [MQTT-3.11.2-2]
		{&Disconnect{Code: ServerBusy, Props: props}, &Disconnect{Code: ServerBusy, Props: noUser}, &Disconnect{Code: ServerBusy}},                                                      // [MQTT-3.14.2-3] [MQTT-3.14.2-4]
		{&Auth{Code: ReAuthenticate, Props: props}, &Auth{Code: ReAuthenticate, Props: noUser}, &Auth{Code: ReAuthenticate}},                                                            // [MQTT-3.15.2-2] [MQTT-3.15.2-3]
	} {
		t.Run(c.full.Type().String(), func(t *testing.T) {
			full, second, bare := len(c.full.AppendTo(nil, V5)), len(c.second.AppendTo(nil, V5)), len(c.bare.AppendTo(nil, V5))
			for limit := full + 2; limit > 0; limit-- {
				want := c.full
				switch {
				case limit < bare:
					want = nil
				case limit < second:
					want = c.bare
				case limit < full:
					want = c.second
				}
				out, ok := AppendLimited([]byte("before"), c.full, V5, uint32(limit))
				wantOut := []byte("before")
				if want != nil {
					wantOut = want.AppendTo(wantOut, V5)
				}
				if ok != (want != nil) || string(out) != string(wantOut) {
					t.Fatalf("limit %d: % x, %v, want % x", limit, out, ok, wantOut)
				}
			}
			if out, ok := AppendLimited(nil, c.full, V5, 0); !ok || len(out) != full {
				t.Errorf("without a limit: %d bytes, %v, want %d", len(out), ok, full)
			}
		})
	}
	p := &Publish{Topic: "t", Forward: AppendForward(nil, &props)} // is never changed [MQTT-3.3.2-17]
	if out, ok := AppendLimited(nil, p, V5, 20); ok || len(out) != 0 {
		t.Errorf("PUBLISH: %d bytes, %v", len(out), ok)
	}
	if !reflect.DeepEqual(props.User[0].Name, "k") || props.ReasonString == nil {
		t.Error("AppendLimited changes its argument")
	}
}

func TestReasonCodes(t *testing.T) {
	named := 0
	for i := range 256 {
		c := ReasonCode(i)
		if codes[c].name == "" {
			if codes[c].in != 0 {
				t.Errorf("%#x has packets but no name", i)
			}
			continue
		}
		named++
		if codes[c].in == 0 {
			t.Errorf("%v is valid nowhere", c)
		}
	}
	if named != 43 { // table 2-6 has 43 different values
		t.Errorf("%d reason codes, want 43", named)
	}
	if got := MalformedPacket.String(); got != "Malformed Packet (0x81)" {
		t.Error(got)
	}
	if got := ReasonCode(0x7f).String(); got != "Reserved (0x7F)" {
		t.Error(got)
	}
	if GrantedQoS2.Failed() || !UnspecifiedError.Failed() {
		t.Error("Failed is wrong")
	}
	for code := range byte(6) {
		c, ok := fromConnectReturnCode(code)
		if back, ok2 := c.ConnectReturnCode(); !ok || !ok2 || back != code {
			t.Errorf("return code %d becomes %v and %d", code, c, back)
		}
	}
}

func TestErrorText(t *testing.T) {
	e := &Error{Code: MalformedPacket, Clause: "MQTT-3.3.1-4", Detail: "QoS is 3"}
	if got, want := e.Error(), "packet: Malformed Packet (0x81): QoS is 3 [MQTT-3.3.1-4]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
