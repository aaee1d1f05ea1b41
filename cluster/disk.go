package cluster

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
)

// checkDisk watches the reserve of disk space. What follows from a low disk is
// level-triggered: leaders refuse PUBLISH (mustRefuse), each replica gives its
// leadership away (follow), and the others learn of it by our beacons.
func (n *Node) checkDisk() {
	free, _, err := n.store.Free()
	if err != nil {
		return // a file system that cannot tell is not full
	}
	n.metrics.DiskFree.Store(int64(free))
	low := free < n.o.DiskReserve
	if low == n.diskLow.Swap(low) {
		return
	}
	n.clocks.due() // a beacon: the others must know
	if !low {
		n.log.Info("the disk has room again", "free", free)
		return
	}
	n.log.Error("the disk is nearly full: this node refuses PUBLISH and hands over its leaderships; free some space",
		"free", free, "reserve", n.o.DiskReserve)
}

// stallTimeout is how long one durable write may take before the node gives its
// leaderships away.
const stallTimeout = time.Second

// watchStalls silences this node's leaders while its disk does not answer: by
// heartbeats alone they would lead for ever and commit nothing. All groups share
// the disk, so that one write that waits speaks for all.
func (n *Node) watchStalls() {
	longest := n.controlLog.Pending()
	for _, r := range n.replicas.all() {
		longest = max(longest, r.group.Pending())
	}
	stalled := longest > stallTimeout
	n.controlRaft.SetSilent(stalled)
	for _, r := range n.replicas.all() {
		r.transport.SetSilent(stalled)
	}
	if stalled == n.stalled.Swap(stalled) {
		return
	}
	n.clocks.due() // a beacon: the others must know
	if stalled {
		n.metrics.Stalls.Add(1)
		n.log.Error("the disk does not answer: this node gives its leaderships away until it does", "waiting", longest)
	} else {
		n.log.Info("the disk answers again")
	}
}

// mustRefuse reports whether a partition that holds this many bytes has no room
// for more messages.
func (n *Node) mustRefuse(bytes int64) bool {
	return n.diskLow.Load() || bytes > n.partitionBudget()
}

// partitionBudget is one partition's share of the node's budget.
func (n *Node) partitionBudget() int64 { return n.o.Budget / int64(n.partitions) }

// lowDisk reports whether a node, this one included, is below its reserve of disk
// space, as far as is known.
func (n *Node) lowDisk(node string) bool {
	if node == n.name {
		return n.diskLow.Load()
	}
	return n.positions.lowDisk(node)
}

// leaveLowDisk hands the leadership to a replica whose disk has room. If there is
// none this one goes on leading, since acknowledgements and deliveries do not
// stop for a low disk.
func (r *replica) leaveLowDisk(pl *control.Placement) {
	for _, placed := range pl.Replicas {
		if !r.fits(placed.Node) {
			continue
		}
		err := r.raft.LeadershipTransferToServer(raft.ServerID(placed.ServerID), raft.ServerAddress(placed.ServerID)).Error()
		r.n.log.Debug("leadership handed over since the disk is nearly full", "partition", r.partition, "to", placed.Node, "error", err)
		if err == nil {
			return
		}
	}
}
