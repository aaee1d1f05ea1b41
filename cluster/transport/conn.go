package transport

import (
	"context"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	// MaxMessageBytes bounds one message. raft.Config.MaxAppendEntries times
	// the largest log entry must stay below it.
	MaxMessageBytes = 256 << 20

	// Windows of HTTP/2 flow control. Fixed sizes spare the bandwidth probes.
	streamWindow = 4 << 20
	connWindow   = 16 << 20

	// dialTimeout bounds one TCP connect: after a partition heals, a fresh SYN
	// is faster than waiting for the kernel's doubling retries.
	dialTimeout = time.Second
	// handshakeTimeout bounds connect, TLS and HTTP/2 settings together.
	handshakeTimeout = 3 * time.Second

	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second

	// gRPC's keepalive finds dead peers where no stream of ours watches (unary
	// calls, a snapshot being restored); it cannot be asked more often.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second

	// Metadata of each stream; cluster ids that are both known must agree.
	metaCluster = "flotilla-cluster"
	metaNode    = "flotilla-node"
)

func (t *Transport) serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(t.opts.Credentials),
		grpc.UnaryInterceptor(t.checkCall),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	}
}

// newClientConn returns a connection that dials when it is first used.
func (t *Transport) newClientConn(node string) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		addr, ok := t.opts.Resolve(node)
		if !ok {
			return nil, fmt.Errorf("%w %q", ErrUnknownPeer, node)
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return t.opts.Dial(ctx, addr)
	}
	return grpc.NewClient("passthrough:///"+node,
		grpc.WithTransportCredentials(t.opts.Credentials.Clone()),
		grpc.WithContextDialer(dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 1.6, MaxDelay: maxBackoff / 2},
			MinConnectTimeout: handshakeTimeout,
		}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(MaxMessageBytes),
			grpc.MaxCallSendMsgSize(MaxMessageBytes),
		),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
	)
}

// conn is a client connection that can be thrown away and made anew under the
// hands of its users.
type conn struct {
	t    *Transport
	node string

	mu     sync.Mutex
	cc     *grpc.ClientConn // mu; nil: made at the next use
	closed bool             // mu
}

var _ grpc.ClientConnInterface = (*conn)(nil)

func (c *conn) get() (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if c.cc == nil {
		cc, err := c.t.newClientConn(c.node)
		if err != nil {
			return nil, fmt.Errorf("transport: connection to %s: %w", c.node, err)
		}
		c.cc = cc
	}
	return c.cc, nil
}

// reset drops the TCP connection; calls on their way fail.
func (c *conn) reset() { c.drop(false) }

func (c *conn) close() { c.drop(true) }

func (c *conn) drop(forEver bool) {
	c.mu.Lock()
	cc := c.cc
	c.cc = nil
	c.closed = c.closed || forEver
	c.mu.Unlock()
	if cc != nil {
		_ = cc.Close() // only says that it was closed already
	}
}

// wake ends gRPC's own back-off, by beginning anew: ClientConn.ResetConnectBackoff reads a
// map while others may write it (grpc v1.84.0).
func (c *conn) wake() {
	c.mu.Lock()
	failing := c.cc != nil && c.cc.GetState() == connectivity.TransientFailure
	c.mu.Unlock()
	if failing {
		c.reset()
	}
}

// Invoke implements grpc.ClientConnInterface.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	cc, err := c.get()
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	err = cc.Invoke(c.t.outgoing(ctx), method, args, reply, opts...)
	if status.Code(err) == codes.Canceled && ctx.Err() == nil {
		// The connection was dropped, not the call: the caller may try again.
		return status.Error(codes.Unavailable, ErrLinkDown.Error())
	}
	return err
}

// NewStream implements grpc.ClientConnInterface.
func (c *conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cc, err := c.get()
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return cc.NewStream(ctx, desc, method, opts...)
}

// outgoing adds to a stream's context who we are.
func (t *Transport) outgoing(ctx context.Context) context.Context {
	h := t.hello()
	return metadata.AppendToOutgoingContext(ctx, metaCluster, h.ClusterId, metaNode, h.Node)
}

// named is what credentials say of a peer that they know by name.
type named interface{ Names(node string) error }

// checkName refuses a peer that claims to be a node which its certificate does not name.
func checkName(ctx context.Context, node string) error {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil
	}
	if info, ok := p.AuthInfo.(named); ok && info.Names(node) != nil {
		return status.Error(codes.PermissionDenied, "the certificate does not name the node")
	}
	return nil
}

// checkCall is checkName for unary calls.
func (t *Transport) checkCall(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if err := checkName(ctx, first(md, metaNode)); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// checkStream refuses a stream from another cluster, or under another's name.
func (t *Transport) checkStream(ctx context.Context) (node string, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	node, theirs, ours := first(md, metaNode), first(md, metaCluster), t.hello().ClusterId
	if err := checkName(ctx, node); err != nil {
		return node, err
	}
	if theirs != "" && ours != "" && theirs != ours {
		t.stats.refusedPeers[refusedCluster].Add(1)
		t.log.Error("refused a peer of another cluster", "peer", node, "theirs", theirs, "ours", ours)
		return node, status.Error(codes.FailedPrecondition, "another cluster")
	}
	return node, nil
}

func first(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// retry is the pause between attempts to reach a peer.
type retry struct {
	d     time.Duration // owned by the goroutine that pauses
	nudge chan struct{} // capacity 1
}

func newRetry() *retry { return &retry{nudge: make(chan struct{}, 1)} }

func (r *retry) poke() {
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

func (r *retry) reset() { r.d = 0 }

// pause waits; false: ctx ended.
func (r *retry) pause(ctx context.Context) bool {
	r.d = min(max(2*r.d, minBackoff), maxBackoff)
	timer := time.NewTimer(r.d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.nudge:
		r.d = 0
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
