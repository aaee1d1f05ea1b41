// Package suite measures a local cluster of three nodes in the standard
// scenarios, beside Mosquitto where it is installed, and writes the report.
package suite

import (
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/bench"
)

// scenario is one row of the report.
type scenario struct {
	name   string
	title  string
	opts   func(o *bench.Options)
	unit   string                        // of rate
	rate   func(r *bench.Result) float64 // what is compared
	target float64                       // of rate; 0: none
	cpu    float64                       // target of broker CPU, µs per unit; 0: none
	floor  float64                       // share of Mosquitto's rate that must be reached; 0: none
}

func received(r *bench.Result) float64  { return r.ReceivedPerSecond }
func connected(r *bench.Result) float64 { return r.ConnectsPerSecond }

// scenarios are the standard ones. All have publishers and subscribers on
// different nodes; on one node (Mosquitto) all are on that.
func scenarios() []scenario {
	return []scenario{
		{
			name: "qos1", title: "QoS 1 between persistent sessions, few clients", unit: "messages",
			rate: received, target: 25_000, cpu: 40, floor: 0.8,
			opts: func(o *bench.Options) { o.QoS, o.Persistent = 1, true },
		},
		{
			name: "qos2", title: "QoS 2 between persistent sessions, few clients", unit: "messages",
			rate: received, target: 10_000,
			opts: func(o *bench.Options) { o.QoS, o.Persistent = 2, true },
		},
		{
			name: "qos0", title: "QoS 0", unit: "messages",
			rate: received, target: 250_000,
			opts: func(o *bench.Options) { o.QoS, o.Window = 0, 1000 },
		},
		{
			name: "fan-out", title: "QoS 1 to twenty persistent subscribers", unit: "deliveries",
			rate: received, target: 80_000,
			opts: func(o *bench.Options) {
				o.Scenario, o.QoS, o.Persistent, o.Publishers, o.Subscribers = bench.FanOut, 1, true, 1, 20
			},
		},
		{
			name: "pairs", title: "QoS 1 between many persistent sessions", unit: "messages",
			rate: received,
			opts: func(o *bench.Options) {
				o.Scenario, o.QoS, o.Persistent, o.Publishers, o.Window = bench.Pairs, 1, true, 64, 8
			},
		},
		{
			name: "qos1-clean", title: "QoS 1 between clean sessions, few clients", unit: "messages",
			rate: received,
			opts: func(o *bench.Options) { o.QoS = 1 },
		},
		{
			name: "connect", title: "Connect and subscribe, clean sessions", unit: "connects",
			rate: connected, target: 4000,
			opts: func(o *bench.Options) { o.Scenario, o.QoS = bench.Connect, 1 },
		},
	}
}

// The other measurements of the suite.
const (
	idleCluster     = "idle"
	idleConnections = "idle-connections"
	killedNode      = "kill"
)

// Names lists what Options.Only can ask for.
func Names() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return append(names, idleCluster, idleConnections, killedNode)
}

// Targets of the other measurements.
const (
	targetIdleCPU     = 5.0       // % of a core, all nodes together
	targetIdleRSS     = 150 << 20 // bytes per node
	targetConnection  = 24 << 10  // bytes per idle connection
	targetSilence     = 1500 * time.Millisecond
	idleCount         = 6000 // connections
	killPairs         = 64   // pairs of clients, so that every partition has some
	killRate          = 3200 // messages a second
	idleSettle        = 5 * time.Second
	idleMeasured      = 15 * time.Second
	connectionsSettle = 5 * time.Second
)
