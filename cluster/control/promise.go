package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// promise answers a founder who asks this node to bind itself to its plan.
func (f *founder) promise(req *ctlpb.PromiseRequest) *ctlpb.PromiseReply {
	rep := f.bind(req)
	if rep.Code != ctlpb.Code_OK {
		return rep
	}
	// An empty replica that waits for the founder's first entry.
	f.c.setAdmitted(f.admitted())
	if err := f.c.startRaft(); err != nil {
		f.c.opt.Fatal(fmt.Errorf("control: founding: %w", err))
		return &ctlpb.PromiseReply{Code: ctlpb.Code_NOT_READY, Detail: err.Error()}
	}
	return rep
}

// bind makes the promise durable, if nothing stands against it.
func (f *founder) bind(req *ctlpb.PromiseRequest) *ctlpb.PromiseReply {
	c, o, p := f.c, &f.c.opt, req.GetPromise()
	seen := f.clusterSeen()
	f.noteLog()
	f.mu.Lock()
	defer f.mu.Unlock()
	refuse := func(code ctlpb.Code, format string, args ...any) *ctlpb.PromiseReply {
		return &ctlpb.PromiseReply{Code: code, Detail: fmt.Sprintf(format, args...), ClusterId: f.cluster, Founder: f.bound.GetFounder()}
	}
	same := f.bound != nil && f.bound.FounderServerId == p.GetFounderServerId() && f.bound.Attempt == p.GetAttempt()
	switch {
	case req.TargetServerId != string(o.ServerID):
		return refuse(ctlpb.Code_REFUSED, "this is %s", o.ServerID)
	case same:
		return &ctlpb.PromiseReply{} // asked a second time
	case f.hasLog || f.cluster != "" || c.State().ClusterID != "":
		return refuse(ctlpb.Code_FOUNDED, "%s", f.cluster)
	case seen != "":
		return refuse(ctlpb.Code_FOUNDED, "sees cluster %s", seen)
	case !o.Discovery.Complete():
		return refuse(ctlpb.Code_NOT_READY, "no address to join at answers")
	case int(req.Expect) != o.Expect || p.GetFound().GetPartitions() != o.Partitions || p.Found.Replicas != o.Replicas:
		return refuse(ctlpb.Code_MISMATCH, "expect %d, partitions %d, replicas %d here; %d, %d, %d there",
			o.Expect, o.Partitions, o.Replicas, req.Expect, p.GetFound().GetPartitions(), p.GetFound().GetReplicas())
	case !f.stands(p):
		return refuse(ctlpb.Code_REFUSED, "the plan does not name this replica")
	case f.bound != nil && f.bound.FounderServerId != p.FounderServerId:
		return refuse(ctlpb.Code_PROMISED, "to %s", f.bound.FounderServerId)
	case f.bound != nil && f.bound.Attempt > p.Attempt:
		return refuse(ctlpb.Code_REFUSED, "attempt %d is an old one", p.Attempt)
	}
	// A later attempt of the same founder takes the place of the earlier: the
	// founder gave that up, durably, before it asked.
	if !f.write(keyPromise, p) {
		return refuse(ctlpb.Code_NOT_READY, "the promise could not be stored")
	}
	f.bound = p
	c.log.Info("founding: promised", "founder", p.Founder, "cluster", p.Found.ClusterId)
	return &ctlpb.PromiseReply{}
}

// plan tells which of our attempts are given up.
func (f *founder) plan() *ctlpb.PlanReply {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &ctlpb.PlanReply{ServerId: string(f.c.opt.ServerID), Abandoned: f.abandoned}
}

// ask asks the founder we are bound to whether its plan still stands, and drops
// our promise if not.
func (f *founder) ask(bound *ctlpb.FoundingPromise) {
	c := f.c
	f.say(phaseFounding, "promised to %s, waiting for the others of its plan", bound.Founder)
	conn, err := c.opt.Conn(bound.Founder)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, promiseTimeout)
	defer cancel()
	rep, err := ctlpb.NewControlClient(conn).Plan(ctx, &ctlpb.PlanRequest{})
	switch {
	case err != nil:
		return
	case rep.ServerId != bound.FounderServerId:
		f.say(phaseFounding, "promised to %s, which now has another disk (%s): if the old one is lost for good, "+
			"remove the data folder of this node; nothing has been stored in it", bound.FounderServerId, rep.ServerId)
		return
	case rep.Abandoned < bound.Attempt:
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bound != bound || f.hasLog || !f.write(keyPromise, &ctlpb.FoundingPromise{}) {
		return
	}
	f.bound = nil
	c.setAdmitted(false)
	c.log.Info("founding: released from a promise", "founder", bound.Founder)
}

// overlookedAfter is how long a node may hear no leader, which is longer than elections
// take, before it asks whether it is still a member: its own log may not know better.
const overlookedAfter = 3 * time.Second

// stay joins again when the cluster has removed this node, which nobody tells it.
func (f *founder) stay() {
	c := f.c
	heard := c.opt.Boottime()
	for c.pause(overlookedAfter/3, nil) {
		leader, _ := c.Leader()
		if leader != "" {
			heard = c.opt.Boottime()
		}
		if id := c.State().ClusterID; c.isVoter() && c.opt.Boottime()-heard < overlookedAfter {
			f.say(phaseRunning, "cluster %s", id)
		} else {
			f.rejoin(id)
		}
	}
}

// rejoinPace is how often a new replica asks to be admitted.
const rejoinPace = 100 * time.Millisecond

// rejoin gets this node's replica admitted to a cluster: the one that it belongs to, if
// its disk or its log is a new one, or the one that it sees, which it then joins.
func (f *founder) rejoin(cluster string) {
	c, o := f.c, &f.c.opt
	if err := c.startRaft(); err != nil {
		o.Fatal(fmt.Errorf("control: joining: %w", err))
		return
	}
	req := &ctlpb.RejoinRequest{
		Node: o.Node, Disk: o.Disk, ServerId: string(o.ServerID), Applied: c.raft.Load().AppliedIndex(),
	}
	for _, p := range o.Discovery.Peers() {
		if p.ClusterID != cluster {
			continue
		}
		rep, err := c.askRejoin(p.Name, req)
		if err == nil && rep.Code == ctlpb.Code_NOT_LEADER && rep.Leader != "" && rep.Leader != p.Name {
			rep, err = c.askRejoin(rep.Leader, req)
		}
		switch {
		case err != nil || rep.Code == ctlpb.Code_NOT_LEADER:
			continue
		case rep.Code == ctlpb.Code_OK:
			f.say(phaseJoining, "replica %s catches up with cluster %s", o.ServerID, cluster)
		default:
			f.say(phaseJoining, "cluster %s does not admit replica %s: %s %s", cluster, o.ServerID, rep.Code, rep.Detail)
		}
		c.pause(rejoinPace, nil)
		return
	}
	f.say(phaseJoining, "no node of cluster %s knows its leader", cluster)
}

func (c *Control) askRejoin(node string, req *ctlpb.RejoinRequest) (*ctlpb.RejoinReply, error) {
	conn, err := c.opt.Conn(node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, rejoinTimeout)
	defer cancel()
	return ctlpb.NewControlClient(conn).Rejoin(ctx, req)
}

// rejoinTimeout bounds one request; it waits for changes of the configuration.
const rejoinTimeout = 5 * time.Second

// rejoin admits a node's new replica, step by step as it asks again: the node becomes a
// member, its old replica is removed, the new one learns, and when it has caught up it
// votes.
func (l *leadership) rejoin(ctx context.Context, req *ctlpb.RejoinRequest) *ctlpb.RejoinReply {
	refuse := func(code ctlpb.Code, detail string) *ctlpb.RejoinReply {
		return &ctlpb.RejoinReply{Code: code, Detail: detail}
	}
	c, id := l.c, raft.ServerID(req.ServerId)
	if !l.rejoins.TryLock() {
		return refuse(ctlpb.Code_NOT_READY, "another replica is being admitted")
	}
	defer l.rejoins.Unlock()
	m := c.State().Member(req.Node)
	switch {
	case req.Node == c.opt.Node || nodeOf(id) != req.Node:
		return refuse(ctlpb.Code_REFUSED, "the server id is not of that node")
	}
	// A late request of a replica that is no more must not remove its successor.
	if !c.runs(ctx, id) {
		return refuse(ctlpb.Code_NOT_READY, "the replica does not answer under its server id")
	}
	if m == nil {
		c.log.Info("a node joins the cluster", "node", req.Node)
		rep := c.commit(&ctlpb.Op{Body: &ctlpb.Op_AddMember{AddMember: &ctlpb.AddMember{
			Name: req.Node, Disk: req.Disk, ServerId: req.ServerId,
		}}})
		if rep.Code != ctlpb.Code_OK {
			return refuse(rep.Code, rep.Detail)
		}
	}
	if rep := l.evict(req.Node, req.Disk); rep != nil {
		return refuse(rep.Code, rep.Detail)
	}
	return l.admitReplica(req.Node, id, req.Applied)
}

// catchUp is how far behind a learner may be when it becomes a voter, in entries.
const catchUp = 64

func (l *leadership) admitReplica(node string, id raft.ServerID, applied uint64) *ctlpb.RejoinReply {
	r := l.c.raft.Load()
	var is *raft.Server
	var old []raft.ServerID
	conf := r.GetConfiguration()
	for _, s := range conf.Configuration().Servers {
		if s.ID == id {
			is = &s
		} else if nodeOf(s.ID) == node {
			old = append(old, s.ID)
		}
	}
	var f raft.IndexFuture
	switch {
	case is != nil && is.Suffrage == raft.Voter:
		if applied == 0 {
			return &ctlpb.RejoinReply{Code: ctlpb.Code_REFUSED, Detail: "this replica votes already, so its log is lost: it needs a new server id"}
		}
		return &ctlpb.RejoinReply{Voter: true}
	case len(old) > 0: // before its successor counts
		f = r.RemoveServer(old[0], 0, time.Second)
	case is == nil:
		f = r.AddNonvoter(id, raft.ServerAddress(id), 0, time.Second)
	case applied > 0 && applied+catchUp >= r.AppliedIndex():
		f = r.AddVoter(id, raft.ServerAddress(id), 0, time.Second)
	default:
		return &ctlpb.RejoinReply{}
	}
	if err := f.Error(); err != nil {
		return &ctlpb.RejoinReply{Code: ctlpb.Code_NOT_READY, Detail: err.Error()}
	}
	l.c.log.Info("replica of the control group replaced", "node", node, "server", id, "removed", strings.Join(ids(old), ","))
	l.c.nudge(r)
	return &ctlpb.RejoinReply{}
}

// expel removes the replicas of nodes that are members no more.
func (l *leadership) expel() {
	if !l.rejoins.TryLock() {
		return // later
	}
	defer l.rejoins.Unlock()
	r, s := l.c.raft.Load(), l.c.State()
	conf := r.GetConfiguration()
	for _, srv := range conf.Configuration().Servers {
		if s.Member(nodeOf(srv.ID)) != nil || srv.ID == l.c.opt.ServerID {
			continue
		}
		if err := r.RemoveServer(srv.ID, conf.Index(), time.Second).Error(); err != nil {
			l.c.log.Debug("replica of a removed node not removed yet", "server", srv.ID, "error", err)
		} else {
			l.c.log.Info("replica of a removed node is out of the control group", "server", srv.ID)
		}
		return // one change at a time
	}
}

func ids(servers []raft.ServerID) []string {
	var s []string
	for _, id := range servers {
		s = append(s, string(id))
	}
	return s
}

// runs reports whether the node answers under this server id now.
func (c *Control) runs(ctx context.Context, id raft.ServerID) bool {
	conn, err := c.opt.Conn(nodeOf(id))
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, promiseTimeout)
	defer cancel()
	rep, err := ctlpb.NewControlClient(conn).Confirm(ctx, &ctlpb.ConfirmRequest{})
	return err == nil && rep.ServerId == string(id)
}
