package cluster

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
	"github.com/flotilla-mqtt/flotilla/fsm"
)

// Status is the cluster as this node sees it, for people and programs.
type Status struct {
	ClusterID  string
	Uptime     time.Duration
	Control    control.Status
	Partitions []PartitionStatus
}

// PartitionStatus is one partition as this node sees it.
type PartitionStatus struct {
	ID       uint32
	Leader   string // "": none known
	Term     uint64
	Commit   uint64 // of our replica
	Replicas []ReplicaStatus
	Servers  []string // server ids in our replica's Raft configuration, voters or not
	Local    bool     // this node has a replica; Stats is its state then
	Stats    fsm.Stats
	Budget   int64 // bytes
	LogBytes int64
}

// ReplicaStatus is one replica of a partition.
type ReplicaStatus struct {
	Node     string
	ServerID string
	Voter    bool
	Known    bool   // it was heard of
	Applied  uint64 // as of its last beacon
	Last     uint64 // its last log index
}

// Status describes the cluster.
func (n *Node) Status() Status {
	st := Status{Uptime: time.Since(n.started), Control: n.control.Status()}
	st.ClusterID = st.Control.State.ClusterID
	if !n.opened.Load() {
		return st
	}
	for p := range n.partitions {
		st.Partitions = append(st.Partitions, n.partitionStatus(p, st.Control.State))
	}
	return st
}

func (n *Node) partitionStatus(p uint32, s *control.State) PartitionStatus {
	ps := PartitionStatus{ID: p, Leader: n.leaders.node(p), Budget: n.partitionBudget()}
	voters := make(map[string]bool)
	if r := n.replicas.at(p); r != nil {
		ps.Local = true
		ps.Leader = n.believedLeader(p)
		ps.Term, ps.Commit = r.raft.CurrentTerm(), r.raft.CommitIndex()
		ps.LogBytes = r.group.LogBytes()
		r.sm.read(func(m *fsm.Machine) { ps.Stats = m.Stats() })
		if f := r.raft.GetConfiguration(); f.Error() == nil {
			for _, srv := range f.Configuration().Servers {
				voters[string(srv.ID)] = srv.Suffrage == raft.Voter
				ps.Servers = append(ps.Servers, string(srv.ID))
			}
		}
	}
	for _, placed := range s.Placement(p).Replicas {
		rs := ReplicaStatus{Node: placed.Node, ServerID: placed.ServerID, Voter: voters[placed.ServerID]}
		if r := n.replicas.at(p); placed.Node == n.name && r != nil {
			rs.Known, rs.Applied, rs.Last = true, r.raft.AppliedIndex(), r.raft.LastIndex()
		} else if pos, ok := n.positions.of(p, placed.Node); ok {
			rs.Known, rs.Applied, rs.Last = true, pos.Applied, pos.Last
		}
		ps.Replicas = append(ps.Replicas, rs)
	}
	return ps
}

// EachPartition calls fn with what each local replica holds. Unlike Status it asks nobody.
func (n *Node) EachPartition(fn func(fsm.Stats)) {
	if !n.opened.Load() {
		return
	}
	for _, r := range n.replicas.all() {
		var s fsm.Stats
		r.sm.read(func(m *fsm.Machine) { s = m.Stats() })
		fn(s)
	}
}

// Missing says what this node lacks to serve clients; none: it serves.
func (n *Node) Missing() []string {
	var missing []string
	if !n.serving.Load() {
		missing = n.ready()
		if len(missing) == 0 {
			missing = []string{"the node is about to serve"}
		}
	}
	if n.empty.Load() {
		missing = append(missing, "the node is drained; it is used again after a restart")
	}
	if !n.leaseValid() {
		missing = append(missing, "no valid lease from the control group")
	}
	return missing
}

// Degraded says what is wrong elsewhere in the cluster.
func (n *Node) Degraded() []string {
	var bad []string
	if !n.opened.Load() {
		return nil
	}
	for p := range n.partitions {
		r := n.replicas.at(p)
		if r == nil || n.believedLeader(p) != "" {
			continue
		}
		if lost := r.lostVoters(n.control.State().Placement(p)); len(lost) > 0 {
			bad = append(bad, endName(uint64(p))+" "+lostQuorum(lost))
		} else {
			bad = append(bad, endName(uint64(p))+" has no leader")
		}
	}
	return bad
}

// lostVoters lists the voters of our group whose data is lost, going by the
// placement, if they are so many that the rest is no majority; else none.
func (r *replica) lostVoters(pl *control.Placement) (lost []string) {
	f := r.raft.GetConfiguration()
	if pl == nil || f.Error() != nil {
		return nil
	}
	placed := serverIDs(pl)
	voters := 0
	for _, s := range f.Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if !slices.Contains(placed, string(s.ID)) {
			lost = append(lost, string(s.ID))
		}
	}
	if voters-len(lost) > voters/2 {
		return nil
	}
	return lost
}

func lostQuorum(lost []string) string {
	return "stands still: the data of a majority of its replicas is lost (" + strings.Join(lost, ", ") +
		"). Going on with the rest could lose acknowledged messages. Bring back those disks or their backup"
}

// Counters are this node's counters.
func (n *Node) Counters() *Metrics { return &n.metrics }

// ClockOffsets is how far the other members' wall clocks are ahead of ours.
func (n *Node) ClockOffsets() map[string]time.Duration { return n.clocks.snapshot() }

// DiskLow reports whether the disk is below its reserve.
func (n *Node) DiskLow() bool { return n.diskLow.Load() }
