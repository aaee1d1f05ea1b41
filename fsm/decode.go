package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// The kinds of ops are the field numbers of logpb.Op.
const (
	opConnect        = 1
	opDisconnect     = 2
	opSubscribe      = 3
	opUnsubscribe    = 4
	opPublish        = 5
	opReceive        = 6
	opRelease        = 7
	opAcks           = 8
	opRetainedAnswer = 9
	opGroup          = 10
	opLead           = 20
	opCloseGateway   = 21
	opOutboxDone     = 22
	opTick           = 23
	opOwnerClosed    = 24
	opCheckpoint     = 25
	opDeleteSession  = 26
)

// Validate checks an encoded logpb.Op as Apply will. A leader asks before it proposes
// what came from elsewhere: an op that Apply cannot take stops every replica.
// source is the lane's source; isLeader marks an op of the leader itself.
func Validate(op []byte, source uint64, isLeader bool) error {
	_, err := (&decoder{}).decode(op, source, isLeader)
	return err
}

// decoder decodes ops. The most frequent ones are decoded into the same place
// each time and refer to the entry's bytes, which saves most of the allocations;
// they are valid until the next call.
type decoder struct {
	publish logpb.Publish
	receive logpb.Receive
	message logpb.Message
	acks    logpb.Acks
}

// decode takes an encoded logpb.Op apart and checks what Apply relies on. The result
// is one of the types of its oneof.
func (d *decoder) decode(op []byte, source uint64, isLeader bool) (any, error) {
	kind, body, err := splitField(op)
	if err != nil {
		return nil, err
	}
	if isLeader {
		return decodeLeaderOp(kind, body)
	}
	switch kind {
	case opPublish, opReceive, opRelease, opAcks, opRetainedAnswer:
		return d.flowOp(kind, body)
	case opConnect:
		op, err := decode(body, &logpb.Connect{})
		if err == nil {
			err = checkConnect(op, source)
		}
		return op, err
	case opDisconnect:
		return decode(body, &logpb.Disconnect{})
	case opSubscribe:
		return decode(body, &logpb.Subscribe{})
	case opUnsubscribe:
		return decode(body, &logpb.Unsubscribe{})
	case opGroup:
		op, err := decodeInPlace(body, &logpb.Group{})
		if err == nil {
			err = checkGroup(op, source)
		}
		return op, err
	}
	return nil, fmt.Errorf("%w: number %d on a lane", ErrUnknownOp, kind)
}

// flowOp decodes an op that moves messages.
func (d *decoder) flowOp(kind uint64, body []byte) (any, error) {
	switch kind {
	case opPublish:
		d.message.Reset()
		d.publish.Reset()
		d.publish.Message = &d.message
		op, err := decodeInPlace(body, &d.publish)
		if err == nil {
			err = checkMessage(op.Message)
		}
		if err == nil && op.AfterClose != 0 && !isGateway(op.AfterClose) {
			err = fmt.Errorf("%w: gateway %d", ErrMalformed, op.AfterClose)
		}
		return op, err
	case opReceive:
		d.message.Reset()
		d.receive.Reset()
		d.receive.Message = &d.message
		op, err := decodeInPlace(body, &d.receive)
		if err == nil {
			err = checkMessage(op.Message)
		}
		return op, err
	case opRelease:
		return decodeInPlace(body, &logpb.Release{})
	case opAcks:
		a, c := d.acks.Pubacks[:0], d.acks.Pubcomps[:0]
		d.acks.Reset()
		d.acks.Pubacks, d.acks.Pubcomps = a, c
		return decodeInPlace(body, &d.acks)
	}
	op, err := decodeInPlace(body, &logpb.RetainedAnswer{})
	for i := 0; err == nil && i < len(op.Messages); i++ {
		err = checkMessage(op.Messages[i])
	}
	return op, err
}

func decodeLeaderOp(kind uint64, body []byte) (any, error) {
	switch kind {
	case opLead:
		return decode(body, &logpb.Lead{})
	case opCloseGateway:
		op, err := decode(body, &logpb.CloseGateway{})
		if err == nil && !isGateway(op.Gateway) {
			err = fmt.Errorf("%w: gateway %d", ErrMalformed, op.Gateway)
		}
		return op, err
	case opOutboxDone:
		return decode(body, &logpb.OutboxDone{})
	case opTick:
		return decode(body, &logpb.Tick{})
	case opOwnerClosed:
		return decode(body, &logpb.OwnerClosed{})
	case opCheckpoint:
		return decode(body, &logpb.Checkpoint{})
	case opDeleteSession:
		return decode(body, &logpb.DeleteSession{})
	}
	return nil, fmt.Errorf("%w: number %d of a leader", ErrUnknownOp, kind)
}

// splitField takes a message apart that has exactly one field, itself a message:
// an op or a record of a snapshot. Its number is the kind.
func splitField(b []byte) (kind uint64, body []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag&7 != 2 {
		return 0, nil, fmt.Errorf("%w: no field", ErrMalformed)
	}
	length, k := binary.Uvarint(b[n:])
	if k <= 0 || length != uint64(len(b)-n-k) {
		return 0, nil, fmt.Errorf("%w: not one field", ErrMalformed)
	}
	return tag >> 3, b[n+k:], nil
}

// decode decodes into memory of its own.
func decode[T interface{ UnmarshalVT([]byte) error }](body []byte, op T) (T, error) {
	if err := op.UnmarshalVT(body); err != nil {
		return op, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return op, nil
}

// decodeInPlace is decode for what is not kept: it refers to body.
func decodeInPlace[T interface{ UnmarshalVTUnsafe([]byte) error }](body []byte, op T) (T, error) {
	if err := op.UnmarshalVTUnsafe(body); err != nil {
		return op, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return op, nil
}

// checkMessage: what a gateway's codec lets through has a topic and a QoS.
func checkMessage(pb *logpb.Message) error {
	if pb == nil || pb.Topic == "" || pb.Qos > 2 {
		return fmt.Errorf("%w: message", ErrMalformed)
	}
	return nil
}

func checkConnect(op *logpb.Connect, source uint64) error {
	if op.ClientId == "" || !isGateway(source) {
		return fmt.Errorf("%w: connect of %q from %d", ErrMalformed, op.ClientId, source)
	}
	if op.Will != nil {
		return checkMessage(op.Will.Message)
	}
	return nil
}

// checkGroup: items are complete, and of a source that may speak for the member.
func checkGroup(op *logpb.Group, source uint64) error {
	for _, it := range op.Items {
		var filter string
		bad := false
		switch b := it.Body.(type) {
		case *logpb.GroupItem_Member:
			filter = b.Member.Filter
			bad = b.Member.ClientId == "" || b.Member.Qos > 2 || isGateway(source) && b.Member.Gateway != source ||
				b.Member.Gateway != 0 && !isGateway(b.Member.Gateway)
		case *logpb.GroupItem_Leave:
			filter = b.Leave.Filter
		case *logpb.GroupItem_Taken:
			filter = b.Taken.Filter
		case *logpb.GroupItem_Assigned:
			a := b.Assigned
			filter = a.Filter
			bad = isGateway(source) || a.Qos < 1 || a.Qos > 2 || checkMessage(a.Message) != nil
		default:
			return fmt.Errorf("%w: item of a group", ErrUnknownOp)
		}
		if _, _, shared, err := topic.ParseShared(filter); err != nil || !shared || bad {
			return fmt.Errorf("%w: item of group %q from %d", ErrMalformed, filter, source)
		}
	}
	return nil
}

// encode is for results of our own making, which always can be encoded.
func encode(result interface{ MarshalVT() ([]byte, error) }) []byte {
	b, err := result.MarshalVT()
	if err != nil {
		panic(err)
	}
	return b
}
