package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/credentials"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// Gateway is what a node needs of the part that terminates MQTT; package mqtt
// declares the same and says what each method promises.
type Gateway interface {
	Deliver(clientID string, epoch uint64, ds []flow.Delivery)
	Route(m *flow.Message, reliable bool)
	Close(clientID string, epoch uint64, done func())
	CloseAll(done func())
}

// Discovery finds the other nodes and their peer addresses.
type Discovery interface {
	control.Discovery
	// Resolve is the address at which a node's peer port is reached now.
	Resolve(node string) (addr string, ok bool)
	Close() error
}

// Options of a Node. Clock, randomness, network and disk are parameters, so
// that whole nodes run in one testing/synctest bubble.
type Options struct {
	Name string // the node's name, which is its identity for ever
	Dir  string // data folder

	FS           vfs.FS       // default: the operating system's
	PeerListener net.Listener // for the other nodes
	Dial         func(ctx context.Context, addr string) (net.Conn, error)
	Credentials  credentials.TransportCredentials // between nodes; nil: none
	// Discover starts what finds the other nodes; meta keeps small values durably.
	Discover  func(meta discovery.MetaStore) (Discovery, error)
	Boottime  func() time.Duration // default CLOCK_BOOTTIME
	Wall      func() time.Time     // default time.Now
	Incarnate func() uint64        // draws disk incarnations; default crypto/rand

	Expect     int    // nodes that found the cluster; 0: the node only joins one
	Partitions uint32 // of a cluster that this node founds; default 16
	Version    string
	Zone       string
	Addresses  control.Addresses // to advertise

	// HeartbeatTimeout and ElectionTimeout of the partitions' Raft groups; default
	// 800 ms. LeaderLease is Raft's own, by default 0.4 of that; it is also the
	// timeout after a leader's connection was seen to break.
	HeartbeatTimeout, ElectionTimeout, LeaderLease time.Duration
	// CommitTimeout is how soon followers of an idle group learn of a commit;
	// default 3 s.
	CommitTimeout time.Duration
	LeaseTTL      time.Duration // default 750 ms
	// OwnershipTime is for how long a gateway may answer no takeover before the
	// cluster ends it. It should be well above a failover; default 8 s.
	OwnershipTime time.Duration

	// Settings that every replica of the state machines must agree on; a
	// partition's leader puts its own in force.
	Settings *logpb.Settings
	// Budget bounds the bytes of messages held by all partitions on this node;
	// beyond its share a partition refuses PUBLISH. Default 1 GiB.
	Budget int64
	// SnapshotBytes is how much of a partition's log is written between two snapshots,
	// and kept behind each; default 8 MiB. What a start has to apply again is at most this,
	// or twice the size of the state.
	SnapshotBytes int64
	// MemTableBytes is how much of all logs is kept in memory before it is sorted into files;
	// default 8 MiB.
	MemTableBytes int
	// CheckpointInterval is how often the replicas of a partition compare what their
	// states come to; default 1 minute.
	CheckpointInterval time.Duration
	// ReplaceAfter is how long a node may be away before its replicas are given to
	// others; default 15 minutes.
	ReplaceAfter time.Duration
	// DiskReserve is how many bytes must stay free: below, the node refuses
	// PUBLISH and hands over its leaderships. Default 256 MiB.
	DiskReserve uint64

	Gateway Gateway
	Logger  *slog.Logger
	// Fatal is told, once or more, of what makes going on break a promise. The
	// process must end then.
	Fatal func(error)
	// OnDrained is told when this node has been drained, and where its clients should go
	// (MQTT addresses, separated by spaces), and when it is in use again.
	OnDrained func(on bool, elsewhere string)
	// OnSync is told the time of each durable write of a log.
	OnSync func(time.Duration)
}

// DefaultSettings are the state machines' settings where nothing else is said.
func DefaultSettings() *logpb.Settings {
	return &logpb.Settings{
		MaxQueueMessages: 10_000, MaxQueueBytes: 16 << 20, QueueFull: logpb.QueueFull_DROP_OLDEST,
		MaxInflight: 1024, MaxInflightBytes: 4 << 20, MaxInbound: 65_535,
	}
}

var errUnknownItem = errors.New("cluster: a lane item of an unknown kind")

func (o *Options) setDefaults() error {
	if o.Name == "" || o.Dir == "" || o.PeerListener == nil || o.Discover == nil ||
		o.Gateway == nil || o.Fatal == nil {
		return errors.New("cluster: Options lacks a required field")
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Settings == nil {
		o.Settings = DefaultSettings()
	}
	if o.OnDrained == nil {
		o.OnDrained = func(bool, string) {}
	}
	orDefault(&o.Partitions, 16)
	orDefault(&o.HeartbeatTimeout, 800*time.Millisecond)
	orDefault(&o.ElectionTimeout, o.HeartbeatTimeout)
	orDefault(&o.LeaderLease, o.HeartbeatTimeout*2/5)
	orDefault(&o.CommitTimeout, 3*time.Second)
	orDefault(&o.LeaseTTL, 750*time.Millisecond)
	orDefault(&o.OwnershipTime, 8*time.Second)
	orDefault(&o.Budget, 1<<30)
	orDefault(&o.SnapshotBytes, 8<<20)
	orDefault(&o.CheckpointInterval, time.Minute)
	orDefault(&o.ReplaceAfter, 15*time.Minute)
	orDefault(&o.DiskReserve, 256<<20)
	return nil
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
