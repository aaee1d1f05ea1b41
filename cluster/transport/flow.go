package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const (
	maxBatchBytes  = 256 << 10
	maxBatchFrames = 512
)

var (
	errSilent   = errors.New("transport: peer is silent")
	errReplaced = errors.New("transport: stream replaced by a newer one")
	errRefused  = errors.New("transport: peer refused")
)

// outboundFlow is our flow stream to one node: one goroutine (run) per node
// dials and writes, one per stream reads the peer's signs of life.
type outboundFlow struct {
	p     *peer
	retry *retry
	wake  chan struct{} // capacity 1: there is something in queue

	// Calls of OnLink must not overlap with those of an earlier flow to this
	// node, which Disconnect may have left behind.
	over chan struct{} // closed when run returns

	mu    sync.Mutex
	up    bool            // mu
	queue []*peerpb.Frame // mu
	sizes []int           // mu; encoded sizes, like queue
	bytes int             // mu; queued or being sent
}

func newOutboundFlow(p *peer) *outboundFlow {
	f := &outboundFlow{p: p, retry: newRetry(), wake: make(chan struct{}, 1), over: make(chan struct{})}
	return f
}

// send queues a frame for the stream that is up now.
func (f *outboundFlow) send(fr *peerpb.Frame) bool {
	size := fr.SizeVT()
	f.mu.Lock()
	if !f.up {
		f.mu.Unlock()
		return false
	}
	// A single frame above the limit may pass when nothing else is queued.
	if f.bytes > 0 && f.bytes+size > f.p.t.opts.MaxQueueBytes {
		f.mu.Unlock()
		f.p.t.stats.queueFull.Add(1)
		return false
	}
	wasEmpty := len(f.queue) == 0
	f.queue = append(f.queue, fr)
	f.sizes = append(f.sizes, size)
	f.bytes += size
	f.mu.Unlock()
	if wasEmpty {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func (f *outboundFlow) run() {
	defer close(f.over)
	t := f.p.t
	if before := t.succeed(f.p.node, f.over); before != nil {
		<-before
	}
	for f.p.ctx.Err() == nil {
		err := f.session()
		if f.p.ctx.Err() != nil {
			return
		}
		t.log.Debug("flow stream ended", "peer", f.p.node, "error", err)
		if status.Code(err) != codes.FailedPrecondition && !errors.Is(err, errRefused) {
			// Unary calls share the connection; a dead one must go, one whose
			// far end merely refused our stream may stay.
			f.p.flowConn.reset()
		}
		if !f.retry.pause(f.p.ctx) {
			return
		}
	}
}

// session opens a stream and works until it breaks.
func (f *outboundFlow) session() error {
	t := f.p.t
	ctx, cancel := context.WithCancelCause(f.p.ctx)
	defer cancel(nil)
	watch := time.AfterFunc(handshakeTimeout+t.opts.Silence, func() { cancel(errSilent) })
	defer watch.Stop()

	stream, err := peerpb.NewFlowClient(f.p.flowConn).Frames(t.outgoing(ctx))
	if err != nil {
		return cause(ctx, err)
	}
	hello := &peerpb.FrameBatch{Frames: []*peerpb.Frame{{Body: &peerpb.Frame_Hello{Hello: t.hello()}}}}
	if err := stream.Send(hello); err != nil {
		_, err = stream.Recv() // the reason; Send only says EOF
		return cause(ctx, err)
	}
	answer, err := stream.Recv()
	if err != nil {
		if status.Code(err) == codes.FailedPrecondition {
			t.log.Error("peer refused our stream", "peer", f.p.node, "error", err)
		}
		return cause(ctx, err)
	}
	if err := t.checkHello(firstHello(answer), f.p.node); err != nil {
		return err
	}
	watch.Reset(t.opts.Silence)

	// The reader is done before session returns, so that it cannot touch watch
	// or the next stream.
	readerDone := make(chan struct{})
	if !t.goIfOpen(func() {
		defer close(readerDone)
		for {
			if _, err := stream.Recv(); err != nil {
				cancel(err)
				return
			}
			watch.Reset(t.opts.Silence)
		}
	}) {
		return ErrClosed
	}
	f.retry.reset()
	f.setUp(true)
	err = f.write(ctx, stream)
	cancel(err)
	<-readerDone
	f.setUp(false)
	return cause(ctx, err)
}

// setUp changes the state and tells OnLink. What was queued on a broken stream
// is gone: its owner sends again.
func (f *outboundFlow) setUp(up bool) {
	t := f.p.t
	f.mu.Lock()
	f.up = up
	f.queue, f.sizes, f.bytes = nil, nil, 0
	f.mu.Unlock()
	if up {
		t.stats.linkUps.Add(1)
		t.log.Info("link up", "peer", f.p.node)
	} else {
		t.stats.linkDowns.Add(1)
		t.log.Info("link down", "peer", f.p.node)
	}
	t.opts.OnLink(f.p.node, up)
}

type batchSender interface {
	Send(*peerpb.FrameBatch) error
}

// write drains the queue into messages until the stream breaks. When idle it
// sends empty batches as a sign of life.
func (f *outboundFlow) write(ctx context.Context, stream batchSender) error {
	t := f.p.t
	ping := time.NewTicker(t.opts.Silence / 4)
	defer ping.Stop()
	var batch peerpb.FrameBatch
	idle := true
	for {
		select {
		case <-f.wake:
		case <-ping.C:
			if idle {
				if err := stream.Send(&peerpb.FrameBatch{}); err != nil {
					return err
				}
				t.stats.batchesOut.Add(1)
			}
			idle = true
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			bytes := f.take(&batch)
			if len(batch.Frames) == 0 {
				break
			}
			idle = false
			if err := stream.Send(&batch); err != nil {
				return err
			}
			t.stats.batchesOut.Add(1)
			t.stats.framesOut.Add(uint64(len(batch.Frames)))
			f.mu.Lock()
			f.bytes -= bytes
			f.mu.Unlock()
		}
	}
}

// take moves the head of the queue, one message full, into batch.
func (f *outboundFlow) take(batch *peerpb.FrameBatch) (bytes int) {
	clear(batch.Frames) // let go of what was sent
	batch.Frames = batch.Frames[:0]
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for n < len(f.queue) && n < maxBatchFrames && (n == 0 || bytes+f.sizes[n] <= maxBatchBytes) {
		bytes += f.sizes[n]
		n++
	}
	batch.Frames = append(batch.Frames, f.queue[:n]...)
	clear(f.queue[:n])
	if n == len(f.queue) {
		f.queue, f.sizes = f.queue[:0], f.sizes[:0] // keep the arrays
	} else {
		f.queue, f.sizes = f.queue[n:], f.sizes[n:]
	}
	return bytes
}

// checkHello judges a peer's Hello; want is the node we meant to reach, or the one
// that an incoming stream is said to be of.
func (t *Transport) checkHello(h *peerpb.Hello, want string) error {
	ours := t.hello()
	var why string
	var kind refused
	switch {
	case h == nil:
		kind, why = refusedHello, "first frame is no Hello"
	case h.GetFormat() != ours.GetFormat():
		kind, why = refusedFormat, fmt.Sprintf("format %d, ours is %d", h.GetFormat(), ours.GetFormat())
	case h.GetClusterId() != "" && ours.GetClusterId() != "" && h.GetClusterId() != ours.GetClusterId():
		kind, why = refusedCluster, fmt.Sprintf("cluster %q, ours is %q", h.GetClusterId(), ours.GetClusterId())
	case h.GetNode() == "":
		kind, why = refusedHello, "no node name"
	case want != "" && h.GetNode() != want:
		kind, why = refusedNode, fmt.Sprintf("node %q speaks in the place of %q", h.GetNode(), want)
	default:
		return nil
	}
	t.stats.refusedPeers[kind].Add(1)
	t.log.Error("refused a peer", "peer", h.GetNode(), "reason", why)
	return fmt.Errorf("%w: %s", errRefused, why)
}

func firstHello(b *peerpb.FrameBatch) *peerpb.Hello {
	if len(b.GetFrames()) == 0 {
		return nil
	}
	return b.Frames[0].GetHello()
}

// cause prefers why we cancelled over gRPC's "canceled".
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}
