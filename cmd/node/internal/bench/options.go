// Package bench puts load on MQTT brokers and measures them: rates, latencies,
// losses, duplicates and silences. One process plays all clients, with little
// work per message, since it often shares the machine with the brokers.
package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Scenario is who sends to whom.
type Scenario string

// The scenarios.
const (
	// FanIn: each subscriber has publishers of its own; every message goes to
	// one subscriber. With as many subscribers as publishers it is Pairs.
	FanIn Scenario = "fan-in"
	// FanOut: every message goes to every subscriber.
	FanOut Scenario = "fan-out"
	// Pairs: one publisher for each subscriber.
	Pairs Scenario = "pairs"
	// Connect: clients connect, subscribe and disconnect, over and over.
	Connect Scenario = "connect"
	// Idle: connections with one subscription each do nothing.
	Idle Scenario = "idle"
)

// Scenarios lists all.
func Scenarios() []Scenario { return []Scenario{FanIn, FanOut, Pairs, Connect, Idle} }

// Options describe one run.
type Options struct {
	Scenario    Scenario
	PubAddrs    []string // where publishers connect, in turn; empty: see Addrs
	SubAddrs    []string // where subscribers connect, in turn; empty: see Addrs
	Addrs       []string // several nodes: publishers and subscribers are spread so that messages cross them
	Publishers  int
	Subscribers int
	Workers     int // Connect: how many clients connect at the same time
	QoS         byte
	Persistent  bool // sessions outlive connections
	// Window is how many messages each publisher has under way: unacknowledged
	// ones at QoS 1 and 2, not yet received ones at QoS 0 (there 0: as fast as
	// the socket takes them).
	Window int
	// Rate is messages a second of all publishers together; 0: as fast as the
	// windows allow. Latencies then count from when a message was due.
	Rate     float64
	Size     int           // bytes of payload, at least MinSize
	Count    int           // messages of all publishers together; 0: Duration counts
	Duration time.Duration // measured time
	Warmup   time.Duration // time before it; none with Count
	Drain    time.Duration // how long to wait without progress for what is missing in the end
	Idle     int           // idle connections, besides all others
	Version  byte          // 4: MQTT 3.1.1, 5: MQTT 5.0
	Username string        // empty: clients are anonymous
	Password []byte

	// Measuring, if set, is called when measuring begins (true) and ends
	// (false), from the goroutine of Run. It should return quickly.
	Measuring func(begins bool)
}

// Default are the options of a run without any flag.
func Default() Options {
	return Options{
		Scenario: FanIn, Addrs: []string{"localhost:1883"}, Publishers: 4, Subscribers: 2, Workers: 32, QoS: 1, Window: 32,
		Size: 256, Duration: 10 * time.Second, Warmup: time.Second, Drain: 5 * time.Second, Version: 5,
	}
}

// OptionError is an option with a value that is not allowed.
type OptionError struct{ Option, Value, Allowed string }

func (e *OptionError) Error() string {
	return fmt.Sprintf("--%s is %s: want %s", e.Option, e.Value, e.Allowed)
}

// check completes the options or says what is wrong.
func (o *Options) check() error {
	if o.Scenario == Pairs {
		o.Subscribers = o.Publishers
	}
	if o.Rate > 0 && o.QoS > 0 && o.Window == 0 {
		o.Window = 65535
	}
	limits := []struct {
		option      string
		value       int
		least, most int
	}{
		{"publishers", o.Publishers, 1, 1_000_000},
		{"subscribers", o.Subscribers, 1, 1_000_000},
		{"workers", o.Workers, 1, 10_000},
		{"qos", int(o.QoS), 0, 2},
		{"window", o.Window, min(1, int(o.QoS)), 65535},
		{"size", o.Size, MinSize, 256 << 20},
		{"count", o.Count, 0, math.MaxInt},
		{"idle", o.Idle, 0, 1_000_000},
	}
	for _, l := range limits {
		if l.value < l.least || l.value > l.most {
			return &OptionError{l.option, fmt.Sprint(l.value), fmt.Sprintf("%d to %d", l.least, l.most)}
		}
	}
	switch {
	case !slices.Contains(Scenarios(), o.Scenario):
		return &OptionError{"scenario", string(o.Scenario), fmt.Sprint("one of ", Scenarios())}
	case o.Version != 4 && o.Version != 5:
		return &OptionError{"mqtt-version", fmt.Sprint(o.Version), "4 (3.1.1) or 5"}
	case len(o.Addrs) == 0 && (len(o.PubAddrs) == 0 || len(o.SubAddrs) == 0):
		return &OptionError{"addr", "empty", "HOST:PORT, several separated by commas"}
	case o.Rate < 0:
		return &OptionError{"rate", fmt.Sprint(o.Rate), "0 or more"}
	case o.Count == 0 && o.Duration <= 0:
		return &OptionError{"duration", o.Duration.String(), "more than 0, or a --count"}
	case o.Drain <= 0:
		return &OptionError{"drain", o.Drain.String(), "more than 0"}
	case o.Scenario == Idle && o.Idle == 0:
		return &OptionError{"idle", "0", "the number of idle connections"}
	}
	return nil
}

// Describe says in a line what the run does.
func (o Options) Describe() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch o.Scenario {
	case Connect:
		add("connect, subscribe, disconnect by %d clients at a time", o.Workers)
	case Idle:
		add("%d idle connections with one subscription each", o.Idle)
	default:
		add("%s: %d publishers, %d subscribers, QoS %d, %d B", o.Scenario, o.Publishers, o.Subscribers, o.QoS, o.Size)
		if o.Rate > 0 {
			add("%.0f messages/s", o.Rate)
		} else {
			add("window %d", o.Window)
		}
	}
	if o.Persistent {
		add("persistent sessions")
	} else {
		add("clean sessions")
	}
	if o.Idle > 0 && o.Scenario != Idle {
		add("%d idle connections", o.Idle)
	}
	add("MQTT %s", map[byte]string{4: "3.1.1", 5: "5.0"}[o.Version])
	return strings.Join(parts, ", ")
}
