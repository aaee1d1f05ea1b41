package mqtt

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	paho5 "github.com/eclipse/paho.golang/paho"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// client5 is a client that speaks MQTT 5, with what it receives.
type client5 struct {
	*paho5.Client
	got  chan *paho5.Publish
	gone chan byte // reason code of the server's DISCONNECT
}

func connect5(t *testing.T, addr string, change func(*paho5.Connect)) (*client5, *paho5.Connack) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &client5{got: make(chan *paho5.Publish, 2000), gone: make(chan byte, 1)}
	c.Client = paho5.NewClient(paho5.ClientConfig{
		Conn: nc,
		OnPublishReceived: []func(paho5.PublishReceived) (bool, error){func(p paho5.PublishReceived) (bool, error) {
			c.got <- p.Packet
			return true, nil
		}},
		OnServerDisconnect: func(d *paho5.Disconnect) { c.gone <- d.ReasonCode },
	})
	p := &paho5.Connect{ClientID: "five", CleanStart: true, KeepAlive: 30, Properties: &paho5.ConnectProperties{}}
	if change != nil {
		change(p)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := c.Connect(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return c, a
}

func (c *client5) next(t *testing.T) *paho5.Publish {
	t.Helper()
	select {
	case p := <-c.got:
		return p
	case <-time.After(patience):
		t.Fatal("no message in time")
		return nil
	}
}

// TestPaho5: properties carried through, subscription identifiers, retained messages,
// all QoS, ephemeral and persistent.
func TestPaho5(t *testing.T) {
	for _, expiry := range []uint32{0, 600} {
		t.Run(fmt.Sprintf("expiry=%d", expiry), func(t *testing.T) {
			addr, _, _ := startServer(t, Options{})
			c, _ := connect5(t, addr, func(p *paho5.Connect) { p.Properties.SessionExpiryInterval = &expiry })
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for qos := byte(0); qos <= 2; qos++ {
				topic := fmt.Sprintf("t/%d", qos)
				message := &paho5.Publish{Topic: topic, QoS: qos, Retain: true, Payload: []byte("payload"), Properties: &paho5.PublishProperties{
					ContentType: "text", ResponseTopic: "r", CorrelationData: []byte{1, 2}, PayloadFormat: new(byte(1)), MessageExpiry: new(uint32(100)),
					User: paho5.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}},
				}}
				if _, err := c.Publish(ctx, message); err != nil {
					t.Fatal(err)
				}
				id := int(qos) + 1
				if _, err := c.Subscribe(ctx, &paho5.Subscribe{
					Properties:    &paho5.SubscribeProperties{SubscriptionIdentifier: &id},
					Subscriptions: []paho5.SubscribeOptions{{Topic: topic, QoS: qos}},
				}); err != nil {
					t.Fatal(err)
				}
				check5(t, c.next(t), message, qos, true, id)
				if _, err := c.Publish(ctx, message); err != nil {
					t.Fatal(err)
				}
				check5(t, c.next(t), message, qos, false, id)
			}
		})
	}
}

func check5(t *testing.T, got, want *paho5.Publish, qos byte, retain bool, id int) {
	t.Helper()
	p, w := got.Properties, want.Properties
	if got.Topic != want.Topic || !bytes.Equal(got.Payload, want.Payload) || got.QoS != qos || got.Retain != retain {
		t.Errorf("got %v", got)
	}
	if p.ContentType != w.ContentType || p.ResponseTopic != w.ResponseTopic || !bytes.Equal(p.CorrelationData, w.CorrelationData) ||
		p.PayloadFormat == nil || *p.PayloadFormat != 1 || p.MessageExpiry == nil || *p.MessageExpiry > 100 || *p.MessageExpiry < 90 ||
		fmt.Sprint(p.User) != fmt.Sprint(w.User) || p.SubscriptionIdentifier == nil || *p.SubscriptionIdentifier != id {
		t.Errorf("properties %+v, want %+v", p, w) // [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
	}
}

// TestTakeoverPaho5: the second connection of a client ends the first (0x8E), also
// while both publish.
func TestTakeoverPaho5(t *testing.T) {
	addr, m, _ := startServer(t, Options{})
	expiry := uint32(600)
	session := func(p *paho5.Connect) {
		p.CleanStart, p.Properties.SessionExpiryInterval = false, &expiry
	}
	old, a := connect5(t, addr, session)
	if a.SessionPresent {
		t.Error("session present the first time")
	}
	for i := range 20 {
		next, a := connect5(t, addr, session)
		if !a.SessionPresent {
			t.Fatalf("takeover %d: no session present", i)
		}
		select {
		case code := <-old.gone:
			if code != byte(packet.SessionTakenOver) {
				t.Errorf("takeover %d: old connection ends with 0x%02X", i, code)
			}
		case <-time.After(patience):
			t.Fatalf("takeover %d: the old connection goes on", i)
		}
		old = next
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range m.log { // a connection that was taken over ends after the ownership passed on
		if line != "fenced disconnect five" {
			t.Errorf("%q", line)
		}
	}
	if len(m.log) != 20 {
		t.Errorf("%d disconnects", len(m.log))
	}
}
