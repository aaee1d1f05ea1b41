package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
	"github.com/flotilla-mqtt/flotilla/cluster/store"
	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// Node is one node of the cluster, without the part that terminates MQTT. It
// satisfies mqtt.Cluster.
type Node struct {
	o           Options
	name        string
	log         *slog.Logger
	raftLogger  hclog.Logger
	store       *store.Store
	transport   *transport.Transport
	discovery   Discovery
	control     *control.Control
	controlLog  *store.Group
	controlRaft *transport.RaftTransport
	gateway     Gateway
	pump        *pump
	routes      *routes
	clocks      *clocks
	local       *mailbox[*peerpb.Frame] // frames to ourselves
	announce    chan struct{}           // our interest has changed
	closed      chan struct{}           // our incarnation was ended
	nonces      atomic.Uint64
	metrics     Metrics
	started     time.Time

	// Set before opened is, and never changed after.
	partitions uint32
	leaders    *leaders
	replicas   replicaSet
	opened     atomic.Bool

	in        atomic.Pointer[ingress] // nil: no live incarnation
	out       atomic.Pointer[egress]
	leaseLost atomic.Int64 // when the lease ran out last, Unix nanoseconds
	serving   atomic.Bool  // our incarnation has everything it needs to serve
	// clearing: the connections of our last incarnation are not all gone.
	clearing atomic.Bool
	diskLow  atomic.Bool
	stalled  atomic.Bool // our disk does not answer
	empty    atomic.Bool // we are drained and hold nothing any more

	positions positions
	held      heldFrames

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Open reads the node's data and takes up its addresses. Whether it may serve is
// what Available tells.
func Open(o Options) (_ *Node, err error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{
		o: o, name: o.Name, log: o.Logger, gateway: o.Gateway, started: time.Now(),
		raftLogger: control.RaftLogger(slog.New(details{o.Logger.Handler()})),
		routes:     newRoutes(), clocks: newClocks(o.Wall),
		local: newMailbox[*peerpb.Frame](), announce: make(chan struct{}, 1), closed: make(chan struct{}, 1),
	}
	n.positions.init()
	n.pump = newPump(n.send, func() uint64 { return n.control.State().Applied }, func(k int) { n.metrics.RouteDropped.Add(uint64(k)) })
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			n.cancel()
			err = errors.Join(err, n.release())
		}
	}()
	n.store, err = store.Open(store.Options{
		Dir: o.Dir, FS: o.FS, Logger: o.Logger, Fatal: n.fatal, Repair: true, OnSync: o.OnSync, Incarnation: o.Incarnate,
		MemTableBytes: o.MemTableBytes,
		OnCorrupt:     func(e *store.CorruptError) { n.fatal(e) }, // at the next start the replica is set aside
	})
	if err != nil {
		return nil, err
	}
	if err := n.checkIdentity(); err != nil {
		return nil, err
	}
	if n.discovery, err = o.Discover(n.store); err != nil {
		return nil, err
	}
	if err := n.openTransport(); err != nil {
		return nil, err
	}
	if err := n.openControl(); err != nil {
		return nil, err
	}
	peerpb.RegisterAdminServer(n.transport.Registrar(), adminService{n: n})
	if err := n.transport.Start(); err != nil {
		return nil, err
	}
	if err := n.control.Start(); err != nil {
		return nil, err
	}
	n.goes(n.localLoop)
	n.goes(n.pump.run)
	n.goes(n.life)
	return n, nil
}

func (n *Node) goes(f func(context.Context)) {
	n.wg.Go(func() { f(n.ctx) })
}

// checkIdentity binds the data folder to the node's name.
func (n *Node) checkIdentity() error {
	id := n.store.Identity()
	if id.NodeName == n.name {
		return nil
	}
	return n.store.SetIdentity(id.ClusterID, n.name)
}

func (n *Node) serverID(group uint32) raft.ServerID {
	incarnation := n.store.ReplicaIncarnation(group)
	if mutant.UnadmittedVotes {
		incarnation = 0
	}
	return raft.ServerID(fmt.Sprintf("%s#%016x", n.name, incarnation))
}

func (n *Node) openTransport() (err error) {
	n.transport, err = transport.New(transport.Options{
		Hello: func() *peerpb.Hello {
			id := n.store.Identity()
			return &peerpb.Hello{Format: 1, ClusterId: id.ClusterID, Node: n.name, Disk: id.DiskIncarnation, Version: n.o.Version}
		},
		Listener: n.o.PeerListener, Dial: n.o.Dial, Resolve: n.resolve, Credentials: n.o.Credentials,
		Logger: n.log, HeartbeatTimeout: min(n.o.HeartbeatTimeout, control.DefaultHeartbeat), OnFrame: n.onFrame, OnLink: n.onLink, OnFatal: n.fatal,
	})
	return err
}

func (n *Node) openControl() error {
	logs, err := n.store.OpenControl()
	var aside *store.QuarantineError
	if errors.As(err, &aside) {
		n.metrics.SetAside.Add(1)
		n.log.Error("this node's replica of the control group cannot be trusted and is set aside", "error", err)
		if err := n.store.SetAside(store.ControlGroup); err != nil {
			return err
		}
		logs, err = n.store.OpenControl()
	}
	if err != nil {
		return err
	}
	id := n.serverID(store.ControlGroup)
	tr := n.transport.Raft(store.ControlGroup, id)
	n.controlLog, n.controlRaft = logs, tr
	n.control, err = control.Open(control.Options{
		Node: n.name, Disk: n.store.Identity().DiskIncarnation, ServerID: id,
		Expect: n.o.Expect, Partitions: n.o.Partitions, Zone: n.o.Zone, Version: n.o.Version, Addresses: n.o.Addresses,
		Store: logs, Stable: logs, Snapshots: n.store.Snapshots(store.ControlGroup),
		Transport: tr, Conn: n.transport.Conn, Registrar: n.transport.Registrar(),
		Discovery: n.discovery, Meta: n.store, LeaseTTL: n.o.LeaseTTL, Boottime: n.o.Boottime, Now: n.o.Wall,
		OnLease: n.onLease, OnClosed: n.onClosed, Logger: n.log, Fatal: n.fatal,
	})
	return err
}

// resolve finds where a node is.
func (n *Node) resolve(node string) (string, bool) {
	if addr, ok := n.discovery.Resolve(node); ok {
		return addr, true
	}
	if n.control != nil {
		if m := n.control.State().Member(node); m != nil && m.Addresses.Peer != "" {
			return m.Addresses.Peer, true
		}
	}
	return "", false
}

// fatal ends the process, by way of whoever runs the node.
func (n *Node) fatal(err error) {
	n.log.Error("this node must stop: going on could break a promise", "error", err)
	n.o.Fatal(err)
}

func (n *Node) nonce() uint64 { return n.nonces.Add(1) }

// send hands a frame to a node, this one included. False: it has gone nowhere.
func (n *Node) send(node string, f *peerpb.Frame) bool {
	switch node {
	case "":
		return false
	case n.name:
		n.local.put(f)
		return true
	}
	return n.transport.Send(node, f)
}

// localLoop delivers frames to ourselves as a link would: in order, and on a
// goroutine of its own.
func (n *Node) localLoop(ctx context.Context) {
	var frames []*peerpb.Frame
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.local.wake:
		}
		frames = n.local.take(frames)
		for _, f := range frames {
			n.onFrame(n.name, f)
		}
	}
}

// life leads the node from founding or joining to serving, and through its
// incarnations.
func (n *Node) life(ctx context.Context) {
	changed, stop := n.control.Watch()
	defer stop()
	for n.control.State().ClusterID == "" {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
	if err := n.openReplicas(ctx); err != nil {
		n.fatal(err)
		return
	}
	n.goes(n.announceLoop)
	n.goes(n.maintain)
	n.goes(n.snapshots)
	n.goes(n.balance)
	tick := time.NewTicker(placementInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		if n.in.Load() == nil && !n.clearing.Load() {
			n.incarnate(ctx)
		}
		n.stateChanged()
		for again := true; again; {
			if err := n.placeReplicas(ctx); err != nil {
				n.fatal(err)
				return
			}
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
			case <-changed:
			case <-n.closed:
			}
			again = false
		}
	}
}

// incarnate starts a new incarnation of the gateway.
func (n *Node) incarnate(ctx context.Context) {
	id, err := n.control.StartIncarnation(ctx)
	if errors.Is(err, control.ErrNotMember) {
		n.log.Warn("the cluster has removed this node, which joins again")
		return // the next change says that it has
	}
	if err != nil {
		if ctx.Err() == nil {
			n.fatal(fmt.Errorf("cluster: no incarnation for this node: %w", err))
		}
		return
	}
	n.serving.Store(false)
	n.out.Store(newEgress(n, id))
	n.in.Store(newIngress(n, id))
	n.log.Info("gateway starts", "gateway", endName(id))
	if n.control.Gateway() != id {
		n.onClosed(id) // it was ended before we knew it
	}
}

// onClosed: the cluster has ended our incarnation. All clients go; a new
// incarnation starts empty.
func (n *Node) onClosed(gateway uint64) {
	g := n.in.Load()
	if g == nil || g.id != gateway {
		return
	}
	n.log.Warn("the cluster has ended this node's gateway; its clients must connect again", "gateway", endName(gateway))
	n.metrics.GatewaysEnded.Add(1)
	n.serving.Store(false)
	n.in.Store(nil)
	n.out.Store(nil)
	n.clearing.Store(true)
	n.gateway.CloseAll(func() {
		n.clearing.Store(false)
		select {
		case n.closed <- struct{}{}:
		default:
		}
	})
	g.end()
}

func (n *Node) onLease(valid bool) {
	if !valid {
		n.metrics.LeasesLost.Add(1)
		n.leaseLost.Store(time.Now().UnixNano())
		return
	}
	if g := n.in.Load(); g != nil {
		g.leaseRenewed()
	}
	if n.opened.Load() {
		n.nudgeLeaders()
	}
}

// leaseValid reports whether this node may acknowledge anything.
func (n *Node) leaseValid() bool { return n.control.LeaseValid() }

// ingress is the live incarnation's, or nil.
func (n *Node) ingress() *ingress { return n.in.Load() }

// leaseGrace is for how long after its lease ran out a node still takes clients in:
// they wait for it to come back, which on a busy machine it does at once.
const leaseGrace = 2 * time.Second

// Available reports whether clients may connect. Nothing is answered to them
// without a valid lease all the same.
func (n *Node) Available() bool {
	return n.serving.Load() && !n.empty.Load() && (n.leaseValid() || time.Since(time.Unix(0, n.leaseLost.Load())) < leaseGrace)
}

// mayRoute reports whether the node knows where messages go: every destination's
// interest, under a valid lease.
func (n *Node) mayRoute() bool { return n.serving.Load() && n.leaseValid() }

// stopStep bounds each step of a planned stop that needs other nodes: all may be
// stopping at the same time, and then the last ones find no quorum.
const stopStep = time.Second

// HandOver gives the partitions led here to other replicas, before a planned stop:
// first of all, since then the clients of other nodes notice only a pause, and ours
// end their sessions at leaders that stay.
func (n *Node) HandOver(ctx context.Context) {
	if n.opened.Load() {
		n.handOver(ctx)
	}
}

// Close stops the node: leaderships are handed over, everything is closed in
// order. The gateway has closed its clients before.
func (n *Node) Close(ctx context.Context) error {
	n.serving.Store(false)
	n.HandOver(ctx) // what has come back meanwhile
	bounded(ctx, func(ctx context.Context) {
		if err := n.control.StopIncarnation(ctx); err != nil {
			n.log.Warn("the end of this node's gateway is not recorded; the others will notice by its lease", "error", err)
		}
	})
	bounded(ctx, func(context.Context) {
		if err := n.control.TransferLeadership(); err != nil {
			n.log.Debug("control leadership not handed over", "error", err)
		}
	})
	if g := n.in.Swap(nil); g != nil {
		g.end()
	}
	n.cancel()
	n.wg.Wait()
	return n.release()
}

// Abort stops the node as a crash would: nothing is handed over or recorded.
// What it holds is released, so that tests can go on in the same process.
func (n *Node) Abort() error {
	n.serving.Store(false)
	n.cancel()
	if g := n.in.Swap(nil); g != nil {
		g.end()
	}
	n.wg.Wait()
	return n.release()
}

// handOver gives leaderships to other replicas before a planned stop.
func (n *Node) handOver(ctx context.Context) {
	var wg sync.WaitGroup
	for _, r := range n.replicas.all() {
		if r.raft.State() != raft.Leader {
			continue
		}
		wg.Go(func() {
			if err := r.raft.LeadershipTransfer().Error(); err != nil {
				n.log.Debug("leadership not handed over", "partition", r.partition, "error", err)
			}
		})
	}
	bounded(ctx, func(context.Context) { wg.Wait() })
}

// bounded gives a step stopStep of time, and ctx's. A transfer that it leaves behind
// ends with its Raft group.
func bounded(ctx context.Context, step func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, stopStep)
	done := make(chan struct{})
	go func() {
		defer close(done)
		step(ctx)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	cancel()
}

// release closes what is open, in reverse order.
func (n *Node) release() (err error) {
	for _, r := range n.replicas.all() {
		r.stop()
		err = errors.Join(err, r.close())
	}
	if n.control != nil {
		err = errors.Join(err, n.control.Close())
	}
	if n.transport != nil {
		n.transport.Close()
	} else {
		err = errors.Join(err, n.o.PeerListener.Close())
	}
	if n.discovery != nil {
		err = errors.Join(err, n.discovery.Close())
	}
	if n.store != nil {
		err = errors.Join(err, n.store.Close())
	}
	return err
}
