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
	name   string     // for the log
	leaves departures // how long heartbeats wait for company
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
	patient  bool                  // mu; all of queue may wait for company
	closedCh chan struct{}         // closed with closed
}

// call is a request on its way.
type call struct {
	id   uint64
	done chan struct{} // closed when resp or err is set
	resp *peerpb.RaftResponse
	err  error
}

// departures says when a message that may wait has to leave.
type departures struct {
	gather time.Duration // after the first of it was queued
	period time.Duration // if set: at multiples of this, and after half of it at most
}

// wait returns how long a message may wait, given the time since some fixed
// point.
func (d departures) wait(since time.Duration) time.Duration {
	if d.period <= 0 {
		return d.gather
	}
	return min(d.period-since%d.period, d.period/2)
}

func newExchange(p *peer, name string, leaves departures) *exchange {
	return &exchange{
		p: p, name: name, leaves: leaves, retry: newRetry(),
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

// begin queues a request. patient: it may wait for others to share its message.
func (x *exchange) begin(req *peerpb.RaftRequest, patient bool) (*call, error) {
	c := &call{done: make(chan struct{})}
	x.mu.Lock()
	if !x.up {
		x.mu.Unlock()
		return nil, ErrLinkDown
	}
	x.nextID++
	c.id = x.nextID
	req.Id = c.id
	x.pending[c.id] = c
	first := len(x.queue) == 0
	hurry := !patient && x.patient
	x.queue = append(x.queue, req)
	x.patient = patient && (first || x.patient)
	x.lastUse = time.Now()
	x.mu.Unlock()
	if first || hurry {
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
	hurry := x.patient && len(x.queue) > 0
	if hurry {
		x.patient = false
	}
	x.mu.Unlock()
	if hurry {
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
	x.pending, x.queue, x.patient = make(map[uint64]*call), nil, false
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
	start := time.Now()
	for {
		select {
		case <-x.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		if wait := x.leaves.wait(time.Since(start)); wait > 0 && x.mayWait() {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-x.wake: // somebody is in a hurry
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		x.mu.Lock()
		queue, x.queue = x.queue, queue[:0]
		x.patient = false
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

func (x *exchange) mayWait() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.patient
}
