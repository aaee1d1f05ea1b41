package mqtt

import (
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// TestOperator: what an operator sees of a connection, and how it ends at his word.
func TestOperator(t *testing.T) {
	kick := func(k *client) *bool {
		done := new(bool)
		k.srv.Kick("c", 1, func() { *done = true })
		<-k.srv.later.busy.idle()
		return done
	}
	runScenarios(t, []scenario{
		{"3.14.2.1", "a kicked client is told so", packet.V5, nil, func(k *client) {
			k.connect(nil)
			done := kick(k)
			k.c.readerDone()
			k.asks("disconnect c 1 lost").out("DISCONNECT 98", "closed")
			if !*done {
				k.t.Error("not settled")
			}
			if _, ok := k.srv.Inspect("c", 1); ok {
				k.t.Error("a connection that is over is shown")
			}
		}},
		{"", "a kicked client before MQTT 5", packet.V311, nil, func(k *client) {
			k.connect(nil)
			kick(k)
			k.c.readerDone()
			k.asks("disconnect c 1 lost").out("closed")
		}},
		{"", "an ephemeral session is shown by its gateway", packet.V5, nil, func(k *client) {
			k.connect(nil)
			k.in(sub(3, filter("b/#", 1), filter("$share/g/s", 1), filter("a", 2)))
			i, ok := k.srv.Inspect("c", 1)
			if !ok || len(i.Subscriptions) != 3 || i.Subscriptions[0].Filter != "$share/g/s" || i.Subscriptions[0].QoS != 1 {
				k.t.Fatalf("%+v %v", i, ok)
			}
			if i.Subscriptions = i.Subscriptions[1:]; i.Subscriptions[0].Filter != "a" || i.Subscriptions[0].QoS != 2 || i.Subscriptions[1].Filter != "b/#" {
				k.t.Errorf("%+v %v", i, ok)
			}
			if _, ok := k.srv.Inspect("c", 2); ok {
				k.t.Error("another epoch's connection is shown")
			}
		}},
	})
}
