package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/store"
	"github.com/flotilla-mqtt/flotilla/cluster/transport"
)

// replica is this node's replica of one partition: its Raft group, its state
// machine, and, while it leads, a leader.
type replica struct {
	n         *Node
	partition uint32
	id        raft.ServerID
	group     *store.Group
	transport *transport.RaftTransport
	admitted  bool // owned by follow
	sm        *stateMachine
	raft      *raft.Raft
	notify    chan bool
	hurry     chan struct{} // the connection to the leader broke
	digests   digests
	lately    [2]uint64 // last log index now and a placementInterval ago; owned by follow

	cancel context.CancelFunc // ends its goroutines
	wg     sync.WaitGroup

	confMu sync.Mutex // orders changes of Raft's settings

	mu   sync.Mutex
	lead *leader // guarded by mu; nil: this node does not lead
}

// leader returns the running leader of the partition, or nil.
func (r *replica) leader() *leader {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lead
}

// raftConfig is the common part of all partitions' configurations.
func (n *Node) raftConfig(id raft.ServerID, notify chan bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = id
	c.HeartbeatTimeout = n.o.HeartbeatTimeout
	c.ElectionTimeout = n.o.ElectionTimeout
	c.LeaderLeaseTimeout = n.o.LeaderLease
	// Followers may learn of commits late, since only leaders deliver; an idle
	// group should cost next to nothing.
	c.CommitTimeout = n.o.CommitTimeout
	c.MaxAppendEntries = 64
	c.BatchApplyCh = true
	// Snapshots are taken by log bytes, see snapshots.go.
	c.SnapshotThreshold = 1 << 62
	c.SnapshotInterval = 24 * time.Hour
	c.TrailingLogs = 1 << 20
	c.NoLegacyTelemetry = true
	c.NotifyCh = notify
	c.Logger = n.raftLogger
	c.ShutdownOnRemove = false
	return c
}

// openReplica starts this node's replica of a partition. voters is the founding
// configuration; it is used if the group has no state yet and bootstrap is set.
func (n *Node) openReplica(partition uint32, id raft.ServerID, group *store.Group, voters []raft.Server, bootstrap bool) (*replica, error) {
	r := &replica{
		n: n, partition: partition, id: id, group: group,
		sm:     newStateMachine(partition, n.partitions, n.fatal),
		notify: make(chan bool, 16), hurry: make(chan struct{}, 1),
	}
	snaps := n.store.Snapshots(partition)
	tr := n.transport.Raft(partition, id)
	tr.SetHeartbeatTimeout(n.o.HeartbeatTimeout)
	r.transport = tr
	conf := n.raftConfig(id, r.notify)
	existing, err := raft.HasExistingState(group, group, snaps)
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", partition, err)
	}
	if !existing && bootstrap {
		err := raft.BootstrapCluster(conf, group, group, snaps, tr, raft.Configuration{Servers: voters})
		if err != nil {
			return nil, fmt.Errorf("partition %d: bootstrap: %w", partition, err)
		}
	}
	r.admitted = existing || bootstrap
	tr.SetAdmitted(r.admitted)
	r.raft, err = raft.NewRaft(conf, r.sm, group, group, snaps, tr)
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", partition, err)
	}
	r.sm.installed.Store(&n.metrics.Installed)
	return r, nil
}

// run follows Raft's leadership until ctx ends.
func (r *replica) run(ctx context.Context) {
	defer r.stopLeading()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	calm := time.NewTimer(time.Hour)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-r.notify:
			r.stopLeading()
			if leads {
				r.startLeading(ctx)
			}
		case <-r.hurry:
			// Only pre-votes follow from it: a link that breaks deposes nobody.
			r.setTimeouts(r.n.o.LeaderLease, r.n.o.LeaderLease)
			calm.Reset(hurryFor)
		case <-calm.C:
			r.setTimeouts(r.n.o.HeartbeatTimeout, r.n.o.ElectionTimeout)
		case <-r.leaderFailed():
			// Raft refused an entry though it may still lead: what is on its way is
			// in doubt, so this leader ends and, if Raft still leads, a new one
			// starts from the state.
			r.stopLeading()
			retry.Reset(20 * time.Millisecond)
		case <-retry.C:
			if r.leader() == nil && r.raft.State() == raft.Leader {
				r.startLeading(ctx)
			}
		}
	}
}

// hurryFor is how long the shorter timeouts last: a few elections.
const hurryFor = time.Second

func (r *replica) setTimeouts(heartbeat, election time.Duration) {
	r.reload(func(c *raft.ReloadableConfig) { c.HeartbeatTimeout, c.ElectionTimeout = heartbeat, election })
}

// reload changes Raft's settings, one change after the other.
func (r *replica) reload(change func(*raft.ReloadableConfig)) {
	r.confMu.Lock()
	defer r.confMu.Unlock()
	c := r.raft.ReloadableConfig()
	change(&c)
	if err := r.raft.ReloadConfig(c); err != nil {
		r.n.log.Error("raft refuses new settings", "partition", r.partition, "error", err)
	}
}

// suspect shortens the wait for an election if it is the leader's node whose
// connection broke.
func (r *replica) suspect(node string) {
	if node == r.n.name || r.n.believedLeader(r.partition) != node {
		return
	}
	select {
	case r.hurry <- struct{}{}:
	default:
	}
}

func (r *replica) leaderFailed() <-chan struct{} {
	if ld := r.leader(); ld != nil {
		return ld.failed
	}
	return nil
}

func (r *replica) startLeading(ctx context.Context) {
	ld := newLeader(r, r.raft.CurrentTerm())
	r.n.metrics.LeaderStarts.Add(1)
	r.mu.Lock()
	r.lead = ld
	r.mu.Unlock()
	ld.start(ctx)
}

func (r *replica) stopLeading() {
	r.mu.Lock()
	ld := r.lead
	r.lead = nil
	r.mu.Unlock()
	if ld != nil {
		ld.stop()
	}
}

// close stops the replica and waits for it.
func (r *replica) close() error {
	_ = r.transport.Close() // never fails; Raft waits for calls that wait for peers
	return r.raft.Shutdown().Error()
}
