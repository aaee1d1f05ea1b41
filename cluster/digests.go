package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// Replicas compare what their states come to (design §6). A leader proposes a
// Checkpoint at intervals; each replica freezes its state at that entry, digests it
// on a goroutine of its own and tells the others. Each judges itself: one that
// differs from a majority stops, and is filled anew when it starts again.

// DivergedError says that a replica's state is not what the majority's is at the
// same log index. Nothing that it holds can be trusted.
type DivergedError struct {
	Partition uint32
	Index     uint64
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("partition %d: this replica's state at log index %d differs from the majority's; it is set aside "+
		"and will be filled anew by the others when the node is started again. Please report this, with the logs of all nodes",
		e.Partition, e.Index)
}

// keepDigests is how many checkpoints of a partition are remembered: replicas come
// to one at different times.
const keepDigests = 8

// digest is a SHA-256 of a state.
type digest [32]byte

// digests are what is known of one partition's checkpoints.
type digests struct {
	mu sync.Mutex
	at map[uint64]*checkpoint // by log index; guarded by mu
}

type checkpoint struct {
	by   map[string]digest // by server id
	told bool              // an alarm was raised
}

// note takes a replica's digest.
func (d *digests) note(index uint64, server string, v digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at == nil {
		d.at = make(map[uint64]*checkpoint)
	}
	c := d.at[index]
	if c == nil {
		c = &checkpoint{by: make(map[string]digest)}
		d.at[index] = c
	}
	c.by[server] = v
	for len(d.at) > keepDigests {
		oldest := index
		for i := range d.at {
			oldest = min(oldest, i)
		}
		delete(d.at, oldest)
	}
}

// verdict is what the digests at one index say.
type verdict struct {
	self   bool     // we differ from the majority
	others []string // of those who differ from the majority, which we belong to
	split  bool     // everybody has spoken, and there is no majority
}

// judge compares the digests of the given replicas at an index. What is no news
// is left out.
func (d *digests) judge(index uint64, self string, replicas []string) (v verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.at[index]
	if c == nil || c.told {
		return v
	}
	own, ok := c.by[self]
	if !ok {
		return v
	}
	counts := make(map[digest]int)
	heard := 0
	for _, r := range replicas {
		if dg, ok := c.by[r]; ok {
			counts[dg]++
			heard++
		}
	}
	majority := len(replicas)/2 + 1
	for dg, n := range counts {
		if n < majority {
			continue
		}
		v.self = dg != own
		for _, r := range replicas {
			if other, ok := c.by[r]; ok && other != dg && !v.self {
				v.others = append(v.others, r)
			}
		}
		c.told = v.self || len(v.others) > 0
		return v
	}
	v.split = heard == len(replicas) && len(counts) > 1
	c.told = v.split
	return v
}

// digestLoop digests the states that were frozen at checkpoints.
func (r *replica) digestLoop(ctx context.Context) {
	for {
		var s *fsm.Snapshot
		select {
		case <-ctx.Done():
			return
		case s = <-r.sm.frozen:
		}
		index, sum := s.Applied(), digest(s.Digest())
		s.Release()
		r.n.metrics.Checkpoints.Add(1)
		f := &peerpb.Frame{Body: &peerpb.Frame_StateDigest{StateDigest: &peerpb.StateDigest{
			Partition: r.partition, Index: index, ServerId: string(r.id), Digest: sum[:],
		}}}
		for _, node := range r.n.placedOn(r.partition) {
			if node != r.n.name {
				r.n.send(node, f)
			}
		}
		r.digests.note(index, string(r.id), sum)
		r.judge(index)
	}
}

// onDigest takes another replica's digest.
func (n *Node) onDigest(d *peerpb.StateDigest) {
	r := n.replicas.at(d.Partition)
	if r == nil || len(d.Digest) != len(digest{}) {
		return
	}
	r.digests.note(d.Index, d.ServerId, digest(d.Digest))
	r.judge(d.Index)
}

// judge acts on what the digests at an index say.
func (r *replica) judge(index uint64) {
	n := r.n
	pl := n.control.State().Placement(r.partition)
	if pl == nil {
		return
	}
	v := r.digests.judge(index, string(r.id), serverIDs(pl))
	switch {
	case v.self:
		n.metrics.Diverged.Add(1)
		if err := n.store.Distrust(r.partition, "its state differs from the majority's"); err != nil {
			n.log.Error("replica cannot be set aside", "partition", r.partition, "error", err)
		}
		n.fatal(&DivergedError{Partition: r.partition, Index: index})
	case len(v.others) > 0:
		n.metrics.Diverged.Add(uint64(len(v.others)))
		n.log.Error("the state of other replicas differs from the majority's; they stop", "partition", r.partition,
			"index", index, "servers", v.others)
	case v.split:
		n.metrics.Diverged.Add(1)
		n.log.Error("the replicas' states differ and there is no majority: nobody can tell which one is right",
			"partition", r.partition, "index", index)
	}
}

func serverIDs(pl *control.Placement) []string {
	ids := make([]string, len(pl.Replicas))
	for i, r := range pl.Replicas {
		ids[i] = r.ServerID
	}
	return ids
}

// placedOn lists the nodes with a replica of the partition.
func (n *Node) placedOn(partition uint32) []string {
	pl := n.control.State().Placement(partition)
	if pl == nil {
		return nil
	}
	nodes := make([]string, len(pl.Replicas))
	for i, r := range pl.Replicas {
		nodes[i] = r.Node
	}
	return nodes
}

// checkpoint proposes a Checkpoint if one is due and something was applied since
// the last.
func (ld *leader) checkpoint() {
	now := time.Now()
	if now.Sub(ld.checkpointed) < ld.n.o.CheckpointInterval {
		return
	}
	var news bool
	ld.r.sm.read(func(m *fsm.Machine) { news = m.Applied() > ld.r.sm.checkpointed })
	if !news {
		return
	}
	ld.checkpointed = now
	ld.own(&logpb.Op{Body: &logpb.Op_Checkpoint{Checkpoint: &logpb.Checkpoint{Id: ld.n.nonce()}}})
}
