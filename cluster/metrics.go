package cluster

import (
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/cluster/store"
	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/fsm"
)

// Metrics are a node's counters. Whoever exports them reads them as they are.
type Metrics struct {
	RouteDropped       atomic.Uint64 // messages of the unreliable path that a link had no room for
	RouteUnleased      atomic.Uint64 // messages of QoS 0 that came while the node had no lease
	RetainedRefused    atomic.Uint64 // retained messages of QoS 0 that their partition refused
	RetainedIncomplete atomic.Uint64 // partitions not waited for when retained messages were read
	OpsRefused         atomic.Uint64 // ops of peers of a kind not known here
	PublishRefused     atomic.Uint64 // PUBLISHes refused for lack of memory or disk space
	LeasesLost         atomic.Uint64
	GatewaysEnded      atomic.Uint64 // our incarnations that the cluster ended
	SilentGateways     atomic.Uint64 // gateways that answered no takeover, and that we had ended
	SetAside           atomic.Uint64 // replicas set aside at start
	Snapshots          atomic.Uint64 // of partitions, taken
	Stalls             atomic.Uint64 // times our disk did not answer for too long
	Installed          atomic.Uint64 // snapshots taken over from leaders
	LeaderStarts       atomic.Uint64 // times a partition's leadership came to this node
	Checkpoints        atomic.Uint64 // states of ours that were digested
	Diverged           atomic.Uint64 // replicas, ours or others', whose state differs from the majority's
	DiskFree           atomic.Int64  // bytes; 0: not known

	dropped [fsm.Classes][fsm.Reasons]atomic.Uint64
}

// Dropped counts messages dropped by the partitions led here.
func (m *Metrics) Dropped(c fsm.Class, r fsm.Reason) uint64 { return m.dropped[c][r].Load() }

// countDropped counts drops; a session's first is logged.
func (n *Node) countDropped(drops []fsm.Drop) {
	for _, d := range drops {
		n.metrics.dropped[d.Class][d.Reason].Add(d.N)
		if d.First {
			n.log.Warn("messages of a session or group are dropped; further drops are only counted",
				"client", d.ClientID, "group", d.Group, "class", d.Class.String(), "reason", d.Reason.String())
		}
	}
}

// LaneStats is what waits unanswered in this node's lanes to one kind of destination.
type LaneStats struct {
	Items int
	Bytes int64
}

// Lanes tells what waits in the lanes to partitions and to other nodes' gateways.
func (n *Node) Lanes() (partitions, gateways LaneStats) {
	for _, l := range n.pump.all() {
		s := &gateways
		if isPartition(l.id.Destination) {
			s = &partitions
		}
		items, bytes := l.waiting()
		s.Items += items
		s.Bytes += bytes
	}
	return partitions, gateways
}

// TransportStats are the counters of the traffic between nodes.
func (n *Node) TransportStats() transport.Stats { return n.transport.Stats() }

// StoreStats are the numbers of the node's store.
func (n *Node) StoreStats() store.Stats { return n.store.Stats() }
