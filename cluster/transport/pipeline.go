package transport

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline implements raft.Transport.
func (g *RaftTransport) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	depth := g.t.opts.PipelineDepth
	if depth < 2 {
		return nil, raft.ErrPipelineReplicationNotSupported
	}
	peer, err := g.t.peer(NodeOf(id))
	if err != nil {
		return nil, err
	}
	if up, _, err := peer.entries.state(); err != nil {
		return nil, err
	} else if !up {
		return nil, fmt.Errorf("%w: %s", ErrLinkDown, id)
	}
	p := &pipeline{
		g: g, target: id, x: peer.entries,
		slots:    make(chan struct{}, depth),
		inflight: make(chan *appendFuture, depth),
		done:     make(chan raft.AppendFuture),
		broken:   make(chan struct{}),
		closed:   make(chan struct{}),
	}
	if !g.t.goIfOpen(p.deliver) {
		return nil, ErrClosed
	}
	return p, nil
}

// pipeline keeps several AppendEntries of one group and follower in flight.
// They travel on the exchange that all groups share, in order.
//
// Raft stops to read Consumer at the first answer without success, but may call
// AppendEntries once more before it notices, and would hang for ever if that
// call waited for room (hashicorp/raft #612). So the pipeline breaks *before* it
// delivers such an answer, and a broken pipeline never blocks.
type pipeline struct {
	g      *RaftTransport
	target raft.ServerID
	x      *exchange

	slots    chan struct{}      // holds one token per request in flight
	inflight chan *appendFuture // in order of sending; as large as slots
	done     chan raft.AppendFuture

	broken    chan struct{} // no more requests
	breakOnce sync.Once
	closed    chan struct{}
	closeOnce sync.Once
}

// AppendEntries implements raft.AppendPipeline. It blocks while the pipeline is
// full. Raft calls it from one goroutine.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	select {
	case <-p.broken:
		return nil, ErrPipelineBroken
	case <-p.closed:
		return nil, ErrPipelineBroken
	default:
	}
	if p.g.silent.Load() {
		return nil, ErrSilent
	}
	select {
	case p.slots <- struct{}{}:
	case <-p.broken:
		return nil, ErrPipelineBroken
	case <-p.closed:
		return nil, ErrPipelineBroken
	}
	req := p.g.request(p.target, p.g.t.opts.EntriesTimeout)
	req.Body = toAppend(args)
	if req.SizeVT() > MaxMessageBytes {
		<-p.slots
		return nil, fmt.Errorf("%w: AppendEntries to %s", ErrTooLarge, p.target)
	}
	c, err := p.x.begin(req, 0)
	if err != nil {
		<-p.slots
		return nil, fmt.Errorf("%w: %s", err, p.target)
	}
	f := &appendFuture{start: time.Now(), args: args, resp: resp, call: c, done: make(chan struct{})}
	p.inflight <- f // never blocks: we hold a slot
	return f, nil
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close implements raft.AppendPipeline; calls in flight are forgotten.
func (p *pipeline) Close() error {
	p.closeOnce.Do(func() { close(p.closed) })
	return nil
}

// deliver completes futures in order. It ends at the first that is no success:
// raft reads no further.
func (p *pipeline) deliver() {
	defer p.forsakeAll()
	for {
		select {
		case f := <-p.inflight:
			p.complete(f)
			over := f.err != nil || !f.resp.Success || f.resp.Term > f.args.Term
			if over {
				p.breakOnce.Do(func() { close(p.broken) })
			}
			close(f.done)
			select {
			case p.done <- f:
			case <-p.closed:
				return
			case <-p.g.closed:
				p.breakOnce.Do(func() { close(p.broken) })
				return
			}
			if over {
				return
			}
			<-p.slots
		case <-p.closed:
			return
		case <-p.g.closed:
			p.breakOnce.Do(func() { close(p.broken) })
			return
		}
	}
}

// complete waits for the answer to one request.
func (p *pipeline) complete(f *appendFuture) {
	timer := time.NewTimer(time.Until(f.start.Add(p.g.t.opts.EntriesTimeout)))
	defer timer.Stop()
	select {
	case <-f.call.done: // answered long ago, as often
	default:
		select {
		case <-f.call.done:
		case <-timer.C:
			p.x.forsake(f.call)
			p.g.t.stats.raftTimeout.Add(1)
			f.err = fmt.Errorf("%w: %s", ErrTimeout, p.target)
			return
		case <-p.closed:
			p.x.forsake(f.call)
			f.err = ErrPipelineBroken
			return
		case <-p.g.closed:
			p.x.forsake(f.call)
			f.err = ErrClosed
			return
		}
	}
	if f.err = f.call.err; f.err != nil {
		return
	}
	if f.err = refusal(f.call.resp, string(p.target)); f.err != nil {
		return
	}
	m := f.call.resp.GetAppend()
	if m == nil {
		f.err = errWrongAnswer
		return
	}
	intoAppend(m, f.resp)
	p.g.sawTerm(f.resp.Term)
	if f.resp.Success && f.resp.Term == f.args.Term {
		p.g.confirm(p.target, f.args.Term, f.start)
	}
}

// forsakeAll forgets what was sent after the last future that was delivered.
func (p *pipeline) forsakeAll() {
	for {
		select {
		case f := <-p.inflight:
			p.x.forsake(f.call)
			f.err = ErrPipelineBroken
			close(f.done)
		default:
			return
		}
	}
}

// appendFuture implements raft.AppendFuture.
type appendFuture struct {
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	call  *call
	err   error         // valid once done is closed
	done  chan struct{} // closed when resp or err is set
}

// Error waits for the answer.
func (f *appendFuture) Error() error {
	<-f.done
	return f.err
}

func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.args }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }
