package control

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// askTimeout bounds one question to a leader; the question is then asked again.
const askTimeout = time.Second

// UpdateReplica gives the partition's replica on the node a new server id, if
// it still has the old one. Doing it twice is doing it once. ErrConflict: it has
// another id, or there is no such replica.
func (c *Control) UpdateReplica(ctx context.Context, partition uint32, node, oldServerID, newServerID string) error {
	return c.propose(ctx, &ctlpb.Op{Body: &ctlpb.Op_SetReplica{SetReplica: &ctlpb.SetReplica{
		Partition: partition, Node: node, OldServerId: oldServerID, NewServerId: newServerID,
	}}})
}

// UpdatePlacement replaces the placement of p.Partition if its version is still
// p.Version; the new one has the next version. ErrConflict: it is not.
func (c *Control) UpdatePlacement(ctx context.Context, p Placement) error {
	return c.propose(ctx, &ctlpb.Op{Body: &ctlpb.Op_SetPlacement{SetPlacement: &ctlpb.SetPlacement{
		Base: p.Version, Placement: p.pb(),
	}}})
}

// SetSetting sets a cluster-wide setting; an empty value removes it.
func (c *Control) SetSetting(ctx context.Context, key, value string) error {
	return c.propose(ctx, &ctlpb.Op{Body: &ctlpb.Op_SetSetting{SetSetting: &ctlpb.SetSetting{Key: key, Value: value}}})
}

// RemoveMember removes a member that has no live incarnation and no replica.
// ErrConflict: it has.
func (c *Control) RemoveMember(ctx context.Context, node string) error {
	return c.propose(ctx, &ctlpb.Op{Body: &ctlpb.Op_RemoveMember{RemoveMember: &ctlpb.RemoveMember{Node: node}}})
}

// propose commits the op by the leader, and returns when our State has it. It
// tries until ctx ends, so an op may be committed twice: each kind is harmless
// the second time.
func (c *Control) propose(ctx context.Context, op *ctlpb.Op) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	op.Format = opFormat
	rep, err := c.ask(ctx, func(ctx context.Context, l ctlpb.ControlClient) (*ctlpb.ProposeReply, error) {
		return l.Propose(ctx, &ctlpb.ProposeRequest{Op: op})
	})
	return c.outcome(ctx, rep, err)
}

func (c *Control) outcome(ctx context.Context, rep *ctlpb.ProposeReply, err error) error {
	if err != nil {
		return err
	}
	if rep.Code != ctlpb.Code_OK {
		return codeError(rep.Code, rep.Detail)
	}
	return c.waitApplied(ctx, rep.Index)
}

// ask puts a question to the leader until one answers it or ctx ends.
func (c *Control) ask(ctx context.Context, question func(context.Context, ctlpb.ControlClient) (*ctlpb.ProposeReply, error)) (*ctlpb.ProposeReply, error) {
	var last error
	told := false
	for started, try := time.Now(), 0; ; try++ {
		leader, name, ok := c.leaderClient()
		if ok {
			one, cancel := context.WithTimeout(ctx, askTimeout)
			rep, err := question(one, leader)
			cancel()
			switch {
			case err != nil:
				last = fmt.Errorf("node %s: %w", name, err)
			case rep.Code == ctlpb.Code_NOT_LEADER || rep.Code == ctlpb.Code_NOT_READY || rep.Code == ctlpb.Code_NAME_IN_USE:
				last = codeError(rep.Code, rep.Detail)
				if rep.Code == ctlpb.Code_NAME_IN_USE && !told && time.Since(started) > 3*c.opt.LeaseTTL {
					c.log.Error("another process with another data folder runs under this node's name", "node", c.opt.Node)
					told = true
				}
			default:
				return rep, nil
			}
		}
		// A leader may appear at any moment: ask often at first.
		wait := min(time.Duration(try+1)*10*time.Millisecond, 100*time.Millisecond)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if last != nil {
				return nil, fmt.Errorf("control: %w (last: %w)", context.Cause(ctx), last)
			}
			return nil, fmt.Errorf("control: no leader: %w", context.Cause(ctx))
		}
	}
}

// within is ctx that also ends, with ErrStopped, when the Control is closed.
func (c *Control) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(ErrStopped) })
	return ctx, func() { stop(); cancel(nil) }
}

// waitApplied waits until our State has the op at this index.
func (c *Control) waitApplied(ctx context.Context, index uint64) error {
	changed, stop := c.Watch()
	defer stop()
	for c.State().Applied < index {
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// codeError makes an error of the code with which a node refused.
func codeError(code ctlpb.Code, detail string) error {
	base := ErrRefused
	switch code {
	case ctlpb.Code_CONFLICT:
		base = ErrConflict
	case ctlpb.Code_NOT_MEMBER:
		base = ErrNotMember
	case ctlpb.Code_RETIRED:
		base = ErrRetired
	}
	return fmt.Errorf("%w: %s %s", base, code, detail)
}

// leaderClient returns a way to ask the leader.
func (c *Control) leaderClient() (client ctlpb.ControlClient, name string, ok bool) {
	name, local := c.Leader()
	switch {
	case name == "":
		return nil, "", false
	case local:
		return localClient{c.svc}, name, true
	}
	conn, err := c.opt.Conn(name)
	if err != nil {
		return nil, name, false
	}
	return ctlpb.NewControlClient(conn), name, true
}

// localClient asks this node without a network.
type localClient struct{ s *service }

func (l localClient) Promise(ctx context.Context, r *ctlpb.PromiseRequest, _ ...grpc.CallOption) (*ctlpb.PromiseReply, error) {
	return l.s.Promise(ctx, r)
}

func (l localClient) Plan(ctx context.Context, r *ctlpb.PlanRequest, _ ...grpc.CallOption) (*ctlpb.PlanReply, error) {
	return l.s.Plan(ctx, r)
}

func (l localClient) Renew(ctx context.Context, r *ctlpb.RenewRequest, _ ...grpc.CallOption) (*ctlpb.RenewReply, error) {
	return l.s.Renew(ctx, r)
}

func (l localClient) Confirm(ctx context.Context, r *ctlpb.ConfirmRequest, _ ...grpc.CallOption) (*ctlpb.ConfirmReply, error) {
	return l.s.Confirm(ctx, r)
}

func (l localClient) Start(ctx context.Context, r *ctlpb.StartRequest, _ ...grpc.CallOption) (*ctlpb.ProposeReply, error) {
	return l.s.Start(ctx, r)
}

func (l localClient) End(ctx context.Context, r *ctlpb.EndRequest, _ ...grpc.CallOption) (*ctlpb.ProposeReply, error) {
	return l.s.End(ctx, r)
}

func (l localClient) Propose(ctx context.Context, r *ctlpb.ProposeRequest, _ ...grpc.CallOption) (*ctlpb.ProposeReply, error) {
	return l.s.Propose(ctx, r)
}

func (l localClient) Rejoin(ctx context.Context, r *ctlpb.RejoinRequest, _ ...grpc.CallOption) (*ctlpb.RejoinReply, error) {
	return l.s.Rejoin(ctx, r)
}
