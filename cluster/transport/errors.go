package transport

import (
	"errors"
	"fmt"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// Errors of calls to a peer. Match them with errors.Is.
var (
	// ErrClosed: the transport, or the group's part of it, is closed.
	ErrClosed = errors.New("transport: closed")
	// ErrSilent: the replica sends no heartbeats, see RaftTransport.SetSilent.
	ErrSilent = errors.New("transport: heartbeats are withheld")
	// ErrLinkDown: there is no connection to the peer, or it broke before the
	// answer came; whether the peer acted on the request is unknown.
	ErrLinkDown = errors.New("transport: link down")
	// ErrTimeout: no answer within the deadline; whether the peer acted on the
	// request is unknown.
	ErrTimeout = errors.New("transport: no answer in time")
	// ErrDeposed: a held request was dropped since a higher term was seen.
	ErrDeposed = errors.New("transport: request of a past term")
	// ErrPipelineBroken: an earlier request of the pipeline failed or was
	// refused, or the pipeline is closed.
	ErrPipelineBroken = errors.New("transport: pipeline broken")
	// ErrTooLarge: a message beyond MaxMessageBytes.
	ErrTooLarge = errors.New("transport: message too large")
	// ErrUnknownPeer: Options.Resolve knows no address for the node.
	ErrUnknownPeer = errors.New("transport: no address for node")

	// ErrUnknownGroup: the peer does not run the Raft group.
	ErrUnknownGroup = errors.New("transport: group unknown to peer")
	// ErrWrongTarget: the peer runs the group under another server id, as after
	// its disk was replaced.
	ErrWrongTarget = errors.New("transport: peer has another server id")
	// ErrNotAdmitted: the replica has not been admitted and takes no part in
	// elections.
	ErrNotAdmitted = errors.New("transport: replica not admitted")
	// ErrRemote: the peer's raft answered with an error.
	ErrRemote = errors.New("transport: peer failed the request")
)

// RefusedError says why a peer refused a Raft request. It unwraps to one of
// ErrUnknownGroup, ErrWrongTarget, ErrNotAdmitted and ErrRemote.
type RefusedError struct {
	Reason  peerpb.RefuseReason
	Target  string // the server id that was meant
	Message string // the peer's words; may be empty
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("%v (target %s)", e.Unwrap(), e.Target)
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Unwrap returns the sentinel for Reason.
func (e *RefusedError) Unwrap() error {
	switch e.Reason {
	case peerpb.RefuseReason_UNKNOWN_GROUP:
		return ErrUnknownGroup
	case peerpb.RefuseReason_WRONG_TARGET:
		return ErrWrongTarget
	case peerpb.RefuseReason_NOT_ADMITTED:
		return ErrNotAdmitted
	default:
		return ErrRemote
	}
}

// refusal returns the error that a response stands for, or nil.
func refusal(r *peerpb.RaftResponse, target string) error {
	if r.GetRefused() == peerpb.RefuseReason_NONE && r.GetError() == "" {
		return nil
	}
	return &RefusedError{Reason: r.GetRefused(), Target: target, Message: r.GetError()}
}
