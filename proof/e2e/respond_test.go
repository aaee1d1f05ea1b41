package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

// TestRequestResponse asks with mosquitto_rr and answers with autopaho, on one node and
// across a cluster.
func TestRequestResponse(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("mosquitto_rr"); err != nil {
		t.Skip(err)
	}
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint("nodes ", nodes), func(t *testing.T) {
			t.Parallel()
			c := StartCluster(t, nodes)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			defer answer(ctx, t, c.Nodes[nodes-1])()
			host, port, err := net.SplitHostPort(c.Nodes[0].MQTT)
			if err != nil {
				t.Fatal(err)
			}
			for _, qos := range []string{"0", "1", "2"} {
				out, err := exec.CommandContext(ctx, "mosquitto_rr", "-h", host, "-p", port, "-V", "mqttv5", "-q", qos, "-W", "60",
					"-t", "ask", "-e", "answers/"+qos, "-m", "how much "+qos).CombinedOutput()
				if got := strings.TrimSpace(string(out)); err != nil || got != "how much "+qos+"?" {
					t.Errorf("QoS %s: %v: %q", qos, err, got)
				}
			}
		})
	}
}

// answer connects a client that answers what is asked, at the QoS of the question, until
// stop is called.
func answer(ctx context.Context, t *testing.T, n *Node) (stop func()) {
	t.Helper()
	asked := make(chan *paho.Publish, 10)
	m, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{{Scheme: "mqtt", Host: n.MQTT}}, KeepAlive: 60, CleanStartOnInitialConnection: true, ConnectTimeout: 10 * time.Second,
		ReconnectBackoff: func(int) time.Duration { return 100 * time.Millisecond },
		ClientConfig: paho.ClientConfig{ClientID: "answers", PacketTimeout: patience,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				asked <- r.Packet
				return true, nil
			}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AwaitConnection(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "ask", QoS: 2}}}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when asked is closed
		defer close(done)
		for q := range asked {
			if _, err := m.Publish(ctx, &paho.Publish{Topic: q.Properties.ResponseTopic, QoS: q.QoS, Payload: append(q.Payload, '?'),
				Properties: &paho.PublishProperties{CorrelationData: q.Properties.CorrelationData}}); err != nil {
				t.Errorf("answering %q: %v", q.Payload, err)
			}
		}
	}()
	return func() {
		if err := m.Disconnect(ctx); err != nil {
			t.Error(err)
		}
		close(asked)
		<-done
	}
}
