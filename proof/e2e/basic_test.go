//go:build e2e

package e2e

import (
	"context"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

func TestHello(t *testing.T) {
	c := StartCluster(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sub, _, err := client.Dial(ctx, client.TCP, c.Nodes[0].Target(), c.Rec, client.Options{ClientID: "sub", Expiry: history.NeverExpires})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Subscribe(ctx, 1, history.Filter{Filter: "t", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	t.Log(c.ClientID("x", c.Nodes[1]), c.leaders())
}
