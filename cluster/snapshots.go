package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
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
			if ctx.Err() == nil && r.group.LogBytes() > n.o.SnapshotBytes {
				n.snapshot(r)
			}
		}
	}
}

func (n *Node) snapshot(r *replica) {
	first, _ := r.group.FirstIndex()
	last, _ := r.group.LastIndex()
	if last <= first {
		return
	}
	// Keep a quarter of the allowed bytes for followers that are a little behind.
	size := r.group.LogBytes() / int64(last-first+1)
	r.reload(func(c *raft.ReloadableConfig) { c.TrailingLogs = uint64(n.o.SnapshotBytes / 4 / max(size, 1)) })
	switch err := r.raft.Snapshot().Error(); {
	case err == nil:
		n.metrics.Snapshots.Add(1)
	case errors.Is(err, raft.ErrNothingNewToSnapshot), errors.Is(err, raft.ErrRaftShutdown):
	default:
		n.log.Warn("snapshot failed; it is tried again", "partition", r.partition, "error", err)
	}
}
