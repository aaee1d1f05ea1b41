package main

import (
	"math"
	"runtime/debug"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
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
