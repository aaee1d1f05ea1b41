package mqtt

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// TestSys: a new subscriber gets the present values at once, and new ones at each
// interval; those of other nodes are remembered.
func TestSys(t *testing.T) {
	o := Options{Sys: SysOptions{Interval: 10 * time.Second, Node: "n1", Version: "v7",
		More: func() map[string]string { return map[string]string{"retained messages/count": "3"} }}}
	inBubbleWith(t, o, func(t *testing.T, s *Server, cluster *slowCluster, dial func() *rawClient) {
		time.Sleep(time.Second)
		k := dial()
		k.connect(nil)
		k.send(sub(1, filter("$SYS/broker/version", 1), filter("$SYS/broker/retained messages/+", 0), filter("$SYS/brokers/n1/uptime", 2)))
		k.expect("SUBACK 1 01 00 02", "PUBLISH $SYS/broker/version flotilla v7 q0 retain",
			"PUBLISH $SYS/broker/retained messages/count 3 q0 retain", "PUBLISH $SYS/brokers/n1/uptime 0 seconds q0 retain")
		k.send(sub(2, filter("$SYS/broker/clients/connected", 0)))
		k.expect("SUBACK 2 00", "PUBLISH $SYS/broker/clients/connected 0 q0 retain") // as of the last interval
		time.Sleep(10 * time.Second)
		k.expect("PUBLISH $SYS/broker/clients/connected 1 q0", "PUBLISH $SYS/broker/retained messages/count 3 q0",
			"PUBLISH $SYS/broker/version flotilla v7 q0", "PUBLISH $SYS/brokers/n1/uptime 10 seconds q0")

		k.send(sub(3, filter("$SYS/brokers/+/x", 0)))
		k.expect("SUBACK 3 00")
		s.Route(&flow.Message{Topic: "$SYS/brokers/n2/x", Payload: []byte("1")}, false)
		k.expect("PUBLISH $SYS/brokers/n2/x 1 q0")
		late := func() []string {
			l := dial()
			l.connect(func(p *packet.Connect) { p.ClientID = "late" })
			defer l.nc.Close()
			l.send(sub(1, filter("$SYS/brokers/n2/#", 0)))
			l.expect("SUBACK 1 00")
			l.send(&packet.Pingreq{}) // what is present comes with SUBACK
			var got []string
			for p := l.next(); p != nil && p.Type() != packet.TypePingresp; p = l.next() {
				got = append(got, describe(p))
			}
			return got
		}
		if got, want := fmt.Sprint(late()), "[PUBLISH $SYS/brokers/n2/x 1 q0 retain]"; got != want {
			t.Errorf("a later subscriber gets %s, want %s", got, want)
		}
		k.send(unsub(4, "$SYS/broker/version", "$SYS/broker/retained messages/+", "$SYS/brokers/n1/uptime", "$SYS/broker/clients/connected"))
		k.expect("UNSUBACK 4 00 00 00 00")
		time.Sleep(time.Minute)
		if got := fmt.Sprint(late()); got != "[]" {
			t.Errorf("of a node that is silent a subscriber gets %s", got)
		}
	})
}

// TestSysOff: without an interval there is nothing below $SYS.
func TestSysOff(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Server, _ *slowCluster, dial func() *rawClient) {
		k := dial()
		k.connect(nil)
		k.send(sub(1, filter("$SYS/#", 1)))
		k.expect("SUBACK 1 01")
		time.Sleep(time.Hour)
		k.send(&packet.Pingreq{})
		k.expect("PINGRESP")
	})
}

// TestSysNames: the topics that Mosquitto's users expect are there.
func TestSysNames(t *testing.T) {
	y := sys{}
	y.init(SysOptions{Interval: time.Second, Version: "v"})
	values := y.values(&Metrics{}, 5000)
	for _, name := range strings.Fields(`version uptime clients/connected clients/total clients/maximum clients/active
		messages/received messages/sent messages/stored publish/messages/received publish/messages/sent
		publish/messages/dropped bytes/received bytes/sent subscriptions/count store/messages/count store/messages/bytes
		load/messages/received/1min load/bytes/sent/15min load/publish/dropped/5min load/sockets/1min`) {
		if values[name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestLoad: a steady rate is found after a while, and each average forgets in its time.
func TestLoad(t *testing.T) {
	l := load{}
	for n := uint64(1); n <= 360; n++ { // an hour
		l.sample(n*50, 10*time.Second)
	}
	for k, got := range l.rate {
		if math.Abs(got-300) > 300*math.Exp(-60/loadMinutes[k])+1 {
			t.Errorf("after an hour of 300 a minute the average over %v minutes is %v", loadMinutes[k], got)
		}
	}
	l.sample(l.last, time.Minute)
	if got := l.rate[0] / 300; math.Abs(got-math.Exp(-1)) > 0.01 {
		t.Errorf("after a silent minute %v is left", got)
	}
}
