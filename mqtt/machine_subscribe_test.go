package mqtt

import (
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

func sub(id uint16, filters ...packet.Subscription) *packet.Subscribe {
	return &packet.Subscribe{PacketID: id, Filters: filters}
}

func filter(f string, qos byte) packet.Subscription { return packet.Subscription{Filter: f, QoS: qos} }

func unsub(id uint16, filters ...string) *packet.Unsubscribe {
	return &packet.Unsubscribe{PacketID: id, Filters: filters}
}

func live(topic, payload string, qos byte, seq uint64) *flow.Message {
	return &flow.Message{ID: flow.MessageID{Source: 1, Seq: seq}, Topic: topic, Payload: []byte(payload), QoS: qos}
}

func TestSubscribe(t *testing.T) {
	runScenarios(t, []scenario{
		{"MQTT-3.8.4-1 MQTT-3.8.4-2", "SUBACK waits for the interest", packet.V5, nil, func(k *client) {
			k.stub.held["interest"] = true
			k.connect(nil).in(sub(5, filter("a", 1))).asks("interest a=5").out()
			k.stub.answer(0, nil)
			k.asks("retained a").out("SUBACK 5 01")
		}},
		{"MQTT-3.9.3-1 MQTT-3.8.4-6", "one code for each filter", packet.V5, nil, func(k *client) {
			k.srv.auth = deny{what: "secret"}
			k.c.limits.SharedAvailable = false
			k.connect(nil).in(sub(5, filter("a", 0), filter("b/#/c", 1), filter("c", 2), filter("$share/g/d", 1), filter("secret", 1), filter("e", 1)))
			k.asks("interest a=3, c=5, e=5", "retained a, c, e").out("SUBACK 5 00 8F 02 9E 87 01")
		}},
		{"MQTT-3.9.3-2", "failures on 3.1.1", packet.V311, func(l *Limits) { l.SharedAvailable = false }, func(k *client) {
			k.connect(nil).in(sub(5, filter("a", 0), filter("b/#/c", 1), filter("$share/g/d", 1))).out("SUBACK 5 00 80 80")
		}},
		{"MQTT-3.8.4-5", "nothing but failures", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(5, filter("", 1))).asks().out("SUBACK 5 8F")
		}},
		{"MQTT-3.8.3-4", "no local on a shared subscription", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(5, packet.Subscription{Filter: "$share/g/a", NoLocal: true})).out("DISCONNECT 82", "closed")
		}},
		{"3.9.3", "capabilities", packet.V5, func(l *Limits) {
			l.WildcardAvailable, l.SubscriptionIDAvailable, l.MaxTopicLevels = false, false, 2
		}, func(k *client) {
			k.connect(nil).in(sub(5, filter("a/+", 0), filter("a/b/c", 0), filter("a", 0))).out("SUBACK 5 A2 8F 00")
			s := sub(6, filter("a", 0))
			s.SubscriptionID = 4
			k.in(s).out("SUBACK 6 A1")
		}},
		{"3.9.3", "too many subscriptions", packet.V5, func(l *Limits) { l.MaxSubscriptions = 2 }, func(k *client) {
			k.connect(nil).in(sub(5, filter("a", 0), filter("b", 0), filter("c", 0))).out("SUBACK 5 00 00 97")
			k.in(unsub(6, "a"), sub(7, filter("d", 0)), sub(8, filter("d", 1))).out("UNSUBACK 6 00", "SUBACK 7 00", "SUBACK 8 01")
		}},
		{"MQTT-3.1.2-24", "a SUBACK that the client cannot take", packet.V5, nil, func(k *client) {
			k.connect(func(p *packet.Connect) { p.Props.MaximumPacketSize = new(uint32(40)) })
			s := sub(5)
			for range 40 {
				s.Filters = append(s.Filters, filter("a", 0))
			}
			k.in(s).out("DISCONNECT 95", "closed")
		}},
		{"MQTT-3.10.4-4 MQTT-3.10.4-5 MQTT-3.11.3-1", "UNSUBSCRIBE", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(5, filter("a", 1))).asks("interest a=5", "retained a").out("SUBACK 5 01")
			k.in(unsub(6, "b", "a", "#/x")).asks("interest a=0").out("UNSUBACK 6 11 00 8F")
		}},
		{"MQTT-3.10.4-4", "UNSUBSCRIBE", packet.V311, nil, func(k *client) {
			k.connect(nil).in(unsub(6, "b")).asks().out("UNSUBACK 6")
		}},
		{"3.8.4", "subscriptions of a persistent session", packet.V5, nil, func(k *client) {
			k.stub.subErr = map[string]packet.ReasonCode{"b": packet.QuotaExceeded}
			k.connect(persistent).in(sub(5, filter("a", 1), filter("b", 1), filter("c", 0)))
			k.asks("subscribe a q1, b q1, c q0", "interest a=1, c=3").out("SUBACK 5 01 97 00")
			k.in(unsub(6, "a", "unknown")).asks("unsubscribe a, unknown", "interest a=0").out("UNSUBACK 6 00 11")
		}},
		{"3.8.4", "a partition without room", packet.V5, nil, func(k *client) {
			k.connect(persistent)
			k.stub.fail = flow.ErrQuota
			k.stub.held["interest"] = true
			k.in(sub(5, filter("a", 1))).asks("subscribe a q1").out("SUBACK 5 97")
		}},
		{"MQTT-3.10.4-6", "changes of a persistent session keep their order", packet.V5, nil, func(k *client) {
			k.stub.held["subscribe"], k.stub.held["unsubscribe"] = true, true
			k.connect(persistent).in(sub(5, filter("a", 0)), unsub(6, "a"), sub(7, filter("b", 0)))
			k.asks("subscribe a q0", "unsubscribe a", "subscribe b q0")
			k.stub.answer(2, nil)
			k.stub.answer(1, nil)
			k.asks().out()
			k.stub.answer(0, nil)
			k.asks("interest a=3", "interest a=0", "interest b=3").out("SUBACK 5 00", "UNSUBACK 6 00", "SUBACK 7 00")
		}},
		{"4.13.2", "the cluster cannot route", packet.V5, nil, func(k *client) {
			k.stub.held["interest"] = true
			k.connect(nil).in(sub(5, filter("a", 1)))
			delete(k.stub.held, "interest")
			k.stub.answer(0, flow.ErrUnavailable)
			k.c.readerDone()
			k.asks("interest a=5", "interest a=0", "disconnect c 1 lost").out("DISCONNECT 89", "closed")
		}},
	})
}

// TestRetainedAfterSuback: retained messages from a partition wait for the SUBACK that
// they are for, and what follows them keeps its place.
func TestRetainedAfterSuback(t *testing.T) {
	srv, stub := newMachine(t, nil)
	k := newClient(t, srv, stub, packet.V5).connect(persistent)
	stub.held["subscribe"] = true
	k.in(sub(1, filter("a", 1))).out()
	srv.Deliver("c", 1, []flow.Delivery{
		{Seq: 1, PacketID: 1, QoS: 1, Message: live("b", "other", 1, 1)},
		{Seq: 2, PacketID: 2, QoS: 1, Retained: true, Message: live("a", "kept", 1, 2)},
		{Seq: 3, PacketID: 3, QoS: 1, Message: live("a", "new", 1, 3)},
	})
	k.out("PUBLISH b other q1 #1")
	stub.held["interest"] = true
	stub.answer(0, nil) // from here on the subscription is in the local tree
	srv.Route(live("a", "newer", 0, 4), false)
	k.out()
	stub.answer(0, nil)
	k.out("SUBACK 1 01", "PUBLISH a kept q1 #2 retain", "PUBLISH a new q1 #3", "PUBLISH a newer q0")
	srv.Route(live("a", "newest", 0, 5), false)
	k.out("PUBLISH a newest q0")
	k.gone()
}

// TestSubscribeAfterRetaining: a SUBSCRIBE waits for the client's own retained messages
// of QoS 0, and for nothing else.
func TestSubscribeAfterRetaining(t *testing.T) {
	srv, stub := newMachine(t, nil)
	k := newClient(t, srv, stub, packet.V5).connect(nil)
	stub.held["publish"] = true
	k.in(pub("a", "x", 0, 0))
	if k.c.gated(packet.TypeSubscribe) {
		t.Error("a SUBSCRIBE waits for a message that is not retained")
	}
	p := pub("a", "x", 0, 0)
	p.Retain = true
	k.in(p)
	if !k.c.gated(packet.TypeSubscribe) || k.c.gated(packet.TypePublish) {
		t.Error("a SUBSCRIBE does not wait, or a PUBLISH does")
	}
	stub.answer(1, nil)
	if k.c.gated(packet.TypeSubscribe) {
		t.Error("a SUBSCRIBE waits for a message that is stored")
	}
	k.gone()
}

// TestInterest: the cluster hears of changes of the union over all subscriptions, and
// a SUBACK never relies on a change that is not done.
func TestInterest(t *testing.T) {
	srv, stub := newMachine(t, nil)
	a := newClient(t, srv, stub, packet.V5).connect(nil)
	b := newClient(t, srv, stub, packet.V5).connect(persistent)
	noRetained := func(f string, qos byte) packet.Subscription {
		return packet.Subscription{Filter: f, QoS: qos, RetainHandling: 2}
	}
	stub.held["interest"] = true
	a.in(sub(1, noRetained("t", 0))).asks("interest t=3").out()
	b.in(sub(1, noRetained("t", 0))).asks("subscribe t q0", "interest t=3").out() // the first is not done
	stub.answer(0, nil)
	a.out("SUBACK 1 00")
	b.out()
	stub.answer(0, nil)
	b.out("SUBACK 1 00")
	b.in(sub(2, noRetained("t", 0))).asks("subscribe t q0").out("SUBACK 2 00") // nothing changes
	delete(stub.held, "interest")
	b.in(sub(3, noRetained("t", 2))).asks("subscribe t q2").out("SUBACK 3 02") // reliable, but by its partition
	a.in(sub(3, noRetained("t", 2))).asks("interest t=5").out("SUBACK 3 02")
	b.gone().asks("disconnect c 2 lost")
	a.gone().asks("interest t=0", "disconnect c 1 lost")
	if n := srv.metrics.Subscriptions.Load(); n != 0 || len(srv.subs.interest) != 0 {
		t.Errorf("%d subscriptions and interest %v are left", n, srv.subs.interest)
	}
}

func TestLiveMessages(t *testing.T) {
	runScenarios(t, []scenario{
		{"MQTT-3.8.4-8", "the lower QoS of message and subscription", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, filter("0", 0), filter("1", 1), filter("2", 2))).out("SUBACK 1 00 01 02")
			for _, topic := range []string{"0", "1", "2"} {
				for qos := byte(0); qos <= 2; qos++ {
					k.srv.Route(live(topic, "x", qos, 0), qos > 0)
				}
			}
			k.out("PUBLISH 0 x q0", "PUBLISH 0 x q0", "PUBLISH 0 x q0", "PUBLISH 1 x q0", "PUBLISH 1 x q1 #1", "PUBLISH 1 x q1 #2",
				"PUBLISH 2 x q0", "PUBLISH 2 x q1 #3", "PUBLISH 2 x q2 #4")
		}},
		{"MQTT-3.3.4-2 MQTT-3.3.4-4", "overlapping subscriptions", packet.V5, nil, func(k *client) {
			s1, s2 := sub(1, filter("a/+", 1), filter("a/#", 0)), sub(2, filter("a/b", 2))
			s1.SubscriptionID, s2.SubscriptionID = 11, 12
			k.connect(nil).in(s1, s2, sub(3, filter("#", 0))).out("SUBACK 1 01 00", "SUBACK 2 02", "SUBACK 3 00")
			k.srv.Route(live("a/b", "x", 2, 0), true)
			k.srv.Route(live("a/c", "x", 2, 0), true)
			k.srv.Route(live("z", "x", 2, 0), true)
			k.out("PUBLISH a/b x q2 #1 ids=[11 11 12]", "PUBLISH a/c x q1 #2 ids=[11 11]", "PUBLISH z x q0")
		}},
		{"MQTT-3.8.3-3", "no local", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, packet.Subscription{Filter: "a", NoLocal: true, QoS: 1}, filter("+", 0))).out("SUBACK 1 01 00")
			own, other := live("a", "own", 1, 0), live("a", "other", 1, 0)
			own.Publisher, other.Publisher = "c", "d"
			k.srv.Route(own, true)
			k.srv.Route(other, true)
			k.out("PUBLISH a own q0", "PUBLISH a other q1 #1")
			k.in(unsub(2, "+"))
			k.srv.Route(own, true)
			k.out("UNSUBACK 2 00")
		}},
		{"MQTT-3.3.1-12 MQTT-3.3.1-13", "retain as published", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, filter("a", 0), packet.Subscription{Filter: "b", RetainAsPublished: true})).out("SUBACK 1 00 00")
			for _, topic := range []string{"a", "b"} {
				m := live(topic, "x", 0, 0)
				k.srv.Route(m, false)
				retained := *m
				retained.Retain = true
				k.srv.Route(&retained, false)
			}
			k.out("PUBLISH a x q0", "PUBLISH a x q0", "PUBLISH b x q0", "PUBLISH b x q0 retain")
		}},
		{"MQTT-3.3.2-6 MQTT-3.3.2-5", "message expiry", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, filter("a", 1))).out("SUBACK 1 01")
			m, gone := live("a", "x", 1, 0), live("a", "y", 1, 0)
			m.HasExpiry, m.Expiry, gone.HasExpiry = true, 4200, true
			k.srv.Route(m, true)
			k.srv.Route(gone, true)
			k.out("PUBLISH a x q1 #1 expiry=5")
			if n := k.srv.metrics.Dropped[DropExpired].Load(); n != 1 {
				k.t.Errorf("%d expired", n)
			}
		}},
		{"MQTT-3.1.2-24 MQTT-3.1.2-25", "too large for the client", packet.V5, nil, func(k *client) {
			k.connect(func(p *packet.Connect) {
				p.Props.MaximumPacketSize = new(uint32(80))
				p.Props.ReceiveMaximum = new(uint16(1))
			})
			k.in(sub(1, filter("a", 1))).out("SUBACK 1 01")
			k.srv.Route(live("a", string(make([]byte, 100)), 1, 0), true)
			k.srv.Route(live("a", string(make([]byte, 100)), 0, 0), false)
			k.srv.Route(live("a", "x", 1, 0), true)
			k.out("PUBLISH a x q1 #1")
			if n := k.srv.metrics.Dropped[DropTooLarge].Load(); n != 2 {
				k.t.Errorf("%d too large", n)
			}
		}},
		{"MQTT-3.3.2-11 MQTT-3.1.2-26", "topic aliases to the client", packet.V5, nil, func(k *client) {
			k.connect(func(p *packet.Connect) { p.Props.TopicAliasMaximum = new(uint16(1)) })
			k.in(sub(1, filter("#", 0))).out("SUBACK 1 00")
			for _, topic := range []string{"a", "b", "a", "b"} {
				k.srv.Route(live(topic, "x", 0, 0), false)
			}
			k.out("PUBLISH a x q0 alias=1", "PUBLISH b x q0", "PUBLISH  x q0 alias=1", "PUBLISH b x q0")
		}},
		{"3.3.4", "persistent sessions get only what is QoS 0 by this way", packet.V5, nil, func(k *client) {
			k.connect(persistent).in(sub(1, filter("0", 0), filter("1", 1))).out("SUBACK 1 00 01")
			for _, topic := range []string{"0", "1"} {
				for qos := byte(0); qos <= 2; qos++ {
					k.srv.Route(live(topic, "x", qos, 0), qos == 2)
				}
			}
			k.out("PUBLISH 0 x q0", "PUBLISH 0 x q0", "PUBLISH 0 x q0", "PUBLISH 1 x q0")
		}},
		{"3.3.4", "what comes at QoS 0 only is not for ephemeral sessions that wait for a lane", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, filter("0", 0), filter("1", 1))).out("SUBACK 1 00 01")
			k.srv.Route(live("0", "x", 2, 0), false)
			k.srv.Route(live("1", "x", 2, 0), false)
			k.out("PUBLISH 0 x q0")
		}},
		{"MQTT-3.10.4-2", "nothing after UNSUBACK", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, filter("a", 0)), unsub(2, "a")).out("SUBACK 1 00", "UNSUBACK 2 00")
			k.srv.Route(live("a", "x", 0, 0), false)
			k.out()
		}},
	})
}

func TestRetained(t *testing.T) {
	stored := func(k *client) {
		k.stub.stored = []*flow.Message{live("a", "old a", 1, 1), live("b", "old b", 0, 2)}
		for _, m := range k.stub.stored {
			m.Retain = true
		}
	}
	runScenarios(t, []scenario{
		{"MQTT-3.3.1-9", "retained messages", packet.V5, nil, func(k *client) {
			stored(k)
			s := sub(1, filter("+", 1))
			s.SubscriptionID = 3
			k.connect(nil).in(s).out("SUBACK 1 01", "PUBLISH a old a q1 #1 retain ids=[3]", "PUBLISH b old b q0 retain ids=[3]")
			k.in(s).out("SUBACK 1 01", "PUBLISH a old a q1 #2 retain ids=[3]", "PUBLISH b old b q0 retain ids=[3]") // [MQTT-3.8.4-4]
		}},
		{"MQTT-3.3.1-10 MQTT-3.3.1-11", "retain handling", packet.V5, nil, func(k *client) {
			stored(k)
			one, two := filter("a", 1), filter("b", 1)
			one.RetainHandling, two.RetainHandling = 1, 2
			k.connect(nil).in(sub(1, one, two)).asks("interest a=5, b=5", "retained a").out("SUBACK 1 01 01", "PUBLISH a old a q1 #1 retain")
			k.in(sub(2, one, two)).asks().out("SUBACK 2 01 01")
		}},
		{"MQTT-3.8.3-3", "not those of the client itself with no local", packet.V5, nil, func(k *client) {
			stored(k)
			k.stub.stored[0].Publisher = "c"
			k.connect(nil).in(sub(1, packet.Subscription{Filter: "+", NoLocal: true})).out("SUBACK 1 00", "PUBLISH b old b q0 retain")
		}},
		{"P7", "live messages wait behind retained ones", packet.V5, nil, func(k *client) {
			stored(k)
			k.stub.held["retained"] = true
			k.connect(nil).in(sub(1, filter("z", 0)))
			k.stub.answer(0, nil)
			k.packets()
			k.in(sub(2, filter("a", 1), filter("b", 1))).out("SUBACK 2 01 01")
			k.srv.Route(live("a", "new a", 1, 7), true)
			k.srv.Route(live("z", "other", 0, 8), false)
			k.srv.Route(k.stub.stored[1], false) // is retained, and live at the same time
			k.out("PUBLISH z other q0")
			k.stub.answer(0, nil)
			k.out("PUBLISH a old a q1 #1 retain", "PUBLISH a new a q1 #2", "PUBLISH b old b q0")
		}},
		{"P7", "two subscriptions that wait", packet.V5, nil, func(k *client) {
			stored(k)
			k.stub.held["retained"] = true
			k.connect(nil).in(sub(1, filter("a", 1)), sub(2, filter("+", 1))).out("SUBACK 1 01", "SUBACK 2 01")
			k.srv.Route(live("a", "new a", 1, 7), true)
			k.srv.Route(live("b", "new b", 1, 8), true)
			first := k.stub.stored
			k.stub.stored = first[:1]
			k.stub.answer(0, nil)
			k.out("PUBLISH a old a q1 #1 retain")
			k.stub.stored = first
			k.stub.answer(0, nil)
			k.out("PUBLISH a old a q1 #2 retain", "PUBLISH b old b q0 retain", "PUBLISH b new b q1 #3", "PUBLISH a new a q1 #4")
		}},
		{"MQTT-3.10.4-2", "not after UNSUBSCRIBE", packet.V5, nil, func(k *client) {
			stored(k)
			k.stub.held["retained"] = true
			k.connect(nil).in(sub(1, filter("a", 1)), unsub(2, "a")).out("SUBACK 1 01", "UNSUBACK 2 00")
			k.stub.answer(0, nil)
			k.out()
		}},
		{"3.3.1.3", "retained messages are not available", packet.V5, func(l *Limits) { l.RetainAvailable = false }, func(k *client) {
			k.connect(nil).in(sub(1, filter("a", 1))).asks("interest a=5").out("SUBACK 1 01")
		}},
	})
}
