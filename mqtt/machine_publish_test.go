package mqtt

import (
	"errors"
	"fmt"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

func pub(topic, payload string, qos byte, id uint16) *packet.Publish {
	return &packet.Publish{Topic: topic, Payload: []byte(payload), QoS: qos, PacketID: id}
}

func ack(kind packet.Type, id uint16) *packet.Ack { return &packet.Ack{Kind: kind, PacketID: id} }

func closeUnauthorized(l *Limits) { l.CloseUnauthorized = true }

// deny forbids one topic and one filter.
type deny struct {
	allowAll
	what string
}

func (d deny) MayPublish(_ *Client, topic string) bool    { return topic != d.what }
func (d deny) MaySubscribe(_ *Client, filter string) bool { return filter != d.what }

func TestPublish(t *testing.T) {
	runScenarios(t, []scenario{
		{"MQTT-4.3.1-1", "QoS 0", packet.V5, nil, func(k *client) {
			k.connect(nil).in(pub("t", "x", 0, 0)).asks("publish t q0 x").out()
		}},
		{"MQTT-4.3.2-4", "QoS 1", packet.V5, nil, func(k *client) {
			k.connect(nil).in(pub("t", "x", 1, 9)).asks("publish t q1 x").out("PUBACK 9")
		}},
		{"MQTT-3.4.2-1", "QoS 1, nobody wants it", packet.V5, nil, func(k *client) {
			k.stub.match = false
			k.connect(nil).in(pub("t", "x", 1, 9)).asks("publish t q1 x").out("PUBACK 9 10")
		}},
		{"MQTT-4.3.2-4", "PUBACK waits for the cluster", packet.V311, nil, func(k *client) {
			k.stub.held["publish"] = true
			k.connect(nil).in(pub("t", "x", 1, 9)).out()
			k.stub.answer(0, nil)
			k.out("PUBACK 9")
		}},
		{"MQTT-4.6.0-2", "PUBACKs in the order of PUBLISHes", packet.V311, nil, func(k *client) {
			k.stub.held["publish"] = true
			k.connect(nil).in(pub("t", "x", 1, 3), pub("t", "y", 1, 1), pub("t", "z", 1, 2)).out()
			k.stub.answer(2, nil)
			k.out()
			k.stub.answer(0, nil)
			k.out("PUBACK 3")
			k.stub.answer(0, nil)
			k.out("PUBACK 1", "PUBACK 2")
		}},
		{"MQTT-4.3.3-8 MQTT-4.3.3-11", "QoS 2", packet.V5, nil, func(k *client) {
			k.connect(nil).in(pub("t", "x", 2, 9)).asks("receive 9 t").out("PUBREC 9")
			k.in(ack(packet.TypePubrel, 9)).asks("release 9").out("PUBCOMP 9")
		}},
		{"MQTT-4.6.0-3 MQTT-4.6.0-4", "PUBRECs and PUBCOMPs in order", packet.V5, nil, func(k *client) {
			k.stub.held["receive"], k.stub.held["release"] = true, true
			k.connect(nil).in(pub("t", "x", 2, 1), pub("t", "x", 2, 2)).out()
			k.stub.answer(1, nil)
			k.out()
			k.stub.answer(0, nil)
			k.out("PUBREC 1", "PUBREC 2")
			k.in(ack(packet.TypePubrel, 1), ack(packet.TypePubrel, 2))
			k.stub.answer(1, nil)
			k.out()
			k.stub.answer(0, nil)
			k.out("PUBCOMP 1", "PUBCOMP 2")
		}},
		{"MQTT-4.3.3-10", "QoS 2 sent again is acknowledged again", packet.V311, nil, func(k *client) {
			k.connect(nil).in(pub("t", "x", 2, 9), pub("t", "x", 2, 9)).asks("receive 9 t", "receive 9 t").out("PUBREC 9", "PUBREC 9")
		}},
		{"MQTT-3.7.2-1", "unknown packet identifier in PUBREL", packet.V5, nil, func(k *client) {
			k.stub.held["release"] = true
			k.connect(nil).in(ack(packet.TypePubrel, 9))
			k.stub.answer(0, flow.ErrUnknownPacketID)
			k.out("PUBCOMP 9 92")
		}},
		{"MQTT-4.3.3-11", "unknown packet identifier in PUBREL", packet.V311, nil, func(k *client) {
			k.stub.held["release"] = true
			k.connect(nil).in(ack(packet.TypePubrel, 9))
			k.stub.answer(0, flow.ErrUnknownPacketID)
			k.out("PUBCOMP 9")
		}},
		{"4.9", "no room", packet.V5, nil, func(k *client) {
			k.connect(nil)
			k.stub.fail = fmt.Errorf("partition 3: %w", flow.ErrQuota)
			k.in(pub("t", "x", 1, 1), pub("t", "x", 2, 2)).out("PUBACK 1 97", "PUBREC 2 97")
		}},
		{"MQTT-4.8.0-2 of 3.1.1", "no room, which 3.1.1 cannot say", packet.V311, nil, func(k *client) {
			k.connect(nil)
			k.stub.fail = flow.ErrQuota
			k.in(pub("t", "x", 1, 1)).asks("publish t q1 x", "disconnect c 1 lost").out("closed")
		}},
		{"MQTT-4.3.3-9", "a refused QoS 2 flow has ended", packet.V5, func(l *Limits) { l.ReceiveMaximum = 1 }, func(k *client) {
			k.connect(nil)
			k.stub.fail = flow.ErrQuota
			k.in(pub("t", "x", 2, 2)).out("PUBREC 2 97")
			k.stub.fail = nil
			k.in(pub("t", "x", 2, 3)).out("PUBREC 3")
		}},
		{"MQTT-3.1.4-3", "fenced", packet.V5, nil, func(k *client) {
			k.connect(nil)
			k.stub.fail = flow.ErrFenced
			k.in(pub("t", "x", 2, 2)).asks("receive 2 t", "disconnect c 1 lost").out("DISCONNECT 8E", "closed")
		}},
		{"4.13.2", "the node is no longer available", packet.V5, nil, func(k *client) {
			k.connect(nil)
			k.stub.fail = errors.New("something else")
			k.in(pub("t", "x", 1, 2)).asks("publish t q1 x", "disconnect c 1 lost").out("DISCONNECT 89", "closed")
		}},
		{"MQTT-3.3.4-7", "Receive Maximum exceeded, QoS 1", packet.V5, func(l *Limits) { l.ReceiveMaximum = 2 }, func(k *client) {
			k.stub.held["publish"] = true
			k.connect(nil).in(pub("t", "x", 1, 1), pub("t", "x", 1, 2), pub("t", "x", 1, 3)).out("DISCONNECT 93", "closed")
		}},
		{"MQTT-3.3.4-7", "Receive Maximum counts QoS 2 until PUBCOMP", packet.V5, func(l *Limits) { l.ReceiveMaximum = 2 }, func(k *client) {
			k.connect(nil).in(pub("t", "x", 2, 1), pub("t", "x", 2, 2)).out("PUBREC 1", "PUBREC 2")
			k.in(ack(packet.TypePubrel, 1), pub("t", "x", 1, 3)).out("PUBCOMP 1", "PUBACK 3")
			k.in(pub("t", "x", 2, 4), pub("t", "x", 2, 5)).out("PUBREC 4", "DISCONNECT 93", "closed")
		}},
		{"MQTT-3.3.4-7", "no Receive Maximum for older clients", packet.V311, func(l *Limits) { l.ReceiveMaximum = 1 }, func(k *client) {
			k.connect(nil).in(pub("t", "x", 2, 1), pub("t", "x", 2, 2)).out("PUBREC 1", "PUBREC 2")
		}},
		{"MQTT-3.3.4-8", "other packets are answered at Receive Maximum", packet.V5, func(l *Limits) { l.ReceiveMaximum = 1 }, func(k *client) {
			k.stub.held["publish"] = true
			k.connect(nil).in(pub("t", "x", 1, 1), &packet.Pingreq{}).out("PINGRESP")
		}},
		{"MQTT-3.3.4-6", "subscription identifier from a client", packet.V5, nil, func(k *client) {
			p := pub("t", "x", 0, 0)
			p.SubscriptionIDs = []uint32{1}
			k.connect(nil).in(p).asks("disconnect c 1 lost").out("DISCONNECT 82", "closed")
		}},
		{"MQTT-3.3.2-2", "wildcard in topic name", packet.V5, nil, func(k *client) {
			k.connect(nil).in(pub("a/+", "x", 0, 0)).out("DISCONNECT 82", "closed")
		}},
		{"MQTT-3.2.2-11", "QoS above the maximum", packet.V5, func(l *Limits) { l.MaxQoS = 1 }, func(k *client) {
			k.connect(nil).in(pub("t", "x", 2, 1)).out("DISCONNECT 9B", "closed")
		}},
		{"MQTT-3.2.2-14", "retain where there is none", packet.V5, func(l *Limits) { l.RetainAvailable = false }, func(k *client) {
			p := pub("t", "x", 0, 0)
			p.Retain = true
			k.connect(nil).in(p).out("DISCONNECT 9A", "closed")
		}},
		{"3.4.2.1", "$SYS is not for clients", packet.V5, nil, func(k *client) {
			k.connect(nil).in(pub("$SYS/x", "x", 1, 1), pub("$SYS", "x", 2, 2), pub("$SYS/x", "x", 0, 0), pub("$SYSTEM", "x", 0, 0))
			k.asks("publish $SYSTEM q0 x").out("PUBACK 1 87", "PUBREC 2 87")
		}},
		{"3.4.2.1", "not authorized", packet.V5, nil, func(k *client) {
			k.srv.auth = deny{what: "secret"}
			k.connect(nil).in(pub("secret", "x", 1, 1), pub("secret", "x", 2, 2), pub("secret", "x", 0, 0)).asks().out("PUBACK 1 87", "PUBREC 2 87")
		}},
		{"3.3.5", "not authorized: acknowledged and dropped", packet.V311, nil, func(k *client) {
			k.srv.auth = deny{what: "secret"}
			k.connect(nil).in(pub("secret", "x", 1, 1), pub("secret", "x", 2, 2)).asks().out("PUBACK 1", "PUBREC 2")
		}},
		{"3.3.5", "not authorized: closed where the client cannot be told otherwise", packet.V311, closeUnauthorized, func(k *client) {
			k.srv.auth = deny{what: "secret"}
			k.connect(nil).in(pub("open", "x", 1, 1), pub("secret", "x", 1, 2)).asks("publish open q1 x", "disconnect c 1 lost").out("PUBACK 1", "closed")
		}},
		{"3.3.5", "not authorized: closed where the client cannot be told otherwise", packet.V5, closeUnauthorized, func(k *client) {
			k.srv.auth = deny{what: "secret"}
			k.connect(nil).in(pub("secret", "x", 1, 1), pub("secret", "x", 0, 0)).asks("disconnect c 1 lost").out("PUBACK 1 87", "DISCONNECT 87", "closed")
		}},
		{"3.3.2.3.2", "payload is not what its format says", packet.V5, func(l *Limits) { l.CheckPayloadFormat = true }, func(k *client) {
			p := pub("t", "\xff", 1, 1)
			p.Forward = packet.AppendForward(nil, &packet.Properties{PayloadFormat: new(byte(1))})
			k.connect(nil).in(p).asks().out("PUBACK 1 99")
		}},
	})
}

func TestTopicAliasesOfClients(t *testing.T) {
	alias := func(topic string, n uint16) *packet.Publish {
		return &packet.Publish{Topic: topic, Payload: []byte("x"), TopicAlias: n}
	}
	runScenarios(t, []scenario{
		{"MQTT-3.3.2-12", "aliases", packet.V5, nil, func(k *client) {
			k.connect(nil).in(alias("a", 1), alias("b", 64), alias("", 1), alias("c", 1), alias("", 1), alias("", 64))
			k.asks("publish a q0 x", "publish b q0 x", "publish a q0 x", "publish c q0 x", "publish c q0 x", "publish b q0 x").out()
		}},
		{"MQTT-3.3.2-9", "above the maximum", packet.V5, nil, func(k *client) {
			k.connect(nil).in(alias("a", 65)).out("DISCONNECT 94", "closed")
		}},
		{"MQTT-3.3.2-8", "alias 0", packet.V5, nil, func(k *client) {
			k.connect(nil).bytes([]byte("\x30\x07\x00\x01t\x03\x23\x00\x00")).out("DISCONNECT 94", "closed")
		}},
		{"3.3.2.3.4", "unknown", packet.V5, nil, func(k *client) {
			k.connect(nil).in(alias("", 3)).out("DISCONNECT 82", "closed")
		}},
		{"MQTT-4.7.3-1", "no topic and no alias", packet.V5, nil, func(k *client) {
			k.connect(nil).in(alias("", 0)).out("DISCONNECT 82", "closed")
		}},
		{"MQTT-3.3.2-7", "aliases end with their connection", packet.V5, nil, func(k *client) {
			k.connect(nil).in(alias("a", 1)).gone()
			second := newClient(k.t, k.srv, k.stub, packet.V5)
			second.connect(nil).in(alias("", 1)).out("DISCONNECT 82", "closed")
		}},
	})
}

// TestMessageIsComplete: all that a publisher says about a message reaches the cluster,
// and nothing of it lies in the read buffer.
func TestMessageIsComplete(t *testing.T) {
	srv, stub := newMachine(t, nil)
	k := newClient(t, srv, stub, packet.V5).connect(nil)
	forward := packet.AppendForward(nil, &packet.Properties{
		ContentType: new("text"), ResponseTopic: new("r"), CorrelationData: []byte{1}, User: []packet.UserProperty{{Name: "b", Value: "1"}, {Name: "a", Value: "2"}},
	})
	p := &packet.Publish{Topic: "t", Payload: []byte("payload"), Forward: forward, QoS: 1, PacketID: 1, Retain: true, HasExpiry: true, Expiry: 7}
	raw := p.AppendTo(nil, packet.V5)
	k.bytes(raw)
	clear(raw)
	m := stub.msgs[0]
	if m.Topic != "t" || string(m.Payload) != "payload" || string(m.Props) != string(forward) || m.QoS != 1 || !m.Retain ||
		!m.HasExpiry || m.Expiry != 7000 || m.Publisher != "c" {
		t.Errorf("message is %+v", m)
	}
}

// TestGate: the reader waits while too much is unanswered, and goes on after.
func TestGate(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits func(*Limits)
		packet *packet.Publish
		shut   int // PUBLISHes that shut the gate
	}{
		{"messages", func(l *Limits) { l.ReceiveMaximum = 3 }, pub("t", "x", 1, 1), 3},
		{"bytes", func(l *Limits) { l.UnansweredBytes = 1500 }, pub("t", string(make([]byte, 500)), 2, 1), 3},
		{"QoS 0", func(l *Limits) { l.ReceiveMaximum = 3 }, pub("t", "x", 0, 0), 3},
		{"QoS 0, large", func(l *Limits) { l.UnansweredBytes = 4500 }, pub("t", string(make([]byte, 2000)), 0, 0), 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv, stub := newMachine(t, func(o *Options) { c.limits(&o.Limits) })
			k := newClient(t, srv, stub, packet.V311).connect(nil)
			stub.held["publish"], stub.held["receive"] = true, true
			for i := range c.shut {
				if k.c.gated(0) {
					t.Fatalf("shut after %d", i)
				}
				k.in(c.packet)
			}
			if !k.c.gated(0) {
				t.Fatalf("not shut after %d", c.shut)
			}
			passed := make(chan bool)
			waits := make(chan struct{})
			go func() { passed <- k.c.passGate(0, func() { close(waits) }) }()
			<-waits
			stub.answer(0, nil)
			if !<-passed {
				t.Error("the gate opens, and there are no more packets")
			}
			k.in(c.packet) // shut again
			go func() { passed <- k.c.passGate(0, func() {}) }()
			k.c.end(networkFailure())
			if <-passed {
				t.Error("packets pass although the connection is closing")
			}
		})
	}
}
