package cluster

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// replicaSet holds this node's replicas by partition. The life goroutine opens and
// retires them; everybody reads.
type replicaSet []atomic.Pointer[replica]

// at returns the replica of a partition, nil if there is none here.
func (s replicaSet) at(partition uint32) *replica {
	if int(partition) >= len(s) {
		return nil
	}
	return s[partition].Load()
}

// all yields the replicas that are here.
func (s replicaSet) all() iter.Seq2[uint32, *replica] {
	return func(yield func(uint32, *replica) bool) {
		for p := range s {
			if r := s[p].Load(); r != nil && !yield(uint32(p), r) {
				return
			}
		}
	}
}

// placeReplicas opens the replicas that were placed here and retires those that are
// placed here no more. It is level-triggered, and called by the life goroutine only.
func (n *Node) placeReplicas(ctx context.Context) error {
	s := n.control.State()
	for p := range n.partitions {
		r, pl := n.replicas.at(p), s.Placement(p)
		placed, here := pl.Replica(n.name)
		switch {
		case here && r == nil:
			r, err := n.openPlaced(pl, placed)
			if err != nil {
				return err
			}
			n.replicas[p].Store(r)
			r.start(ctx)
		case !here && r != nil && n.positions.expelled(p, r.id):
			n.replicas[p].Store(nil)
			r.stop()
			if err := r.close(); err != nil {
				return fmt.Errorf("partition %d: closing the replica: %w", p, err)
			}
			// What it held is elsewhere. A replica that comes back has another server id.
			if err := n.store.SetAside(p); err != nil {
				return err
			}
			n.log.Info("replica has moved away", "partition", p)
		}
	}
	return nil
}

// start runs the replica's goroutines until stop, or until ctx ends.
func (r *replica) start(ctx context.Context) {
	ctx, r.cancel = context.WithCancel(ctx)
	for _, f := range []func(context.Context){r.run, r.follow, r.digestLoop} {
		r.wg.Go(func() { f(ctx) })
	}
}

// stop ends the replica's goroutines and waits for them.
func (r *replica) stop() {
	if r.cancel != nil {
		r.cancel()
		r.wg.Wait()
	}
}

// servers are the ids in the group's configuration if this replica leads, else none.
func (r *replica) servers() []string {
	if r.raft.State() != raft.Leader {
		return nil
	}
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var ids []string
	for _, s := range f.Configuration().Servers {
		ids = append(ids, string(s.ID))
	}
	return ids
}

// expelled reports whether the partition's leader has told of a configuration without
// that server. Until then the replica goes on: its vote may be needed.
func (p *positions) expelled(partition uint32, id raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, pos := range p.at {
		lately := time.Since(p.by[at.node].heard) < 3*beaconInterval
		if at.partition == partition && lately && len(pos.Servers) > 0 && pos.ServerId != string(id) && !slices.Contains(pos.Servers, string(id)) {
			return true
		}
	}
	return false
}
