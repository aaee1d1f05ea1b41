package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// This file is what a node does for operators: it asks the leaders of partitions and
// other gateways, wherever they are. adminserver.go answers.

// Operator is what a gateway can do for operators, if it can; package mqtt says what
// each method promises.
type Operator interface {
	Kick(clientID string, epoch uint64, done func())
	Inspect(clientID string, epoch uint64) (flow.Inspection, bool)
}

// Errors of what operators ask for. Match them with errors.Is.
var (
	ErrNoSession      = errors.New("there is no such session")
	ErrNotConnected   = errors.New("the session has no connection")
	ErrNoPartition    = errors.New("there is no such partition")
	ErrNoReplica      = errors.New("the node holds no replica of the partition that could lead")
	ErrTransfer       = errors.New("the leadership was not handed over")
	ErrInvalidFilter  = errors.New("not a valid topic filter")
	ErrNotJoined      = errors.New("the node has not joined a cluster yet")
	ErrNoAnswer       = errors.New("no answer from the partition's leader")
	errNoOperator     = errors.New("this node's gateway takes no orders")
	errNoLeaderKnown  = errors.New("no leader is known")
	errClearUnsettled = errors.New("a retained message was not removed")
)

const (
	adminRetry = 50 * time.Millisecond // until a leader is looked for again
	adminCall  = 2 * time.Second       // one question to one node
	// adminAtOnce is how many partitions are asked at the same time.
	adminAtOnce = 16
)

// SessionQuery says which sessions are wanted, in order of their client ids.
type SessionQuery struct {
	After     string // only greater client ids
	FromStart bool   // After is not meant: the empty client id too
	Prefix    string // of client ids
	Limit     int    // at least 1
	State     peerpb.SessionsRequest_State
}

// Sessions lists sessions of all partitions. more: there are further ones after the
// last. Each partition is asked of its leader, after a check that it still leads, so
// that what was acknowledged before the call is seen.
func (n *Node) Sessions(ctx context.Context, q SessionQuery) (list []*peerpb.SessionSummary, more bool, err error) {
	parts, err := eachPartition(ctx, n, func(ctx context.Context, p uint32) ([]*peerpb.SessionSummary, error) {
		var rep *peerpb.SessionsReply
		err := n.askLeader(ctx, p, func(ctx context.Context, c peerpb.AdminClient) (*peerpb.NotLeader, error) {
			var err error
			rep, err = c.Sessions(ctx, &peerpb.SessionsRequest{
				Partition: p, After: q.After, FromStart: q.FromStart, Prefix: q.Prefix, Limit: uint32(q.Limit) + 1, State: q.State,
			})
			return rep.GetNotLeader(), err
		})
		return rep.GetSessions(), err
	})
	if err != nil {
		return nil, false, err
	}
	list, more = firstOf(parts, q.Limit, func(s *peerpb.SessionSummary) string { return s.ClientId })
	return list, more, nil
}

// Session tells of one session. gateway is what the gateway of its connection adds; nil
// if there is no connection, or its gateway does not answer.
func (n *Node) Session(ctx context.Context, clientID string) (s *peerpb.SessionReply, gateway *peerpb.ConnectionReply, err error) {
	s, err = n.session(ctx, clientID)
	if err != nil || s.Session.Owner == 0 {
		return s, nil, err
	}
	gateway, err = n.askGateway(ctx, s.Session, peerpb.AdminClient.Gateway)
	if err != nil || !gateway.Found {
		return s, nil, nil // what the partition knows is worth telling all the same
	}
	return s, gateway, nil
}

func (n *Node) session(ctx context.Context, clientID string) (rep *peerpb.SessionReply, err error) {
	if !n.opened.Load() {
		return nil, ErrNotJoined
	}
	p := partitionOf(clientID, n.partitions)
	err = n.askLeader(ctx, p, func(ctx context.Context, c peerpb.AdminClient) (*peerpb.NotLeader, error) {
		var err error
		rep, err = c.Session(ctx, &peerpb.SessionRequest{Partition: p, ClientId: clientID})
		return rep.GetNotLeader(), err
	})
	if err == nil && rep.Session == nil {
		return nil, ErrNoSession
	}
	return rep, err
}

// Kick ends the connection of a session wherever it is (DISCONNECT 0x98), and returns
// when it completes nothing any more.
func (n *Node) Kick(ctx context.Context, clientID string) error {
	s, err := n.session(ctx, clientID)
	if err != nil {
		return err
	}
	if s.Session.Owner == 0 {
		return ErrNotConnected
	}
	_, err = n.askGateway(ctx, s.Session, peerpb.AdminClient.Kick)
	return err
}

// DeleteSession ends a session for good, durably: its will is published, its
// subscriptions and messages go, its connection is closed.
func (n *Node) DeleteSession(ctx context.Context, clientID string) error {
	s, err := n.session(ctx, clientID)
	if err != nil {
		return err
	}
	if s.Session.Owner != 0 {
		// The client hears why. A gateway that does not answer must not be in the way.
		_, _ = n.askGateway(ctx, s.Session, peerpb.AdminClient.Kick)
	}
	p := partitionOf(clientID, n.partitions)
	return n.askLeader(ctx, p, func(ctx context.Context, c peerpb.AdminClient) (*peerpb.NotLeader, error) {
		rep, err := c.DeleteSession(ctx, &peerpb.SessionRequest{Partition: p, ClientId: clientID})
		return rep.GetNotLeader(), err
	})
}

// RetainedTopics lists retained messages that match a filter, in order of their topics:
// those after the topic after, limit at most. more: there are further ones.
func (n *Node) RetainedTopics(ctx context.Context, filter, after string, limit int) (list []*peerpb.RetainedTopic, more bool, err error) {
	if err := topic.ValidFilter(filter); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrInvalidFilter, err)
	}
	parts, err := eachPartition(ctx, n, func(ctx context.Context, p uint32) ([]*peerpb.RetainedTopic, error) {
		var rep *peerpb.RetainedTopicsReply
		err := n.askLeader(ctx, p, func(ctx context.Context, c peerpb.AdminClient) (*peerpb.NotLeader, error) {
			var err error
			rep, err = c.RetainedTopics(ctx, &peerpb.RetainedTopicsRequest{Partition: p, Filter: filter, After: after, Limit: uint32(limit) + 1})
			return rep.GetNotLeader(), err
		})
		return rep.GetTopics(), err
	})
	if err != nil {
		return nil, false, err
	}
	list, more = firstOf(parts, limit, func(t *peerpb.RetainedTopic) string { return t.Topic })
	return list, more, nil
}

// ClearRetained removes the retained messages that match a filter, as clients do: by an
// empty retained message each, which subscribers receive too. It returns how many are
// gone, durably.
func (n *Node) ClearRetained(ctx context.Context, filter string) (cleared int, err error) {
	if !n.mayRoute() {
		return 0, flow.ErrUnavailable
	}
	const page = 256
	for after, more := "", true; more; {
		var list []*peerpb.RetainedTopic
		if list, more, err = n.RetainedTopics(ctx, filter, after, page); err != nil {
			return cleared, err
		}
		results := make(chan error, len(list))
		for _, t := range list {
			after = t.Topic
			n.Publish(&flow.Message{Topic: t.Topic, QoS: flow.AtLeastOnce, Retain: true}, func(_ bool, err error) { results <- err })
		}
		for range list {
			select {
			case one := <-results:
				if one != nil {
					err = fmt.Errorf("%w: %w", errClearUnsettled, one)
				} else {
					cleared++
				}
			case <-ctx.Done():
				return cleared, ctx.Err()
			}
		}
		if err != nil {
			return cleared, err
		}
	}
	return cleared, nil
}

// TransferLeadership gives a partition's leadership to a node, for which it becomes the
// preferred one too: otherwise the leadership would wander back.
func (n *Node) TransferLeadership(ctx context.Context, partition uint32, node string) error {
	if !n.opened.Load() {
		return ErrNotJoined
	}
	if partition >= n.partitions {
		return ErrNoPartition
	}
	for {
		pl := *n.control.State().Placement(partition)
		if _, ok := pl.Replica(node); !ok {
			return ErrNoReplica
		}
		if pl.Preferred == node {
			break
		}
		pl.Preferred = node
		err := n.control.UpdatePlacement(ctx, pl)
		if err == nil {
			break
		}
		if !errors.Is(err, control.ErrConflict) { // else somebody was faster: look again
			return err
		}
	}
	var rep *peerpb.TransferReply
	err := n.askLeader(ctx, partition, func(ctx context.Context, c peerpb.AdminClient) (*peerpb.NotLeader, error) {
		var err error
		rep, err = c.Transfer(ctx, &peerpb.TransferRequest{Partition: partition, Node: node})
		return rep.GetNotLeader(), err
	})
	if err == nil && rep.Failed != "" {
		return fmt.Errorf("%w: %s", ErrTransfer, rep.Failed)
	}
	return err
}

// askLeader puts a question to the leader of a partition until one answers it or ctx
// ends. The question may be carried out more than once.
func (n *Node) askLeader(ctx context.Context, partition uint32, question func(context.Context, peerpb.AdminClient) (*peerpb.NotLeader, error)) error {
	last := errNoLeaderKnown
	for turn := 0; ; turn++ {
		if node := n.likelyLeader(partition, turn); node != "" {
			not, err := n.askNode(ctx, node, question)
			switch {
			case err != nil:
				last = fmt.Errorf("node %s: %w", node, err)
			case not == nil:
				return nil
			default:
				last = fmt.Errorf("node %s does not lead partition %d", node, partition)
				if not.Leader != "" && not.Leader != node {
					n.leaders.moved(partition, node, not.Leader)
				}
			}
		}
		pause := time.NewTimer(adminRetry)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("%w %d: %w (last: %w)", ErrNoAnswer, partition, ctx.Err(), last)
		case <-n.ctx.Done():
			pause.Stop()
			return flow.ErrUnavailable
		}
	}
}

// likelyLeader is whom to ask: mostly who is believed to lead, but now and then any
// replica, since nobody else may put a wrong belief right.
func (n *Node) likelyLeader(partition uint32, turn int) string {
	node := n.leaders.node(partition)
	if node == "" {
		node = n.believedLeader(partition)
	}
	replicas := n.control.State().Placement(partition).Replicas
	if len(replicas) > 0 && (node == "" || turn%4 == 3) {
		node = replicas[turn/4%len(replicas)].Node
	}
	return node
}

func (n *Node) askNode(ctx context.Context, node string, question func(context.Context, peerpb.AdminClient) (*peerpb.NotLeader, error)) (*peerpb.NotLeader, error) {
	ctx, cancel := context.WithTimeout(ctx, adminCall)
	defer cancel()
	c, err := n.adminClient(node)
	if err != nil {
		return nil, err
	}
	return question(ctx, c)
}

// askGateway asks the node whose gateway holds a session's connection.
func (n *Node) askGateway(ctx context.Context, s *peerpb.SessionSummary,
	question func(peerpb.AdminClient, context.Context, *peerpb.ConnectionRequest, ...callOption) (*peerpb.ConnectionReply, error)) (*peerpb.ConnectionReply, error) {
	node := n.gatewayNode(s.Owner)
	if node == "" || n.gatewayClosed(s.Owner) {
		return nil, ErrNotConnected // the partition has not heard of its end yet
	}
	ctx, cancel := context.WithTimeout(ctx, adminCall)
	defer cancel()
	c, err := n.adminClient(node)
	if err == nil {
		var rep *peerpb.ConnectionReply
		rep, err = question(c, ctx, &peerpb.ConnectionRequest{Gateway: s.Owner, ClientId: s.ClientId, Epoch: s.Epoch})
		if err == nil {
			return rep, nil
		}
	}
	return nil, fmt.Errorf("node %s: %w", node, err)
}

// OwnerNode is the node of a session's connection; "": it has none.
func (n *Node) OwnerNode(s *peerpb.SessionSummary) string {
	if s.Owner == 0 {
		return ""
	}
	return n.gatewayNode(s.Owner)
}

// PartitionOf is the partition of a client's session. The node must have joined.
func (n *Node) PartitionOf(clientID string) uint32 { return partitionOf(clientID, n.partitions) }

// eachPartition asks every partition, a few at a time. One that fails fails all: half a
// list would pass for a whole one.
func eachPartition[T any](ctx context.Context, n *Node, ask func(context.Context, uint32) ([]T, error)) ([][]T, error) {
	if !n.opened.Load() {
		return nil, ErrNotJoined
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := make([][]T, n.partitions)
	slots := make(chan struct{}, adminAtOnce)
	var wg sync.WaitGroup
	for p := range n.partitions {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var err error
			if out[p], err = ask(ctx, p); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, nil
}

// firstOf merges sorted lists and cuts what is beyond limit.
func firstOf[T any](parts [][]T, limit int, key func(T) string) (list []T, more bool) {
	list = slices.Concat(parts...)
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	if len(list) > limit {
		return list[:limit:limit], true
	}
	return list, false
}
