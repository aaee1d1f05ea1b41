package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cluster/control"
	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/disk"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/watch"
	"github.com/flotilla-mqtt/flotilla/mqtt"
	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// node is a running node: the cluster below, the gateway above.
type node struct {
	cfg     *config.Config
	build   string
	log     *slog.Logger
	cluster *cluster.Node
	gateway *mqtt.Server
	fsync   *histogram
	auth    *auth.Files    // nil: there is no password file and there are no rules
	watch   *watch.Watcher // of files that may change while the node runs
	secured secured
	// endpoints are the listeners for clients; fixed by bind.
	endpoints []*endpoint
	api       *admin.Server // for operators
	window    disk.Window   // of durable writes

	reloadsFailed atomic.Uint64

	serving sync.WaitGroup
	stop    context.CancelFunc // ends the background work, which serving waits for
	done    chan struct{}      // closed by the first fatal error
	once    sync.Once
	err     error // set before done is closed
}

// startNode joins the parts of a node: stores, groups, lanes, gateway.
func startNode(_ context.Context, cfg *config.Config, build string, log *slog.Logger, level *slog.LevelVar) (broker, error) {
	n := &node{cfg: cfg, build: build, log: log, done: make(chan struct{}), fsync: newFsyncHistogram()}
	n.limitMemory()
	host, err := cfg.AdvertiseHost(net.InterfaceAddrs)
	if err != nil {
		return nil, err
	}
	authenticator, err := n.openAuth()
	if err != nil {
		return nil, err
	}
	n.watch = watch.New(watchInterval)
	closeAll := func() {
		n.closeAPI()
		n.watch.Close()
		n.unbind()
	}
	if err := errors.Join(n.secure(), n.openAPI(level)); err != nil {
		closeAll()
		return nil, err
	}
	if err := n.bind(); err != nil {
		closeAll()
		return nil, err
	}
	peer, err := net.Listen("tcp", cfg.PeerAddr)
	if err != nil {
		closeAll()
		return nil, fmt.Errorf("peer-addr: %w", err)
	}
	n.gateway = mqtt.NewServer(mqtt.Options{Logger: log, Auth: authenticator, Sys: mqtt.SysOptions{
		Interval: cfg.SysInterval, Node: cfg.Node, Version: build, More: n.sysValues,
	}})
	n.cluster, err = cluster.Open(n.clusterOptions(host, peer))
	if err != nil {
		closeAll()
		return nil, err
	}
	n.gateway.Attach(n.cluster)
	n.watchAuth()
	n.serveClients()
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.serving.Go(func() { n.watchDisk(ctx) })
	n.api.SetNode(n)
	return n, nil
}

// watchInterval is how often files are looked at that may change while the node runs.
const watchInterval = 2 * time.Second

// Reload reads those files now.
func (n *node) Reload() { n.watch.Trigger() }

// limitMemory tells the runtime the limit of --memory-limit, so that it collects
// harder instead of outgrowing it.
func (n *node) limitMemory() {
	if n.cfg.MemoryLimit > 0 {
		debug.SetMemoryLimit(int64(n.cfg.MemoryLimit))
	}
}

func (n *node) clusterOptions(host string, peer net.Listener) cluster.Options {
	cfg := n.cfg
	at := func(l net.Addr) string {
		_, port, _ := net.SplitHostPort(l.String())
		return net.JoinHostPort(host, port)
	}
	_, httpPort, _ := net.SplitHostPort(cfg.HTTPAddr)
	addrs := control.Addresses{Peer: at(peer.Addr()), HTTP: net.JoinHostPort(host, httpPort)}
	if a := n.clientAddr(); a != nil {
		addrs.MQTT = at(a)
	}
	return cluster.Options{
		Name: cfg.Node, Dir: cfg.Data, PeerListener: peer, Credentials: n.credentials(),
		Discover: func(meta discovery.MetaStore) (cluster.Discovery, error) {
			g, err := discovery.Open(discovery.Options{
				Self: discovery.Peer{Name: cfg.Node, Addr: addrs.Peer, HTTP: addrs.HTTP, MQTT: addrs.MQTT, Version: n.build},
				Bind: cfg.GossipAddr, Advertise: host, Join: cfg.Join, Keys: n.secured.keys, Meta: meta, Logger: n.log, OnFatal: n.fail,
			})
			if err != nil {
				return nil, fmt.Errorf("gossip-addr: %w", err)
			}
			n.gossips(g)
			return g, nil
		},
		Zone: cfg.Zone, ReplaceAfter: cfg.Timing.ReplaceAfter, OnDrained: n.drained,
		Expect: cfg.Expect, Partitions: uint32(cfg.Partitions), Version: n.build, Addresses: addrs,
		HeartbeatTimeout: cfg.Timing.Heartbeat, ElectionTimeout: cfg.Timing.Election, LeaderLease: cfg.Timing.Lease,
		OwnershipTime: cfg.Timing.Ownership,
		Settings:      sessionSettings(cfg), Budget: messageBudget(cfg), DiskReserve: uint64(cfg.DiskReserve),
		Wall:    wall,
		Gateway: n.gateway, Logger: n.log, Fatal: n.fail, OnSync: n.synced,
	}
}

// sessionSettings are what the state machines must agree on.
func sessionSettings(cfg *config.Config) *logpb.Settings {
	s := cluster.DefaultSettings()
	s.MaxQueueMessages = uint32(cfg.Sessions.QueueMaxMessages)
	s.MaxQueueBytes = uint64(cfg.Sessions.QueueMaxBytes)
	s.QueueFull = map[config.QueueFull]logpb.QueueFull{
		config.DropOldest: logpb.QueueFull_DROP_OLDEST,
		config.DropNewest: logpb.QueueFull_DROP_NEWEST,
		config.Refuse:     logpb.QueueFull_REFUSE,
	}[cfg.Sessions.QueueFull]
	s.MaxInflight = uint32(cfg.Sessions.MaxInflight)
	s.MaxInflightBytes = uint64(cfg.Sessions.MaxInflightBytes)
	s.MaxSubscriptions = uint32(cfg.Sessions.MaxSubscriptions)
	s.CopyPerSubscription = cfg.Sessions.Overlapping == config.CopyEach
	s.MaxExpiry = uint32(cfg.Sessions.MaxExpiry.Seconds())
	return s
}

// listenerLimits are those of a listener's connections and their ephemeral sessions.
func listenerLimits(cfg *config.Config, listener config.Listener) mqtt.Limits {
	l, of := mqtt.DefaultLimits(), listener.Limits
	l.MaxPacket = uint32(of.MaxPacketSize)
	l.ReceiveMaximum = uint16(of.ReceiveMaximum)
	l.TopicAliasMaximum = uint16(of.TopicAliasMaximum)
	l.ConnectTimeout = of.ConnectTimeout
	l.MaxKeepAlive = uint16(of.MaxKeepAlive.Seconds())
	l.MaxQoS, l.MaxTopicLevels = byte(of.MaxQoS), of.MaxTopicLevels
	l.RetainAvailable, l.WildcardAvailable = of.RetainAvailable, of.WildcardAvailable
	l.SubscriptionIDAvailable, l.SharedAvailable = of.SubscriptionIDAvailable, of.SharedAvailable
	l.CheckPayloadFormat, l.ResponseInformation = of.CheckPayloadFormat, of.ResponseInformation
	l.ServerReference, l.ServerMoved = of.ServerReference, of.ServerMoved
	l.AllowAnonymous = listener.AllowAnonymous
	l.CertUsername = certNames(listener.CertUsername)
	l.CloseUnauthorized = cfg.Auth.RefusedPublish == config.RefusedClose
	l.MaxInflight = uint16(cfg.Sessions.MaxInflight)
	l.MaxSubscriptions = cfg.Sessions.MaxSubscriptions
	l.CopyPerSubscription = cfg.Sessions.Overlapping == config.CopyEach
	l.QueueMessages = cfg.Sessions.QueueMaxMessages
	l.QueueBytes = int(cfg.Sessions.QueueMaxBytes)
	l.MaxSessionExpiry = flow.NeverExpires
	if e := cfg.Sessions.MaxExpiry; e > 0 {
		l.MaxSessionExpiry = uint32(e.Seconds())
	}
	switch cfg.Sessions.QueueFull {
	case config.DropNewest:
		l.OnFull = mqtt.DropNewest
	case config.Refuse:
		l.OnFull = mqtt.DisconnectClient
	}
	return l
}

// fail ends the node: going on could break a promise.
func (n *node) fail(err error) {
	n.once.Do(func() {
		n.err = err
		close(n.done)
	})
}

// Done is closed when the node has failed.
func (n *node) Done() <-chan struct{} { return n.done }

// Err says why.
func (n *node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// clientsTime is how long clients' connections may take to end: longer than the
// gateway waits for each to close, and for a quorum to note it.
const clientsTime = 1500 * time.Millisecond

// Close ends the node in order: leaderships, clients, groups, stores. After a
// failure it waits for nothing: the others notice.
func (n *node) Close(ctx context.Context) error {
	n.watch.Close()
	n.closeAPI()
	n.stop()
	if n.Err() != nil {
		return nil
	}
	n.cluster.HandOver(ctx)
	clients, cancel := context.WithTimeout(ctx, clientsTime)
	defer cancel()
	err := n.gateway.Shutdown(clients)
	if errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("some clients' connections did not end in time")
		err = nil
	}
	n.serving.Wait()
	return errors.Join(err, n.cluster.Close(ctx))
}
