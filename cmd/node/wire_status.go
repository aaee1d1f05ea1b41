package main

import (
	"math"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"strconv"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/fsm"
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

// sysValues are what is told below $SYS of what lies behind the gateway, in the words of
// Mosquitto: of all partitions of which this node has a replica.
func (n *node) sysValues() map[string]string {
	var sum fsm.Stats
	n.cluster.EachPartition(func(s fsm.Stats) {
		sum.Sessions += s.Sessions
		sum.Connected += s.Connected
		sum.Queued += s.Queued + s.GroupQueued
		sum.QueuedBytes += s.QueuedBytes + s.GroupQueuedBytes
		sum.Retained += s.Retained
		sum.Groups += s.Groups
	})
	g := n.gateway.Metrics()
	offline := sum.Sessions - sum.Connected
	heap := []rtmetrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	rtmetrics.Read(heap)
	return map[string]string{
		"clients/disconnected":       strconv.Itoa(offline),
		"clients/inactive":           strconv.Itoa(offline),
		"clients/total":              strconv.FormatInt(g.Sessions.Load()+int64(offline), 10),
		"retained messages/count":    strconv.Itoa(sum.Retained),
		"shared_subscriptions/count": strconv.Itoa(sum.Groups),
		"store/messages/count":       strconv.FormatInt(g.QueuedMessages.Load()+int64(sum.Queued+sum.Retained), 10),
		"store/messages/bytes":       strconv.FormatInt(g.QueuedBytes.Load()+sum.QueuedBytes, 10),
		"heap/current":               strconv.FormatUint(heap[0].Value.Uint64(), 10),
	}
}

func partitionStatus(p cluster.PartitionStatus) admin.Partition {
	out := admin.Partition{
		ID: p.ID, Leader: p.Leader, Term: p.Term, Local: p.Local,
		Sessions: p.Stats.Sessions, Connected: p.Stats.Connected, Subscriptions: p.Stats.Subscriptions,
		Queued: p.Stats.Queued, QueuedBytes: p.Stats.QueuedBytes, Inflight: p.Stats.Inflight,
		Retained: p.Stats.Retained, Outbox: p.Stats.Outbox,
		Groups: p.Stats.Groups, Members: p.Stats.Members, GroupQueued: p.Stats.GroupQueued, GroupAssigned: p.Stats.GroupAssigned,
		Bytes: p.Stats.Bytes, Budget: p.Budget,
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
