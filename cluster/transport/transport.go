package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// Format is the version of what travels between nodes. Nodes of two
// neighbouring releases speak the same one.
const Format = 1

// Options of a Transport. Hello, Listener and Resolve are required.
type Options struct {
	// Hello says who we are. It is asked for each new stream, so that the
	// cluster id may become known later; Node must never change. The result is
	// not modified. Format 0 stands for Format.
	Hello func() *peerpb.Hello
	// Listener accepts peers; the transport closes it.
	Listener net.Listener
	// Dial opens a connection; default net.Dialer.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve gives a node's present address; asked at each (re)dial.
	Resolve func(node string) (addr string, ok bool)
	// Credentials secure both directions; nil: no encryption. The name to
	// verify is the node name, unless the credentials fix another.
	Credentials credentials.TransportCredentials
	// Logger; default discards.
	Logger *slog.Logger
	// OnFrame gets a peer's frames in order, on the goroutine that reads its
	// stream: while it blocks nothing more is read from that peer. The frame
	// belongs to the callee.
	OnFrame func(node string, f *peerpb.Frame)
	// OnLink hears that our stream to node is up (Hello exchanged), or that it
	// broke and all that was queued or on its way is in doubt. Calls for one
	// node come one after the other and alternate.
	OnLink func(node string, up bool)
	// OnFatal hears that the listener failed for good: the node is deaf.
	OnFatal func(err error)

	// MaxQueueBytes bounds what is queued per peer on the flow stream (encoded
	// size); default 32 MiB.
	MaxQueueBytes int
	// UrgentTimeout is the deadline of heartbeats, votes and TimeoutNow;
	// default 500 ms. Keep it above LeaderLeaseTimeout.
	UrgentTimeout time.Duration
	// EntriesTimeout is the deadline of AppendEntries once it is sent, and of
	// each step of a snapshot; default 10 s.
	EntriesTimeout time.Duration
	// Hold is how long AppendEntries and snapshots wait for a link that is down
	// or a group that is not running yet; default 5 min.
	Hold time.Duration
	// Silence after which a peer counts as gone; default 2 s, pings go out four
	// times as often.
	Silence time.Duration
	// Gather is how long a heartbeat (or its answer) may wait for others to
	// share its message; default 2 ms, negative: not at all.
	Gather time.Duration
	// HeartbeatTimeout is that of the groups' raft.Config, unless one is given one
	// of its own (RaftTransport.SetHeartbeatTimeout). If set, the
	// regular heartbeats to a peer leave together every HeartbeatTimeout/5: raft
	// sends one HeartbeatTimeout/10 to HeartbeatTimeout/5 after the last
	// answer, and each waits for the next common departure, at most
	// HeartbeatTimeout/10. Those that VerifyLeader sends in between do not wait.
	HeartbeatTimeout time.Duration
	// PipelineDepth is the number of AppendEntries in flight per follower and
	// group; default 2: more grows latency, as fewer entries share a message
	// (hashicorp/raft #541). 1 turns pipelining off.
	PipelineDepth int
}

func (o *Options) setDefaults() error {
	if o.Hello == nil || o.Listener == nil || o.Resolve == nil {
		return errors.New("transport: Hello, Listener and Resolve are required")
	}
	if o.Hello().GetNode() == "" {
		return errors.New("transport: Hello names no node")
	}
	if o.Dial == nil {
		d := &net.Dialer{}
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	if o.Credentials == nil {
		o.Credentials = insecure.NewCredentials()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnFrame == nil {
		o.OnFrame = func(string, *peerpb.Frame) {}
	}
	if o.OnLink == nil {
		o.OnLink = func(string, bool) {}
	}
	if o.OnFatal == nil {
		o.OnFatal = func(error) {}
	}
	defaultTo(&o.MaxQueueBytes, 32<<20)
	defaultTo(&o.UrgentTimeout, 500*time.Millisecond)
	defaultTo(&o.EntriesTimeout, 10*time.Second)
	defaultTo(&o.Hold, 5*time.Minute)
	defaultTo(&o.Silence, 2*time.Second)
	defaultTo(&o.Gather, 2*time.Millisecond)
	defaultTo(&o.PipelineDepth, 2)
	return nil
}

func defaultTo[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Transport is a node's end of all links to its peers. All methods may be
// called from any goroutine.
type Transport struct {
	opts   Options
	log    *slog.Logger
	self   string // our node name
	server *grpc.Server
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines we start
	stats  counters

	mu      sync.Mutex
	started bool                      // mu
	closed  bool                      // mu
	peers   map[string]*peer          // mu
	groups  map[uint32]*RaftTransport // mu
	inbound map[string]*inboundNode   // mu; nodes with a flow stream to us
	flows   map[string]chan struct{}  // mu; closed when the latest outgoing flow of a node is over
}

// New returns a transport that neither listens nor dials before Start.
func New(o Options) (*Transport, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	t := &Transport{
		opts:    o,
		log:     o.Logger,
		self:    o.Hello().GetNode(),
		peers:   make(map[string]*peer),
		groups:  make(map[uint32]*RaftTransport),
		inbound: make(map[string]*inboundNode),
		flows:   make(map[string]chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.server = grpc.NewServer(t.serverOptions()...)
	peerpb.RegisterRaftServer(t.server, raftService{t: t})
	peerpb.RegisterFlowServer(t.server, flowService{t: t})
	return t, nil
}

// Registrar takes further unary services; before Start only.
func (t *Transport) Registrar() grpc.ServiceRegistrar { return t.server }

// Start begins to accept peers.
func (t *Transport) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	if t.started {
		return errors.New("transport: started twice")
	}
	t.started = true
	t.wg.Go(func() {
		err := t.server.Serve(t.opts.Listener)
		if err != nil && t.ctx.Err() == nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.log.Error("peer listener failed", "error", err)
			t.opts.OnFatal(fmt.Errorf("transport: listener: %w", err))
		}
	})
	return nil
}

// Close ends all streams, connections and calls and waits for all goroutines,
// callbacks included: call it from none of them.
func (t *Transport) Close() {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	groups, peers := t.groups, t.peers
	t.groups, t.peers = map[uint32]*RaftTransport{}, map[string]*peer{}
	t.mu.Unlock()
	t.cancel()
	for _, g := range groups {
		_ = g.Close() // never fails
	}
	for _, p := range peers {
		p.close()
	}
	t.server.Stop() // waits for handlers; closes the listener if it serves
	if first {
		_ = t.opts.Listener.Close() // usually closed already
	}
	t.wg.Wait()
}

// Connect keeps an outgoing flow stream to the node, reconnecting with a
// back-off of 50 ms to 1 s.
func (t *Transport) Connect(node string) {
	if p, err := t.peer(node); err == nil {
		p.startFlow()
	}
}

// Disconnect drops all connections to the node and fails its calls. Streams
// from the node are left alone. A later Connect, Conn or Raft call begins anew.
func (t *Transport) Disconnect(node string) {
	t.mu.Lock()
	p := t.peers[node]
	delete(t.peers, node)
	t.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// Nudge ends the back-off of all links to the node: it seems to be there.
func (t *Transport) Nudge(node string) {
	t.mu.Lock()
	p := t.peers[node]
	t.mu.Unlock()
	if p != nil {
		p.nudge()
	}
}

// Send queues a frame on the flow stream. False: the link is down or the queue
// is full. It never blocks. The frame must not be modified afterwards.
func (t *Transport) Send(node string, f *peerpb.Frame) bool {
	t.mu.Lock()
	p := t.peers[node]
	t.mu.Unlock()
	return p != nil && p.send(f)
}

// Conn returns a connection for unary calls, which share a TCP connection with
// the flow stream. It stays valid across reconnects, until Disconnect. Calls
// fail with codes.Unavailable when the peer is not reached; set deadlines.
func (t *Transport) Conn(node string) (grpc.ClientConnInterface, error) {
	p, err := t.peer(node)
	if err != nil {
		return nil, err
	}
	return p.flowConn, nil
}

// Raft returns the transport of one Raft group, for the given server id, which
// is also its address: "name#<disk incarnation>". Requests for another target
// are refused. The replica starts as not admitted, see SetAdmitted. A second
// call for the same group closes the first one's.
func (t *Transport) Raft(group uint32, self raft.ServerID) *RaftTransport {
	g := newRaftTransport(t, group, self)
	t.mu.Lock()
	over := g
	if !t.closed {
		over = t.groups[group]
		t.groups[group] = g
		t.wg.Go(g.serve)
	}
	t.mu.Unlock()
	if over != nil {
		_ = over.Close() // never fails
	}
	return g
}

// NodeOf returns the node name of a server id: what is before '#'.
func NodeOf(id raft.ServerID) string {
	name, _, _ := strings.Cut(string(id), "#")
	return name
}

// peer returns the peer, made if need be.
func (t *Transport) peer(node string) (*peer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	p := t.peers[node]
	if p == nil {
		p = newPeer(t, node)
		t.peers[node] = p
	}
	return p, nil
}

func (t *Transport) group(id uint32) *RaftTransport {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.groups[id]
}

func (t *Transport) forget(g *RaftTransport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.groups[g.group] == g {
		delete(t.groups, g.group)
	}
}

// goIfOpen starts a goroutine that Close waits for, unless we are closed.
func (t *Transport) goIfOpen(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// succeed registers a new outgoing flow of the node, which ends when over is
// closed, and returns its predecessor's channel (nil if there was none).
func (t *Transport) succeed(node string, over chan struct{}) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.flows[node]
	t.flows[node] = over
	return before
}

// hello is what we say at the start of a stream.
func (t *Transport) hello() *peerpb.Hello {
	h := t.opts.Hello()
	format := h.GetFormat()
	if format == 0 {
		format = Format
	}
	return &peerpb.Hello{
		Format: format, ClusterId: h.GetClusterId(), Node: t.self,
		Disk: h.GetDisk(), Version: h.GetVersion(),
	}
}
