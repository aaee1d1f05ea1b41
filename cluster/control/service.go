package control

import (
	"context"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// service answers other nodes.
type service struct {
	ctlpb.UnimplementedControlServer
	c *Control
}

// notLeader is why this node does not answer for the leader, and who would.
func (s *service) notLeader() (ctlpb.Code, string) {
	name, local := s.c.Leader()
	if local {
		return ctlpb.Code_NOT_READY, name // has not caught up yet
	}
	return ctlpb.Code_NOT_LEADER, name
}

// Renew answers a request for a lease.
func (s *service) Renew(ctx context.Context, req *ctlpb.RenewRequest) (*ctlpb.RenewReply, error) {
	if l := s.c.leading.Load(); l != nil {
		return l.renew(ctx, req), nil
	}
	code, leader := s.notLeader()
	return &ctlpb.RenewReply{Code: code, Leader: leader}, nil
}

// Confirm tells the term of our replica.
func (s *service) Confirm(context.Context, *ctlpb.ConfirmRequest) (*ctlpb.ConfirmReply, error) {
	rep := &ctlpb.ConfirmReply{ServerId: string(s.c.opt.ServerID)}
	if r := s.c.raft.Load(); r != nil {
		rep.Term = r.CurrentTerm()
	}
	return rep, nil
}

// Start gives a node its next incarnation.
func (s *service) Start(_ context.Context, req *ctlpb.StartRequest) (*ctlpb.ProposeReply, error) {
	if l := s.c.leading.Load(); l != nil {
		return l.start(req.GetStart()), nil
	}
	return s.refer(), nil
}

// End ends an incarnation.
func (s *service) End(ctx context.Context, req *ctlpb.EndRequest) (*ctlpb.ProposeReply, error) {
	if l := s.c.leading.Load(); l != nil {
		return l.end(ctx, req), nil
	}
	return s.refer(), nil
}

// Propose commits an op of those that any node may ask for; incarnations have
// rules of their own.
func (s *service) Propose(_ context.Context, req *ctlpb.ProposeRequest) (*ctlpb.ProposeReply, error) {
	switch req.GetOp().GetBody().(type) {
	case *ctlpb.Op_SetReplica, *ctlpb.Op_SetPlacement, *ctlpb.Op_SetSetting, *ctlpb.Op_RemoveMember:
	default:
		return &ctlpb.ProposeReply{Code: ctlpb.Code_REFUSED, Detail: "not an op that a node may propose"}, nil
	}
	if s.c.leading.Load() == nil {
		return s.refer(), nil
	}
	return s.c.commit(req.Op), nil
}

func (s *service) refer() *ctlpb.ProposeReply {
	code, leader := s.notLeader()
	return &ctlpb.ProposeReply{Code: code, Leader: leader}
}

// Promise binds this node to a founding set.
func (s *service) Promise(_ context.Context, req *ctlpb.PromiseRequest) (*ctlpb.PromiseReply, error) {
	return s.c.founder.promise(req), nil
}

// Plan tells which of our attempts to found we have given up.
func (s *service) Plan(context.Context, *ctlpb.PlanRequest) (*ctlpb.PlanReply, error) {
	return s.c.founder.plan(), nil
}

// Rejoin admits a member's new replica of the control group.
func (s *service) Rejoin(ctx context.Context, req *ctlpb.RejoinRequest) (*ctlpb.RejoinReply, error) {
	if l := s.c.leading.Load(); l != nil {
		return l.rejoin(ctx, req), nil
	}
	code, leader := s.notLeader()
	return &ctlpb.RejoinReply{Code: code, Leader: leader}, nil
}
