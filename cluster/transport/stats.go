package transport

import "sync/atomic"

// counters are updated from any goroutine.
type counters struct {
	refusedPeers                                 [len(refusedNames)]atomic.Uint64
	framesOut, framesIn, batchesOut, batchesIn   atomic.Uint64
	queueFull, linkUps, linkDowns                atomic.Uint64
	raftOut, raftBatchesOut, raftIn, raftTimeout atomic.Uint64
	raftRefused, raftExpired                     atomic.Uint64
	snapshotsOut, snapshotBytesOut               atomic.Uint64
}

// Stats counts since New.
type Stats struct {
	FramesSent, FramesReceived   uint64
	BatchesSent, BatchesReceived uint64            // messages on flow streams, pings included
	QueueFull                    uint64            // frames refused by Send for want of room
	RefusedPeers                 map[string]uint64 // streams refused, by reason: "cluster", "format", "node", "hello"
	LinkUps, LinkDowns           uint64            // of our flow streams
	RaftRequests                 uint64            // sent, all groups
	RaftBatches                  uint64            // messages they travelled in
	RaftReceived                 uint64            // requests received
	RaftTimeouts                 uint64            // our requests that got no answer in time
	RaftRefused                  uint64            // requests that we refused
	RaftExpired                  uint64            // requests that we dropped, their sender having given up
	Snapshots, SnapshotBytes     uint64            // sent
}

// Stats returns a snapshot of the counters.
func (t *Transport) Stats() Stats {
	c := &t.stats
	return Stats{
		FramesSent: c.framesOut.Load(), FramesReceived: c.framesIn.Load(),
		BatchesSent: c.batchesOut.Load(), BatchesReceived: c.batchesIn.Load(),
		QueueFull: c.queueFull.Load(), RefusedPeers: c.refusals(),
		LinkUps: c.linkUps.Load(), LinkDowns: c.linkDowns.Load(),
		RaftRequests: c.raftOut.Load(), RaftBatches: c.raftBatchesOut.Load(),
		RaftReceived: c.raftIn.Load(), RaftTimeouts: c.raftTimeout.Load(),
		RaftRefused: c.raftRefused.Load(), RaftExpired: c.raftExpired.Load(),
		Snapshots: c.snapshotsOut.Load(), SnapshotBytes: c.snapshotBytesOut.Load(),
	}
}

// refused is why a peer's stream was refused.
type refused byte

const (
	refusedCluster refused = iota // it is of another cluster
	refusedFormat                 // it speaks another version of the frames
	refusedNode                   // another node answers at the address of the one that was meant
	refusedHello                  // it does not say who it is
)

var refusedNames = [...]string{"cluster", "format", "node", "hello"}

func (c *counters) refusals() map[string]uint64 {
	m := make(map[string]uint64, len(refusedNames))
	for i, name := range refusedNames {
		m[name] = c.refusedPeers[i].Load()
	}
	return m
}
