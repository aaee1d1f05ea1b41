package transport

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// groupRetry is the pause before a held request asks a peer again that does not
// run the group yet.
const groupRetry = 100 * time.Millisecond

// RaftTransport is the transport of one Raft group.
type RaftTransport struct {
	t        *Transport
	group    uint32
	self     raft.ServerID
	admitted atomic.Bool
	silent   atomic.Bool
	timeout  atomic.Int64 // the group's HeartbeatTimeout
	consumer chan raft.RPC
	inbox    inbox
	closed   chan struct{}
	once     sync.Once

	mu     sync.Mutex
	term   uint64                      // mu; highest term seen
	termCh chan struct{}               // mu; closed when term grows
	beats  map[raft.ServerID]time.Time // mu; last answer to a heartbeat
	// confirmed is, by follower, our leadership's latest confirmation; mu.
	confirmed map[raft.ServerID]confirmation
	prompt    time.Time // mu; until then heartbeats do not wait for company
}

var (
	_ raft.Transport   = (*RaftTransport)(nil)
	_ raft.WithPreVote = (*RaftTransport)(nil)
	_ raft.WithClose   = (*RaftTransport)(nil)
)

func newRaftTransport(t *Transport, group uint32, self raft.ServerID) *RaftTransport {
	g := &RaftTransport{
		t: t, group: group, self: self,
		consumer: make(chan raft.RPC),
		inbox:    inbox{wake: make(chan struct{}, 1)},
		closed:   make(chan struct{}),
		termCh:   make(chan struct{}),
		beats:    make(map[raft.ServerID]time.Time),

		confirmed: make(map[raft.ServerID]confirmation),
	}
	g.SetHeartbeatTimeout(t.opts.HeartbeatTimeout)
	return g
}

// SetHeartbeatTimeout says what the group's raft.Config has, if it differs from
// Options.HeartbeatTimeout.
func (g *RaftTransport) SetHeartbeatTimeout(d time.Duration) { g.timeout.Store(int64(d)) }

// SetAdmitted says whether the replica takes part in elections. One that is not
// admitted (the initial state) refuses votes, pre-votes and TimeoutNow, and
// asks for none; it takes log entries and snapshots. Raft's own checks would
// let an empty replica vote, and so a wiped disk lose what it once promised.
func (g *RaftTransport) SetAdmitted(admitted bool) {
	g.admitted.Store(admitted || mutant.UnadmittedVotes)
}

// SetSilent stops (or resumes) sending heartbeats and entries. A leader whose disk
// stalls would keep its leadership by them for ever, since heartbeats, and the
// empty AppendEntries that tell of commits, need no disk, while it can commit
// nothing (hashicorp/raft #503): silent, it is deposed.
func (g *RaftTransport) SetSilent(silent bool) { g.silent.Store(silent) }

// Consumer implements raft.Transport.
func (g *RaftTransport) Consumer() <-chan raft.RPC { return g.consumer }

// LocalAddr implements raft.Transport.
func (g *RaftTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(g.self) }

// EncodePeer implements raft.Transport.
func (g *RaftTransport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(addr)
}

// DecodePeer implements raft.Transport.
func (g *RaftTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport and does nothing: heartbeats go
// through Consumer, see the package comment.
func (g *RaftTransport) SetHeartbeatHandler(func(raft.RPC)) {}

// Close implements raft.WithClose. Calls end with ErrClosed, peers hear that
// the group is unknown. It may be called before raft.Shutdown, and more than
// once; it does not wait.
func (g *RaftTransport) Close() error {
	g.once.Do(func() {
		close(g.closed)
		g.t.forget(g)
	})
	return nil
}

// sawTerm notes a term that somebody campaigns or leads in.
func (g *RaftTransport) sawTerm(term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if term > g.term {
		g.term = term
		close(g.termCh)
		g.termCh = make(chan struct{})
	}
}

func (g *RaftTransport) terms() (term uint64, grew <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.term, g.termCh
}

func (g *RaftTransport) request(target raft.ServerID, timeout time.Duration) *peerpb.RaftRequest {
	return &peerpb.RaftRequest{
		Group: g.group, Target: string(target), From: string(g.self),
		Patience: uint32(timeout / time.Millisecond),
	}
}

// ask sends a request of the urgent kind and waits for the answer. While the
// link is down it waits for it, within the same deadline.
func (g *RaftTransport) ask(target raft.ServerID, req *peerpb.RaftRequest, wait patience) (*peerpb.RaftResponse, error) {
	p, err := g.t.peer(NodeOf(target))
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(g.t.opts.UrgentTimeout)
	defer timer.Stop()
	for {
		up, upCh, err := p.urgent.state()
		if err != nil {
			return nil, err
		}
		if !up {
			select {
			case <-upCh:
				continue
			case <-timer.C:
				return nil, fmt.Errorf("%w: %s", ErrLinkDown, target)
			case <-p.urgent.closedCh:
				return nil, ErrLinkDown
			case <-g.closed:
				return nil, ErrClosed
			}
		}
		c, err := p.urgent.begin(req, wait)
		if errors.Is(err, ErrLinkDown) {
			continue // it broke this moment
		} else if err != nil {
			return nil, err
		}
		return g.await(p.urgent, c, timer, string(target))
	}
}

// await waits for the answer to a call.
func (g *RaftTransport) await(x *exchange, c *call, timer *time.Timer, target string) (*peerpb.RaftResponse, error) {
	select {
	case <-c.done:
		if c.err != nil {
			return nil, fmt.Errorf("%w: %s", c.err, target)
		}
		return c.resp, refusal(c.resp, target)
	case <-timer.C:
		x.forsake(c)
		g.t.stats.raftTimeout.Add(1)
		return nil, fmt.Errorf("%w: %s", ErrTimeout, target)
	case <-g.closed:
		x.forsake(c)
		return nil, ErrClosed
	}
}

// errWrongAnswer is an answer of another kind than the request.
var errWrongAnswer = fmt.Errorf("%w: answer of the wrong kind", ErrRemote)

// RequestVote implements raft.Transport.
func (g *RaftTransport) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	g.sawTerm(args.Term)
	if !g.admitted.Load() {
		return ErrNotAdmitted
	}
	req := g.request(id, g.t.opts.UrgentTimeout)
	req.Body = toVote(args)
	r, err := g.ask(id, req, 0)
	if err != nil {
		return err
	}
	m := r.GetVote()
	if m == nil {
		return errWrongAnswer
	}
	*resp = raft.RequestVoteResponse{
		RPCHeader: fromHeader(m.GetHeader()), Term: m.GetTerm(), Peers: m.GetPeers(), Granted: m.GetGranted(),
	}
	return nil
}

// RequestPreVote implements raft.WithPreVote.
func (g *RaftTransport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	g.sawTerm(args.Term)
	if !g.admitted.Load() {
		return ErrNotAdmitted
	}
	req := g.request(id, g.t.opts.UrgentTimeout)
	req.Body = toPreVote(args)
	r, err := g.ask(id, req, 0)
	if err != nil {
		// Raft takes an error with certain words in it for a vote in favour.
		// Never pass on what a peer wrote.
		var refused *RefusedError
		if errors.As(err, &refused) {
			return &RefusedError{Reason: refused.Reason, Target: refused.Target}
		}
		return err
	}
	m := r.GetPreVote()
	if m == nil {
		return errWrongAnswer
	}
	*resp = raft.RequestPreVoteResponse{
		RPCHeader: fromHeader(m.GetHeader()), Term: m.GetTerm(), Granted: m.GetGranted(),
	}
	return nil
}

// TimeoutNow implements raft.Transport.
func (g *RaftTransport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	req := g.request(id, g.t.opts.UrgentTimeout)
	req.Body = &peerpb.RaftRequest_TimeoutNow{TimeoutNow: &peerpb.TimeoutNow{Header: toHeader(args.RPCHeader)}}
	r, err := g.ask(id, req, 0)
	if err != nil {
		return err
	}
	m := r.GetTimeoutNow()
	if m == nil {
		return errWrongAnswer
	}
	*resp = raft.TimeoutNowResponse{RPCHeader: fromHeader(m.GetHeader())}
	return nil
}

// AppendEntries implements raft.Transport. A heartbeat has a short deadline;
// anything else waits for a link that is down (see the package comment).
func (g *RaftTransport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	var r *peerpb.RaftResponse
	var err error
	if g.silent.Load() {
		return ErrSilent
	}
	sent := time.Now()
	if isHeartbeat(args) {
		req := g.request(id, g.t.opts.UrgentTimeout)
		req.Body = toAppend(args)
		if r, err = g.ask(id, req, g.patience(id)); err == nil {
			g.answered(id)
		}
	} else {
		r, err = g.appendHeld(id, args)
	}
	if err != nil {
		return err
	}
	m := r.GetAppend()
	if m == nil {
		return errWrongAnswer
	}
	intoAppend(m, resp)
	g.sawTerm(resp.Term)
	if resp.Success && resp.Term == args.Term {
		g.confirm(id, args.Term, sent)
	}
	return nil
}

// confirmation is the latest sending of a request by which a follower has
// confirmed this replica's leadership of a term.
type confirmation struct {
	term uint64
	sent time.Time
}

func (g *RaftTransport) confirm(id raft.ServerID, term uint64, sent time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.confirmed[id]
	if term > c.term || term == c.term && sent.After(c.sent) {
		g.confirmed[id] = confirmation{term, sent}
	}
}

// Confirmed reports whether the server has confirmed our leadership of the term by
// answering a request that was sent after t. raft.VerifyLeader alone does not
// tell: it counts answers to heartbeats that were sent before it was called.
func (g *RaftTransport) Confirmed(id raft.ServerID, term uint64, t time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.confirmed[id]
	return c.term == term && c.sent.After(t)
}

// promptFor is for how long after Prompt heartbeats do not wait for company.
const promptFor = 100 * time.Millisecond

// Prompt lets the group's heartbeats leave at once for a while, and those that
// wait: somebody waits for VerifyLeader.
func (g *RaftTransport) Prompt() {
	g.mu.Lock()
	g.prompt = time.Now().Add(promptFor)
	g.mu.Unlock()
	g.t.mu.Lock()
	peers := slices.Collect(maps.Values(g.t.peers))
	g.t.mu.Unlock()
	for _, p := range peers {
		p.urgent.leave()
	}
}

// patience tells a heartbeat that raft sends by its timer, which may wait, from one
// that VerifyLeader asked for, which somebody is waiting for, as far as one can: raft
// waits at least HeartbeatTimeout/10 after an answer.
func (g *RaftTransport) patience(id raft.ServerID) patience {
	timeout := time.Duration(g.timeout.Load())
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	switch {
	case now.Before(g.prompt) || now.Sub(g.beats[id]) < timeout/10:
		return 0
	case timeout == 0:
		return forCompany
	default:
		return patience(timeout / 5)
	}
}

func (g *RaftTransport) answered(id raft.ServerID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.beats[id] = time.Now()
}

func (g *RaftTransport) appendHeld(id raft.ServerID, args *raft.AppendEntriesRequest) (*peerpb.RaftResponse, error) {
	p, err := g.t.peer(NodeOf(id))
	if err != nil {
		return nil, err
	}
	timeout := g.t.opts.EntriesTimeout
	req := g.request(id, timeout)
	req.Body = toAppend(args)
	if req.SizeVT() > MaxMessageBytes {
		return nil, fmt.Errorf("%w: AppendEntries to %s", ErrTooLarge, id)
	}
	until := time.Now().Add(g.t.opts.Hold)
	for {
		if err := g.hold(p.entries, args.Term, until); err != nil {
			return nil, err
		}
		c, err := p.entries.begin(req, 0)
		if errors.Is(err, ErrLinkDown) {
			continue // it broke this moment
		} else if err != nil {
			return nil, err
		}
		timer := time.NewTimer(timeout)
		r, err := g.await(p.entries, c, timer, string(id))
		timer.Stop()
		if !errors.Is(err, ErrUnknownGroup) || time.Now().After(until) {
			return r, err
		}
		if err := g.sleep(p.entries, args.Term, groupRetry); err != nil {
			return nil, err
		}
		// Its writer may still hold the old request.
		fresh := g.request(id, timeout)
		fresh.Body = req.Body
		req = fresh
	}
}

// hold waits until the link is up. It ends with an error when that makes no
// more sense.
func (g *RaftTransport) hold(x *exchange, term uint64, until time.Time) error {
	for {
		up, upCh, err := x.state()
		if up || err != nil {
			return err
		}
		left := time.Until(until)
		if left <= 0 {
			return ErrLinkDown
		}
		// Ask again now and then, lest the exchange thinks that nobody needs it.
		if err := g.waitFor(x, term, upCh, min(left, unusedAfter/2)); err != nil {
			return err
		}
	}
}

func (g *RaftTransport) sleep(x *exchange, term uint64, d time.Duration) error {
	return g.waitFor(x, term, nil, d)
}

// waitFor returns nil after d or when ch is closed, an error when a request of
// this term has lost its meaning.
func (g *RaftTransport) waitFor(x *exchange, term uint64, ch <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		seen, grew := g.terms()
		if seen > term {
			return ErrDeposed
		}
		select {
		case <-ch:
			return nil
		case <-timer.C:
			return nil
		case <-grew:
		case <-x.closedCh:
			return ErrLinkDown
		case <-g.closed:
			return ErrClosed
		}
	}
}
