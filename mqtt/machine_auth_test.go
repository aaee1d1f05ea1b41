package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// doorman is an Authenticator that says what the test says. Its method "echo" is a
// dialogue: "more" asks for more, "user NAME" ends it, all else is refused.
type doorman struct {
	asked     []string // user names and passwords
	passwords map[string]string
	invalid   bool
	closed    []string // topics and filters that are not allowed
	noMethods bool
	// during is called in the middle of each decision on a subscription.
	during func()
}

func (d *doorman) Authenticate(_ context.Context, c *Client, password []byte) packet.ReasonCode {
	d.asked = append(d.asked, fmt.Sprintf("%s:%s %v", c.Username, password, password == nil))
	if want, ok := d.passwords[c.Username]; !ok || want != string(password) {
		return packet.BadUserNameOrPassword
	}
	return packet.Success
}

func (d *doorman) Begin(_ *Client, method string) auth.Exchange {
	if method != "echo" || d.noMethods {
		return nil
	}
	return dialogue{}
}
func (d *doorman) Valid(*Client) bool                      { return !d.invalid }
func (d *doorman) MayPublish(_ *Client, topic string) bool { return !slices.Contains(d.closed, topic) }
func (d *doorman) MaySubscribe(_ *Client, filter string) bool {
	ok := !slices.Contains(d.closed, filter)
	if d.during != nil {
		d.during()
	}
	return ok
}

type dialogue struct{}

func (dialogue) Step(_ context.Context, c *Client, data []byte) ([]byte, packet.ReasonCode) {
	reply := append([]byte("re "), data...)
	switch user, done := strings.CutPrefix(string(data), "user "); {
	case done:
		c.Username, c.Grant = user, "proof of "+user
		return reply, packet.Success
	case string(data) == "more":
		return reply, packet.ContinueAuthentication
	}
	return nil, packet.NotAuthorized
}

// echo is a CONNECT with the method "echo".
func echo(data string) *packet.Connect {
	p := connectPacket(packet.V5)
	p.Props.AuthMethod, p.Props.AuthData = new("echo"), []byte(data)
	return p
}

func authPacket(code packet.ReasonCode, method, data string) *packet.Auth {
	a := &packet.Auth{Code: code, Props: packet.Properties{AuthMethod: &method}}
	if data != "" {
		a.Props.AuthData = []byte(data)
	}
	return a
}

const (
	goOn  = packet.ContinueAuthentication
	again = packet.ReAuthenticate
)

// says checks the next packets as out does, with method and data of AUTH and CONNACK.
func (k *client) says(want ...string) *client {
	k.t.Helper()
	var got []string
	for _, p := range k.packets() {
		s := describe(p)
		var props *packet.Properties
		switch p := p.(type) {
		case *packet.Auth:
			s += fmt.Sprintf(" %02X", byte(p.Code))
			props = &p.Props
		case *packet.Connack:
			props = &p.Props
		}
		if props != nil && props.AuthMethod != nil {
			s += " " + *props.AuthMethod + ": " + string(props.AuthData)
		}
		got = append(got, s)
	}
	if k.hung {
		got = append(got, "closed")
	}
	if !slices.Equal(got, want) {
		k.t.Errorf("said %q, want %q", got, want)
	}
	return k
}

// door puts a doorman before what a scenario does.
func door(d doorman, run func(k *client, d *doorman)) func(k *client) {
	return func(k *client) {
		d := d
		k.srv.auth = &d
		run(k, &d)
	}
}

func TestEnhancedAuthentication(t *testing.T) {
	const asks = "connect c v5 clean=true expiry=0 window=1024"
	needLogin := func(l *Limits) { l.AllowAnonymous = false }
	runScenarios(t, []scenario{
		{"MQTT-4.12.0-5", "in one step", packet.V5, needLogin, door(doorman{}, func(k *client, d *doorman) {
			k.in(echo("user alice")).asks(asks).says("CONNACK 00 echo: re user alice")
			if k.c.client.Username != "alice" || len(d.asked) != 0 {
				k.t.Errorf("user %q, asked %q", k.c.client.Username, d.asked)
			}
		})},
		{"MQTT-4.12.0-2 MQTT-4.12.0-3 MQTT-4.12.0-5", "in several steps", packet.V5, needLogin, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more")).asks().says("AUTH 18 echo: re more")
			k.in(authPacket(goOn, "echo", "more")).asks().says("AUTH 18 echo: re more")
			k.in(authPacket(goOn, "echo", "user alice")).asks(asks).says("CONNACK 00 echo: re user alice")
			k.in(&packet.Pingreq{}).says("PINGRESP")
		})},
		{"MQTT-4.12.0-1", "unknown method", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			p := connectPacket(packet.V5)
			p.Props.AuthMethod = new("Echo")
			k.in(p).asks().out("CONNACK 8C", "closed")
		})},
		{"MQTT-4.12.0-4", "refused at once", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("no")).asks().out("CONNACK 87", "closed")
		})},
		{"MQTT-4.12.0-4", "refused later", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), authPacket(goOn, "echo", "no")).asks().says("AUTH 18 echo: re more", "CONNACK 87", "closed")
		})},
		{"MQTT-4.12.0-3", "a reason code other than 0x18", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), authPacket(again, "echo", "user alice")).asks().says("AUTH 18 echo: re more", "CONNACK 82", "closed")
		})},
		{"MQTT-3.15.2-1", "a server's reason code", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), authPacket(packet.Success, "echo", "user alice")).asks().says("AUTH 18 echo: re more", "CONNACK 82", "closed")
		})},
		{"MQTT-3.15.2-1", "a reason code that is none of AUTH", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more")).bytes([]byte("\xf0\x09\x80\x07\x15\x00\x04echo")).asks().says("AUTH 18 echo: re more", "CONNACK 82", "closed")
		})},
		{"MQTT-3.15.1-1", "reserved flags", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more")).bytes([]byte("\xf1\x09\x18\x07\x15\x00\x04echo")).asks().says("AUTH 18 echo: re more", "CONNACK 81", "closed")
		})},
		{"3.15.2.2.2", "AUTH without method", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more")).bytes([]byte{0xf0, 2, 0x18, 0}).asks().says("AUTH 18 echo: re more", "CONNACK 82", "closed")
		})},
		{"MQTT-4.12.0-5", "another method", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), authPacket(goOn, "other", "user alice")).asks().says("AUTH 18 echo: re more", "CONNACK 82", "closed")
		})},
		{"MQTT-3.1.2-30", "another packet before CONNACK", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), pub("t", "x", 1, 1)).asks().says("AUTH 18 echo: re more", "CONNACK 82", "closed")
		})},
		{"MQTT-3.1.2-30", "PINGREQ before CONNACK", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), &packet.Pingreq{}).asks().says("AUTH 18 echo: re more", "CONNACK 82", "closed")
		})},
		{"MQTT-3.1.0-2", "a second CONNECT before CONNACK", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), echo("user alice")).asks().says("AUTH 18 echo: re more", "closed")
		})},
		{"MQTT-3.1.2-30", "DISCONNECT before CONNACK", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("more"), &packet.Disconnect{}).asks().says("AUTH 18 echo: re more", "closed")
		})},
		{"MQTT-3.1.2-24", "an AUTH that the client cannot take", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			p := echo("more")
			p.Props.MaximumPacketSize = new(uint32(10))
			k.in(p).asks().out("CONNACK 95", "closed")
		})},
		{"MQTT-4.12.0-6", "no method, no AUTH", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.in(connectPacket(packet.V5)).asks(asks).says("CONNACK 00")
		})},
		{"MQTT-4.12.0-7", "AUTH without method in CONNECT", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.connect(nil).in(authPacket(again, "echo", "user alice")).out("DISCONNECT 82", "closed")
		})},
		{"MQTT-3.1.2-7 3.1.4", "a will that this user may not publish", packet.V5, nil, door(doorman{closed: []string{"w"}}, func(k *client, _ *doorman) {
			p := echo("user alice")
			p.Will = &packet.Will{Message: packet.Publish{Topic: "w"}}
			k.in(p).asks().out("CONNACK 87", "closed")
		})},
		{"MQTT-4.12.0-4", "who is known by no name is anonymous", packet.V5, needLogin, door(doorman{}, func(k *client, _ *doorman) {
			k.in(echo("user ")).asks().out("CONNACK 87", "closed")
		})},
	})
}

func TestReauthentication(t *testing.T) {
	open := func(run func(k *client, d *doorman)) func(k *client) {
		return door(doorman{}, func(k *client, d *doorman) {
			k.in(echo("user alice")).packets()
			k.stub.asked = nil
			run(k, d)
		})
	}
	runScenarios(t, []scenario{
		{"MQTT-4.12.1-1 MQTT-4.12.0-5", "in one step", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(again, "echo", "user alice")).asks().says("AUTH 00 echo: re user alice")
			k.in(authPacket(again, "echo", "user alice")).asks().says("AUTH 00 echo: re user alice")
		})},
		{"MQTT-4.12.1-1", "other packets go on meanwhile", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(again, "echo", "more"), pub("t", "x", 1, 1), &packet.Pingreq{}).asks("publish t q1 x")
			k.says("AUTH 18 echo: re more", "PUBACK 1", "PINGRESP")
			k.in(authPacket(goOn, "echo", "user alice")).says("AUTH 00 echo: re user alice")
		})},
		{"MQTT-4.12.1-1", "another method", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(again, "other", "user alice")).asks("disconnect c 1 lost").out("DISCONNECT 82", "closed")
		})},
		{"MQTT-4.12.1-2", "it fails", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(again, "echo", "no")).asks("disconnect c 1 lost").out("DISCONNECT 87", "closed")
		})},
		{"MQTT-4.12.1-2", "it fails in its second step", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(again, "echo", "more"), authPacket(goOn, "echo", "no")).says("AUTH 18 echo: re more", "DISCONNECT 87", "closed")
		})},
		{"MQTT-4.12.1-2", "as another user", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(again, "echo", "user bob")).out("DISCONNECT 87", "closed")
		})},
		{"MQTT-4.12.1-2", "the method is gone", packet.V5, nil, open(func(k *client, d *doorman) {
			d.noMethods = true
			k.in(authPacket(again, "echo", "user alice")).out("DISCONNECT 8C", "closed")
		})},
		{"3.15.2.1", "0x18 without 0x19", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(goOn, "echo", "user alice")).out("DISCONNECT 82", "closed")
		})},
		{"3.15.2.1", "0x19 in the middle", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(again, "echo", "more"), authPacket(again, "echo", "user alice")).says("AUTH 18 echo: re more", "DISCONNECT 82", "closed")
		})},
		{"MQTT-3.15.2-1", "a server's reason code", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.in(authPacket(packet.Success, "echo", "user alice")).out("DISCONNECT 82", "closed")
		})},
		{"MQTT-3.15.1-1", "reserved flags", packet.V5, nil, open(func(k *client, _ *doorman) {
			k.bytes([]byte("\xf2\x09\x19\x07\x15\x00\x04echo")).out("DISCONNECT 81", "closed")
		})},
	})
}

func TestLogin(t *testing.T) {
	users := doorman{passwords: map[string]string{"alice": "secret", "empty": ""}}
	withLogin := func(user, password *string) func(p *packet.Connect) {
		return func(p *packet.Connect) {
			if user != nil {
				p.HasUsername, p.Username = true, *user
			}
			if password != nil {
				p.HasPassword, p.Password = true, []byte(*password)
			}
		}
	}
	in := func(change func(*packet.Connect), asked []string, want ...string) func(k *client) {
		return door(users, func(k *client, d *doorman) {
			p := connectPacket(k.version)
			change(p)
			k.in(p).out(want...)
			if !slices.Equal(d.asked, asked) {
				k.t.Errorf("asked %q, want %q", d.asked, asked)
			}
		})
	}
	named := func(l *Limits) { l.AllowAnonymous = false }
	for _, v := range []byte{packet.V31, packet.V311, packet.V5} {
		runScenarios(t, []scenario{
			{"MQTT-3.1.2-17 MQTT-3.1.2-19", "user name and password", v, named, in(withLogin(new("alice"), new("secret")), []string{"alice:secret false"}, "CONNACK 00")},
			{"MQTT-3.1.4-2", "wrong password", v, named, in(withLogin(new("alice"), new("guess")), []string{"alice:guess false"}, "CONNACK 86", "closed")},
			{"MQTT-3.1.4-2", "unknown user", v, nil, in(withLogin(new("bob"), new("secret")), []string{"bob:secret false"}, "CONNACK 86", "closed")},
			{"MQTT-3.1.2-18", "no password", v, nil, in(withLogin(new("alice"), nil), []string{"alice: true"}, "CONNACK 86", "closed")},
			{"MQTT-3.1.2-19", "an empty password", v, nil, in(withLogin(new("empty"), new("")), []string{"empty: false"}, "CONNACK 00")},
			{"MQTT-3.1.2-17", "an empty user name", v, nil, in(withLogin(new(""), new("x")), []string{":x false"}, "CONNACK 86", "closed")},
			{"MQTT-3.1.2-16", "no user name", v, nil, in(withLogin(nil, nil), nil, "CONNACK 00")},
			{"MQTT-3.1.2-16 MQTT-3.1.4-2", "no user name where one is needed", v, named, in(withLogin(nil, nil), nil, "CONNACK 87", "closed")},
		})
	}
	runScenarios(t, []scenario{
		{"3.1.2.9", "a password without user name", packet.V5, nil, in(withLogin(nil, new("x")), []string{":x false"}, "CONNACK 86", "closed")},
		{"MQTT-3.1.2-22 of 3.1.1", "a password without user name", packet.V311, nil, door(users, func(k *client, d *doorman) {
			k.bytes([]byte("\x10\x10\x00\x04MQTT\x04\x42\x00\x00\x00\x01c\x00\x01x")).asks().out("closed")
			if d.asked != nil {
				k.t.Errorf("asked %q", d.asked)
			}
		})},
		{"MQTT-3.1.2-16", "a user name without its flag", packet.V5, nil, door(users, func(k *client, _ *doorman) {
			k.bytes([]byte("\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c\x00\x01u")).asks().out("CONNACK 81", "closed")
		})},
		{"MQTT-3.1.2-17", "the flag without a user name", packet.V5, nil, door(users, func(k *client, _ *doorman) {
			k.bytes([]byte("\x10\x0e\x00\x04MQTT\x05\x82\x00\x00\x00\x00\x01c")).asks().out("CONNACK 81", "closed")
		})},
		{"MQTT-3.1.2-19", "the flag without a password", packet.V311, nil, door(users, func(k *client, _ *doorman) {
			k.bytes([]byte("\x10\x10\x00\x04MQTT\x04\xc2\x00\x00\x00\x01c\x00\x01u")).asks().out("closed")
		})},
	})
}

func TestCertificateIsUserName(t *testing.T) {
	press7 := &x509.Certificate{Subject: pkix.Name{CommonName: "press7"}}
	nameless := &x509.Certificate{Subject: pkix.Name{Organization: []string{"x"}}}
	state := func(c *x509.Certificate, verified bool) *tls.ConnectionState {
		s := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
		if verified {
			s.VerifiedChains = [][]*x509.Certificate{{c}}
		}
		return s
	}
	for _, c := range []struct {
		name string
		use  auth.CertName
		tls  *tls.ConnectionState
		want string
		user string
	}{
		{"common name", auth.CertCN, state(press7, true), "CONNACK 00", "press7"},
		{"subject", auth.CertSubject, state(press7, true), "CONNACK 00", "CN=press7"},
		{"not verified", auth.CertCN, state(press7, false), "CONNACK 86", ""},
		{"without common name", auth.CertCN, state(nameless, true), "CONNACK 87", ""},
		{"not asked for", auth.CertNone, state(press7, true), "CONNACK 86", ""},
	} {
		d := &doorman{}
		srv, stub := newMachine(t, func(o *Options) { o.Auth, o.Limits.AllowAnonymous, o.Limits.CertUsername = d, false, c.use })
		k := newClient(t, srv, stub, packet.V5)
		k.c.client.TLS = c.tls
		p := connectPacket(packet.V5)
		p.HasUsername, p.Username = true, "somebody"
		k.in(p)
		if got := describe(k.packets()[0]); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if c.user != "" && (k.c.client.Username != c.user || !k.c.client.Certified || d.asked != nil) {
			t.Errorf("%s: user %q, asked %q", c.name, k.c.client.Username, d.asked)
		}
	}
}

// recheck is Server.Recheck for clients without sockets.
func (k *client) recheck() *client {
	k.srv.grants.Add(1)
	k.c.recheck()
	if k.c.phase == phaseClosing {
		k.c.readerDone()
	}
	return k
}

func TestRecheck(t *testing.T) {
	runScenarios(t, []scenario{
		{"3.1.4", "nothing has changed", packet.V5, nil, door(doorman{}, func(k *client, _ *doorman) {
			k.connect(nil).in(sub(1, filter("a", 1))).packets()
			k.stub.asked = nil
			k.recheck().asks().out()
			k.in(&packet.Pingreq{}).out("PINGRESP")
		})},
		{"3.14.2.1", "the user is gone", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			d.invalid = true
			k.connect(nil).recheck().asks("disconnect c 1 lost").out("DISCONNECT 87", "closed")
		})},
		{"3.1.4", "the user is gone", packet.V311, nil, door(doorman{}, func(k *client, d *doorman) {
			d.invalid = true
			k.connect(nil).recheck().asks("disconnect c 1 lost").out("closed")
		})},
		{"3.14.2.1", "a subscription is not allowed any more", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			k.connect(nil).in(sub(1, filter("a", 1))).packets()
			k.stub.asked = nil
			d.closed = []string{"a"}
			k.recheck().asks("interest a=0", "disconnect c 1 lost").out("DISCONNECT 87", "closed")
		})},
		{"3.14.2.1", "a subscription is not allowed any more, another waits for the cluster", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			k.connect(persistent).in(sub(1, filter("a", 1))).packets()
			k.stub.held["subscribe"] = true
			k.in(sub(2, filter("b", 1)))
			d.closed = []string{"a"}
			k.recheck().out("DISCONNECT 87", "closed")
			k.stub.answer(0, nil)
		})},
		{"3.14.2.1", "a shared subscription is not allowed any more", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			k.connect(nil).in(sub(1, filter("$share/g/a", 1))).out("SUBACK 1 01")
			d.closed = []string{"a"}
			k.recheck().out("DISCONNECT 87", "closed")
		})},
		{"3.14.2.1", "a stored session's shared subscription is not allowed any more", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			k.connect(persistent).in(sub(1, filter("$share/g/a", 1))).out("SUBACK 1 01")
			d.closed = []string{"a"}
			k.recheck().out("DISCONNECT 87", "closed")
		})},
		{"3.14.2.1", "the will is not allowed any more, and is not published", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			k.connect(func(p *packet.Connect) { p.Will = &packet.Will{Message: packet.Publish{Topic: "w"}} })
			d.closed = []string{"w"}
			k.recheck().asks("disconnect c 1 normal").out("DISCONNECT 87", "closed")
		})},
		{"3.8.4", "the rules change while a SUBSCRIBE is decided", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			k.connect(nil)
			d.during = func() {
				d.during = nil
				d.closed = []string{"a"}
				k.srv.grants.Add(1)
				k.c.recheck()
			}
			k.in(sub(1, filter("a", 1))).out("SUBACK 1 01", "DISCONNECT 87", "closed")
		})},
		{"3.1.4", "the rules change while a CONNECT is decided", packet.V5, nil, door(doorman{}, func(k *client, d *doorman) {
			k.stub.held["connect"] = true
			k.in(connectPacket(packet.V5))
			d.invalid = true
			k.recheck().out()
			k.stub.answer(0, nil)
			k.c.readerDone()
			k.out("CONNACK 00", "DISCONNECT 87", "closed")
		})},
		{"3.8.4", "a resumed session loses what it may not have any more", packet.V5, nil, door(doorman{closed: []string{"b", "c"}}, func(k *client, _ *doorman) {
			k.stub.next = flow.Session{ClientID: "c", Epoch: 7, Present: true, Subscriptions: []flow.Subscription{{Filter: "a", QoS: 1}, {Filter: "b", QoS: 1}, {Filter: "$share/g/c", QoS: 1}}}
			p := connectPacket(packet.V5)
			persistent(p)
			k.in(p).asks("connect c v5 clean=false expiry=3600 window=1024", "unsubscribe b, $share/g/c", "interest a=1").out("CONNACK 00 present")
			if n := k.srv.metrics.RevokedSubscriptions.Load(); n != 2 {
				k.t.Errorf("%d counted", n)
			}
			// What its queue has of them comes no more, but its flow ends.
			k.srv.Deliver("c", 7, []flow.Delivery{
				{Seq: 1, PacketID: 1, QoS: 1, Message: &flow.Message{Topic: "b", QoS: 1}},
				{Seq: 2, PacketID: 2, QoS: 2, Message: &flow.Message{Topic: "b", QoS: 2}, Dup: true},
				{Seq: 3, PacketID: 3, QoS: 1, Message: &flow.Message{Topic: "a", QoS: 1, Payload: []byte("x")}},
				{Seq: 4, Message: &flow.Message{Topic: "b"}},
			})
			k.out("PUBLISH a x q1 #3")
			k.c.flushAcks()
			k.asks("ack puback 1, pubrec 2 failed")
			if n := k.srv.metrics.Dropped[DropNotAuthorized].Load(); n != 3 {
				k.t.Errorf("%d dropped", n)
			}
		})},
		{"3.8.4", "it cannot lose them now", packet.V5, nil, door(doorman{closed: []string{"b"}}, func(k *client, _ *doorman) {
			k.stub.next = flow.Session{ClientID: "c", Epoch: 7, Present: true, Subscriptions: []flow.Subscription{{Filter: "b", QoS: 1}}}
			k.stub.held["unsubscribe"] = true
			k.in(connectPacket(packet.V5)).out()
			k.stub.answer(0, flow.ErrUnavailable)
			k.c.readerDone()
			k.out("CONNACK 88", "closed")
		})},
		{"3.8.4", "the connection ends before it has lost them", packet.V5, nil, door(doorman{closed: []string{"b"}}, func(k *client, _ *doorman) {
			k.stub.next = flow.Session{ClientID: "c", Epoch: 7, Present: true, Subscriptions: []flow.Subscription{{Filter: "b", QoS: 1}}}
			k.stub.held["unsubscribe"] = true
			k.in(connectPacket(packet.V5))
			k.stub.asked = nil
			k.gone().asks()
			k.stub.answer(0, nil)
			k.asks("disconnect c 7 lost").out("closed")
		})},
	})
}

// TestRefusedSubscribe: rules hold for the filter in a shared subscription.
func TestRefusedSubscribe(t *testing.T) {
	c := &conn{srv: NewServer(Options{Auth: &doorman{closed: []string{"a/#"}}})}
	for filter, want := range map[string]bool{"a/#": false, "$share/g/a/#": false, "$share/g/b": true, "b": true, "$share/g": false, "$share/+/b": false} {
		if got := c.maySubscribeTo(&Client{}, filter); got != want {
			t.Errorf("%s: %v", filter, got)
		}
	}
}

// TestAuthenticationEnds: a log-in that waits ends with the server.
func TestAuthenticationEnds(t *testing.T) {
	waiting := &waitingDoorman{began: make(chan struct{})}
	addr, _, s := startServer(t, Options{Auth: waiting})
	k := dialRaw(t, addr, packet.V5)
	p := connectPacket(packet.V5)
	p.HasUsername, p.Username = true, "u"
	k.send(p)
	<-waiting.began
	if err := s.Shutdown(t.Context()); err != nil { // waits for the reader, which waits for the answer
		t.Fatal(err)
	}
	if !waiting.ended.Load() {
		t.Error("the log-in goes on")
	}
}

type waitingDoorman struct {
	doorman
	began chan struct{}
	ended atomic.Bool
}

func (w *waitingDoorman) Authenticate(ctx context.Context, _ *Client, _ []byte) packet.ReasonCode {
	close(w.began)
	<-ctx.Done()
	w.ended.Store(true)
	return packet.ServerBusy
}
