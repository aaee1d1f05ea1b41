package cluster

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// adminService answers what nodes ask each other on behalf of operators.
type adminService struct {
	peerpb.UnimplementedAdminServer
	n *Node
}

type callOption = grpc.CallOption

// maxAdminPage bounds one answer.
const maxAdminPage = 10_000

// adminClient is a way to ask a node, this one included.
func (n *Node) adminClient(node string) (peerpb.AdminClient, error) {
	if node == n.name {
		return localAdmin{adminService{n: n}}, nil
	}
	conn, err := n.transport.Conn(node)
	if err != nil {
		return nil, err
	}
	return peerpb.NewAdminClient(conn), nil
}

// asLeader runs fn on the state of a partition that is led here. What was acknowledged
// anywhere before the call is in that state (design §3). not: it is not led here.
func (s adminService) asLeader(partition uint32, fn func(ld *leader, m *fsm.Machine)) (not *peerpb.NotLeader) {
	asked := time.Now()
	if !s.n.opened.Load() || s.n.replicas.at(partition) == nil {
		return &peerpb.NotLeader{}
	}
	r := s.n.replicas.at(partition)
	ld := r.leader()
	if ld == nil || !r.leads(ld.term, asked) {
		return &peerpb.NotLeader{Leader: s.n.believedLeader(partition)}
	}
	not = &peerpb.NotLeader{Leader: s.n.name} // soon
	r.sm.read(func(m *fsm.Machine) {
		if ld.barrier {
			not = nil
			fn(ld, m)
		}
	})
	return not
}

// Sessions implements peerpb.AdminServer.
func (s adminService) Sessions(_ context.Context, q *peerpb.SessionsRequest) (*peerpb.SessionsReply, error) {
	rep := &peerpb.SessionsReply{}
	rep.NotLeader = s.asLeader(q.Partition, func(_ *leader, m *fsm.Machine) {
		for _, i := range m.Sessions(int(min(q.Limit, maxAdminPage)), func(i fsm.SessionInfo) bool {
			switch {
			case !q.FromStart && i.ClientID <= q.After, !strings.HasPrefix(i.ClientID, q.Prefix):
				return false
			case q.State == peerpb.SessionsRequest_ANY:
				return true
			}
			return (i.Owner != 0) == (q.State == peerpb.SessionsRequest_CONNECTED)
		}) {
			rep.Sessions = append(rep.Sessions, summary(m, &i))
		}
	})
	return rep, nil
}

func summary(m *fsm.Machine, i *fsm.SessionInfo) *peerpb.SessionSummary {
	out := &peerpb.SessionSummary{
		ClientId: i.ClientID, Username: i.Username, Protocol: i.Protocol, Owner: i.Owner, Epoch: i.Epoch,
		Ephemeral: i.Ephemeral, Expiry: i.Expiry, Subscriptions: uint32(i.Subscriptions),
		Queued: uint32(i.Queued), QueuedBytes: i.QueuedBytes, Inflight: uint32(i.Inflight), Inbound: uint32(i.Inbound),
		Dropped: i.Dropped, Will: i.Will,
	}
	if i.ExpiresAt != 0 {
		out.ExpiresIn = max(1, i.ExpiresAt-m.Time())
	}
	return out
}

// Session implements peerpb.AdminServer.
func (s adminService) Session(_ context.Context, q *peerpb.SessionRequest) (*peerpb.SessionReply, error) {
	rep := &peerpb.SessionReply{}
	rep.NotLeader = s.asLeader(q.Partition, func(_ *leader, m *fsm.Machine) {
		i, subs, ok := m.Session(q.ClientId)
		if !ok {
			return
		}
		rep.Session = summary(m, &i)
		for _, x := range subs {
			rep.Subscriptions = append(rep.Subscriptions, &peerpb.SubscriptionState{
				Filter: x.Filter, Qos: x.Qos, NoLocal: x.NoLocal, RetainAsPublished: x.RetainAsPublished, RetainHandling: x.RetainHandling, Id: x.Id,
			})
		}
	})
	return rep, nil
}

// DeleteSession implements peerpb.AdminServer. It returns when the op is applied.
func (s adminService) DeleteSession(ctx context.Context, q *peerpb.SessionRequest) (*peerpb.SessionReply, error) {
	var lead *leader
	if not := s.asLeader(q.Partition, func(ld *leader, _ *fsm.Machine) { lead = ld }); not != nil {
		return &peerpb.SessionReply{NotLeader: not}, nil
	}
	applied := make(chan bool, 1)
	lead.box.put(event{call: func() {
		lead.ownThen(&logpb.Op{Body: &logpb.Op_DeleteSession{DeleteSession: &logpb.DeleteSession{ClientId: q.ClientId}}},
			func(ok bool) { applied <- ok })
	}})
	select {
	case ok := <-applied:
		if ok {
			return &peerpb.SessionReply{}, nil
		}
		return &peerpb.SessionReply{NotLeader: &peerpb.NotLeader{Leader: s.n.believedLeader(q.Partition)}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.n.ctx.Done():
		return nil, s.n.ctx.Err()
	}
}

// RetainedTopics implements peerpb.AdminServer.
func (s adminService) RetainedTopics(_ context.Context, q *peerpb.RetainedTopicsRequest) (*peerpb.RetainedTopicsReply, error) {
	rep := &peerpb.RetainedTopicsReply{}
	rep.NotLeader = s.asLeader(q.Partition, func(ld *leader, m *fsm.Machine) {
		for _, msg := range m.RetainedAfter(q.Filter, q.After, int(min(q.Limit, maxAdminPage))) {
			t := &peerpb.RetainedTopic{Topic: msg.Topic, Qos: msg.Qos, Bytes: uint32(len(msg.Payload)), Publisher: msg.Publisher}
			if msg.HasExpiry {
				t.ExpiresIn = max(1, msg.Expiry-m.Time())
			}
			rep.Topics = append(rep.Topics, t)
		}
	})
	return rep, nil
}

// Transfer implements peerpb.AdminServer.
func (s adminService) Transfer(_ context.Context, q *peerpb.TransferRequest) (*peerpb.TransferReply, error) {
	not := s.asLeader(q.Partition, func(*leader, *fsm.Machine) {})
	if not != nil || q.Node == s.n.name {
		return &peerpb.TransferReply{NotLeader: not}, nil
	}
	r := s.n.replicas.at(q.Partition)
	placed, ok := s.n.control.State().Placement(q.Partition).Replica(q.Node)
	if !ok {
		return &peerpb.TransferReply{Failed: ErrNoReplica.Error()}, nil
	}
	if s.n.liveGateways()[q.Node] == 0 || !s.n.positions.healthy(q.Node) {
		return &peerpb.TransferReply{Failed: "the node is not alive, was not heard lately, or its disk is not well"}, nil
	}
	id := raft.ServerID(placed.ServerID)
	if err := r.raft.LeadershipTransferToServer(id, raft.ServerAddress(id)).Error(); err != nil {
		return &peerpb.TransferReply{Failed: err.Error()}, nil
	}
	s.n.log.Info("leadership handed over at an operator's word", "partition", q.Partition, "to", q.Node)
	return &peerpb.TransferReply{}, nil
}

// Gateway implements peerpb.AdminServer.
func (s adminService) Gateway(_ context.Context, q *peerpb.ConnectionRequest) (*peerpb.ConnectionReply, error) {
	op, ok := s.n.gateway.(Operator)
	if !ok {
		return nil, errNoOperator
	}
	if s.n.ingressOf(q.Gateway) == nil {
		return &peerpb.ConnectionReply{}, nil
	}
	i, found := op.Inspect(q.ClientId, q.Epoch)
	rep := &peerpb.ConnectionReply{
		Found: found, Remote: i.Remote, Listener: i.Listener, KeepAlive: uint32(i.KeepAlive),
		Queued: uint32(i.Queued), QueuedBytes: i.QueuedBytes, Inflight: uint32(i.Inflight),
	}
	for _, x := range i.Subscriptions {
		rep.Subscriptions = append(rep.Subscriptions, &peerpb.SubscriptionState{
			Filter: x.Filter, Qos: uint32(x.QoS), NoLocal: x.NoLocal, RetainAsPublished: x.RetainAsPublished, Id: x.ID,
		})
	}
	return rep, nil
}

// Kick implements peerpb.AdminServer. It returns when the connection completes nothing
// any more.
func (s adminService) Kick(ctx context.Context, q *peerpb.ConnectionRequest) (*peerpb.ConnectionReply, error) {
	op, ok := s.n.gateway.(Operator)
	if !ok {
		return nil, errNoOperator
	}
	if s.n.ingressOf(q.Gateway) == nil {
		return &peerpb.ConnectionReply{}, nil // a new gateway begins without connections
	}
	s.n.log.Info("connection ended at an operator's word", "client", q.ClientId)
	done := make(chan struct{})
	op.Kick(q.ClientId, q.Epoch, func() { close(done) })
	select {
	case <-done:
		return &peerpb.ConnectionReply{Found: true}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// localAdmin asks this node without a network.
type localAdmin struct{ s adminService }

func (l localAdmin) Sessions(ctx context.Context, q *peerpb.SessionsRequest, _ ...callOption) (*peerpb.SessionsReply, error) {
	return l.s.Sessions(ctx, q)
}

func (l localAdmin) Session(ctx context.Context, q *peerpb.SessionRequest, _ ...callOption) (*peerpb.SessionReply, error) {
	return l.s.Session(ctx, q)
}

func (l localAdmin) DeleteSession(ctx context.Context, q *peerpb.SessionRequest, _ ...callOption) (*peerpb.SessionReply, error) {
	return l.s.DeleteSession(ctx, q)
}

func (l localAdmin) RetainedTopics(ctx context.Context, q *peerpb.RetainedTopicsRequest, _ ...callOption) (*peerpb.RetainedTopicsReply, error) {
	return l.s.RetainedTopics(ctx, q)
}

func (l localAdmin) Transfer(ctx context.Context, q *peerpb.TransferRequest, _ ...callOption) (*peerpb.TransferReply, error) {
	return l.s.Transfer(ctx, q)
}

func (l localAdmin) Gateway(ctx context.Context, q *peerpb.ConnectionRequest, _ ...callOption) (*peerpb.ConnectionReply, error) {
	return l.s.Gateway(ctx, q)
}

func (l localAdmin) Kick(ctx context.Context, q *peerpb.ConnectionRequest, _ ...callOption) (*peerpb.ConnectionReply, error) {
	return l.s.Kick(ctx, q)
}
