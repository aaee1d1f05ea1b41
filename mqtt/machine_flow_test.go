package mqtt

import (
	"fmt"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// TestEphemeralFlows: outgoing QoS 1 and 2 of a session that lives here.
func TestEphemeralFlows(t *testing.T) {
	window := func(n uint16) func(*packet.Connect) {
		return func(p *packet.Connect) { p.Props.ReceiveMaximum = new(n) }
	}
	route := func(k *client, qos byte, payloads ...string) {
		for _, p := range payloads {
			k.srv.Route(live("a", p, qos, 0), true)
		}
	}
	runScenarios(t, []scenario{
		{"MQTT-3.3.4-9 MQTT-4.9.0-2", "never more than Receive Maximum", packet.V5, nil, func(k *client) {
			k.connect(window(2)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 1, "1", "2", "3", "4")
			k.out("PUBLISH a 1 q1 #1", "PUBLISH a 2 q1 #2")
			k.in(ack(packet.TypePuback, 2)).out("PUBLISH a 3 q1 #3")
			k.in(ack(packet.TypePuback, 1), ack(packet.TypePuback, 3)).out("PUBLISH a 4 q1 #4")
			if n := k.srv.metrics.QueuedMessages.Load(); n != 0 {
				k.t.Errorf("%d queued", n)
			}
		}},
		{"MQTT-4.3.3-4", "QoS 2", packet.V5, nil, func(k *client) {
			k.connect(window(1)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 2, "1", "2")
			k.out("PUBLISH a 1 q2 #1")
			k.in(ack(packet.TypePubrec, 1)).out("PUBREL 1")
			k.in(ack(packet.TypePubrec, 1)).out("PUBREL 1")
			k.in(ack(packet.TypePubcomp, 1)).out("PUBLISH a 2 q2 #2")
		}},
		{"MQTT-4.4.0-2", "a PUBREC that refuses ends the flow", packet.V5, nil, func(k *client) {
			k.connect(window(1)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 2, "1", "2")
			k.in(&packet.Ack{Kind: packet.TypePubrec, PacketID: 1, Code: packet.QuotaExceeded}).out("PUBLISH a 1 q2 #1", "PUBLISH a 2 q2 #2")
		}},
		{"MQTT-3.6.2-1", "unknown packet identifiers", packet.V5, nil, func(k *client) {
			k.connect(nil).in(ack(packet.TypePuback, 1), ack(packet.TypePubcomp, 2), ack(packet.TypePubrec, 3)).out("PUBREL 3 92")
			if n := k.srv.metrics.UnknownAcks.Load(); n != 3 {
				k.t.Errorf("%d unknown", n)
			}
		}},
		{"4.3", "acknowledgements of the wrong kind", packet.V5, nil, func(k *client) {
			k.connect(window(2)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 1, "1")
			route(k, 2, "2")
			route(k, 1, "3")
			k.out("PUBLISH a 1 q1 #1", "PUBLISH a 2 q2 #2")
			k.in(ack(packet.TypePubcomp, 1), ack(packet.TypePuback, 2), ack(packet.TypePubcomp, 2)).out()
		}},
		{"P9", "a full queue drops the oldest", packet.V5, func(l *Limits) { l.QueueMessages = 2 }, func(k *client) {
			k.connect(window(1)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 1, "1", "2", "3", "4")
			k.in(ack(packet.TypePuback, 1)).in(ack(packet.TypePuback, 2)).out("PUBLISH a 1 q1 #1", "PUBLISH a 3 q1 #2", "PUBLISH a 4 q1 #3")
			wantDropped(k, DropQueueFull, 1)
		}},
		{"P9", "a full queue drops the newest", packet.V5, func(l *Limits) { l.QueueBytes, l.OnFull = 300, DropNewest }, func(k *client) {
			k.connect(window(1)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 1, "1", "2", "3", "4")
			k.in(ack(packet.TypePuback, 1)).in(ack(packet.TypePuback, 2)).out("PUBLISH a 1 q1 #1", "PUBLISH a 2 q1 #2", "PUBLISH a 3 q1 #3")
			wantDropped(k, DropQueueFull, 1)
		}},
		{"P9", "a message larger than the queue", packet.V5, func(l *Limits) { l.QueueBytes = 300 }, func(k *client) {
			k.connect(window(1)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 1, "1", string(make([]byte, 400)))
			k.out("PUBLISH a 1 q1 #1")
			wantDropped(k, DropQueueFull, 1)
		}},
		{"P9", "a full queue ends the connection", packet.V5, func(l *Limits) { l.QueueMessages, l.OnFull = 1, DisconnectClient }, func(k *client) {
			k.connect(window(1)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			route(k, 1, "1", "2", "3")
			<-k.srv.later.busy.idle()
			k.c.readerDone()
			k.out("PUBLISH a 1 q1 #1", "DISCONNECT 97", "closed")
			wantDropped(k, DropQueueFull, 1)
			wantDropped(k, DropEnded, 1)
		}},
		{"P9", "a client that does not read", packet.V5, func(l *Limits) { l.OutBuffer = 8 }, func(k *client) {
			k.connect(nil).in(sub(1, filter("a", 1))).out("SUBACK 1 01")
			for _, p := range []string{"1", "2"} { // the first fills the buffer
				route(k, 1, p)
				k.srv.Route(live("a", p, 0, 0), false)
			}
			k.out("PUBLISH a 1 q1 #1", "PUBLISH a 2 q1 #2")
			wantDropped(k, DropSlowSocket, 2)
		}},
		{"MQTT-3.3.2-5", "expires in the queue", packet.V5, nil, func(k *client) {
			k.connect(window(1)).in(sub(1, filter("a", 2))).out("SUBACK 1 02")
			m := live("a", "2", 1, 0)
			m.HasExpiry, m.Expiry = true, 1000
			route(k, 1, "1")
			k.srv.Route(m, true)
			route(k, 1, "3")
			k.srv.start = k.srv.start.Add(-1000 * 1e6) // a second later
			k.in(ack(packet.TypePuback, 1)).out("PUBLISH a 1 q1 #1", "PUBLISH a 3 q1 #2")
			wantDropped(k, DropExpired, 1)
		}},
	})
}

func wantDropped(k *client, r DropReason, n uint64) {
	k.t.Helper()
	if got := k.srv.metrics.Dropped[r].Load(); got != n {
		k.t.Errorf("%d dropped for %s, want %d", got, r, n)
	}
}

// TestPacketIDs: identifiers to an ephemeral session count from 1, skip 0 and those in
// use [MQTT-2.2.1-4].
func TestPacketIDs(t *testing.T) {
	o := &outflow{flights: map[uint16]flight{}}
	for _, want := range []uint16{1, 2, 3} {
		if o.lastID = o.newID(); o.lastID != want {
			t.Fatalf("identifier %d, want %d", o.lastID, want)
		}
		o.sent(o.lastID, 1)
	}
	o.lastID = 65534
	for _, want := range []uint16{65535, 4} {
		if o.lastID = o.newID(); o.lastID != want {
			t.Fatalf("identifier %d, want %d", o.lastID, want)
		}
	}
}

// TestDeliver: outgoing flows of a session whose state is in a partition.
func TestDeliver(t *testing.T) {
	deliver := func(k *client, ds ...flow.Delivery) *client {
		k.srv.Deliver("c", 1, ds)
		return k
	}
	d := func(seq uint64, id uint16, qos byte) flow.Delivery {
		return flow.Delivery{Seq: seq, PacketID: id, QoS: qos, Message: live("a", fmt.Sprint(seq), qos, seq)}
	}
	runScenarios(t, []scenario{
		{"MQTT-4.3.2-2 MQTT-4.3.3-2", "with the partition's packet identifiers", packet.V5, nil, func(k *client) {
			third := d(3, 9, 2)
			third.Dup, third.Retained, third.SubscriptionIDs = true, true, []uint32{5, 6}
			qos0 := flow.Delivery{Message: live("r", "x", 1, 0), Retained: true}
			deliver(k.connect(persistent), d(1, 7, 1), d(2, 8, 2), third, qos0)
			k.out("PUBLISH a 1 q1 #7", "PUBLISH a 2 q2 #8", "PUBLISH a 3 q2 #9 dup retain ids=[5 6]", "PUBLISH r x q0 retain")
		}},
		{"MQTT-4.4.0-1", "nothing twice on one connection", packet.V5, nil, func(k *client) {
			deliver(k.connect(persistent), d(1, 7, 1), d(2, 8, 1))
			deliver(k, d(1, 7, 1), d(2, 8, 1), d(3, 9, 1)).out("PUBLISH a 1 q1 #7", "PUBLISH a 2 q1 #8", "PUBLISH a 3 q1 #9")
		}},
		{"5", "acknowledgements are gathered up to half of the window", packet.V5, nil, func(k *client) {
			k.connect(func(p *packet.Connect) { persistent(p); p.Props.ReceiveMaximum = new(uint16(4)) })
			deliver(k, d(1, 1, 1)).in(ack(packet.TypePuback, 1)).asks()
			deliver(k, d(2, 2, 1)).in(&packet.Ack{Kind: packet.TypePuback, PacketID: 2, Code: packet.QuotaExceeded}).asks("ack puback 1, puback 2 failed")
			deliver(k, d(3, 3, 1), d(4, 4, 1), d(5, 5, 1), d(6, 6, 1)).in(ack(packet.TypePuback, 3)).asks("ack puback 3") // the window is full
			k.in(ack(packet.TypePuback, 4))
			k.gone().asks("ack puback 4", "disconnect c 1 lost")
		}},
		{"MQTT-4.3.3-4 MQTT-4.3.3-5", "PUBREL waits until PUBREC is stored", packet.V5, nil, func(k *client) {
			k.stub.held["ack"] = true
			deliver(k.connect(persistent), d(1, 1, 2), d(2, 2, 2), d(3, 3, 2)).packets()
			k.in(ack(packet.TypePubrec, 2), ack(packet.TypePubrec, 1)).in(ack(packet.TypePubrec, 3), ack(packet.TypePubrec, 1))
			k.asks("ack pubrec 2, pubrec 1", "ack pubrec 3").out()
			k.stub.answer(1, nil)
			k.out()
			k.stub.answer(0, nil)
			k.out("PUBREL 2", "PUBREL 1", "PUBREL 3") // [MQTT-4.6.0-4]
			k.in(ack(packet.TypePubcomp, 2)).gone().asks("ack pubcomp 2", "disconnect c 1 lost")
		}},
		{"MQTT-4.4.0-1", "PUBREL of a resumed session", packet.V5, nil, func(k *client) {
			deliver(k.connect(persistent), flow.Delivery{Seq: 1, PacketID: 4, QoS: 2, Release: true}).out("PUBREL 4")
			k.in(ack(packet.TypePubcomp, 4)).gone().asks("ack pubcomp 4", "disconnect c 1 lost")
		}},
		{"MQTT-4.4.0-2", "a PUBREC that refuses", packet.V5, nil, func(k *client) {
			deliver(k.connect(persistent), d(1, 1, 2)).packets()
			k.in(&packet.Ack{Kind: packet.TypePubrec, PacketID: 1, Code: packet.NotAuthorized}).gone()
			k.asks("ack pubrec 1 failed", "disconnect c 1 lost").out("closed")
		}},
		{"MQTT-4.3.3-4", "PUBREC just before DISCONNECT", packet.V5, nil, func(k *client) {
			deliver(k.connect(persistent), d(1, 1, 2), d(2, 2, 1)).packets()
			k.in(ack(packet.TypePubrec, 1), ack(packet.TypePuback, 2), &packet.Disconnect{})
			k.asks("ack puback 2, pubrec 1", "disconnect c 1 normal").out("closed")
		}},
		{"MQTT-3.1.2-25", "too large: the flow ends", packet.V5, nil, func(k *client) {
			k.connect(func(p *packet.Connect) { persistent(p); p.Props.MaximumPacketSize = new(uint32(100)) })
			one, two := d(1, 1, 1), d(2, 2, 2)
			one.Message.Payload, two.Message.Payload = make([]byte, 200), make([]byte, 200)
			deliver(k, one, two).out()
			wantDropped(k, DropTooLarge, 2)
			k.gone().asks("ack puback 1, pubrec 2 failed", "disconnect c 1 lost")
		}},
		{"MQTT-3.3.2-5 MQTT-4.3.3-7", "expired, unless it may have been sent", packet.V5, nil, func(k *client) {
			one, two := d(1, 1, 1), d(2, 2, 2)
			one.Message.HasExpiry, two.Message.HasExpiry, two.Dup = true, true, true
			deliver(k.connect(persistent), one, two).out("PUBLISH a 2 q2 #2 dup expiry=0")
			wantDropped(k, DropExpired, 1)
			k.gone().asks("ack puback 1", "disconnect c 1 lost")
		}},
		{"MQTT-3.2.0-1", "deliveries before CONNACK", packet.V5, nil, func(k *client) {
			k.stub.held["connect"], k.stub.held["interest"] = true, true
			k.stub.next = flow.Session{ClientID: "c", Epoch: 1, Present: true, Subscriptions: []flow.Subscription{{Filter: "a", QoS: 1}}}
			k.in(connectPacket(packet.V5))
			deliver(k, d(1, 1, 1))
			k.srv.Deliver("c", 9, []flow.Delivery{d(5, 5, 1)}) // of another connection
			k.stub.answer(0, nil)
			deliver(k, d(1, 1, 1), d(2, 2, 1)).out()
			k.stub.answer(0, nil)
			k.out("CONNACK 00 present", "PUBLISH a 1 q1 #1", "PUBLISH a 2 q1 #2")
		}},
		{"P5", "deliveries after the end", packet.V5, nil, func(k *client) {
			k.connect(persistent).gone()
			deliver(k, d(1, 1, 1)).out("closed")
		}},
	})
}
