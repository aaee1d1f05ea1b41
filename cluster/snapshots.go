package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/fsm"
)

const snapshotCheck = time.Second

// snapshots takes a snapshot of a partition when its log has grown too large,
// one at a time per node. Sizes are bytes, since entries differ by orders of
// magnitude.
func (n *Node) snapshots(ctx context.Context) {
	tick := time.NewTicker(snapshotCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, r := range n.replicas.all() {
			if ctx.Err() == nil && r.snapshotDue() {
				n.snapshot(r)
			}
		}
	}
}

// snapshotDue says whether the log has outgrown what a start should have to apply again. A
// large state is written less often: at most half as much goes into snapshots as into logs.
func (r *replica) snapshotDue() bool {
	since := r.group.LogBytes() - r.n.o.SnapshotBytes // what a snapshot leaves of the log
	if since <= r.n.o.SnapshotBytes {
		return false
	}
	var state int64
	r.sm.read(func(m *fsm.Machine) { state = m.Bytes() })
	return since > 2*state
}

func (n *Node) snapshot(r *replica) {
	first, _ := r.group.FirstIndex()
	last, _ := r.group.LastIndex()
	if last <= first {
		return
	}
	// Keep as much as is applied between two snapshots for followers that were away.
	size := r.group.LogBytes() / int64(last-first+1)
	r.reload(func(c *raft.ReloadableConfig) { c.TrailingLogs = uint64(n.o.SnapshotBytes / max(size, 1)) })
	switch err := r.raft.Snapshot().Error(); {
	case err == nil:
		n.metrics.Snapshots.Add(1)
	case errors.Is(err, raft.ErrNothingNewToSnapshot), errors.Is(err, raft.ErrRaftShutdown):
	default:
		n.log.Warn("snapshot failed; it is tried again", "partition", r.partition, "error", err)
	}
}
