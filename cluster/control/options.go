package control

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
)

// Errors that callers tell apart.
var (
	// ErrStopped: the Control was closed.
	ErrStopped = errors.New("control: stopped")
	// ErrConflict: the state is not what the order was made for; look again.
	ErrConflict = errors.New("control: the state has changed meanwhile")
	// ErrRefused: the order is never allowed.
	ErrRefused = errors.New("control: refused")
	// ErrNotMember: the node is not a member of this cluster.
	ErrNotMember = errors.New("control: not a member of the cluster")
	// ErrRetired: the node's disk was replaced by another one under its name.
	ErrRetired = errors.New("control: this disk was replaced by another one under the same node name")
	// ErrAmnesia: this replica was part of a cluster, and its log is gone.
	ErrAmnesia = errors.New("control: the replica's log is lost; it needs a new server id")
	// ErrUnknownOp: a log entry or snapshot is of a newer release.
	ErrUnknownOp = errors.New("control: entry of an unknown kind; a newer release of flotilla is needed")
)

// Discovery finds the nodes around this one. All methods may be called from
// any goroutine and return at once.
type Discovery interface {
	// Announce replaces what this node tells the others about itself.
	Announce(self discovery.Peer)
	// Peers lists the other nodes that are seen now.
	Peers() []discovery.Peer
	// Complete reports whether Peers can be trusted to show a cluster if there is
	// one: an address to join at was reached, or none is configured.
	Complete() bool
}

// MetaStore keeps small values durably. SetMeta returns after fsync.
type MetaStore interface {
	Meta(key string) ([]byte, bool)
	SetMeta(key string, value []byte) error
}

// DefaultHeartbeat is the group's heartbeat and election timeout.
const DefaultHeartbeat = 400 * time.Millisecond

// Options of a Control. Fields without a default must be set.
type Options struct {
	// Node is this node's name.
	Node string
	// Disk is the disk incarnation.
	Disk uint64
	// ServerID names this node's replica of the control group:
	// "name#disk-incarnation", or another after it was set aside.
	ServerID raft.ServerID
	// Expect is how many nodes found the cluster; 0: this node founds none, it joins.
	Expect int
	// Partitions is P for a cluster that this node founds; default 16.
	Partitions uint32
	// Replicas of each partition; default 3.
	Replicas uint32

	Zone, Version string
	Addresses     Addresses

	Store     raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	// Transport carries the group's Raft messages. It must have raft.WithPreVote
	// and may have SetAdmitted(bool): until it is called with true, the replica's
	// votes are refused.
	Transport raft.Transport
	// Conn returns the connection to another node.
	Conn func(node string) (grpc.ClientConnInterface, error)
	// Registrar serves this node's answers. Open registers on it.
	Registrar grpc.ServiceRegistrar
	Discovery Discovery
	Meta      MetaStore

	// LeaseTTL is how long a node lease lasts; default 750 ms.
	LeaseTTL time.Duration
	// SilenceTimeout is how long a node may be silent before its incarnation is
	// closed, if no connection was seen to break; default 2 s.
	SilenceTimeout time.Duration
	// Boottime is a clock that goes on while the machine is suspended; default
	// CLOCK_BOOTTIME.
	Boottime func() time.Duration
	// Now is the wall clock, for the founding time only; default time.Now.
	Now func() time.Time

	// Knows is the index of the control group's log up to which the node acts on
	// it; default State().Applied. It never goes back and may be called from any
	// goroutine.
	Knows func() uint64
	// OnLease is told when the lease begins and when it ends. OnClosed is told
	// that the cluster has ended our incarnation: the node must drop all its
	// clients and then start a new one; it may come before StartIncarnation has
	// returned that gateway. Both are called from one goroutine, in order; Close
	// waits for them.
	OnLease  func(valid bool)
	OnClosed func(gateway uint64)

	Logger *slog.Logger // default: discard
	// Fatal is told of a failure after which the process must end.
	Fatal func(error)

	// Raft's timings; defaults 400 ms, 400 ms, 160 ms, 250 ms.
	HeartbeatTimeout, ElectionTimeout, LeaderLeaseTimeout, CommitTimeout time.Duration
	// SnapshotThreshold and TrailingLogs are in entries; defaults 1024 and 256.
	SnapshotThreshold, TrailingLogs uint64
}

func (o *Options) setDefaults() error {
	switch {
	case o.Node == "":
		return errors.New("control: Options.Node is empty")
	case o.ServerID == "":
		return errors.New("control: Options.ServerID is empty")
	case o.Store == nil || o.Stable == nil || o.Snapshots == nil || o.Meta == nil:
		return errors.New("control: Options lacks a store")
	case o.Transport == nil || o.Conn == nil || o.Registrar == nil || o.Discovery == nil:
		return errors.New("control: Options lacks a way to other nodes")
	case o.Fatal == nil:
		return errors.New("control: Options.Fatal is missing")
	case o.Expect < 0:
		return fmt.Errorf("control: Options.Expect is %d; allowed: 0 and more", o.Expect)
	}
	if _, ok := o.Transport.(raft.WithPreVote); !ok {
		return errors.New("control: the transport has no pre-vote")
	}
	def(&o.Partitions, 16)
	def(&o.Replicas, 3)
	def(&o.LeaseTTL, 750*time.Millisecond)
	def(&o.SilenceTimeout, 2*time.Second)
	def(&o.HeartbeatTimeout, DefaultHeartbeat)
	def(&o.ElectionTimeout, DefaultHeartbeat)
	def(&o.LeaderLeaseTimeout, 160*time.Millisecond)
	// Followers are nudged after each op, so this is only the pace at which a
	// follower that was away is tried again.
	def(&o.CommitTimeout, 250*time.Millisecond)
	def(&o.SnapshotThreshold, 1024)
	def(&o.TrailingLogs, 256)
	if o.Boottime == nil {
		o.Boottime = boottime
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OnLease == nil {
		o.OnLease = func(bool) {}
	}
	if o.OnClosed == nil {
		o.OnClosed = func(uint64) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// boottime reads CLOCK_BOOTTIME.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Linux has had it since 2.6.39; without it no lease can be counted.
		panic(fmt.Sprintf("control: CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(ts.Nano())
}
