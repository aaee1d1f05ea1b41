package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
	"github.com/flotilla-mqtt/flotilla/cluster/store"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const (
	placementInterval = time.Second
	// foundingPlacement is the version of the placement that a cluster is born with.
	foundingPlacement = 1
	// calmBeforeTransfer is for how many intervals the preferred leader must be fit
	// before it gets the leadership back.
	calmBeforeTransfer = 5
	// caughtUp is how many entries a learner may be behind to be promoted, beside
	// those that are newer than its last beacon.
	caughtUp = 256
	// proposeTimeout bounds one proposal to the control group; it is made again.
	proposeTimeout = 5 * time.Second
)

// openReplicas starts this node's replicas, as the control group has placed them.
func (n *Node) openReplicas(ctx context.Context) error {
	s := n.control.State()
	if err := n.store.SetIdentity(s.ClusterID, n.name); err != nil {
		return err
	}
	n.partitions = s.Partitions
	n.leaders = newLeaders(s.Partitions)
	n.replicas = make(replicaSet, s.Partitions)
	if err := n.placeReplicas(ctx); err != nil {
		return err
	}
	n.opened.Store(true)
	return nil
}

// openPlaced opens one replica. One whose data cannot be trusted is set aside
// and begins anew under a new server id, as a learner.
func (n *Node) openPlaced(pl *control.Placement, placed control.Replica) (*replica, error) {
	group, err := n.store.Group(pl.Partition)
	var aside *store.QuarantineError
	if errors.As(err, &aside) {
		n.metrics.SetAside.Add(1)
		n.log.Error("a replica cannot be trusted, is set aside and will be filled anew by the others",
			"partition", pl.Partition, "error", err)
		if err := n.store.SetAside(pl.Partition); err != nil {
			return nil, err
		}
		group, err = n.store.Group(pl.Partition)
	}
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", pl.Partition, err)
	}
	id := n.serverID(pl.Partition)
	// Only the founding replicas of a partition begin with a configuration of
	// their own, which is the same for all of them. Everybody else is told.
	founding := pl.Version == foundingPlacement && placed.ServerID == string(id)
	var voters []raft.Server
	for _, r := range pl.Replicas {
		voters = append(voters, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(r.ServerID), Address: raft.ServerAddress(r.ServerID)})
	}
	return n.openReplica(pl.Partition, id, group, voters, founding)
}

// follow keeps a replica in its place: it makes a new server id known, admits
// the replica to elections when the others have taken it in, and, while it leads,
// brings the group's configuration in line with the placement.
func (r *replica) follow(ctx context.Context) {
	tick := time.NewTicker(placementInterval)
	defer tick.Stop()
	stuck := false
	calm := 0 // intervals for which the preferred leader could have taken over
	news, stop := r.n.control.Watch()
	defer stop()
	for seen := uint64(0); ; {
		pl := r.nextPlacement(ctx, tick.C, news, seen)
		if pl == nil {
			return
		}
		seen = pl.Version
		r.admit()
		if lost := r.lostVoters(pl); len(lost) > 0 && !stuck {
			r.n.log.Error("partition "+lostQuorum(lost), "partition", r.partition)
			stuck = true
		} else if len(lost) == 0 {
			stuck = false
		}
		if placed, ok := pl.Replica(r.n.name); ok && placed.ServerID != string(r.id) {
			ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
			if err := r.n.control.UpdateReplica(ctx, r.partition, r.n.name, placed.ServerID, string(r.id)); err != nil {
				r.n.log.Debug("new server id not recorded yet", "partition", r.partition, "error", err)
			}
			cancel()
			continue
		}
		if r.raft.State() != raft.Leader {
			calm = 0
			continue
		}
		if r.n.diskLow.Load() {
			r.leaveLowDisk(pl)
			continue
		}
		if !pl.Has(r.n.name) {
			r.leave(pl)
			continue
		}
		changed, err := r.reconfigure(pl)
		if err == nil && !changed && pl.Leaving != "" {
			changed = true
			r.completeMove(ctx, pl)
		}
		if err != nil {
			r.n.log.Debug("replicas not changed yet", "partition", r.partition, "error", err)
		}
		if changed || err != nil || !r.fits(pl.Preferred) {
			calm = 0
			continue
		}
		if calm++; calm >= calmBeforeTransfer {
			calm = 0
			r.preferred(pl)
		}
	}
}

// nextPlacement returns the partition's placement at the next tick, or at once when it
// has another version than seen; nil: ctx has ended.
func (r *replica) nextPlacement(ctx context.Context, tick <-chan time.Time, news <-chan struct{}, seen uint64) *control.Placement {
	for {
		ticked := false
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		case <-tick:
			ticked = true
			r.lately[0], r.lately[1] = r.raft.LastIndex(), r.lately[0]
		}
		if pl := r.n.control.State().Placement(r.partition); pl != nil && (ticked || pl.Version != seen) {
			return pl
		}
	}
}

// admit lets the replica vote once the configuration that the others sent has it
// as a voter.
func (r *replica) admit() {
	if r.admitted {
		return
	}
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return
	}
	for _, s := range f.Configuration().Servers {
		if s.ID == r.id && s.Suffrage == raft.Voter {
			r.admitted = true
			r.transport.SetAdmitted(true)
		}
	}
}

// reconfigure makes one step from the group's configuration to the placement: a
// replica that is no longer placed goes first, so that a voter that is set aside
// does not count while its successor is filled.
func (r *replica) reconfigure(pl *control.Placement) (changed bool, err error) {
	f := r.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return false, err
	}
	index := f.Index()
	placed := make(map[raft.ServerID]bool)
	for _, p := range pl.Replicas {
		if p.ServerID != "" { // else its node has not opened it yet
			placed[raft.ServerID(p.ServerID)] = true
		}
	}
	have := make(map[raft.ServerID]raft.ServerSuffrage)
	for _, s := range f.Configuration().Servers {
		have[s.ID] = s.Suffrage
	}
	for id := range have {
		if !placed[id] {
			r.n.log.Info("replica removed", "partition", r.partition, "server", id)
			return true, r.raft.RemoveServer(id, index, 0).Error()
		}
	}
	for id := range placed {
		suffrage, ok := have[id]
		switch {
		case !ok:
			r.n.log.Info("replica added as learner", "partition", r.partition, "server", id)
			return true, r.raft.AddNonvoter(id, raft.ServerAddress(id), index, 0).Error()
		case suffrage != raft.Voter && r.hasCaughtUp(id):
			r.n.log.Info("replica promoted", "partition", r.partition, "server", id)
			return true, r.raft.AddVoter(id, raft.ServerAddress(id), index, 0).Error()
		}
	}
	return false, nil
}

// completeMove takes the replica that leaves out of the placement once all others vote.
// If it is ours it gives the leadership away first.
func (r *replica) completeMove(ctx context.Context, pl *control.Placement) {
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return
	}
	votes := make(map[string]bool)
	for _, s := range f.Configuration().Servers {
		votes[string(s.ID)] = s.Suffrage == raft.Voter
	}
	next := *pl
	next.Leaving = ""
	next.Replicas = slices.DeleteFunc(slices.Clone(pl.Replicas), func(p control.Replica) bool { return p.Node == pl.Leaving })
	for _, p := range next.Replicas {
		if !votes[p.ServerID] {
			return
		}
	}
	if pl.Leaving == r.n.name {
		r.leave(pl)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if err := r.n.control.UpdatePlacement(ctx, next); err != nil {
		r.n.log.Debug("move not completed yet", "partition", r.partition, "error", err)
	}
}

// leave gives the leadership to a replica that stays: first to the preferred one.
func (r *replica) leave(pl *control.Placement) {
	for _, node := range append([]string{pl.Preferred}, r.n.placedOn(r.partition)...) {
		if placed, ok := pl.Replica(node); ok && node != pl.Leaving && placed.ServerID != "" && r.fits(node) {
			r.transfer(placed)
			return
		}
	}
}

// fits reports whether the node is another one that could lead: it lives, was
// heard lately, has caught up, and its disk answers and has room.
func (r *replica) fits(node string) bool {
	if node == r.n.name || r.n.liveGateways()[node] == 0 || !r.n.positions.healthy(node) {
		return false
	}
	pos, ok := r.n.positions.of(r.partition, node)
	return ok && r.isClose(pos.Last)
}

// preferred hands the leadership to the node that the placement prefers, so that
// leaders are spread evenly again after a failure. Clients notice a pause only.
func (r *replica) preferred(pl *control.Placement) {
	if placed, ok := pl.Replica(pl.Preferred); ok {
		r.transfer(placed)
	}
}

func (r *replica) transfer(to control.Replica) {
	err := r.raft.LeadershipTransferToServer(raft.ServerID(to.ServerID), raft.ServerAddress(to.ServerID)).Error()
	r.n.log.Debug("leadership handed over", "partition", r.partition, "to", to.Node, "error", err)
}

func (r *replica) hasCaughtUp(id raft.ServerID) bool {
	pos, ok := r.n.positions.of(r.partition, serverNode(id))
	return ok && pos.ServerId == string(id) && pos.Last > 0 && r.isClose(pos.Last)
}

// isClose reports whether a replica that had come so far at its last beacon keeps
// up with us. What came since that beacon must not count against it, or under load
// nobody would ever be close.
func (r *replica) isClose(last uint64) bool {
	return r.lately[1] > 0 && last+caughtUp >= r.lately[1]
}

// positions is how far the replicas have come, and whose disk is low, by the
// members' beacons.
type positions struct {
	mu sync.Mutex
	at map[positionKey]*peerpb.ReplicaPosition // guarded by mu
	by map[string]health                       // guarded by mu; by node
}

// health is what a node's last beacon says of it.
type health struct {
	heard        time.Time
	low, stalled bool // its disk
}

type positionKey struct {
	partition uint32
	node      string
}

func (p *positions) init() {
	p.at = make(map[positionKey]*peerpb.ReplicaPosition)
	p.by = make(map[string]health)
}

func (p *positions) heard(node string, b *peerpb.Beacon) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by[node] = health{time.Now(), b.DiskLow, b.Stalled}
	for _, r := range b.Replicas {
		p.at[positionKey{r.Partition, node}] = r
	}
}

func (p *positions) lowDisk(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.by[node].low
}

// healthy reports whether a node was heard lately, and its disk is well.
func (p *positions) healthy(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.by[node]
	return !h.low && !h.stalled && time.Since(h.heard) < 3*beaconInterval
}

func (p *positions) of(partition uint32, node string) (*peerpb.ReplicaPosition, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.at[positionKey{partition, node}]
	return r, ok
}
