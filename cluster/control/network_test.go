package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// network connects the nodes of a test. It lives in a synctest bubble: its
// delays cost nothing.
type network struct {
	mu    sync.Mutex
	seats map[string]*port            // by node name
	cut   map[[2]string]bool          // from, to: nothing passes
	holds map[[2]string]chan struct{} // from, to: what is sent waits until closed
	delay func() time.Duration
	calls map[string]int // unary calls by method
}

func newNetwork() *network {
	return &network{
		seats: make(map[string]*port), cut: make(map[[2]string]bool), holds: make(map[[2]string]chan struct{}),
		delay: func() time.Duration { return time.Millisecond }, calls: make(map[string]int),
	}
}

var (
	errCut  = errors.New("test network: no answer")
	errGone = status.Error(codes.Unavailable, "test network: connection refused")
)

// port is one process's end of the network: a raft transport, a server and a
// way to the other nodes.
type port struct {
	net      *network
	node     string
	id       raft.ServerID
	consumer chan raft.RPC
	done     chan struct{} // closed when the process is gone
	once     sync.Once

	mu       sync.Mutex
	admitted bool
	services map[string]grpc.MethodDesc
	server   any
}

// plug puts a new process on the network, in the place of the one before.
func (n *network) plug(node string, id raft.ServerID) *port {
	p := &port{
		net: n, node: node, id: id, consumer: make(chan raft.RPC, 64), done: make(chan struct{}),
		services: make(map[string]grpc.MethodDesc),
	}
	n.mu.Lock()
	old := n.seats[node]
	n.seats[node] = p
	n.mu.Unlock()
	if old != nil {
		old.unplug()
	}
	return p
}

func (p *port) unplug() { p.once.Do(func() { close(p.done) }) }

// split cuts the links between the two sets, both ways.
func (n *network) split(as, bs []string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range as {
		for _, b := range bs {
			n.cut[[2]string{a, b}], n.cut[[2]string{b, a}] = cut, cut
		}
	}
}

// whole reports whether nothing is cut or held.
func (n *network) whole() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, cut := range n.cut {
		if cut {
			return false
		}
	}
	return len(n.holds) == 0
}

// heal ends all cuts and holds.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	for _, h := range n.holds {
		close(h)
	}
	clear(n.holds)
}

// hold keeps back what goes from one node to the other; it arrives when the
// network heals, like in a process that was paused.
func (n *network) hold(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.holds[[2]string{from, to}] == nil {
		n.holds[[2]string{from, to}] = make(chan struct{})
	}
}

// pass carries one message from p to a node. It returns the node's process.
func (p *port) pass(to string, timeout <-chan struct{}) (*port, error) {
	n := p.net
	n.mu.Lock()
	hold, d := n.holds[[2]string{p.node, to}], n.delay()
	n.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-timeout:
			return nil, errCut
		}
	}
	time.Sleep(d)
	n.mu.Lock()
	q, mine := n.seats[to], n.seats[p.node] == p && !p.gone()
	cut := n.cut[[2]string{p.node, to}]
	n.mu.Unlock()
	switch {
	case cut || !mine: // it vanishes, and nobody says so
		<-timeout
		return nil, errCut
	case q == nil || q.gone(): // connection refused, or reset
		return nil, errGone
	}
	return q, nil
}

func (p *port) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// call carries a raft RPC there and its answer back.
func (p *port) call(id raft.ServerID, cmd any, r io.Reader, limit time.Duration) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	q, err := p.pass(nodeOf(id), ctx.Done())
	if err != nil {
		return nil, err
	}
	vote := false
	switch cmd.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest, *raft.TimeoutNowRequest:
		vote = true
	}
	q.mu.Lock()
	refused := q.id != id || vote && !q.admitted
	q.mu.Unlock()
	if refused {
		return nil, fmt.Errorf("test network: %s refuses", id)
	}
	resp := make(chan raft.RPCResponse, 1)
	select {
	case q.consumer <- raft.RPC{Command: cmd, Reader: r, RespChan: resp}:
	case <-q.done:
		return nil, errGone
	case <-ctx.Done():
		return nil, errCut
	}
	select {
	case a := <-resp:
		if a.Error != nil {
			return nil, a.Error
		}
		if _, err := q.pass(p.node, ctx.Done()); err != nil {
			return nil, err
		}
		return a.Response, nil
	case <-q.done:
		return nil, errGone
	case <-ctx.Done():
		return nil, errCut
	}
}

const raftRPCTimeout = 500 * time.Millisecond

func (p *port) Consumer() <-chan raft.RPC                               { return p.consumer }
func (p *port) LocalAddr() raft.ServerAddress                           { return raft.ServerAddress(p.id) }
func (p *port) SetHeartbeatHandler(func(raft.RPC))                      {}
func (p *port) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (p *port) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }

func (p *port) SetAdmitted(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.admitted = yes
}

func (p *port) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func carry[T any](p *port, id raft.ServerID, cmd any, r io.Reader, limit time.Duration, into *T) error {
	a, err := p.call(id, cmd, r, limit)
	if err == nil {
		*into = *a.(*T)
	}
	return err
}

func (p *port) AppendEntries(id raft.ServerID, _ raft.ServerAddress, a *raft.AppendEntriesRequest, r *raft.AppendEntriesResponse) error {
	c := *a // heartbeats are sent from one request over and over
	return carry(p, id, &c, nil, raftRPCTimeout, r)
}

func (p *port) RequestVote(id raft.ServerID, _ raft.ServerAddress, a *raft.RequestVoteRequest, r *raft.RequestVoteResponse) error {
	return carry(p, id, a, nil, raftRPCTimeout, r)
}

func (p *port) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, a *raft.RequestPreVoteRequest, r *raft.RequestPreVoteResponse) error {
	return carry(p, id, a, nil, raftRPCTimeout, r)
}

func (p *port) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, a *raft.TimeoutNowRequest, r *raft.TimeoutNowResponse) error {
	return carry(p, id, a, nil, raftRPCTimeout, r)
}

func (p *port) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, a *raft.InstallSnapshotRequest, r *raft.InstallSnapshotResponse, data io.Reader) error {
	return carry(p, id, a, data, 10*raftRPCTimeout, r)
}

// RegisterService implements grpc.ServiceRegistrar.
func (p *port) RegisterService(desc *grpc.ServiceDesc, impl any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = impl
	for _, m := range desc.Methods {
		p.services["/"+desc.ServiceName+"/"+m.MethodName] = m
	}
}

// conn is the way from a process to a node.
type conn struct {
	p  *port
	to string
}

func (p *port) conn(node string) (grpc.ClientConnInterface, error) { return conn{p, node}, nil }

func (c conn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	q, err := c.p.pass(c.to, ctx.Done())
	if err != nil {
		return err
	}
	q.net.mu.Lock()
	q.net.calls[method]++
	q.net.mu.Unlock()
	q.mu.Lock()
	handler, server := q.services[method].Handler, q.server
	q.mu.Unlock()
	if handler == nil {
		return errCut // it has not opened yet
	}
	type answer struct {
		rep any
		err error
	}
	got := make(chan answer, 1)
	go func() {
		rep, err := handler(server, ctx, func(req any) error {
			proto.Merge(req.(proto.Message), args.(proto.Message))
			return nil
		}, nil)
		if err == nil {
			_, err = q.pass(c.p.node, ctx.Done())
		}
		got <- answer{rep, err}
	}()
	select {
	case a := <-got:
		if a.err == nil {
			proto.Merge(reply.(proto.Message), a.rep.(proto.Message))
		}
		return a.err
	case <-q.done:
		return errGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c conn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("test network: no streams")
}
