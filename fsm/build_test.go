package fsm

import (
	"fmt"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// gw is the lane source of a node's incarnation.
func gw(node, incarnation uint64) uint64 { return node<<incarnationBits | incarnation }

type encoder interface{ MarshalVT() ([]byte, error) }

func marshal(x encoder) []byte {
	b, err := x.MarshalVT()
	if err != nil {
		panic(err)
	}
	return b
}

// opOf encodes the body of an op as an Op.
func opOf(body any) []byte {
	op := &logpb.Op{}
	switch x := body.(type) {
	case *logpb.Connect:
		op.Body = &logpb.Op_Connect{Connect: x}
	case *logpb.Disconnect:
		op.Body = &logpb.Op_Disconnect{Disconnect: x}
	case *logpb.Subscribe:
		op.Body = &logpb.Op_Subscribe{Subscribe: x}
	case *logpb.Unsubscribe:
		op.Body = &logpb.Op_Unsubscribe{Unsubscribe: x}
	case *logpb.Publish:
		op.Body = &logpb.Op_Publish{Publish: x}
	case *logpb.Receive:
		op.Body = &logpb.Op_Receive{Receive: x}
	case *logpb.Release:
		op.Body = &logpb.Op_Release{Release: x}
	case *logpb.Acks:
		op.Body = &logpb.Op_Acks{Acks: x}
	case *logpb.RetainedAnswer:
		op.Body = &logpb.Op_RetainedAnswer{RetainedAnswer: x}
	case *logpb.Group:
		op.Body = &logpb.Op_Group{Group: x}
	case *logpb.Lead:
		op.Body = &logpb.Op_Lead{Lead: x}
	case *logpb.CloseGateway:
		op.Body = &logpb.Op_CloseGateway{CloseGateway: x}
	case *logpb.OutboxDone:
		op.Body = &logpb.Op_OutboxDone{OutboxDone: x}
	case *logpb.Tick:
		op.Body = &logpb.Op_Tick{Tick: x}
	case *logpb.OwnerClosed:
		op.Body = &logpb.Op_OwnerClosed{OwnerClosed: x}
	case *logpb.Checkpoint:
		op.Body = &logpb.Op_Checkpoint{Checkpoint: x}
	case *logpb.DeleteSession:
		op.Body = &logpb.Op_DeleteSession{DeleteSession: x}
	default:
		panic(fmt.Sprintf("no op %T", body))
	}
	return marshal(op)
}

// laneOps numbers ops on lanes, as sources do that never fail.
type laneOps map[uint64]uint64

func (l laneOps) op(source uint64, body any) *logpb.LaneOp {
	prev := l[source]
	l[source] = prev + 1
	return &logpb.LaneOp{Source: source, Seq: prev + 1, Prev: prev, Op: opOf(body)}
}

func leaderOp(body any) *logpb.LaneOp { return &logpb.LaneOp{IsLeader: true, Op: opOf(body)} }

func entryOf(time int64, ops ...*logpb.LaneOp) []byte {
	return marshal(&logpb.Entry{Format: Format, Time: time, Ops: ops})
}
