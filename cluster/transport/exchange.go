package transport

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const (
	// maxExchangeBytes is where a message of several requests ends; a larger
	// request travels alone.
	maxExchangeBytes = 1 << 20
	// unusedAfter is how long an exchange without calls keeps dialling a peer
	// that does not answer.
	unusedAfter = 30 * time.Second
)

// exchange is one stream of Raft requests to a peer, shared by all groups, on a
// TCP connection of its own. It dials at the first call and redials by itself.
type exchange struct {
	p      *peer
	name   string        // for the log
	gather time.Duration // how long what may wait does, if it has no period
	start  time.Time     // when all periods began
	retry  *retry
	wake   chan struct{} // capacity 1: there is something in queue

	mu       sync.Mutex
	started  bool                  // mu; run is on its way
	closed   bool                  // mu
	up       bool                  // mu
	upCh     chan struct{}         // mu; closed when up turns true
	used     chan struct{}         // capacity 1: somebody wants the link
	lastUse  time.Time             // mu
	pending  map[uint64]*call      // mu; requests without an answer
	nextID   uint64                // mu
	queue    []*peerpb.RaftRequest // mu; to be written
	due      time.Time             // mu; when queue has to leave
	closedCh chan struct{}         // closed with closed
}

// call is a request on its way.
type call struct {
	id   uint64
	done chan struct{} // closed when resp or err is set
	resp *peerpb.RaftResponse
	err  error
}

// patience says how long a request may wait for others to share its message: until
// the next multiple of the period, and half of it at most; none at all if it is 0.
type patience time.Duration

// forCompany is for requests that have no period: they wait Options.Gather.
const forCompany patience = -1

// dueIn returns how long a request may wait.
func (x *exchange) dueIn(p patience, now time.Time) time.Duration {
	if p == forCompany {
		return x.gather
	}
	if p == 0 {
		return 0
	}
	period := time.Duration(p)
	return min(period-now.Sub(x.start)%period, period/2)
}

func newExchange(p *peer, name string, gather time.Duration) *exchange {
	return &exchange{
		p: p, name: name, gather: gather, start: time.Now(), retry: newRetry(),
		wake: make(chan struct{}, 1), upCh: make(chan struct{}),
		used: make(chan struct{}, 1), pending: make(map[uint64]*call),
		closedCh: make(chan struct{}),
	}
}

// state returns whether the link is up, and a channel that is closed when it
// next comes up. It makes sure that somebody tries.
func (x *exchange) state() (up bool, upCh <-chan struct{}, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false, nil, ErrLinkDown // for good: the peer was disconnected
	}
	x.lastUse = time.Now()
	if !x.started {
		if !x.p.t.goIfOpen(x.run) {
			return false, nil, ErrClosed
		}
		x.started = true
	}
	if !x.up {
		select {
		case x.used <- struct{}{}:
		default:
		}
	}
	return x.up, x.upCh, nil
}

// begin queues a request.
func (x *exchange) begin(req *peerpb.RaftRequest, wait patience) (*call, error) {
	c := &call{done: make(chan struct{})}
	now := time.Now()
	x.mu.Lock()
	if !x.up {
		x.mu.Unlock()
		return nil, ErrLinkDown
	}
	x.nextID++
	c.id = x.nextID
	req.Id = c.id
	x.pending[c.id] = c
	due := now.Add(x.dueIn(wait, now))
	sooner := len(x.queue) == 0 || due.Before(x.due)
	if sooner {
		x.due = due
	}
	x.queue = append(x.queue, req)
	x.lastUse = now
	x.mu.Unlock()
	if sooner {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
	return c, nil
}

// leave lets what waits for company go at once.
func (x *exchange) leave() {
	x.mu.Lock()
	x.due = time.Time{}
	waiting := len(x.queue) > 0
	x.mu.Unlock()
	if waiting {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

// forsake forgets a call whose caller has stopped waiting.
func (x *exchange) forsake(c *call) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.pending, c.id)
}

func (x *exchange) close() {
	x.mu.Lock()
	if !x.closed {
		x.closed = true
		close(x.closedCh)
	}
	x.mu.Unlock()
}

// run keeps the stream until the peer is closed.
func (x *exchange) run() {
	for x.p.ctx.Err() == nil {
		err := x.session()
		if x.p.ctx.Err() != nil {
			return
		}
		x.p.t.log.Debug("raft stream ended", "peer", x.p.node, "kind", x.name, "error", err)
		if !x.retry.pause(x.p.ctx) || !x.waitForUse() {
			return
		}
	}
}

// waitForUse returns at once if the exchange was used lately; otherwise when it
// is used again. False: the peer is closed.
func (x *exchange) waitForUse() bool {
	x.mu.Lock()
	unused := time.Since(x.lastUse) > unusedAfter
	x.mu.Unlock()
	if !unused {
		return true
	}
	select { // an old token costs one attempt
	case <-x.used:
		return true
	case <-x.p.ctx.Done():
		return false
	}
}

// session opens a connection and a stream and works until they break.
func (x *exchange) session() error {
	t := x.p.t
	ctx, cancel := context.WithCancelCause(x.p.ctx)
	defer cancel(nil)
	watch := time.AfterFunc(handshakeTimeout+t.opts.Silence, func() { cancel(errSilent) })
	defer watch.Stop()

	cc, err := t.newClientConn(x.p.node)
	if err != nil {
		return fmt.Errorf("connection to %s: %w", x.p.node, err)
	}
	defer func() { _ = cc.Close() }() // only says that it was closed already
	stream, err := peerpb.NewRaftClient(cc).Exchange(t.outgoing(ctx))
	if err != nil {
		return cause(ctx, err)
	}
	if _, err := stream.Header(); err != nil { // the peer has taken the stream
		return cause(ctx, err)
	}
	watch.Reset(t.opts.Silence)
	x.retry.reset()
	x.setUp()
	readerDone := make(chan struct{})
	if !t.goIfOpen(func() {
		defer close(readerDone)
		for {
			batch, err := stream.Recv()
			if err != nil {
				cancel(err)
				return
			}
			watch.Reset(t.opts.Silence)
			x.answer(batch.GetResponses())
		}
	}) {
		x.setDown()
		return ErrClosed
	}
	err = x.write(ctx, stream)
	cancel(err)
	<-readerDone
	x.setDown()
	return cause(ctx, err)
}

func (x *exchange) setUp() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.up = true
	close(x.upCh)
}

// setDown fails all calls: whether the peer acted on them is unknown.
func (x *exchange) setDown() {
	x.mu.Lock()
	pending := x.pending
	x.up, x.upCh = false, make(chan struct{})
	x.pending, x.queue = make(map[uint64]*call), nil
	x.mu.Unlock()
	for _, c := range pending {
		c.err = ErrLinkDown
		close(c.done)
	}
}

func (x *exchange) answer(rs []*peerpb.RaftResponse) {
	for _, r := range rs {
		x.mu.Lock()
		c := x.pending[r.GetId()]
		delete(x.pending, r.GetId())
		x.mu.Unlock()
		if c != nil { // else its caller has given up
			c.resp = r
			close(c.done)
		}
	}
}

type requestSender interface {
	Send(*peerpb.RaftRequestBatch) error
}

// write drains the queue into messages until the stream breaks.
func (x *exchange) write(ctx context.Context, stream requestSender) error {
	t := x.p.t
	var batch peerpb.RaftRequestBatch
	var queue []*peerpb.RaftRequest
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-x.wake:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		x.mu.Lock()
		if wait := time.Until(x.due); wait > 0 {
			x.mu.Unlock()
			timer.Reset(wait) // begin wakes us if one comes that is due sooner
			continue
		}
		queue, x.queue = x.queue, queue[:0]
		x.mu.Unlock()
		for rest := queue; len(rest) > 0; {
			n, bytes := 0, 0
			for n < len(rest) {
				size := rest[n].SizeVT()
				if n > 0 && bytes+size > maxExchangeBytes {
					break
				}
				bytes += size
				n++
			}
			batch.Requests = rest[:n]
			rest = rest[n:]
			if err := stream.Send(&batch); err != nil {
				return err
			}
			t.stats.raftBatchesOut.Add(1)
			t.stats.raftOut.Add(uint64(n))
		}
		clear(queue)
	}
}
