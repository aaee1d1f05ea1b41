package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const (
	maintainInterval = 200 * time.Millisecond
	beaconInterval   = time.Second
	diskInterval     = 2 * time.Second
	attachRetry      = 500 * time.Millisecond
)

// announceLoop tells the members of changes of our interest. What comes while it
// is busy goes out together.
func (n *Node) announceLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.announce:
			if g := n.ingress(); g != nil {
				g.interest.flush()
			}
		}
	}
}

func (n *Node) announceSoon() {
	select {
	case n.announce <- struct{}{}:
	default:
	}
}

// maintain does what has to be done by the clock: it asks again where an answer
// may have been lost.
func (n *Node) maintain(ctx context.Context) {
	tick := time.NewTicker(maintainInterval)
	defer tick.Stop()
	var beacon, disk, attach time.Time
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		case <-n.clocks.wake:
			beacon = time.Time{}
			now = time.Now()
		}
		if now.Sub(beacon) >= beaconInterval {
			beacon = now
			n.sendBeacon()
		}
		if now.Sub(disk) >= diskInterval {
			disk = now
			n.checkDisk()
		}
		n.findLeaders()
		n.watchStalls()
		g := n.ingress()
		if g == nil {
			continue
		}
		g.leaseRenewed()
		g.interest.flush()
		g.kicks.retry("")
		g.kicks.endSilent(now)
		g.reads.retry(0, false)
		g.marks.retry()
		if now.Sub(attach) >= attachRetry {
			attach = now
			for p := range n.partitions {
				if node := n.leaders.node(p); node != "" && !g.parts[p].isAttached(node) {
					n.attach(g, p)
				}
			}
		}
		if !n.serving.Load() && len(n.ready()) == 0 {
			n.serving.Store(true)
			n.nudgeLeaders()
			n.log.Info("ready to serve clients", "gateway", endName(g.id))
		}
	}
}

// nudgeLeaders makes the leaders here look again at what waited for this node to
// be allowed to route.
func (n *Node) nudgeLeaders() {
	for _, r := range n.replicas.all() {
		if ld := r.leader(); ld != nil {
			ld.box.put(event{call: ld.routeOutbox})
		}
	}
}

// findLeaders asks our own replicas who leads, where we do not know.
func (n *Node) findLeaders() {
	for p := range n.replicas.all() {
		if n.leaders.node(p) != "" {
			continue
		}
		if node := n.believedLeader(p); node != "" {
			n.leaders.hint(p, node)
			n.pump.rerouted(uint64(p))
		}
	}
}

// believedLeader is the node that our replica takes for the leader, or "".
func (n *Node) believedLeader(partition uint32) string {
	r := n.replicas.at(partition)
	if r == nil {
		return ""
	}
	_, id := r.raft.LeaderWithID()
	return serverNode(id)
}

// serverNode is the node's name in a server id.
func serverNode(id raft.ServerID) string {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i] == '#' {
			return string(id[:i])
		}
	}
	return string(id)
}

func (n *Node) sendBeacon() {
	b := &peerpb.Beacon{Wall: n.o.Wall().UnixMilli(), DiskLow: n.diskLow.Load(), Stalled: n.stalled.Load()}
	for p, r := range n.replicas.all() {
		b.Replicas = append(b.Replicas, &peerpb.ReplicaPosition{
			Partition: p, ServerId: string(r.id), Last: r.raft.LastIndex(), Applied: r.raft.AppliedIndex(), Servers: r.servers(),
		})
	}
	f := &peerpb.Frame{Body: &peerpb.Frame_Beacon{Beacon: b}}
	for _, node := range n.memberNodes() {
		if node != n.name {
			n.send(node, f)
		}
	}
	n.positions.heard(n.name, b)
}
