package main

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cluster/store"
	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// Metrics tells /metrics.
func (n *node) Metrics() admin.Metrics {
	g, c := n.gateway.Metrics(), n.cluster.Counters()
	out := admin.Metrics{
		Gateway: gatewayMetrics(g), Auth: n.authMetrics(), Cluster: clusterMetrics(c),
		Transport: transportMetrics(n.cluster.TransportStats()), Store: storeMetrics(n.cluster.StoreStats()),
	}
	out.Store.Fsync = n.fsync.snapshot()
	recent := n.window.Judge()
	out.Store.FsyncP50, out.Store.FsyncP99, out.Store.DiskSlow = recent.P50.Seconds(), recent.P99.Seconds(), recent.Bad()
	n.peersRefused(out.Transport.PeersRefused)
	out.Security = n.securityMetrics()
	countDrops(out.Cluster.Dropped, g)
	out.Cluster.DiskLow = n.cluster.DiskLow()
	partitions, gateways := n.cluster.Lanes()
	out.Cluster.Lanes = map[string]admin.Lanes{"partition": admin.Lanes(partitions), "gateway": admin.Lanes(gateways)}
	out.Cluster.ClockOffset = map[string]float64{}
	for name, d := range n.cluster.ClockOffsets() {
		out.Cluster.ClockOffset[name] = d.Seconds()
	}
	return out
}

func gatewayMetrics(g *mqtt.Metrics) admin.GatewayMetrics {
	out := admin.GatewayMetrics{
		Connections: g.Connections.Load(), Sessions: g.Sessions.Load(), Subscriptions: g.Subscriptions.Load(),
		QueuedMessages: g.QueuedMessages.Load(), QueuedBytes: g.QueuedBytes.Load(),
		Accepted: g.Accepted.Load(), BytesReceived: g.BytesReceived.Load(), BytesSent: g.BytesSent.Load(),
		PacketsReceived: map[string]uint64{}, PacketsSent: map[string]uint64{},
		Refused: byReason(&g.Refused), Closed: byReason(&g.Closed),
		RefusedPublish: byReason(&g.RefusedPublish), RefusedSubscribe: byReason(&g.RefusedSubscribe),
		UnknownAcks: g.UnknownAcks.Load(), RetainedIncomplete: g.RetainedIncomplete.Load(), BackPressure: g.BackPressure.Load(),
		RevokedSubscriptions: g.RevokedSubscriptions.Load(),
	}
	count(out.Refused, "too_many", g.TooMany.Load())
	for _, step := range mqtt.SetupSteps() {
		count(out.Refused, step.String(), g.SetupFailed[step].Load())
	}
	for i := range g.PacketsReceived {
		name := strings.ToLower(packet.Type(i).String())
		count(out.PacketsReceived, name, g.PacketsReceived[i].Load())
		count(out.PacketsSent, name, g.PacketsSent[i].Load())
	}
	for qos := range 3 {
		out.PublishReceived[qos] = g.PublishReceived[qos].Load()
		out.PublishSent[qos] = g.PublishSent[qos].Load()
	}
	out.Acknowledged[1] = g.PacketsSent[packet.TypePuback].Load()
	out.Acknowledged[2] = g.PacketsSent[packet.TypePubcomp].Load()
	return out
}

func clusterMetrics(c *cluster.Metrics) admin.ClusterMetrics {
	out := admin.ClusterMetrics{
		Dropped:        map[admin.Drop]uint64{},
		PublishRefused: c.PublishRefused.Load(), OpsRefused: c.OpsRefused.Load(),
		RetainedRefused: c.RetainedRefused.Load(), RetainedIncomplete: c.RetainedIncomplete.Load(),
		LeaderStarts: c.LeaderStarts.Load(), LeasesLost: c.LeasesLost.Load(), GatewaysEnded: c.GatewaysEnded.Load(), SilentGateways: c.SilentGateways.Load(),
		SetAside: c.SetAside.Load(), Snapshots: c.Snapshots.Load(),
		Installed: c.Installed.Load(), Stalls: c.Stalls.Load(), Checkpoints: c.Checkpoints.Load(), Diverged: c.Diverged.Load(), DiskFree: c.DiskFree.Load(),
	}
	for class := range fsm.Class(fsm.Classes) {
		for reason := range fsm.Reason(fsm.Reasons) {
			count(out.Dropped, admin.Drop{Reason: reason.String(), Class: class.String()}, c.Dropped(class, reason))
		}
	}
	count(out.Dropped, admin.Drop{Reason: "link_full", Class: "ephemeral"}, c.RouteDropped.Load())
	count(out.Dropped, admin.Drop{Reason: "no_lease", Class: "ephemeral"}, c.RouteUnleased.Load())
	return out
}

// countDrops adds what the gateway dropped of ephemeral sessions.
func countDrops(to map[admin.Drop]uint64, g *mqtt.Metrics) {
	for _, r := range mqtt.DropReasons() {
		count(to, admin.Drop{Reason: r.String(), Class: "ephemeral"}, g.Dropped[r].Load())
	}
}

func transportMetrics(s transport.Stats) admin.TransportMetrics {
	return admin.TransportMetrics{
		FramesSent: s.FramesSent, FramesReceived: s.FramesReceived, FramesRefused: s.QueueFull,
		BatchesSent: s.BatchesSent, BatchesReceived: s.BatchesReceived, PeersRefused: s.RefusedPeers,
		LinksUp: s.LinkUps, LinksDown: s.LinkDowns,
		RaftSent: s.RaftRequests, RaftBatches: s.RaftBatches, RaftReceived: s.RaftReceived,
		RaftTimeouts: s.RaftTimeouts, RaftRefused: s.RaftRefused, RaftExpired: s.RaftExpired,
		Snapshots: s.Snapshots, SnapshotBytes: s.SnapshotBytes,
	}
}

func storeMetrics(s store.Stats) admin.StoreMetrics {
	out := admin.StoreMetrics{
		SlowWrites: s.SlowOps, NoSpace: s.NoSpace, Pending: s.Pending.Seconds(),
		LogBytes: s.LogBytes, DiskUsed: s.DiskUsed, Memory: s.Memory,
	}
	if !s.LastSlow.IsZero() {
		out.LastSlow = float64(s.LastSlow.UnixMilli()) / 1000
	}
	return out
}

// byReason counts by the names of reason codes.
func byReason(counters *[256]atomic.Uint64) map[string]uint64 {
	m := map[string]uint64{}
	for code := range counters {
		count(m, packet.ReasonCode(code).Label(), counters[code].Load())
	}
	return m
}

func count[K comparable](m map[K]uint64, name K, v uint64) {
	if v > 0 {
		m[name] += v
	}
}

// histogram counts durations in fixed buckets, as Prometheus wants them.
type histogram struct {
	mu     sync.Mutex
	bounds []float64 // seconds
	counts []uint64  // by bound; the last is what is above all
	sum    float64
}

func newFsyncHistogram() *histogram {
	bounds := []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}
	return &histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	i := 0
	for i < len(h.bounds) && s > h.bounds[i] {
		i++
	}
	h.mu.Lock()
	h.counts[i]++
	h.sum += s
	h.mu.Unlock()
}

func (h *histogram) snapshot() *admin.Histogram {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := &admin.Histogram{Sum: h.sum, Buckets: make(map[float64]uint64, len(h.bounds))}
	for i, b := range h.bounds {
		out.Count += h.counts[i]
		out.Buckets[b] = out.Count
	}
	out.Count += h.counts[len(h.bounds)]
	return out
}
