package transport

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// flowService takes the flow streams of peers.
type flowService struct {
	peerpb.UnimplementedFlowServer
	t *Transport
}

// inboundNode serialises the streams of one node. Only the holder of the token
// delivers frames, so those of an old stream never mix with those of its
// successor.
type inboundNode struct {
	token  chan struct{} // capacity 1
	latest *inboundFlow  // Transport.mu
	users  int           // Transport.mu; streams that refer to this
}

// inboundFlow is a stream that a node sends its frames on.
type inboundFlow struct {
	node     string        // who it says it is; its Hello must say the same
	replaced chan struct{} // closed when a newer stream of the node wants its place
	once     sync.Once
}

func (in *inboundFlow) replace() { in.once.Do(func() { close(in.replaced) }) }

// Frames implements peerpb.FlowServer. One goroutine reads and delivers; this
// one sends signs of life and decides when the stream ends.
func (s flowService) Frames(stream peerpb.Flow_FramesServer) error {
	t := s.t
	claimed, err := t.checkStream(stream.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	in := &inboundFlow{node: claimed, replaced: make(chan struct{})}
	ready := make(chan string) // the node's name, once its frames may be delivered
	if !t.goIfOpen(func() { cancel(s.read(ctx, cancel, stream, in, ready)) }) {
		return status.Error(codes.Unavailable, ErrClosed.Error())
	}
	select {
	case node := <-ready:
		hello := &peerpb.FrameBatch{Frames: []*peerpb.Frame{{Body: &peerpb.Frame_Hello{Hello: t.hello()}}}}
		if err := stream.Send(hello); err != nil {
			return err
		}
		t.Nudge(node) // who speaks to us can be reached, or soon
		return flowStatus(s.live(ctx, stream, in))
	case <-t.ctx.Done():
		return flowStatus(ErrClosed)
	case <-ctx.Done():
		return flowStatus(context.Cause(ctx))
	}
}

// live sends signs of life until the stream ends.
func (s flowService) live(ctx context.Context, stream batchSender, in *inboundFlow) error {
	tick := time.NewTicker(s.t.opts.Silence / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := stream.Send(&peerpb.FrameBatch{}); err != nil {
				return err
			}
		case <-in.replaced:
			return errReplaced
		case <-s.t.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// read delivers frames in order until the stream breaks or ctx ends.
//
// A silent peer is given five times the usual patience here, since a large
// frame on a slow network keeps Recv busy too; its own end notices earlier. While
// OnFrame works the peer is not counted as silent.
func (s flowService) read(ctx context.Context, cancel context.CancelCauseFunc, stream peerpb.Flow_FramesServer, in *inboundFlow, ready chan<- string) error {
	t := s.t
	patience := 5 * t.opts.Silence
	watch := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer watch.Stop()
	batch, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := firstHello(batch)
	if err := t.checkHello(hello, in.node); err != nil {
		return err
	}
	watch.Stop()
	node := hello.GetNode()
	leave, err := t.enter(ctx, node, in)
	if err != nil {
		return err
	}
	defer leave()
	select {
	case ready <- node:
	case <-ctx.Done():
		return ctx.Err()
	}
	frames := batch.Frames[1:]
	for {
		t.stats.batchesIn.Add(1)
		t.stats.framesIn.Add(uint64(len(frames)))
		for _, f := range frames {
			if ctx.Err() != nil {
				return ctx.Err() // replaced: the newer stream delivers from here
			}
			t.opts.OnFrame(node, f)
		}
		watch.Reset(patience)
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		watch.Stop()
		frames = batch.Frames
	}
}

// enter makes in the node's stream, ends an earlier one, which the peer has
// given up, and waits until that has delivered its last frame.
func (t *Transport) enter(ctx context.Context, node string, in *inboundFlow) (leave func(), err error) {
	t.mu.Lock()
	n := t.inbound[node]
	if n == nil {
		n = &inboundNode{token: make(chan struct{}, 1)}
		t.inbound[node] = n
	}
	old := n.latest
	n.latest = in
	n.users++
	t.mu.Unlock()
	if old != nil {
		old.replace()
	}
	drop := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if n.latest == in {
			n.latest = nil
		}
		if n.users--; n.users == 0 {
			delete(t.inbound, node)
		}
	}
	select {
	case n.token <- struct{}{}:
		return func() { <-n.token; drop() }, nil
	case <-in.replaced:
		err = errReplaced
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	drop()
	return nil, err
}

// flowStatus is what the peer hears at the end of its stream.
func flowStatus(err error) error {
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, errRefused):
		return status.Error(codes.FailedPrecondition, err.Error())
	default:
		return status.Error(codes.Unavailable, err.Error())
	}
}
