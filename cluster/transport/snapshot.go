package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const (
	snapshotChunk = 256 << 10
	// restoreRate is the slowest restore that is waited for, in bytes per
	// second, on top of a minute.
	restoreRate = 1 << 20
)

// InstallSnapshot implements raft.Transport. The snapshot has a TCP connection
// of its own. It fails when a chunk makes no progress for
// Options.EntriesTimeout, or when the follower takes longer than a minute and a
// second per MiB to restore it.
func (g *RaftTransport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	p, err := g.t.peer(NodeOf(id))
	if err != nil {
		return err
	}
	if err := g.hold(p.entries, args.Term, time.Now().Add(g.t.opts.Hold)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(p.ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	if !g.t.goIfOpen(func() {
		select {
		case <-g.closed:
			cancel(ErrClosed)
		case <-ended:
		}
	}) {
		return ErrClosed
	}
	r, err := g.sendSnapshot(ctx, cancel, id, args, data)
	if err == nil {
		err = refusal(r, string(id))
	}
	if err != nil {
		return fmt.Errorf("snapshot to %s: %w", id, cause(ctx, err))
	}
	m := r.GetSnapshot()
	if m == nil {
		return errWrongAnswer
	}
	*resp = raft.InstallSnapshotResponse{
		RPCHeader: fromHeader(m.GetHeader()), Term: m.GetTerm(), Success: m.GetSuccess(),
	}
	g.sawTerm(resp.Term)
	return nil
}

// sendSnapshot sends the data; cancel must end ctx.
func (g *RaftTransport) sendSnapshot(ctx context.Context, cancel context.CancelCauseFunc, id raft.ServerID, args *raft.InstallSnapshotRequest, data io.Reader) (*peerpb.RaftResponse, error) {
	t := g.t
	step := t.opts.EntriesTimeout
	watch := time.AfterFunc(step, func() { cancel(ErrTimeout) })
	defer watch.Stop()
	cc, err := t.newClientConn(NodeOf(id))
	if err != nil {
		return nil, err
	}
	defer func() { _ = cc.Close() }() // only says that it was closed already
	stream, err := peerpb.NewRaftClient(cc).InstallSnapshot(t.outgoing(ctx))
	if err != nil {
		return nil, err
	}
	chunk := &peerpb.SnapshotChunk{Start: &peerpb.SnapshotStart{
		Group: g.group, Target: string(id), From: string(g.self),
		Header: toHeader(args.RPCHeader), SnapshotVersion: int32(args.SnapshotVersion),
		Term: args.Term, Leader: args.Leader,
		LastLogIndex: args.LastLogIndex, LastLogTerm: args.LastLogTerm,
		Peers: args.Peers, Configuration: args.Configuration,
		ConfigurationIndex: args.ConfigurationIndex, Size: args.Size,
	}}
	buf := make([]byte, snapshotChunk)
	for {
		if err := stream.Send(chunk); errors.Is(err, io.EOF) {
			break // the peer ended it and says why
		} else if err != nil {
			return nil, err
		}
		t.stats.snapshotBytesOut.Add(uint64(len(chunk.Data)))
		n, err := io.ReadFull(data, buf)
		if n == 0 && errors.Is(err, io.EOF) {
			break
		} else if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("reading snapshot: %w", err)
		}
		watch.Reset(step)
		chunk = &peerpb.SnapshotChunk{Data: buf[:n]} // Send has encoded the last one
	}
	watch.Reset(max(step, time.Minute) + time.Duration(args.Size/restoreRate)*time.Second)
	r, err := stream.CloseAndRecv()
	if err == nil {
		t.stats.snapshotsOut.Add(1)
	}
	return r, err
}

// InstallSnapshot implements peerpb.RaftServer.
func (s raftService) InstallSnapshot(stream peerpb.Raft_InstallSnapshotServer) error {
	t := s.t
	if _, err := t.checkStream(stream.Context()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	watch := time.AfterFunc(t.opts.EntriesTimeout, func() { cancel(ErrTimeout) })
	defer watch.Stop()
	firsts := make(chan *peerpb.SnapshotChunk, 1)
	if !t.goIfOpen(func() {
		c, err := stream.Recv()
		if err != nil {
			cancel(err)
			return
		}
		firsts <- c
	}) {
		return flowStatus(ErrClosed)
	}
	var chunk *peerpb.SnapshotChunk
	select {
	case chunk = <-firsts:
	case <-ctx.Done():
		return flowStatus(context.Cause(ctx))
	}
	start := chunk.GetStart()
	g := t.group(start.GetGroup())
	reason := peerpb.RefuseReason_NONE
	switch {
	case start == nil:
		return status.Error(codes.InvalidArgument, "snapshot without a start")
	case g == nil:
		reason = peerpb.RefuseReason_UNKNOWN_GROUP
	case start.GetTarget() != string(g.self):
		reason = peerpb.RefuseReason_WRONG_TARGET
	}
	if reason != peerpb.RefuseReason_NONE {
		t.stats.raftRefused.Add(1)
		return stream.SendAndClose(&peerpb.RaftResponse{Refused: reason})
	}
	r, err := g.receiveSnapshot(ctx, cancel, stream, watch, chunk)
	if err != nil {
		return flowStatus(err)
	}
	return stream.SendAndClose(r)
}

// receiveSnapshot lets raft read the snapshot and waits for its verdict.
func (g *RaftTransport) receiveSnapshot(ctx context.Context, cancel context.CancelCauseFunc, stream peerpb.Raft_InstallSnapshotServer, watch *time.Timer, chunk *peerpb.SnapshotChunk) (*peerpb.RaftResponse, error) {
	start := chunk.GetStart()
	watch.Stop() // raft may be busy; the reader watches the sender
	result := make(chan *peerpb.RaftResponse, 1)
	in := &inboundRPC{
		cmd: &raft.InstallSnapshotRequest{
			RPCHeader:       fromHeader(start.GetHeader()),
			SnapshotVersion: raft.SnapshotVersion(start.GetSnapshotVersion()),
			Term:            start.GetTerm(), Leader: start.GetLeader(),
			LastLogIndex: start.GetLastLogIndex(), LastLogTerm: start.GetLastLogTerm(),
			Peers: start.GetPeers(), Configuration: start.GetConfiguration(),
			ConfigurationIndex: start.GetConfigurationIndex(), Size: start.GetSize(),
		},
		reader:  &snapshotReader{stream: stream, rest: chunk.GetData(), watch: watch, patience: g.t.opts.EntriesTimeout},
		ctx:     ctx,
		respond: func(resp any, err error) { result <- response(resp, err) },
	}
	if !g.enqueue(in, false) {
		return &peerpb.RaftResponse{Refused: peerpb.RefuseReason_UNKNOWN_GROUP}, nil
	}
	select {
	case r := <-result:
		return r, nil
	case <-g.closed:
		cancel(ErrClosed)
		return nil, ErrClosed
	case <-ctx.Done():
		// The handler returns, by which a Recv in the reader fails, and raft's
		// main loop goes on.
		return nil, context.Cause(ctx)
	}
}

// snapshotReader reads the chunks of a snapshot, on raft's main loop. A sender
// that stalls is given up after patience.
type snapshotReader struct {
	stream   peerpb.Raft_InstallSnapshotServer
	rest     []byte
	watch    *time.Timer // ends the stream
	patience time.Duration
	err      error
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.watch.Reset(r.patience)
		chunk, err := r.stream.Recv()
		r.watch.Stop()
		if err != nil {
			r.err = err // io.EOF at the end
			return 0, err
		}
		r.rest = chunk.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
