package main

import (
	"math"
	"runtime/debug"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// messageBudget is what the partitions' messages may take of the node's memory:
// half of the limit that was set, of the runtime's limit, or of 2 GiB.
func messageBudget(cfg *config.Config) int64 {
	limit := int64(cfg.MemoryLimit)
	if limit == 0 {
		if limit = debug.SetMemoryLimit(-1); limit == math.MaxInt64 {
			limit = 2 << 30
		}
	}
	return limit / 2
}

// Ready tells /readyz.
func (n *node) Ready() (ok bool, missing, degraded []string) {
	missing, degraded = n.cluster.Missing(), n.cluster.Degraded()
	return len(missing) == 0, missing, degraded
}

// Status tells /api/v1/status.
func (n *node) Status() admin.Status {
	st := n.cluster.Status()
	out := admin.Status{
		Version: admin.StatusVersion, Node: n.cfg.Node, Build: n.build, ClusterID: st.ClusterID,
		UptimeMS: st.Uptime.Milliseconds(), Connections: int(n.gateway.Metrics().Connections.Load()),
	}
	out.Ready, out.Missing, out.Degraded = n.Ready()
	leads, holds := map[string]int{}, map[string]int{}
	for _, p := range st.Partitions {
		leads[p.Leader]++
		for _, r := range p.Replicas {
			holds[r.Node]++
		}
		out.Partitions = append(out.Partitions, partitionStatus(p))
	}
	for _, m := range st.Control.State.Members {
		state := "alive"
		if m.Live() == 0 {
			state = "dead"
		}
		out.Members = append(out.Members, admin.Member{
			Name: m.Name, Addr: m.Addresses.Peer, State: state, Incarnation: m.Incarnation,
			Control: st.Control.Leader == m.Name, Partitions: holds[m.Name], Leads: leads[m.Name],
		})
	}
	return out
}

func partitionStatus(p cluster.PartitionStatus) admin.Partition {
	out := admin.Partition{
		ID: p.ID, Leader: p.Leader, Term: p.Term, Local: p.Local,
		Sessions: p.Stats.Sessions, Connected: p.Stats.Connected, Subscriptions: p.Stats.Subscriptions,
		Queued: p.Stats.Queued, QueuedBytes: p.Stats.QueuedBytes, Inflight: p.Stats.Inflight,
		Retained: p.Stats.Retained, Outbox: p.Stats.Outbox, Bytes: p.Stats.Bytes, Budget: p.Budget,
	}
	for _, r := range p.Replicas {
		ar := admin.Replica{Node: r.Node, Voter: r.Voter, Applied: r.Applied, State: "follower"}
		if r.Known && p.Commit > r.Last {
			ar.Lag = p.Commit - r.Last
		}
		switch {
		case r.Node == p.Leader:
			ar.State = "leader"
		case !r.Known:
			ar.State = "unreachable"
		case !r.Voter:
			ar.State = "learner"
		}
		out.Replicas = append(out.Replicas, ar)
	}
	return out
}

// Metrics tells /metrics.
func (n *node) Metrics() admin.Metrics {
	g, c := n.gateway.Metrics(), n.cluster.Counters()
	out := admin.Metrics{
		Connections: int(g.Connections.Load()), ConnectionsAccepted: g.Accepted.Load(),
		ConnectionsRefused: map[string]uint64{}, ConnectionsClosed: map[string]uint64{},
		ReceivedBytes: g.BytesReceived.Load(), SentBytes: g.BytesSent.Load(),
		Dropped: map[admin.Drop]uint64{}, Refused: map[string]uint64{}, BadPackets: map[string]uint64{},
		LeaderChanges: c.LeaderStarts.Load(), LeaseExpired: c.LeasesLost.Load(), SetAside: c.SetAside.Load(),
		SnapshotsTaken: c.Snapshots.Load(), DiskFree: c.DiskFree.Load(), ReadOnly: n.cluster.DiskLow(),
		ClockOffset: map[string]float64{}, Fsync: n.fsync.snapshot(),
	}
	for q := range 3 {
		out.ReceivedMessages[q] = g.PublishReceived[q].Load()
		out.SentMessages[q] = g.PublishSent[q].Load()
	}
	out.AckedMessages[1] = g.PacketsSent[packet.TypePuback].Load()
	out.AckedMessages[2] = g.PacketsSent[packet.TypePubcomp].Load()
	for code := range 256 {
		name := packet.ReasonCode(code).String()
		count(out.ConnectionsRefused, name, g.Refused[code].Load())
		count(out.ConnectionsClosed, name, g.Closed[code].Load())
		count(out.Refused, name, g.RefusedPublish[code].Load())
	}
	for _, r := range mqtt.DropReasons() {
		if v := g.Dropped[r].Load(); v > 0 {
			out.Dropped[admin.Drop{Reason: r.String(), Class: "ephemeral"}] = v
		}
	}
	for class := range fsm.Class(fsm.Classes) {
		for reason := range fsm.Reason(fsm.Reasons) {
			if v := c.Dropped(class, reason); v > 0 {
				out.Dropped[admin.Drop{Reason: reason.String(), Class: class.String()}] = v
			}
		}
	}
	if v := c.RouteDropped.Load(); v > 0 {
		out.Dropped[admin.Drop{Reason: "link_full", Class: "ephemeral"}] = v
	}
	for name, d := range n.cluster.ClockOffsets() {
		out.ClockOffset[name] = d.Seconds()
	}
	return out
}

func count(m map[string]uint64, name string, v uint64) {
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
