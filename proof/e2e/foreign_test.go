package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// bag collects payloads from a foreign client's callbacks.
type bag struct {
	mu   sync.Mutex
	got  []string // guarded by mu
	more chan struct{}
}

func newBag() *bag { return &bag{more: make(chan struct{}, 1)} }

func (b *bag) put(s string) {
	b.mu.Lock()
	b.got = append(b.got, s)
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// await waits until the payloads are enough.
func (b *bag) await(t *testing.T, enough func([]string) bool) []string {
	t.Helper()
	timeout := time.After(2 * patience)
	for {
		b.mu.Lock()
		got := slices.Clone(b.got)
		b.mu.Unlock()
		if enough(slices.Clone(got)) {
			return got
		}
		select {
		case <-b.more:
		case <-timeout:
			t.Fatalf("%d messages arrived, not all: %v", len(got), got)
		}
	}
}

func finished(t *testing.T, what string, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatalf("%s: no answer", what)
	}
	if err := token.Error(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func numbered(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint("m", i))
	}
	return out
}

// TestPahoV3 sends with a 3.1.1 client to one on another node, while a third node is killed
// and then the publisher's.
func TestPahoV3(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	options := func(id string, nodes ...*Node) *mqtt.ClientOptions {
		o := mqtt.NewClientOptions().SetClientID(id).SetCleanSession(false).SetProtocolVersion(4).SetKeepAlive(60 * time.Second).
			SetAutoReconnect(true).SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond).
			SetMaxReconnectInterval(200 * time.Millisecond).SetOrderMatters(true)
		for _, n := range nodes {
			o.AddBroker("tcp://" + n.MQTT)
		}
		return o
	}
	in := newBag()
	sub := mqtt.NewClient(options("sub", c.Nodes[1]))
	finished(t, "connect", sub.Connect())
	finished(t, "subscribe", sub.Subscribe("v3/#", 2, func(_ mqtt.Client, m mqtt.Message) { in.put(string(m.Payload())) }))
	pub := mqtt.NewClient(options("pub", c.Nodes[0], c.Nodes[2], c.Nodes[1]))
	finished(t, "connect", pub.Connect())
	const n = 200
	var tokens []mqtt.Token
	publish := func(dies *Node) {
		for range n {
			if len(tokens)%n == n/2 {
				dies.Kill9()
			}
			tokens = append(tokens, pub.Publish("v3/t", 2, false, fmt.Sprint("m", len(tokens))))
		}
	}
	publish(c.Nodes[2]) // of neither client: its leaderships move
	for i, token := range tokens {
		finished(t, fmt.Sprint("publish ", i), token)
	}
	if got := in.await(t, func(got []string) bool { return len(got) >= n }); !slices.Equal(got, numbered(n)) {
		t.Errorf("%d messages: %v", len(got), got)
	}
	c.Repair()
	publish(c.Nodes[0])
	for i, token := range tokens[n:] {
		// This client ends a token with the error of a write whose message it sends again later.
		if !token.WaitTimeout(patience) {
			t.Fatalf("publish %d: no answer", n+i)
		}
	}
	// It keeps no PUBREL: on resume it sends a PUBLISH again whose PUBREL it has sent, against
	// [MQTT-4.3.3-7], and that is a new message to any broker. So each arrives once or twice here.
	distinct := func(got []string) []string { slices.Sort(got); return slices.Compact(got) }
	got := in.await(t, func(got []string) bool { return len(distinct(got)) >= 2*n })
	if want := distinct(numbered(2 * n)); !slices.Equal(distinct(got), want) {
		t.Errorf("%d messages: %v", len(got), got)
	}
	sub.Disconnect(250)
	pub.Disconnect(250)
}

// TestPahoV5 sends with an MQTT 5 client while a third node is killed, and shows that
// properties come through.
func TestPahoV5(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	in := newBag()
	connect := func(id string, nodes ...*Node) *autopaho.ConnectionManager {
		cfg := autopaho.ClientConfig{KeepAlive: 60, SessionExpiryInterval: 3600, ConnectTimeout: 10 * time.Second,
			ReconnectBackoff: func(int) time.Duration { return 100 * time.Millisecond },
			ClientConfig: paho.ClientConfig{ClientID: id, PacketTimeout: patience,
				OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
					if r.Packet.Properties.User.Get("k") != "v" || r.Packet.Properties.ContentType != "text" {
						t.Errorf("properties were lost: %+v", r.Packet.Properties)
					}
					in.put(string(r.Packet.Payload))
					return true, nil
				}}}}
		for _, n := range nodes {
			cfg.ServerUrls = append(cfg.ServerUrls, &url.URL{Scheme: "mqtt", Host: n.MQTT})
		}
		m, err := autopaho.NewConnection(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.AwaitConnection(ctx); err != nil {
			t.Fatal(err)
		}
		return m
	}
	sub := connect("sub", c.Nodes[1])
	if _, err := sub.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "v5/#", QoS: 2}}}); err != nil {
		t.Fatal(err)
	}
	pub := connect("pub", c.Nodes[0], c.Nodes[2], c.Nodes[1])
	const n = 100
	for i, payload := range numbered(n) {
		if i == n/2 {
			c.Nodes[2].Kill9() // a node of neither client: its leaderships move
		}
		p := &paho.Publish{Topic: "v5/t", QoS: byte(1 + i%2), Payload: []byte(payload),
			Properties: &paho.PublishProperties{ContentType: "text", User: paho.UserProperties{{Key: "k", Value: "v"}}}}
		if _, err := pub.Publish(ctx, p); err != nil {
			t.Fatalf("publish %d: %v", i, err)
		}
	}
	// Even ones are QoS 1 and odd ones QoS 2: each QoS has an order of its own.
	byQoS := func(payloads []string) []string {
		odd := func(s string) int { return int(s[len(s)-1]) % 2 }
		slices.SortStableFunc(payloads, func(a, b string) int { return odd(a) - odd(b) })
		return payloads
	}
	if got := byQoS(in.await(t, func(got []string) bool { return len(got) >= n })); !slices.Equal(got, byQoS(numbered(n))) {
		t.Errorf("%d messages: %v", len(got), got)
	}
	for _, m := range []*autopaho.ConnectionManager{pub, sub} {
		if err := m.Disconnect(ctx); err != nil {
			t.Error(err)
		}
	}
}

// TestMosquitto sends with Mosquitto's command-line clients from one node to another.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	c := StartCluster(t, 3)
	args := func(n *Node, more ...string) []string {
		host, port, err := net.SplitHostPort(n.MQTT)
		if err != nil {
			t.Fatal(err)
		}
		return append([]string{"-h", host, "-p", port}, more...)
	}
	run := func(tool string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for {
			out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput()
			var exit *exec.ExitError
			switch {
			case err == nil:
				return strings.TrimSpace(string(out))
			case errors.As(err, &exit) && (exit.ExitCode() == 3 || exit.ExitCode() == 0x88) && ctx.Err() == nil:
				time.Sleep(50 * time.Millisecond) // the CONNACK said unavailable: polling
			default:
				t.Fatalf("%s %v: %v: %s", tool, args, err, out)
			}
		}
	}
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for _, qos := range []string{"0", "1", "2"} {
			topic := "mosquitto/" + version + "/" + qos
			session := []string{"-V", version, "-i", "reader" + version + qos, "-c", "-q", "2", "-t", topic}
			if version == "mqttv5" {
				session = append(session, "-x", "3600")
			}
			// Subscribe and leave: -E ends at SUBACK. The session's queue keeps what follows.
			run("mosquitto_sub", args(c.Nodes[0], append(session, "-E")...)...)
			run("mosquitto_pub", args(c.Nodes[1], "-V", version, "-q", qos, "-r", "-t", topic, "-m", "kept "+qos)...)
			if qos != "0" {
				if got := run("mosquitto_sub", args(c.Nodes[2], append(session, "-C", "1")...)...); got != "kept "+qos {
					t.Errorf("%s QoS %s: the session held %q", version, qos, got)
				}
			}
			// A new client reads the retained message on a third node.
			got := run("mosquitto_sub", args(c.Nodes[2], "-V", version, "-q", qos, "-t", topic, "-C", "1")...)
			if got != "kept "+qos {
				t.Errorf("%s QoS %s: retained %q", version, qos, got)
			}
		}
	}
}
