package mqtt

import (
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// closing asks the gateway to close, and returns what becomes true when it is done.
func closing(s *Server, epoch uint64) *bool {
	done := new(bool)
	s.Close("c", epoch, func() { *done = true })
	<-s.later.busy.idle()
	return done
}

// TestTakeover goes through the interleavings of Connect's answer, Close, and the end
// of the network connection (see registry).
func TestTakeover(t *testing.T) {
	session := func(epoch uint64) flow.Session { return flow.Session{ClientID: "c", Epoch: epoch} }
	runScenarios(t, []scenario{
		{"MQTT-3.1.4-3", "an open connection", packet.V5, nil, func(k *client) {
			k.connect(nil)
			done := closing(k.srv, 1)
			if *done {
				k.t.Error("settled while the reader may still ask")
			}
			k.c.readerDone()
			k.asks("disconnect c 1 lost").out("DISCONNECT 8E", "closed")
			if !*done {
				k.t.Error("not settled")
			}
		}},
		{"MQTT-3.1.4-2 of 3.1.1", "an open connection", packet.V311, nil, func(k *client) {
			k.connect(nil)
			closing(k.srv, 1)
			k.c.readerDone()
			k.asks("disconnect c 1 lost").out("closed")
		}},
		{"P5", "settled only when all is answered, and nothing is completed", packet.V5, nil, func(k *client) {
			k.connect(nil)
			k.stub.held["publish"], k.stub.held["receive"], k.stub.held["interest"] = true, true, true
			k.in(pub("t", "x", 1, 1), pub("t", "x", 2, 2), sub(3, filter("a", 1))).out()
			k.asks("publish t q1 x", "receive 2 t", "interest a=5")
			delete(k.stub.held, "interest")
			first, second := closing(k.srv, 1), closing(k.srv, 5)
			k.c.readerDone()
			for range 3 {
				if *first || *second {
					k.t.Error("settled too early")
				}
				k.asksOnly("interest a=0")
				k.stub.answer(0, nil)
			}
			k.asks("disconnect c 1 lost").out("DISCONNECT 8E", "closed")
			if !*first || !*second {
				k.t.Error("not settled")
			}
		}},
		{"P5", "a newer connection is not meant", packet.V5, nil, func(k *client) {
			k.stub.next = session(7)
			k.connect(nil)
			if !*closing(k.srv, 6) {
				k.t.Error("nothing to wait for")
			}
			k.in(&packet.Pingreq{}).out("PINGRESP")
		}},
		{"P5", "unknown", packet.V5, nil, func(k *client) {
			if !*closing(k.srv, 6) {
				k.t.Error("nothing to wait for")
			}
		}},
		{"P5", "Close before the answer of the connection that it means", packet.V5, nil, func(k *client) {
			k.stub.held["connect"] = true
			k.stub.next = session(6)
			k.in(connectPacket(packet.V5)).asks("connect c v5 clean=true expiry=0 window=1024")
			if !*closing(k.srv, 6) {
				k.t.Error("nothing to wait for: it has asked nothing")
			}
			k.srv.Deliver("c", 6, []flow.Delivery{{Seq: 1, PacketID: 1, QoS: 1, Message: live("a", "x", 1, 1)}})
			k.stub.answer(0, nil)
			k.c.readerDone()
			k.asks("disconnect c 6 lost").out("closed") // no CONNACK
		}},
		{"P5", "Close before the answer of a newer connection", packet.V5, nil, func(k *client) {
			k.stub.held["connect"] = true
			k.stub.next = session(7)
			k.in(connectPacket(packet.V5))
			closing(k.srv, 6)
			k.stub.answer(0, nil)
			k.out("CONNACK 00")
		}},
		{"P5", "Close between Connect's answer and CONNACK", packet.V5, nil, func(k *client) {
			k.stub.held["interest"] = true
			k.stub.next = flow.Session{ClientID: "c", Epoch: 6, Subscriptions: []flow.Subscription{{Filter: "a", QoS: 1}}}
			k.in(connectPacket(packet.V5)).asks("connect c v5 clean=true expiry=0 window=1024", "interest a=1")
			delete(k.stub.held, "interest")
			done := closing(k.srv, 6)
			k.c.readerDone()
			if *done {
				k.t.Error("settled too early")
			}
			k.asks("interest a=0").out("closed")
			k.stub.answer(0, nil)
			k.asks("disconnect c 6 lost").out("closed")
			if !*done {
				k.t.Error("not settled")
			}
		}},
		{"P5", "the client goes before Connect's answer", packet.V5, nil, func(k *client) {
			k.stub.held["connect"] = true
			k.in(connectPacket(packet.V5)).gone()
			k.asks("connect c v5 clean=true expiry=0 window=1024")
			k.stub.answer(0, nil)
			k.asks("disconnect c 1 lost").out("closed")
		}},
		{"P5", "the client goes, and Connect fails", packet.V5, nil, func(k *client) {
			k.stub.held["connect"] = true
			k.in(connectPacket(packet.V5)).gone()
			k.stub.answer(0, flow.ErrUnavailable)
			k.asks("connect c v5 clean=true expiry=0 window=1024").out("closed")
		}},
		{"P5", "two Connects of one client, answered and closed in order", packet.V5, nil, func(k *client) {
			k.stub.held["connect"] = true
			second := newClient(k.t, k.srv, k.stub, packet.V5)
			k.stub.next = session(6)
			k.in(connectPacket(packet.V5))
			k.stub.next = session(7)
			second.in(connectPacket(packet.V5))
			k.stub.answer(0, nil)
			k.out("CONNACK 00")
			done := closing(k.srv, 6) // the cluster closes the first for the second
			k.c.readerDone()
			k.out("DISCONNECT 8E", "closed")
			if !*done {
				k.t.Error("not settled")
			}
			k.stub.answer(0, nil)
			second.out("CONNACK 00")
		}},
		{"P5", "two Connects of one client, the first superseded before its answer", packet.V5, nil, func(k *client) {
			k.stub.held["connect"] = true
			second := newClient(k.t, k.srv, k.stub, packet.V5)
			k.stub.next = session(6)
			k.in(connectPacket(packet.V5))
			k.stub.next = session(7)
			second.in(connectPacket(packet.V5))
			closing(k.srv, 6)
			k.stub.answer(1, nil)
			second.out("CONNACK 00")
			k.stub.answer(0, nil) // late: the closed epoch is still known
			k.c.readerDone()
			k.out("closed")
			second.in(&packet.Pingreq{}).out("PINGRESP")
		}},
	})
}

// asksOnly checks what was asked, or that nothing more was.
func (k *client) asksOnly(want string) {
	k.t.Helper()
	if len(k.stub.asked) > 0 {
		k.asks(want)
	}
}

// TestRegistryForgets: nothing is kept of clients that are gone.
func TestRegistryForgets(t *testing.T) {
	srv, stub := newMachine(t, nil)
	stub.held["connect"] = true
	for i := range 10 {
		k := newClient(t, srv, stub, packet.V5)
		k.in(connectPacket(packet.V5))
		srv.Deliver("c", uint64(i), []flow.Delivery{{Seq: 1, PacketID: 1, QoS: 1}})
		closing(srv, uint64(i))
		if i%2 == 0 {
			k.gone()
			stub.answer(0, nil)
		} else {
			stub.answer(0, flow.ErrUnavailable)
			k.gone()
		}
	}
	for i := range srv.clients.shards {
		if n := len(srv.clients.shards[i].m); n != 0 {
			t.Errorf("shard %d holds %d clients", i, n)
		}
	}
	select {
	case <-srv.departing.idle():
	default:
		t.Error("a Connect is not accounted for")
	}
}
