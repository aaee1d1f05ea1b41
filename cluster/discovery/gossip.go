package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// MetaStore keeps small values durably.
type MetaStore interface {
	Meta(key string) ([]byte, bool)
	SetMeta(key string, value []byte) error
}

// Options of a Gossip.
type Options struct {
	// Self is what the node tells about itself at first; Name must be set and
	// never changes.
	Self Peer
	// Bind is the host:port to listen on, UDP and TCP; port 0 takes a free one.
	Bind string
	// Advertise is the host at which others reach us; default: Bind's, or a
	// private address of this machine. A name gives way to an address in Bind:
	// it may still stand for where this node was before its restart.
	Advertise string
	// Join are host, host:port or SRV names (_service._proto.name) of nodes to
	// begin with. Names are looked up each time, and stand for all their
	// addresses. The default port is ours.
	Join []string
	// Resolver looks up the names in Join; default: net.DefaultResolver.
	Resolver Resolver
	// Keys encrypt gossip: each of 16, 24 or 32 bytes; none: no encryption. The first
	// is what we send with, all are accepted.
	Keys [][]byte
	// Meta keeps the last known addresses; nil: they are forgotten.
	Meta   MetaStore
	Logger *slog.Logger // default: discard
	// OnFatal hears that a known address could not be stored.
	OnFatal func(error)
}

// Gossip finds nodes by memberlist.
type Gossip struct {
	opt  Options
	log  *slog.Logger
	list *memberlist.Memberlist
	keys *keyring      // nil: no encryption
	wake chan struct{} // cap 1: something about a node has changed
	tell chan struct{} // cap 1: something about us has changed

	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once // Close

	mu   sync.Mutex
	self Peer
	// seen are the live nodes, this one too, by name. It is a copy that the
	// events keep, because what memberlist.Members returns is not safe to read.
	seen     map[string]node
	refused  uint64           // packets and streams that no key fits
	told     time.Time        // when that was logged last
	complete bool             // an address to join at was reached, or there is none
	cache    map[string]known // last known, by name
}

// node is one that is seen.
type node struct {
	gossip string // host:port
	peer   Peer
	ok     bool // it says something about itself that we understand
}

// known is where a node was last seen.
type known struct {
	Addr    string `json:"p"`
	Gossip  string `json:"g"`
	Cluster string `json:"c"`
}

const (
	keyCache = "discovery/peers"
	// joinRetry is how soon a failed join is tried again, joinAgain how often
	// nodes that are known and not seen are looked for: memberlist itself never
	// finds back to a node that it has given up.
	joinRetry = 500 * time.Millisecond
	joinAgain = 10 * time.Second
	// updateTimeout bounds the spreading of a change of ours.
	updateTimeout = 2 * time.Second
)

// Open begins to listen and to look for others.
func Open(o Options) (*Gossip, error) {
	if o.Self.Name == "" {
		return nil, errors.New("discovery: the node has no name")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnFatal == nil {
		o.OnFatal = func(error) {}
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	g := &Gossip{
		opt: o, log: o.Logger, self: o.Self,
		wake: make(chan struct{}, 1), tell: make(chan struct{}, 1),
		complete: len(o.Join) == 0, cache: make(map[string]known), seen: make(map[string]node),
	}
	if o.Meta != nil {
		if b, ok := o.Meta.Meta(keyCache); ok {
			if err := json.Unmarshal(b, &g.cache); err != nil {
				return nil, fmt.Errorf("discovery: %s on disk: %w", keyCache, err)
			}
		}
	}
	conf, err := g.config()
	if err != nil {
		return nil, err
	}
	if g.list, err = memberlist.Create(conf); err != nil {
		if conf.Transport != nil {
			err = errors.Join(err, conf.Transport.Shutdown())
		}
		return nil, fmt.Errorf("discovery: gossip on %s: %w", o.Bind, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.wg.Go(func() { g.joinLoop(ctx) })
	g.wg.Go(func() { g.cacheLoop(ctx) })
	g.wg.Go(func() { g.tellLoop(ctx) })
	return g, nil
}

func (g *Gossip) config() (*memberlist.Config, error) {
	bind, err := net.ResolveTCPAddr("tcp", g.opt.Bind)
	if err != nil {
		return nil, fmt.Errorf("discovery: gossip address %q: %w", g.opt.Bind, err)
	}
	c := memberlist.DefaultLANConfig()
	c.Name = g.opt.Self.Name
	c.BindAddr, c.BindPort = "0.0.0.0", bind.Port
	if bind.IP != nil {
		c.BindAddr = bind.IP.String()
	}
	c.AdvertisePort = bind.Port
	named := g.opt.Advertise != "" && net.ParseIP(g.opt.Advertise) == nil
	if bound := bind.IP != nil && !bind.IP.IsUnspecified(); g.opt.Advertise != "" && !(named && bound) {
		ip, err := net.ResolveIPAddr("ip", g.opt.Advertise)
		if err != nil {
			return nil, fmt.Errorf("discovery: advertised host %q: %w", g.opt.Advertise, err)
		}
		c.AdvertiseAddr = ip.String()
	}
	// What a node tells about itself right after its start may pass those by who
	// join it at that moment; exchanging whole states mends it. They are small.
	c.PushPullInterval = 2 * time.Second
	// A node that was killed may come back at another address.
	c.DeadNodeReclaimTime = 5 * time.Second
	c.Delegate, c.Events, c.Conflict = delegate{g}, events{g}, conflicts{g}
	c.Logger = stdLogger(g.log)
	c.LogOutput = nil
	if len(g.opt.Keys) > 0 {
		err = g.encrypt(c)
	}
	return c, err
}

// Addr is the host:port at which others reach our gossip.
func (g *Gossip) Addr() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen[g.opt.Self.Name].gossip
}

// Close leaves, so that the others do not suspect us, and waits for all
// goroutines.
func (g *Gossip) Close() error {
	var err error
	g.once.Do(func() {
		g.cancel()
		g.wg.Wait()
		if err := g.list.Leave(time.Second); err != nil {
			g.log.Info("discovery: nobody may have heard that this node leaves", "error", err) // they suspect it, then
		}
		err = g.list.Shutdown()
	})
	return err
}

// Announce replaces what this node tells the others about itself.
func (g *Gossip) Announce(self Peer) {
	g.mu.Lock()
	self.Name = g.opt.Self.Name
	same := g.self == self
	g.self = self
	g.mu.Unlock()
	if !same {
		kick(g.tell)
	}
}

// Peers lists the other nodes that are seen now, by name. Once this node has a
// cluster it does not see nodes of others.
func (g *Gossip) Peers() []Peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	var peers []Peer
	for name, n := range g.seen {
		foreign := g.self.ClusterID != "" && n.peer.ClusterID != "" && n.peer.ClusterID != g.self.ClusterID
		if n.ok && name != g.self.Name && !foreign {
			peers = append(peers, n.peer)
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return peers
}

// Complete reports whether an address to join at was reached, other than our
// own, or there is none.
func (g *Gossip) Complete() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.complete
}

// Resolve returns the host:port at which peers reach the node: as gossip has
// it, or as it was last known.
func (g *Gossip) Resolve(node string) (addr string, ok bool) {
	for _, p := range g.Peers() {
		if p.Name == node && p.Addr != "" {
			return p.Addr, true
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	k, ok := g.cache[node]
	if !ok || g.self.ClusterID != "" && k.Cluster != "" && k.Cluster != g.self.ClusterID {
		return "", false
	}
	return k.Addr, true
}

// joinLoop joins, and looks for nodes that are known and not seen.
func (g *Gossip) joinLoop(ctx context.Context) {
	for {
		wait := joinAgain
		if !g.joinOnce(ctx) {
			wait = joinRetry
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// joinOnce reports whether there is nothing left to reach at first.
func (g *Gossip) joinOnce(ctx context.Context) bool {
	seeds, sure := g.seeds(ctx)
	missing := g.missing()
	reached := 0
	for _, addr := range append(seeds, missing...) {
		if ctx.Err() != nil {
			return false
		}
		if g.sees(addr) {
			reached++
		} else if _, err := g.list.Join([]string{addr}); err == nil {
			reached++
		} else {
			g.log.Debug("discovery: no answer", "addr", addr, "error", err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.complete && (reached > 0 || sure && len(seeds) == 0) {
		g.complete = true
	}
	return g.complete
}

// missing are the gossip addresses of nodes that are known and not seen.
func (g *Gossip) missing() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var addrs []string
	for name, k := range g.cache {
		if _, seen := g.seen[name]; !seen && k.Gossip != "" {
			addrs = append(addrs, k.Gossip)
		}
	}
	return addrs
}

// sees reports whether a member has this gossip address.
func (g *Gossip) sees(addr string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.seen {
		if n.gossip == addr {
			return true
		}
	}
	return false
}

// cacheLoop keeps the last known addresses on disk.
func (g *Gossip) cacheLoop(ctx context.Context) {
	for {
		select {
		case <-g.wake:
			g.saveCache()
		case <-ctx.Done():
			return
		}
	}
}

func (g *Gossip) saveCache() {
	g.mu.Lock()
	changed := false
	for name, n := range g.seen {
		k := known{Addr: n.peer.Addr, Gossip: n.gossip, Cluster: n.peer.ClusterID}
		if n.ok && name != g.self.Name && k.Addr != "" && g.cache[name] != k {
			g.cache[name], changed = k, true
		}
	}
	b, err := json.Marshal(g.cache)
	g.mu.Unlock()
	if !changed || g.opt.Meta == nil {
		return
	}
	if err == nil {
		err = g.opt.Meta.SetMeta(keyCache, b)
	}
	if err != nil {
		g.opt.OnFatal(fmt.Errorf("discovery: %s: %w", keyCache, err))
	}
}

// tellLoop spreads what has changed about us.
func (g *Gossip) tellLoop(ctx context.Context) {
	for {
		select {
		case <-g.tell:
			if err := g.list.UpdateNode(updateTimeout); err != nil {
				g.log.Debug("discovery: our news spread slowly", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
