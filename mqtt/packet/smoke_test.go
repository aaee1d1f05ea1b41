package packet

import (
	"reflect"
	"testing"
)

func TestSmoke(t *testing.T) {
	for _, v := range []byte{V31, V311, V5} {
		for _, p := range []Packet{
			&Connect{Version: v, ClientID: "c", CleanStart: true},
			&Publish{Topic: "a/b", Payload: []byte("x"), QoS: 1, PacketID: 7},
			&Ack{Kind: TypePubrel, PacketID: 3},
			&Subscribe{PacketID: 1, Filters: []Subscription{{Filter: "#", QoS: 2}}},
			&Suback{PacketID: 1, Codes: []ReasonCode{GrantedQoS2}},
			&Disconnect{}, &Pingreq{},
		} {
			wire := p.AppendTo(nil, v)
			h, start, n, err := Frame(wire)
			if err != nil || start+n != len(wire) {
				t.Fatal(err, start, n, len(wire))
			}
			q, err := Decode(h, wire[start:], v)
			if err != nil || !reflect.DeepEqual(p, q) {
				t.Errorf("%+v %+v %v", p, q, err)
			}
		}
	}
}
