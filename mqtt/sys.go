package mqtt

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// SysOptions say what a node tells of itself below $SYS.
type SysOptions struct {
	// Interval is how often; 0: never, and nothing below $SYS exists.
	Interval time.Duration
	// Node and Version name the node and its build.
	Node, Version string
	// More, if set, adds values of what is behind the gateway, by their topics below
	// $SYS/broker/. It is called once in each interval and must not block.
	More func() map[string]string
}

// sys publishes the broker's own topics: what this node counts, under $SYS/broker/ for
// its own clients, with the names that Mosquitto gives them, and under
// $SYS/brokers/NODE/ for all clients of the cluster. They are QoS 0 messages that no log
// sees. A new subscriber gets the present values as if they were retained: those of this
// node, and those of others as far as they have come here, which they do while somebody
// here subscribes to them.
type sys struct {
	SysOptions
	next    int64 // on Server.now; the timekeeper's
	loads   []load
	maximum int64 // of connected clients; the timekeeper's

	mu     sync.Mutex
	own    []*flow.Message          // mu
	others map[string]*flow.Message // mu; by topic; of other nodes
	seen   map[string]int64         // mu; when it came, on Server.now
}

// load is an average per minute over 1, 5 and 15 minutes of something that is counted.
type load struct {
	name  string
	count func(*Metrics) uint64
	last  uint64
	rate  [3]float64
}

var loadMinutes = [3]float64{1, 5, 15}

func (s *sys) init(o SysOptions) {
	s.SysOptions = o
	s.others, s.seen = map[string]*flow.Message{}, map[string]int64{}
	s.loads = []load{
		{name: "messages/received", count: func(m *Metrics) uint64 { return sum(m.PacketsReceived[:]) }},
		{name: "messages/sent", count: func(m *Metrics) uint64 { return sum(m.PacketsSent[:]) }},
		{name: "publish/received", count: func(m *Metrics) uint64 { return sum(m.PublishReceived[:]) }},
		{name: "publish/sent", count: func(m *Metrics) uint64 { return sum(m.PublishSent[:]) }},
		{name: "publish/dropped", count: func(m *Metrics) uint64 { return sum(m.Dropped[:]) }},
		{name: "bytes/received", count: func(m *Metrics) uint64 { return m.BytesReceived.Load() }},
		{name: "bytes/sent", count: func(m *Metrics) uint64 { return m.BytesSent.Load() }},
		{name: "sockets", count: func(m *Metrics) uint64 { return m.Accepted.Load() }},
	}
}

func sum(counters []atomic.Uint64) (n uint64) {
	for i := range counters {
		n += counters[i].Load()
	}
	return n
}

// tellSys publishes the values if it is time. Only the timekeeper calls it.
func (s *Server) tellSys(now int64) {
	y := &s.sys
	if y.Interval == 0 || now < y.next {
		return
	}
	y.next = now + y.Interval.Milliseconds()
	values := y.values(s.metrics, now)
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	var local, shared []*flow.Message
	for _, name := range names {
		payload := []byte(values[name])
		local = append(local, &flow.Message{Topic: sysRoot + "/broker/" + name, Payload: payload})
		shared = append(shared, &flow.Message{Topic: sysBrokers + y.Node + "/" + name, Payload: payload})
	}
	y.keep(slices.Concat(local, shared), now)
	for _, m := range local {
		s.Route(m, false)
	}
	if !s.cluster.Available() {
		return
	}
	for _, m := range shared {
		s.cluster.Publish(m, nil)
	}
}

const sysBrokers = sysRoot + "/brokers/"

// values are all that this node tells, by topic below $SYS/broker/.
func (y *sys) values(m *Metrics, now int64) map[string]string {
	v := map[string]string{}
	number := func(name string, n uint64) { v[name] = strconv.FormatUint(n, 10) }
	v["version"] = "flotilla " + y.Version
	v["uptime"] = fmt.Sprintf("%d seconds", now/1000)
	connected := m.Sessions.Load()
	y.maximum = max(y.maximum, connected)
	for _, name := range []string{"clients/connected", "clients/active", "clients/total"} {
		number(name, uint64(connected))
	}
	number("clients/maximum", uint64(y.maximum))
	number("messages/received", sum(m.PacketsReceived[:]))
	number("messages/sent", sum(m.PacketsSent[:]))
	number("publish/messages/received", sum(m.PublishReceived[:]))
	number("publish/messages/sent", sum(m.PublishSent[:]))
	number("publish/messages/dropped", sum(m.Dropped[:]))
	number("bytes/received", m.BytesReceived.Load())
	number("bytes/sent", m.BytesSent.Load())
	number("subscriptions/count", uint64(m.Subscriptions.Load()))
	number("store/messages/count", uint64(m.QueuedMessages.Load()))
	number("store/messages/bytes", uint64(m.QueuedBytes.Load()))
	if y.More != nil {
		for name, value := range y.More() {
			v[name] = value
		}
	}
	v["messages/stored"] = v["store/messages/count"]
	for i := range y.loads {
		l := &y.loads[i]
		l.sample(l.count(m), y.Interval)
		for k, minutes := range loadMinutes {
			v[fmt.Sprintf("load/%s/%.0fmin", l.name, minutes)] = strconv.FormatFloat(l.rate[k], 'f', 2, 64)
		}
	}
	return v
}

// sample takes a counter's value at the end of an interval into the averages.
func (l *load) sample(count uint64, interval time.Duration) {
	rate := float64(count-l.last) / interval.Minutes()
	l.last = count
	for k, minutes := range loadMinutes {
		weight := math.Exp(-interval.Minutes() / minutes)
		l.rate[k] = rate + weight*(l.rate[k]-rate)
	}
}

// keep notes what new subscribers get, and forgets nodes that tell nothing any more.
func (y *sys) keep(own []*flow.Message, now int64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.own = own
	for name, at := range y.seen {
		if now-at > 3*y.Interval.Milliseconds() {
			delete(y.seen, name)
			delete(y.others, name)
		}
	}
}

// overhear keeps a message below sysBrokers, if it is of another node, for new subscribers. There are as many as
// nodes have values.
func (y *sys) overhear(m *flow.Message, now int64) {
	if y.Interval == 0 || strings.HasPrefix(m.Topic, sysBrokers+y.Node+"/") {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.others[m.Topic], y.seen[m.Topic] = m, now
}

// match returns the present values for new subscriptions, as copies that look retained.
func (y *sys) match(subs []flow.Subscription) (out []message) {
	if len(subs) == 0 {
		return nil
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	for i := range subs {
		x := message{retain: true}
		if subs[i].ID != 0 {
			x.ids = []uint32{subs[i].ID}
		}
		add := func(m *flow.Message) {
			if topic.Match(subs[i].Filter, m.Topic) {
				x.m = m
				out = append(out, x)
			}
		}
		for _, m := range y.own {
			add(m)
		}
		for _, m := range y.others {
			add(m)
		}
	}
	return out
}

// ofSys are those of new subscriptions that concern the broker's own topics and want
// present values.
func ofSys(subs []flow.Subscription) (out []flow.Subscription) {
	for _, s := range subs {
		if strings.HasPrefix(s.Filter, sysRoot+"/") {
			out = append(out, s)
		}
	}
	return out
}
