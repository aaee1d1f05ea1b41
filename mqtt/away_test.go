package mqtt

import (
	"errors"
	"io"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// A drained node sends its clients elsewhere and says where, if they can be told
// [MQTT-4.13.1-1].
func TestSendAway(t *testing.T) {
	addr, _, s := startServer(t, Options{})
	modern, old := dialRaw(t, addr, packet.V5), dialRaw(t, addr, packet.V311)
	modern.connect(nil)
	old.connect(func(c *packet.Connect) { c.ClientID = "old" })
	s.SendAway(0, "n2:1883 n3:1883")
	d, ok := modern.next().(*packet.Disconnect)
	if !ok || d.Code != packet.UseAnotherServer || packet.Value(d.Props.ServerReference, "") != "n2:1883 n3:1883" {
		t.Errorf("got %v", d)
	}
	if p, err := old.read(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, %v", p, err)
	}
	s.Welcome()
	again := dialRaw(t, addr, packet.V5)
	again.connect(nil)
	again.send(&packet.Pingreq{})
	again.expect("PINGRESP")
}
