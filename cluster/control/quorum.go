package control

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// quorum reports whether a quorum of voters has read its own term as this
// leader's, after the request with the sender's reading was sent (rule 2).
func (l *leadership) quorum(ctx context.Context, sender raft.ServerID, senderTerm uint64) bool {
	if mutant.DeposedLeaderGrants {
		return true
	}
	voters := l.c.voters()
	need, have := len(voters)/2+1, 0
	for _, v := range voters {
		switch {
		case v.ID == l.c.opt.ServerID && l.c.raft.Load().CurrentTerm() == l.term,
			v.ID == sender && sender != l.c.opt.ServerID && senderTerm == l.term:
			have++
		}
	}
	if len(voters) > 0 && have >= need {
		return true
	}
	r := l.join()
	select {
	case <-r.done:
		return r.ok
	case <-ctx.Done():
	case <-l.done: // also when the Control is closed
	}
	return false
}

// join returns the next round that has not begun, and sees to it that it will.
func (l *leadership) join() *round {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.next = &round{done: make(chan struct{})}
	}
	if !l.checking {
		l.checking = l.c.goFunc(l.rounds)
	}
	return l.next
}

// rounds works through the rounds that are asked for.
func (l *leadership) rounds() {
	for {
		l.mu.Lock()
		r := l.next
		l.next = nil
		l.checking = r != nil
		l.mu.Unlock()
		if r == nil {
			return
		}
		r.ok = l.confirmed()
		close(r.done)
	}
}

// confirmed asks all voters for their terms, until a quorum has answered with
// ours.
func (l *leadership) confirmed() bool {
	c := l.c
	voters := c.voters()
	answers := make(chan bool, len(voters))
	need, have, left := len(voters)/2+1, 0, 0
	for _, v := range voters {
		if v.ID == c.opt.ServerID {
			if c.raft.Load().CurrentTerm() == l.term {
				have++
			}
			continue
		}
		left++
		if !c.goFunc(func() { answers <- c.askTerm(v.ID) == l.term }) {
			return false
		}
	}
	for have < need && left > 0 {
		left--
		if <-answers {
			have++
		}
	}
	return len(voters) > 0 && have >= need
}

// askTerm asks one voter for its term; 0: no answer, or from another replica.
// Its time is its own, although a quorum may come without it: so a node that
// refuses connections is found out.
func (c *Control) askTerm(id raft.ServerID) uint64 {
	ctx, cancel := context.WithTimeout(c.ctx, c.opt.LeaseTTL/3)
	defer cancel()
	conn, err := c.opt.Conn(nodeOf(id))
	if err != nil {
		return 0
	}
	rep, err := ctlpb.NewControlClient(conn).Confirm(ctx, &ctlpb.ConfirmRequest{})
	if err != nil {
		c.unreachable(nodeOf(id), err)
		return 0
	}
	if rep.ServerId != string(id) {
		return 0
	}
	return rep.Term
}

// commit appends the op to the log and waits until it is applied here. It says
// NOT_LEADER when it was not, or when nobody can know.
func (c *Control) commit(op *ctlpb.Op) *ctlpb.ProposeReply {
	op.Format = opFormat
	data, err := op.MarshalVT()
	if err != nil {
		return &ctlpb.ProposeReply{Code: ctlpb.Code_REFUSED, Detail: err.Error()}
	}
	r := c.raft.Load()
	f := r.Apply(data, time.Second)
	if err := f.Error(); err != nil {
		return &ctlpb.ProposeReply{Code: ctlpb.Code_NOT_LEADER, Detail: err.Error()}
	}
	c.nudge(r)
	res := f.Response().(result)
	return &ctlpb.ProposeReply{Code: res.code, Detail: res.detail, Index: f.Index(), Gateway: res.gateway}
}

// nudge tells the followers at once what has just been committed: raft itself
// would let them wait for CommitTimeout, which is long to keep an idle group
// quiet. The commit index travels with the next entry, whatever it is.
func (c *Control) nudge(r *raft.Raft) {
	if len(r.GetConfiguration().Configuration().Servers) < 2 {
		return
	}
	op := &ctlpb.Op{Format: opFormat, Body: &ctlpb.Op_Nudge{Nudge: &ctlpb.Nudge{}}}
	data, err := op.MarshalVT()
	if err != nil {
		c.opt.Fatal(err)
		return
	}
	r.Apply(data, time.Second) // lost with the leadership, and not needed then
}
