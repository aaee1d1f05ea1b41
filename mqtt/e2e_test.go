package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// patience is how long tests wait for something that must happen.
const patience = 10 * time.Second

// startServer runs a gateway on a loopback port, before an in-memory cluster.
func startServer(t testing.TB, o Options) (addr string, m *memCluster, s *Server) {
	t.Helper()
	m = newMemCluster()
	if o.Cluster == nil {
		o.Cluster = m
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s = NewServer(o)
	m.gw = s
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, ListenerOptions{Name: "test"}) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String(), m, s
}

// paho3 connects a client that speaks 3.1.1.
func paho3(t *testing.T, addr, id string, set func(*paho.ClientOptions)) paho.Client {
	t.Helper()
	o := paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetAutoReconnect(false)
	if set != nil {
		set(o)
	}
	c := paho.NewClient(o)
	wait3(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func wait3(t *testing.T, token paho.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatal("no answer in time")
	}
	if err := token.Error(); err != nil {
		t.Fatal(err)
	}
}

func TestPaho3(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			addr, _, _ := startServer(t, Options{})
			session := func(o *paho.ClientOptions) { o.SetCleanSession(clean) }
			sub := paho3(t, addr, "sub", session)
			pub := paho3(t, addr, "pub", nil)
			const n = 300
			for qos := byte(0); qos <= 2; qos++ {
				got := make(chan paho.Message, n)
				wait3(t, sub.Subscribe(fmt.Sprintf("q%d/+", qos), qos, func(_ paho.Client, m paho.Message) { got <- m }))
				for i := range n {
					token := pub.Publish(fmt.Sprintf("q%d/x", qos), qos, false, fmt.Sprint(i))
					if i == n-1 {
						wait3(t, token)
					}
				}
				for i := range n {
					select {
					case m := <-got:
						if string(m.Payload()) != fmt.Sprint(i) || m.Qos() != qos {
							t.Fatalf("QoS %d: message %d is %q at QoS %d", qos, i, m.Payload(), m.Qos())
						}
					case <-time.After(patience):
						t.Fatalf("QoS %d: message %d does not come", qos, i)
					}
				}
			}
		})
	}
}
