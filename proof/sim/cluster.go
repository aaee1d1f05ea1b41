// Package sim runs whole nodes in one process: on fake time (testing/synctest),
// a network that delays, stalls and breaks, and disks that forget what was not
// synced. A seed decides the workload and the faults; see sim_test.go.
package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
	"github.com/flotilla-mqtt/flotilla/mqtt"
	"github.com/flotilla-mqtt/flotilla/proof/simnet"
)

// Ports of every simulated host.
const (
	MQTTPort = 1883
	peerPort = 7400
)

// Cluster is a cluster of simulated nodes.
type Cluster struct {
	Net   *simnet.Network
	Nodes []*Node

	log   *slog.Logger
	rng   *rand.Rand
	table *discovery.Table
	start time.Time
	opts  func(*cluster.Options)
	fatal func(node string, err error)
}

// Node is one simulated host: its disk outlives its process.
type Node struct {
	Name string

	c    *Cluster
	disk *Disk
	proc *process // nil: not running
	skew atomic.Int64
}

// process is one run of a node.
type process struct {
	cluster *cluster.Node
	gateway *mqtt.Server
	dead    atomic.Bool
	serving sync.WaitGroup
}

// New makes a cluster of n hosts; none runs yet. change adjusts the nodes'
// options; fatal hears that a node would have ended its process.
func New(seed uint64, n int, network *simnet.Network, log *slog.Logger,
	change func(*cluster.Options), fatal func(node string, err error)) *Cluster {
	c := &Cluster{
		Net: network, log: log, rng: rand.New(rand.NewPCG(seed, 0xd15c)),
		table: discovery.NewTable(), start: time.Now(), opts: change, fatal: fatal,
	}
	for i := range n {
		c.Nodes = append(c.Nodes, &Node{Name: fmt.Sprintf("n%d", i+1), c: c, disk: newDisk()})
	}
	return c
}

// dial is a process's way out; a dead one has none.
func (n *Node) dial(p *process) func(context.Context, string) (net.Conn, error) {
	dial := n.c.Net.Dialer(n.Name)
	return func(ctx context.Context, addr string) (net.Conn, error) {
		if p.dead.Load() {
			return nil, errors.New("sim: the process is dead")
		}
		return dial(ctx, addr)
	}
}

// finder finds every host at its fixed address.
type finder struct{ *discovery.Static }

func (finder) Resolve(node string) (string, bool) { return fmt.Sprintf("%s:%d", node, peerPort), true }
func (finder) Close() error                       { return nil }

// Start runs the node's process on what its disk holds.
func (n *Node) Start() error {
	peer, err := n.c.Net.Listen(n.Name, peerPort)
	if err != nil {
		return err
	}
	p := &process{}
	log := n.c.log.With("node", n.Name)
	p.gateway = mqtt.NewServer(mqtt.Options{Logger: log})
	o := cluster.Options{
		Name: n.Name, Dir: "/data", FS: n.disk.files(), PeerListener: peer, Dial: n.dial(p),
		Discover: func(discovery.MetaStore) (cluster.Discovery, error) {
			return finder{n.c.table.Node(n.Name)}, nil
		},
		Boottime:  func() time.Duration { return time.Since(n.c.start) },
		Wall:      func() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) },
		Incarnate: n.c.rng.Uint64,
		Expect:    len(n.c.Nodes), Gateway: p.gateway, Logger: log,
		Fatal: func(err error) {
			if !p.dead.Load() {
				n.c.fatal(n.Name, err)
			}
		},
	}
	if n.c.opts != nil {
		n.c.opts(&o)
	}
	if p.cluster, err = cluster.Open(o); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	p.gateway.Attach(p.cluster)
	ln, err := n.c.Net.Listen(n.Name, MQTTPort)
	if err != nil {
		return errors.Join(err, p.cluster.Abort())
	}
	p.serving.Go(func() { _ = p.gateway.Serve(ln, mqtt.ListenerOptions{Name: "sim"}) })
	n.proc = p
	return nil
}

// Disk is the node's disk.
func (n *Node) Disk() *Disk { return n.disk }

// Running reports whether the node's process runs.
func (n *Node) Running() bool { return n.proc != nil }

// Available reports whether the node serves clients.
func (n *Node) Available() bool { return n.proc != nil && n.proc.cluster.Available() }

// Cluster is the running node's own view.
func (n *Node) Cluster() *cluster.Node { return n.proc.cluster }

// Kill ends the process at once: connections are reset, and of what was written
// and not synced a random part is lost. silent: as when the power fails, nobody
// hears of it.
func (n *Node) Kill(silent bool) error {
	p := n.proc
	n.proc = nil
	p.dead.Store(true)
	if silent {
		n.c.Net.PowerOff(n.Name)
	} else {
		n.c.Net.Crash(n.Name)
	}
	n.disk.mem = n.disk.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: n.c.rng.IntN(101), RNG: rand.New(rand.NewPCG(n.c.rng.Uint64(), 0))})
	n.disk.Resume() // the process lets go of what it holds
	return n.end(p)
}

// end lets go of a process that is cut off from everything.
func (n *Node) end(p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := p.cluster.Abort()
	_ = p.gateway.Shutdown(ctx) // of a node without a cluster: connections only
	p.serving.Wait()
	return err
}

// Boot makes the host reachable again and starts its process.
func (n *Node) Boot() error {
	n.c.Net.Start(n.Name)
	return n.Start()
}

// Stop ends the process in order.
func (n *Node) Stop(ctx context.Context) error {
	p := n.proc
	n.proc = nil
	err := p.gateway.Shutdown(ctx)
	p.serving.Wait()
	err = errors.Join(err, p.cluster.Close(ctx))
	p.dead.Store(true)
	return err
}

// Skew sets the node's wall clock off.
func (n *Node) Skew(d time.Duration) { n.skew.Store(int64(d)) }
