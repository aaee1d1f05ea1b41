package cluster

import (
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/fsm"
)

// Metrics are a node's counters. Whoever exports them reads them as they are.
type Metrics struct {
	RouteDropped       atomic.Uint64 // messages of the unreliable path that a link had no room for
	RetainedRefused    atomic.Uint64 // retained messages of QoS 0 that their partition refused
	RetainedIncomplete atomic.Uint64 // partitions not waited for when retained messages were read
	OpsRefused         atomic.Uint64 // ops of peers of a kind not known here
	PublishRefused     atomic.Uint64 // PUBLISHes refused for lack of memory or disk space
	LeasesLost         atomic.Uint64
	GatewaysEnded      atomic.Uint64 // our incarnations that the cluster ended
	SetAside           atomic.Uint64 // replicas set aside at start
	Snapshots          atomic.Uint64
	LeaderStarts       atomic.Uint64
	DiskFree           atomic.Int64 // bytes; 0: not known

	dropped [fsm.Classes][fsm.Reasons]atomic.Uint64
}

// Dropped counts messages dropped by the partitions led here.
func (m *Metrics) Dropped(c fsm.Class, r fsm.Reason) uint64 { return m.dropped[c][r].Load() }

// countDropped counts drops; a session's first is logged.
func (n *Node) countDropped(drops []fsm.Drop) {
	for _, d := range drops {
		n.metrics.dropped[d.Class][d.Reason].Add(d.N)
		if d.First {
			n.log.Warn("messages of a session are dropped; further drops are only counted",
				"client", d.ClientID, "session", d.Class.String(), "reason", d.Reason.String())
		}
	}
}
