package mqtt

import (
	"fmt"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// scenario is a short story about one connection.
type scenario struct {
	clause  string // the statements it shows
	name    string
	version byte
	limits  func(*Limits)
	run     func(k *client)
}

func runScenarios(t *testing.T, list []scenario) {
	for _, s := range list {
		t.Run(fmt.Sprintf("v%d %s [%s]", s.version, s.name, s.clause), func(t *testing.T) {
			srv, stub := newMachine(t, func(o *Options) {
				o.NewClientID = func() string { return "assigned" }
				if s.limits != nil {
					s.limits(&o.Limits)
				}
			})
			k := newClient(t, srv, stub, s.version)
			s.run(k)
			if k.hung {
				if n := k.c.asked; n == len(stub.wait) && n == 0 && !k.c.gone {
					t.Error("the connection has not settled")
				}
			}
		})
	}
}

// keepAlive connects with a keep alive and checks what the client is told (0:
// nothing) and what is in force.
func keepAlive(asked, told, inForce uint16) func(k *client) {
	return func(k *client) {
		p := connectPacket(packet.V5)
		p.KeepAlive = asked
		a := k.in(p).packets()[0].(*packet.Connack)
		if got := packet.Value(a.Props.ServerKeepAlive, 0); got != told || k.keepAlive != int(inForce) {
			k.t.Errorf("server keep alive %d, in force %d", got, k.keepAlive)
		}
	}
}

func TestConnect(t *testing.T) {
	runScenarios(t, []scenario{
		{"MQTT-3.1.4-5", "accepted", packet.V5, nil, func(k *client) {
			k.in(connectPacket(packet.V5)).asks("connect c v5 clean=true expiry=0 window=1024").out("CONNACK 00")
		}},
		{"MQTT-3.1.4-4", "accepted", packet.V311, nil, func(k *client) {
			k.in(connectPacket(packet.V311)).asks("connect c v4 clean=true expiry=0 window=1024").out("CONNACK 00")
		}},
		{"3.1", "accepted", packet.V31, nil, func(k *client) {
			k.in(connectPacket(packet.V31)).asks("connect c v3 clean=true expiry=0 window=1024").out("CONNACK 00")
		}},
		{"MQTT-3.1.2-4 of 3.1.1", "a session without clean session never expires", packet.V311, nil, func(k *client) {
			p := connectPacket(packet.V311)
			persistent(p)
			k.in(p).asks("connect c v4 clean=false expiry=4294967295 window=1024").out("CONNACK 00")
		}},
		{"MQTT-3.2.2-3", "session present", packet.V5, nil, func(k *client) {
			k.stub.next = flow.Session{ClientID: "c", Epoch: 7, Present: true, Subscriptions: []flow.Subscription{{Filter: "a/+", QoS: 1}}}
			p := connectPacket(packet.V5)
			persistent(p)
			k.in(p).asks("connect c v5 clean=false expiry=3600 window=1024", "interest a/+=1").out("CONNACK 00 present")
		}},
		{"MQTT-3.2.2-3", "CONNACK waits until the cluster routes by the session's subscriptions", packet.V5, nil, func(k *client) {
			k.stub.held["interest"] = true
			k.stub.next = flow.Session{ClientID: "c", Epoch: 7, Present: true, Subscriptions: []flow.Subscription{{Filter: "a", QoS: 0}}}
			k.in(connectPacket(packet.V5)).asks("connect c v5 clean=true expiry=0 window=1024", "interest a=3").out()
			k.stub.answer(0, nil)
			k.out("CONNACK 00 present")
		}},
		{"MQTT-3.1.0-1", "first packet is not CONNECT", packet.V5, nil, func(k *client) {
			k.in(&packet.Pingreq{}).asks().out("closed")
		}},
		{"MQTT-3.1.0-2", "second CONNECT", packet.V5, nil, func(k *client) {
			k.connect(nil).in(connectPacket(packet.V5)).asks("disconnect c 1 lost").out("DISCONNECT 82", "closed")
		}},
		{"MQTT-3.1.0-2", "second CONNECT", packet.V311, nil, func(k *client) {
			k.connect(nil).in(connectPacket(packet.V311)).asks("disconnect c 1 lost").out("closed")
		}},
		{"MQTT-3.1.2-2", "unknown protocol level", packet.V311, nil, func(k *client) {
			k.bytes([]byte("\x10\x0d\x00\x04MQTT\x02\x02\x00\x00\x00\x01c")).asks().out("CONNACK 84", "closed")
		}},
		{"MQTT-3.1.2-2", "unknown protocol level", packet.V5, nil, func(k *client) {
			k.bytes([]byte("\x10\x0e\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01c")).asks().out("CONNACK 84", "closed")
		}},
		{"MQTT-3.1.2-1", "unknown protocol name", packet.V5, nil, func(k *client) {
			k.bytes([]byte("\x10\x0d\x00\x04MQXX\x05\x02\x00\x00\x00\x00\x01c"[:15])).asks().out("closed")
		}},
		{"MQTT-3.1.2-3", "reserved connect flag", packet.V5, nil, func(k *client) {
			k.bytes([]byte("\x10\x0e\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x01c")).asks().out("CONNACK 81", "closed")
		}},
		{"MQTT-3.1.2-3 MQTT-3.1.4-1", "reserved connect flag", packet.V311, nil, func(k *client) {
			k.bytes([]byte("\x10\x0d\x00\x04MQTT\x04\x03\x00\x00\x00\x01c")).asks().out("closed")
		}},
		{"MQTT-3.1.3-6 MQTT-3.1.3-7 MQTT-3.2.2-16", "client id assigned", packet.V5, nil, func(k *client) {
			p := connectPacket(packet.V5)
			p.ClientID = ""
			a := k.in(p).packets()[0].(*packet.Connack)
			if got := packet.Value(a.Props.AssignedClientID, ""); got != "assigned" {
				k.t.Errorf("assigned client identifier %q", got)
			}
			k.asks("connect assigned v5 clean=true expiry=0 window=1024")
		}},
		{"MQTT-3.1.3-6 of 3.1.1", "client id assigned", packet.V311, nil, func(k *client) {
			p := connectPacket(packet.V311)
			p.ClientID = ""
			k.in(p).asks("connect assigned v4 clean=true expiry=0 window=1024").out("CONNACK 00")
		}},
		{"MQTT-3.1.3-8 of 3.1.1", "no client id and no clean session", packet.V311, nil, func(k *client) {
			p := connectPacket(packet.V311)
			p.ClientID, p.CleanStart = "", false
			k.in(p).asks().out("CONNACK 85", "closed") // return code 2
		}},
		{"MQTT-4.12.0-1", "unknown authentication method", packet.V5, nil, func(k *client) {
			p := connectPacket(packet.V5)
			p.Props.AuthMethod = new("x")
			k.in(p).asks().out("CONNACK 8C", "closed")
		}},
		{"MQTT-4.12.0-7", "AUTH without method in CONNECT", packet.V5, nil, func(k *client) {
			k.connect(nil).in(&packet.Auth{Code: packet.ReAuthenticate, Props: packet.Properties{AuthMethod: new("x")}})
			k.asks("disconnect c 1 lost").out("DISCONNECT 82", "closed")
		}},
		{"3.2.2.2", "node not available", packet.V5, nil, func(k *client) {
			k.stub.down = true
			k.in(connectPacket(packet.V5)).asks().out("CONNACK 88", "closed")
		}},
		{"3.2.2.3", "node not available", packet.V311, nil, func(k *client) {
			k.stub.down = true
			k.in(connectPacket(packet.V311)).asks().out("CONNACK 88", "closed") // return code 3
		}},
		{"3.2.2.2", "the cluster has no room", packet.V5, nil, func(k *client) {
			k.stub.fail = flow.ErrQuota
			k.in(connectPacket(packet.V5)).asks("connect c v5 clean=true expiry=0 window=1024").out("CONNACK 97", "closed")
		}},
		{"MQTT-3.1.4-3 MQTT-3.14.0-1", "superseded before CONNACK", packet.V5, nil, func(k *client) {
			k.stub.fail = flow.ErrFenced
			k.in(connectPacket(packet.V5)).asks("connect c v5 clean=true expiry=0 window=1024").out("closed")
		}},
		{"MQTT-3.2.2-12", "will QoS above the maximum", packet.V5, func(l *Limits) { l.MaxQoS = 1 }, func(k *client) {
			p := connectPacket(packet.V5)
			p.Will = &packet.Will{Message: packet.Publish{Topic: "w", QoS: 2}}
			k.in(p).asks().out("CONNACK 9B", "closed")
		}},
		{"MQTT-3.2.2-13", "will retain where there is none", packet.V5, func(l *Limits) { l.RetainAvailable = false }, func(k *client) {
			p := connectPacket(packet.V5)
			p.Will = &packet.Will{Message: packet.Publish{Topic: "w", Retain: true}}
			k.in(p).asks().out("CONNACK 9A", "closed")
		}},
		{"MQTT-3.1.2-7 MQTT-3.1.2-14 MQTT-3.1.2-15", "will", packet.V5, nil, func(k *client) {
			p := connectPacket(packet.V5)
			p.Will = &packet.Will{Delay: 5, Message: packet.Publish{Topic: "w", Payload: []byte("x"), QoS: 1, Retain: true, HasExpiry: true, Expiry: 3}}
			k.in(p).out("CONNACK 00")
			w := k.stub.will
			if w == nil || w.Delay != 5 || w.Message.Topic != "w" || string(w.Message.Payload) != "x" || w.Message.QoS != 1 ||
				!w.Message.Retain || !w.Message.HasExpiry || w.Message.Expiry != 3000 || w.Message.Publisher != "c" {
				k.t.Errorf("will is %+v", w)
			}
		}},
		{"MQTT-3.1.2-24", "a client that cannot take a CONNACK", packet.V5, nil, func(k *client) {
			p := connectPacket(packet.V5)
			p.Props.MaximumPacketSize = new(uint32(4))
			k.in(p).asks("connect c v5 clean=true expiry=0 window=1024", "disconnect c 1 lost").out("closed")
		}},
		{"MQTT-3.3.4-9", "window is the client's Receive Maximum", packet.V5, nil, func(k *client) {
			p := connectPacket(packet.V5)
			p.Props.ReceiveMaximum = new(uint16(7))
			k.in(p).asks("connect c v5 clean=true expiry=0 window=7").out("CONNACK 00")
		}},
		{"MQTT-3.2.2-21", "keep alive above the longest", packet.V5, func(l *Limits) { l.MaxKeepAlive = 9 }, keepAlive(60, 9, 9)},
		{"MQTT-3.2.2-21", "no keep alive where there is a longest", packet.V5, func(l *Limits) { l.MaxKeepAlive = 9 }, keepAlive(0, 9, 9)},
		{"MQTT-3.2.2-21", "keep alive below the longest", packet.V5, func(l *Limits) { l.MaxKeepAlive = 9 }, keepAlive(8, 0, 8)},
		{"3.1.4", "no user name where one is needed", packet.V5, func(l *Limits) { l.AllowAnonymous = false }, func(k *client) {
			k.in(connectPacket(packet.V5)).asks().out("CONNACK 87", "closed")
		}},
		{"MQTT-3.1.4-2", "a user name that nobody has checked", packet.V311, func(l *Limits) { l.AllowAnonymous = false }, func(k *client) {
			p := connectPacket(packet.V311)
			p.HasUsername, p.Username = true, "u"
			k.in(p).asks().out("CONNACK 87", "closed") // return code 5
		}},
		{"MQTT-3.2.2-22", "no server keep alive for older clients", packet.V311, func(l *Limits) { l.MaxKeepAlive = 9 }, func(k *client) {
			p := connectPacket(packet.V311)
			p.KeepAlive = 60
			k.in(p).out("CONNACK 00")
			if k.keepAlive != 60 {
				k.t.Errorf("keep alive in force %d", k.keepAlive)
			}
		}},
		{"3.2.2.3.2", "session expiry capped", packet.V5, func(l *Limits) { l.MaxSessionExpiry = 100 }, func(k *client) {
			p := connectPacket(packet.V5)
			persistent(p)
			a := k.in(p).packets()[0].(*packet.Connack)
			if got := packet.Value(a.Props.SessionExpiry, 0); got != 100 {
				k.t.Errorf("session expiry %d", got)
			}
		}},
	})
}

// TestConnackProperties: CONNACK says what the limits are, and nothing that is as the
// client must assume anyway.
func TestConnackProperties(t *testing.T) {
	srv, stub := newMachine(t, nil)
	p := newClient(t, srv, stub, packet.V5).in(connectPacket(packet.V5)).packets()[0].(*packet.Connack).Props
	if packet.Value(p.ReceiveMaximum, 0) != 1024 || packet.Value(p.TopicAliasMaximum, 0) != 64 || packet.Value(p.MaximumPacketSize, 0) != 1<<20 ||
		p.SharedAvailable != nil || p.MaximumQoS != nil || p.RetainAvailable != nil || p.WildcardAvailable != nil ||
		p.SubscriptionIDAvailable != nil || p.SessionExpiry != nil || p.ServerKeepAlive != nil || p.AssignedClientID != nil {
		t.Errorf("CONNACK says %+v", p)
	}
	srv, stub = newMachine(t, func(o *Options) {
		o.Limits.MaxQoS, o.Limits.RetainAvailable, o.Limits.WildcardAvailable, o.Limits.SubscriptionIDAvailable = 1, false, false, false
		o.Limits.SharedAvailable = false
	})
	p = newClient(t, srv, stub, packet.V5).in(connectPacket(packet.V5)).packets()[0].(*packet.Connack).Props
	if packet.Value(p.MaximumQoS, 2) != 1 || packet.Value(p.RetainAvailable, true) || packet.Value(p.WildcardAvailable, true) || packet.Value(p.SubscriptionIDAvailable, true) || packet.Value(p.SharedAvailable, true) {
		t.Errorf("CONNACK says %+v", p) // [MQTT-3.2.2-9]
	}
}

func TestDisconnect(t *testing.T) {
	runScenarios(t, []scenario{
		{"MQTT-3.14.4-3 MQTT-3.1.2-10", "normal", packet.V5, nil, func(k *client) {
			k.connect(nil).in(&packet.Disconnect{}).asks("disconnect c 1 normal").out("closed")
		}},
		{"MQTT-3.14.4-3 of 3.1.1", "normal", packet.V311, nil, func(k *client) {
			k.connect(nil).in(&packet.Disconnect{}).asks("disconnect c 1 normal").out("closed")
		}},
		{"MQTT-3.1.2-8", "with will", packet.V5, nil, func(k *client) {
			k.connect(nil).in(&packet.Disconnect{Code: packet.DisconnectWithWill}).asks("disconnect c 1 lost").out("closed")
		}},
		{"MQTT-3.1.2-8", "network failure", packet.V5, nil, func(k *client) {
			k.connect(nil).gone().asks("disconnect c 1 lost").out("closed")
		}},
		{"MQTT-3.14.4-3", "closed when the end is durable", packet.V5, nil, func(k *client) {
			k.stub.held["disconnect"] = true
			k.connect(nil).in(&packet.Disconnect{}).asks("disconnect c 1 normal").out()
			k.stub.answer(0, nil)
			k.out("closed")
		}},
		{"3.14.2.2.2", "changes the session expiry", packet.V5, func(l *Limits) { l.MaxSessionExpiry = 5000 }, func(k *client) {
			k.connect(persistent).in(&packet.Disconnect{Props: packet.Properties{SessionExpiry: new(uint32(9000))}})
			k.asks("disconnect c 1 normal expiry=5000").out("closed")
		}},
		{"3.14.2.2.2", "session expiry from 0", packet.V5, nil, func(k *client) {
			k.connect(nil).in(&packet.Disconnect{Props: packet.Properties{SessionExpiry: new(uint32(5))}})
			k.asks("disconnect c 1 lost").out("DISCONNECT 82", "closed")
		}},
		{"MQTT-3.14.4-2", "nothing after it is handled", packet.V5, nil, func(k *client) {
			k.connect(nil).in(&packet.Disconnect{}, &packet.Pingreq{}, &packet.Publish{Topic: "t", QoS: 1, PacketID: 1})
			k.asks("disconnect c 1 normal").out("closed")
		}},
		{"MQTT-3.14.1-1", "reserved flags", packet.V5, nil, func(k *client) {
			k.connect(nil).bytes([]byte{0xE1, 0}).asks("disconnect c 1 lost").out("DISCONNECT 81", "closed")
		}},
		{"MQTT-2.2.2-2", "reserved flags", packet.V311, nil, func(k *client) {
			k.connect(nil).bytes([]byte{0xC1, 0}).asks("disconnect c 1 lost").out("closed")
		}},
		{"2.1.2", "a server's packet", packet.V5, nil, func(k *client) {
			k.connect(nil).in(&packet.Pingresp{}).asks("disconnect c 1 lost").out("DISCONNECT 82", "closed")
		}},
		{"MQTT-3.12.4-1", "ping", packet.V5, nil, func(k *client) {
			k.connect(nil).in(&packet.Pingreq{}).asks().out("PINGRESP")
		}},
		{"MQTT-3.1.2-22", "keep alive timeout", packet.V5, nil, func(k *client) {
			k.connect(nil).c.timedOut()
			k.c.readerDone()
			k.asks("disconnect c 1 lost").out("DISCONNECT 8D", "closed")
		}},
		{"MQTT-3.1.2-24 of 3.1.1", "keep alive timeout", packet.V311, nil, func(k *client) {
			k.connect(nil).c.timedOut()
			k.c.readerDone()
			k.asks("disconnect c 1 lost").out("closed")
		}},
	})
}
