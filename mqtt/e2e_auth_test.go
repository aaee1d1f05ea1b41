package mqtt

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	paho5 "github.com/eclipse/paho.golang/paho"
	"github.com/xdg-go/scram"

	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/flotilla-mqtt/flotilla/proof/pki"
)

// gatekeeper is a server with a password file and rules that a test changes.
type gatekeeper struct {
	t              *testing.T
	files          *auth.Files
	srv            *Server
	m              *memCluster
	addr           string
	users, ruleset string
}

// guarded starts a server. Each user's password is the name and "-pw".
func guarded(t *testing.T, rules string, users ...string) *gatekeeper {
	t.Helper()
	dir := t.TempDir()
	g := &gatekeeper{t: t, users: filepath.Join(dir, "users"), ruleset: filepath.Join(dir, "rules")}
	g.write(rules, users...)
	var err error
	if g.files, err = auth.Open(auth.Options{PasswordFile: g.users, RulesFile: g.ruleset}); err != nil {
		t.Fatal(err)
	}
	l := DefaultLimits()
	l.AllowAnonymous = false
	g.addr, g.m, g.srv = startServer(t, Options{Auth: g.files, Limits: l})
	return g
}

// write changes the files. A user that is named again keeps the line.
func (g *gatekeeper) write(rules string, users ...string) {
	g.t.Helper()
	old, err := os.ReadFile(g.users)
	if err != nil && !os.IsNotExist(err) {
		g.t.Fatal(err)
	}
	var text strings.Builder
	for _, u := range users {
		line := ""
		for l := range strings.Lines(string(old)) {
			if strings.HasPrefix(l, u+":") {
				line = strings.TrimSpace(l)
			}
		}
		if line == "" {
			if line, err = auth.HashScram(u, []byte(u+"-pw"), 4096); err != nil {
				g.t.Fatal(err)
			}
		}
		text.WriteString(line + "\n")
	}
	for file, s := range map[string]string{g.users: text.String(), g.ruleset: rules} {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
}

// change changes the files as an operator does on a running node.
func (g *gatekeeper) change(rules string, users ...string) {
	g.t.Helper()
	g.write(rules, users...)
	if err := g.files.Reload(); err != nil {
		g.t.Fatal(err)
	}
	g.srv.Recheck()
}

func as(user, id string) func(*packet.Connect) {
	return func(p *packet.Connect) {
		p.ClientID, p.HasUsername, p.Username, p.HasPassword, p.Password = id, true, user, true, []byte(user+"-pw")
	}
}

func (g *gatekeeper) client(version byte, change func(*packet.Connect)) *rawClient {
	k := dialRaw(g.t, g.addr, version)
	k.connect(change)
	return k
}

// TestRulesEndToEnd: what the rules do not let a client read does not reach it, by
// whatever way.
func TestRulesEndToEnd(t *testing.T) {
	g := guarded(t, "allow user writer publish #\nallow user reader subscribe open/#\nallow user reader publish out/%u/%c\n", "writer", "reader")
	w := g.client(packet.V5, as("writer", "w"))
	for _, topic := range []string{"open/1", "secret/1"} {
		p := pub(topic, "kept", 1, 1)
		p.Retain = true
		w.send(p)
		w.expect("PUBACK 1 10")
	}
	r := g.client(packet.V5, as("reader", "r"))
	r.send(sub(1, filter("#", 1), filter("secret/1", 1), filter("+/1", 1), filter("open/+", 1)))
	r.expect("SUBACK 1 87 87 87 01", "PUBLISH open/1 kept q1 #1 retain")
	w.send(pub("secret/1", "live", 1, 2), pub("open/2", "live", 1, 3))
	w.expect("PUBACK 2 10", "PUBACK 3")
	r.expect("PUBLISH open/2 live q1 #2")
	r.send(pub("out/reader/r", "x", 1, 4), pub("out/writer/r", "x", 1, 5))
	r.expect("PUBACK 4 10", "PUBACK 5 87")

	old := g.client(packet.V311, as("reader", "old"))
	old.send(sub(1, filter("#", 1), filter("open/+", 0)))
	old.expect("SUBACK 1 80 00", "PUBLISH open/1 kept q0 retain")
	old.send(pub("out/writer/x", "x", 1, 2))
	old.expect("PUBACK 2")
	if n := g.srv.Metrics().RefusedPublish[packet.NotAuthorized].Load(); n != 2 {
		t.Errorf("%d refused", n)
	}
	w.send(sub(9, filter("open/1", 0))) // publishing is not reading
	w.expect("SUBACK 9 87")

	will := dialRaw(t, g.addr, packet.V5)
	p := connectPacket(packet.V5)
	as("reader", "will")(p)
	p.Will = &packet.Will{Message: packet.Publish{Topic: "out/writer/will"}}
	will.send(p)
	will.expect("CONNACK 87", "closed")
}

// TestReloadEndToEnd: who is still allowed notices nothing, the others are disconnected.
func TestReloadEndToEnd(t *testing.T) {
	const rules = "allow anyone subscribe a/#\nallow anyone subscribe b/#\n"
	g := guarded(t, rules, "stays", "goes", "renews", "reads")
	connect := func(user string, filters ...string) *rawClient {
		k := g.client(packet.V5, func(p *packet.Connect) {
			as(user, user)(p)
			persistent(p)
		})
		for i, f := range filters {
			k.send(sub(uint16(i+1), filter(f, 1)))
			if s, ok := k.next().(*packet.Suback); !ok || s.Codes[0] != 1 {
				t.Fatalf("%s: SUBSCRIBE %s: %v", user, f, s)
			}
		}
		return k
	}
	stays, goes, renews, reads := connect("stays", "a/1"), connect("goes"), connect("renews"), connect("reads", "a/1", "b/1")
	g.write(rules, "stays", "goes", "reads")            // forgets renews' line…
	g.change(rules, "stays", "goes", "reads", "renews") // …and makes another
	renews.expect("DISCONNECT 87", "closed")
	g.change("allow anyone subscribe a/#\nallow user stays publish #", "stays", "reads", "renews")
	goes.expect("DISCONNECT 87", "closed")
	reads.expect("DISCONNECT 87", "closed")
	stays.send(pub("a/1", "x", 0, 0), pub("b/1", "x", 0, 0))
	stays.expect("PUBLISH a/1 x q0")

	// The stored session has its place, but one subscription less.
	again := dialRaw(t, g.addr, packet.V5)
	p := connectPacket(packet.V5)
	as("reads", "reads")(p)
	persistent(p)
	again.send(p)
	again.expect("CONNACK 00 present")
	stays.send(pub("b/1", "y", 1, 1), pub("a/1", "y", 0, 0))
	stays.expect("PUBACK 1 10", "PUBLISH a/1 y q0")
	again.expect("PUBLISH a/1 y q0")
	if err := os.WriteFile(g.ruleset, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g.files.Reload() == nil {
		t.Error("bad rules are taken")
	}
	g.srv.Recheck()
	again.send(&packet.Pingreq{})
	again.expect("PINGRESP")
}

// TestCertificateEndToEnd: a certificate names the user, whom rules see; who has none needs a
// password. After a resumed TLS session, too.
func TestCertificateEndToEnd(t *testing.T) {
	g := guarded(t, "allow user press7 publish by/user\nallow cn press7 publish by/cn\nallow user alice publish by/password\n", "alice")
	ca := pki.New(t, "ca")
	until := time.Now().Add(time.Hour)
	limits := DefaultLimits()
	limits.AllowAnonymous, limits.CertUsername = false, auth.CertCN
	addr := serveMore(t, g.srv, ListenerOptions{Limits: &limits, TLS: &tls.Config{
		Certificates: []tls.Certificate{ca.Issue("server", until)}, ClientCAs: ca.Pool(), ClientAuth: tls.VerifyClientCertIfGiven,
	}})
	cache := tls.NewLRUClientSessionCache(1)
	dial := func(certs ...tls.Certificate) (*rawClient, *tls.Conn) {
		tc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", Certificates: certs, ClientSessionCache: cache})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tc.Close() })
		return newRawClient(t, tc, packet.V5), tc
	}
	press7 := ca.Issue("press7", until)
	for _, resumed := range []bool{false, true} {
		k, tc := dial(press7)
		k.connect(as("alice", "c")) // whose password does not count
		k.send(pub("by/user", "x", 1, 1), pub("by/cn", "x", 1, 2), pub("by/password", "x", 1, 3))
		k.expect("PUBACK 1 10", "PUBACK 2 10", "PUBACK 3 87")
		if tc.ConnectionState().DidResume != resumed {
			t.Errorf("resumed: %v", !resumed)
		}
	}
	cache = nil
	k, _ := dial()
	k.connect(as("alice", "c"))
	k.send(pub("by/user", "x", 1, 1), pub("by/cn", "x", 1, 2), pub("by/password", "x", 1, 3))
	k.expect("PUBACK 1 87", "PUBACK 2 87", "PUBACK 3 10")
	k, _ = dial()
	k.send(connectPacket(packet.V5))
	k.expect("CONNACK 87", "closed")
}

// scramHandler answers the server's challenges for paho's client.
type scramHandler struct {
	t    *testing.T
	conv *scram.ClientConversation
	done chan struct{} // one for each success
}

// start begins an exchange and returns its first message.
func (h *scramHandler) start(user, password string) []byte {
	c, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		h.t.Fatal(err)
	}
	h.conv = c.NewConversation()
	first, err := h.conv.Step("")
	if err != nil {
		h.t.Fatal(err)
	}
	return []byte(first)
}

// Authenticate implements paho's Auther.
func (h *scramHandler) Authenticate(a *paho5.Auth) *paho5.Auth {
	answer, err := h.conv.Step(string(a.Properties.AuthData))
	if err != nil {
		h.t.Error(err)
	}
	return &paho5.Auth{ReasonCode: byte(packet.ContinueAuthentication), Properties: &paho5.AuthProperties{AuthMethod: auth.MethodScram, AuthData: []byte(answer)}}
}

// Authenticated implements paho's Auther.
func (h *scramHandler) Authenticated() { h.done <- struct{}{} }

// TestScramEndToEnd authenticates, and again, with clients that others wrote:
// [MQTT-4.12.0-2] [MQTT-4.12.0-5] [MQTT-4.12.1-1] [MQTT-4.12.1-2].
func TestScramEndToEnd(t *testing.T) {
	g := guarded(t, "allow user alice both a/#", "alice", "bob")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h := &scramHandler{t: t, done: make(chan struct{}, 10)}
	dial := func(user, password string) (*paho5.Client, *paho5.Connack, chan byte, error) {
		nc, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		gone := make(chan byte, 1)
		c := paho5.NewClient(paho5.ClientConfig{Conn: nc, AuthHandler: h, OnServerDisconnect: func(d *paho5.Disconnect) { gone <- d.ReasonCode }})
		a, err := c.Connect(ctx, &paho5.Connect{ClientID: user, CleanStart: true, KeepAlive: 30, Properties: &paho5.ConnectProperties{
			AuthMethod: auth.MethodScram, AuthData: h.start(user, password),
		}})
		return c, a, gone, err
	}
	c, a, gone, err := dial("alice", "alice-pw")
	if err != nil {
		t.Fatal(err)
	}
	<-h.done
	if a.Properties.AuthMethod != auth.MethodScram {
		t.Errorf("CONNACK has the method %q", a.Properties.AuthMethod)
	}
	if _, err := h.conv.Step(string(a.Properties.AuthData)); err != nil || !h.conv.Valid() {
		t.Errorf("the server has not proved itself: %v", err)
	}
	if s, err := c.Subscribe(ctx, &paho5.Subscribe{Subscriptions: []paho5.SubscribeOptions{{Topic: "a/1", QoS: 1}, {Topic: "b", QoS: 1}}}); s == nil || s.Reasons[0] != 1 || s.Reasons[1] != 0x87 {
		t.Errorf("the rules do not see the user: %v, %v", s, err)
	}
	reauth := func(user string) (*paho5.AuthResponse, error) {
		return c.Authenticate(ctx, &paho5.Auth{ReasonCode: byte(packet.ReAuthenticate), Properties: &paho5.AuthProperties{
			AuthMethod: auth.MethodScram, AuthData: h.start(user, user+"-pw"),
		}})
	}
	if r, err := reauth("alice"); err != nil || !r.Success {
		t.Errorf("re-authentication: %+v, %v", r, err)
	}
	if _, err := c.Publish(ctx, &paho5.Publish{Topic: "a/1", QoS: 1}); err != nil {
		t.Errorf("after re-authentication: %v", err)
	}
	if r, err := reauth("bob"); err == nil && r.Success {
		t.Errorf("re-authentication as another user: %+v", r)
	}
	if code := <-gone; code != byte(packet.NotAuthorized) {
		t.Errorf("DISCONNECT %#x", code)
	}
	for _, who := range [][2]string{{"alice", "guess"}, {"carol", "carol-pw"}} {
		if _, a, _, err := dial(who[0], who[1]); err == nil || a == nil || a.ReasonCode != byte(packet.NotAuthorized) {
			t.Errorf("%q with %q: %+v, %v", who[0], who[1], a, err)
		}
	}
}
