package mqtt

import (
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// assign is what a group gives to the client under test.
func (k *client) assign(stamp, item uint64, qos byte, payload string) *client {
	k.t.Helper()
	k.srv.withoutTimer()
	k.srv.Deliver("c", k.stub.epoch, []flow.Delivery{{
		QoS: qos, Message: live("job", payload, qos, 0), Group: "$share/g/job", Stamp: stamp, Item: item,
	}})
	return k
}

// withoutTimer keeps gathered acknowledgements from going by the clock: a timer starts
// only for the first connection.
func (s *Server) withoutTimer() {
	s.ackers.mu.Lock()
	defer s.ackers.mu.Unlock()
	if len(s.ackers.conns) == 0 {
		s.ackers.conns = []*conn{nil}
	}
}

// narrow connects with a Receive Maximum of 2.
func narrow(p *packet.Connect) { p.Props.ReceiveMaximum = new(uint16(2)) }

func TestSharedSubscriptions(t *testing.T) {
	const job = "$share/g/job"
	runScenarios(t, []scenario{
		{"MQTT-4.8.2-1 MQTT-4.8.2-2", "share names", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, filter("$share//job", 1), filter("$share/g", 1), filter("$share/+/job", 1), filter("$share/a#/job", 1),
				filter("$share/g/", 1), filter("$share/g/a#", 1)))
			k.asks().out("SUBACK 1 8F 8F 8F 8F 8F 8F")
		}},
		{"MQTT-3.8.3-4", "no local", packet.V5, nil, func(k *client) {
			k.connect(nil).in(sub(1, packet.Subscription{Filter: job, QoS: 1, NoLocal: true}))
			k.asks("disconnect c 1 lost").out("DISCONNECT 82", "closed")
		}},
		{"3.2.2.3.15", "not available", packet.V5, func(l *Limits) { l.SharedAvailable = false }, func(k *client) {
			k.connect(nil).in(sub(1, filter(job, 1))).asks().out("SUBACK 1 9E")
		}},
		{"3.8.4", "a client of 3.1.1 may share as well", packet.V311, nil, func(k *client) {
			k.connect(nil).in(sub(1, filter(job, 1), filter("$share//x", 1)))
			k.asks("join $share/g/job q1 stamp=1 window=1024").out("SUBACK 1 01 80")
		}},
		{"4.8.2", "a stored session's membership is the cluster's alone", packet.V5, nil, func(k *client) {
			k.connect(persistent).in(sub(1, filter(job, 1), filter("x", 1)))
			k.asks("subscribe $share/g/job q1, x q1", "interest x=1").out("SUBACK 1 01 01")
			k.in(unsub(2, job)).asks("unsubscribe $share/g/job").out("UNSUBACK 2 00")
		}},
		{"4.8.2", "it is resumed without the gateway", packet.V5, nil, func(k *client) {
			k.stub.next = flow.Session{ClientID: "c", Epoch: 7, Present: true, Subscriptions: []flow.Subscription{{Filter: job, QoS: 1}, {Filter: "x", QoS: 1}}}
			k.in(connectPacket(packet.V5)).asks("connect c v5 clean=true expiry=0 window=1024", "interest x=1").out("CONNACK 00 present")
		}},
		{"4.8.2", "no retained messages", packet.V5, nil, func(k *client) {
			k.stub.stored = []*flow.Message{live("job", "old", 1, 1)}
			k.connect(nil).in(sub(1, filter(job, 1))).asks("join $share/g/job q1 stamp=1 window=1024").out("SUBACK 1 01")
		}},
		{"P4", "SUBACK and UNSUBACK wait for the group", packet.V5, nil, func(k *client) {
			k.connect(nil)
			k.stub.held["join"], k.stub.held["leave"] = true, true
			k.in(sub(1, filter(job, 1), packet.Subscription{Filter: "x", QoS: 1, RetainHandling: 2})).asks("join $share/g/job q1 stamp=1 window=1024", "interest x=5").out()
			k.stub.answer(0, nil)
			k.out("SUBACK 1 01 01")
			k.in(unsub(2, job, "x", "y")).asks("interest x=0", "leave $share/g/job").out()
			k.stub.answer(0, nil)
			k.out("UNSUBACK 2 00 00 11")
		}},
		{"MQTT-4.8.2-3", "what the group assigns goes out, within the window", packet.V5, nil, func(k *client) {
			k.connect(narrow).in(sub(1, filter(job, 2))).asks("join $share/g/job q2 stamp=1 window=2").out("SUBACK 1 02")
			k.assign(1, 11, 1, "a").assign(1, 12, 2, "b").assign(1, 13, 1, "c").assign(9, 14, 1, "of another stamp")
			k.out("PUBLISH job a q1 #1", "PUBLISH job b q2 #2").asks()
			k.in(&packet.Ack{Kind: packet.TypePuback, PacketID: 1}).asks("taken $share/g/job [11]").out("PUBLISH job c q1 #3")
			k.in(&packet.Ack{Kind: packet.TypePubrec, PacketID: 2}).asks("taken $share/g/job [12]").out("PUBREL 2")
			k.in(&packet.Ack{Kind: packet.TypePubcomp, PacketID: 2}).asks().out()
		}},
		{"MQTT-4.8.2-6", "what the client refuses goes to nobody else", packet.V5, nil, func(k *client) {
			k.connect(narrow).in(sub(1, filter(job, 2))).out("SUBACK 1 02")
			k.assign(1, 11, 1, "a").assign(1, 12, 2, "b").out("PUBLISH job a q1 #1", "PUBLISH job b q2 #2")
			k.stub.asked = nil
			k.in(&packet.Ack{Kind: packet.TypePuback, PacketID: 1, Code: packet.UnspecifiedError}).asks("taken $share/g/job [11]")
			k.in(&packet.Ack{Kind: packet.TypePubrec, PacketID: 2, Code: packet.UnspecifiedError}).asks("taken $share/g/job [12]").out()
		}},
		{"MQTT-3.1.2-25", "what is too large for the client goes to nobody else", packet.V5, nil, func(k *client) {
			k.connect(func(p *packet.Connect) { narrow(p); p.Props.MaximumPacketSize = new(uint32(100)) })
			k.in(sub(1, filter(job, 1))).out("SUBACK 1 01")
			k.stub.asked = nil
			k.assign(1, 11, 1, string(make([]byte, 200))).assign(1, 12, 1, "b").out("PUBLISH job b q1 #1")
			k.in(&packet.Ack{Kind: packet.TypePuback, PacketID: 1}).asks("taken $share/g/job [11 12]")
		}},
		{"MQTT-4.8.2-5", "the session ends: QoS 2 that was sent goes to nobody else", packet.V5, nil, func(k *client) {
			k.connect(narrow).in(sub(1, filter(job, 2))).out("SUBACK 1 02")
			k.stub.asked = nil
			k.assign(1, 11, 1, "a").assign(1, 12, 2, "b").assign(1, 13, 2, "c").assign(1, 14, 1, "d")
			k.out("PUBLISH job a q1 #1", "PUBLISH job b q2 #2")
			k.gone().asks("taken $share/g/job [12]", "leave $share/g/job", "disconnect c 1 lost")
			if n := k.srv.metrics.QueuedMessages.Load(); n != 0 {
				k.t.Errorf("%d messages are queued", n)
			}
			if n := k.srv.metrics.Dropped[DropEnded].Load(); n != 1 {
				k.t.Errorf("%d messages were lost, want 1", n)
			}
		}},
		{"MQTT-3.10.4-3", "UNSUBSCRIBE: what was sent is completed, what waits goes back", packet.V5, nil, func(k *client) {
			k.connect(narrow).in(sub(1, filter(job, 2))).out("SUBACK 1 02")
			k.stub.asked = nil
			k.assign(1, 11, 1, "a").assign(1, 12, 2, "b").assign(1, 13, 1, "c").out("PUBLISH job a q1 #1", "PUBLISH job b q2 #2")
			k.in(unsub(2, job)).asks("taken $share/g/job [11 12]", "leave $share/g/job").out("UNSUBACK 2 00")
			k.assign(1, 15, 1, "late").out()
			k.in(&packet.Ack{Kind: packet.TypePuback, PacketID: 1}, &packet.Ack{Kind: packet.TypePubrec, PacketID: 2}).asks().out("PUBREL 2")
		}},
		{"MQTT-3.8.4-3", "other options: what the client has it keeps", packet.V5, nil, func(k *client) {
			k.connect(narrow).in(sub(1, filter(job, 2))).out("SUBACK 1 02")
			k.assign(1, 11, 1, "a").assign(1, 12, 2, "b").assign(1, 13, 1, "c").out("PUBLISH job a q1 #1", "PUBLISH job b q2 #2")
			k.stub.asked = nil
			k.in(sub(2, filter(job, 1))).asks("join $share/g/job q1 stamp=2 window=2 keeps [11 12 13]").out("SUBACK 2 01")
			k.assign(1, 14, 1, "of the old stamp").assign(2, 14, 1, "d").out()
			k.in(&packet.Ack{Kind: packet.TypePuback, PacketID: 1}).out("PUBLISH job c q1 #3")
		}},
		{"3.8.4", "a limit of subscriptions", packet.V5, func(l *Limits) { l.MaxSubscriptions = 1 }, func(k *client) {
			k.connect(nil).in(sub(1, filter(job, 1), filter("x", 1), filter(job, 0))).out("SUBACK 1 01 97 00")
		}},
		{"4.13.2", "the cluster cannot join", packet.V5, nil, func(k *client) {
			k.connect(nil)
			k.stub.held["join"] = true
			k.in(sub(1, filter(job, 1)))
			k.stub.answer(0, flow.ErrUnavailable)
			k.c.readerDone()
			k.asks("join $share/g/job q1 stamp=1 window=1024", "leave $share/g/job", "disconnect c 1 lost").out("DISCONNECT 89", "closed")
		}},
		{"4.8.2", "messages of groups and others take turns", packet.V5, nil, func(k *client) {
			k.connect(narrow).in(sub(1, filter(job, 1), packet.Subscription{Filter: "x", QoS: 1, RetainHandling: 2})).out("SUBACK 1 01 01")
			for i := range uint64(3) {
				k.assign(1, 11+i, 1, "g")
				k.srv.Route(live("x", "x", 1, 0), true)
			}
			k.out("PUBLISH job g q1 #1", "PUBLISH x x q1 #2")
			k.in(&packet.Ack{Kind: packet.TypePuback, PacketID: 1}, &packet.Ack{Kind: packet.TypePuback, PacketID: 2})
			k.out("PUBLISH job g q1 #3", "PUBLISH x x q1 #4")
		}},
	})
}
