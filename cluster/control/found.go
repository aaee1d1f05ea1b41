package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// Keys of the MetaStore.
const (
	keyPromise  = "control/promise"  // FoundingPromise: ours, or another founder's
	keyAttempts = "control/attempts" // FoundingPromise with attempt only: the last one given up
	keyCluster  = "control/cluster"  // FoundingPromise with the cluster's id and our server id
)

// founder brings this node into a cluster: it founds one, or takes part in its
// founding, or gets its new replica admitted to the one it belongs to.
type founder struct {
	c *Control

	mu sync.Mutex
	// bound is the founding this node has promised itself to; nil: none. It is on
	// disk before anybody learns of it.
	bound *ctlpb.FoundingPromise
	// abandoned: our own attempts up to this one are given up for ever.
	abandoned uint64
	// hasLog: our replica has a log, so the time for promises is over.
	hasLog bool
	// cluster is the id of the cluster that this data folder is part of.
	cluster string

	began        time.Duration // boottime of Open
	name, detail string        // phase
	noted        bool          // keyCluster names this replica
}

// Phases of Status.
const (
	phaseFounding = "founding"
	phaseJoining  = "joining"
	phaseRunning  = "running"
)

// openFounder reads what the disk says.
func openFounder(c *Control) (*founder, error) {
	f := &founder{c: c, name: phaseFounding, began: c.opt.Boottime()}
	var promise, attempts, cluster ctlpb.FoundingPromise
	for key, m := range map[string]*ctlpb.FoundingPromise{keyPromise: &promise, keyAttempts: &attempts, keyCluster: &cluster} {
		if b, ok := c.opt.Meta.Meta(key); ok {
			if err := m.UnmarshalVT(b); err != nil {
				return nil, fmt.Errorf("control: %s on disk: %w", key, err)
			}
		}
	}
	f.abandoned, f.cluster = attempts.Attempt, cluster.GetFound().GetClusterId()
	last, err := c.opt.Store.LastIndex()
	if err != nil {
		return nil, err
	}
	snaps, err := c.opt.Snapshots.List()
	if err != nil {
		return nil, err
	}
	f.hasLog = last > 0 || len(snaps) > 0
	if f.cluster != "" && !f.hasLog && cluster.FounderServerId == string(c.opt.ServerID) {
		return nil, fmt.Errorf("%w (cluster %s, server id %s)", ErrAmnesia, f.cluster, c.opt.ServerID)
	}
	// A promise of a replica that was set aside since is none of ours.
	if f.stands(&promise) {
		f.bound = &promise
	}
	return f, nil
}

// stands reports whether the promise binds this replica.
func (f *founder) stands(p *ctlpb.FoundingPromise) bool {
	if p.GetFound() == nil || f.own(p) && p.Attempt <= f.abandoned {
		return false
	}
	return slices.ContainsFunc(p.Found.Members, func(m *ctlpb.FoundingMember) bool {
		return m.Name == f.c.opt.Node && m.ServerId == string(f.c.opt.ServerID)
	})
}

// own reports whether the promise is this node's own plan.
func (f *founder) own(p *ctlpb.FoundingPromise) bool {
	return p.FounderServerId == string(f.c.opt.ServerID)
}

// hasReplica reports whether the replica is to run at once. The founder of a
// plan starts its own only when it has bootstrapped it.
func (f *founder) hasReplica() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hasLog || f.bound != nil && !f.own(f.bound)
}

// founding is what our promise says; nil: we have none.
func (f *founder) founding() *ctlpb.Found {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bound.GetFound()
}

// clusterID is the cluster that this node tells others it belongs to; "" if it
// has none yet. A founder tells it from the moment nothing can call it back.
func (f *founder) clusterID() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.cluster != "":
		return f.cluster
	case f.hasLog && f.bound != nil:
		return f.bound.Found.ClusterId
	}
	return ""
}

func (f *founder) phase() (name, detail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.name, f.detail
}

// say notes what this node is doing, and logs it when that changes.
func (f *founder) say(phase, format string, args ...any) {
	detail := fmt.Sprintf(format, args...)
	f.mu.Lock()
	same := f.name == phase && f.detail == detail
	f.name, f.detail = phase, detail
	f.mu.Unlock()
	if !same {
		f.c.log.Info(phase + ": " + detail)
	}
}

// run works until this node is in a cluster.
func (f *founder) run() {
	c := f.c
	changed, stop := c.Watch()
	defer stop()
	for !f.step() {
		if !c.pause(stepPace, changed) {
			return
		}
	}
	f.say(phaseRunning, "cluster %s", c.State().ClusterID)
	c.announce()
	f.stay()
}

// stepPace is how often a node without a cluster looks around.
const stepPace = 50 * time.Millisecond

// step does what can be done next, and returns true when this node is in.
func (f *founder) step() bool {
	c := f.c
	f.noteLog()
	c.setAdmitted(f.admitted())
	if id := c.State().ClusterID; id != "" && f.noteCluster(id) && c.isVoter() {
		return true
	}
	f.mu.Lock()
	bound, hasLog, cluster := f.bound, f.hasLog, f.cluster
	f.mu.Unlock()
	seen := f.clusterSeen()
	switch {
	case hasLog && c.isVoter() && (cluster == "" || c.opt.Boottime()-f.began < overlookedAfter):
		f.say(phaseFounding, "waiting for a quorum of the control group")
	case bound != nil && seen == bound.Found.ClusterId:
		f.say(phaseFounding, "cluster %s is being founded", seen)
	case bound != nil && f.own(bound):
		f.pursue(bound, seen)
	case bound != nil:
		f.ask(bound)
	case cluster != "" || seen != "":
		f.rejoin(cmp.Or(cluster, seen))
	default:
		f.lookAround()
	}
	return false
}

// noteLog notices that our replica has got a log.
func (f *founder) noteLog() {
	r := f.c.raft.Load()
	if r == nil || r.LastIndex() == 0 {
		return
	}
	f.mu.Lock()
	first := !f.hasLog
	f.hasLog = true
	f.mu.Unlock()
	if first {
		f.c.announce()
	}
}

// noteCluster makes it durable that this data folder is part of a cluster.
func (f *founder) noteCluster(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noted && f.cluster == id {
		return true
	}
	if f.cluster != "" && f.cluster != id {
		f.c.opt.Fatal(fmt.Errorf("control: the data folder belongs to cluster %s, its control group to %s", f.cluster, id))
		return false
	}
	if !f.write(keyCluster, &ctlpb.FoundingPromise{
		FounderServerId: string(f.c.opt.ServerID), Found: &ctlpb.Found{ClusterId: id},
	}) {
		return false
	}
	f.cluster, f.noted = id, true
	return true
}

// write makes a record durable. A failure is fatal.
func (f *founder) write(key string, p *ctlpb.FoundingPromise) bool {
	b, err := p.MarshalVT()
	if err == nil {
		err = f.c.opt.Meta.SetMeta(key, b)
	}
	if err != nil {
		f.c.opt.Fatal(fmt.Errorf("control: %s: %w", key, err))
		return false
	}
	return true
}

// admitted: our replica may vote if its own log says so. An empty one may vote
// if it has promised to its founding: a disk that has lost its log since has
// another server id, so the log is empty because nothing was ever stored.
func (f *founder) admitted() bool {
	if f.c.isVoter() {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bound != nil && !f.hasLog && !f.own(f.bound)
}

// clusterSeen is the id of a founded cluster that discovery shows; "": none.
func (f *founder) clusterSeen() string {
	for _, p := range f.c.opt.Discovery.Peers() {
		if p.ClusterID != "" {
			return p.ClusterID
		}
	}
	return ""
}

// lookAround makes a plan if this node is the first of enough.
func (f *founder) lookAround() {
	o := &f.c.opt
	if !o.Discovery.Complete() {
		f.say(phaseFounding, "no address to join at answers")
		return
	}
	if o.Expect == 0 {
		f.say(phaseJoining, "no node of a cluster is seen")
		return
	}
	set := f.candidates()
	if len(set) < o.Expect {
		f.say(phaseFounding, "%d of %d nodes are here: %s", len(set), o.Expect, names(set))
		return
	}
	set = set[:o.Expect]
	if set[0].Name != o.Node {
		f.say(phaseFounding, "waiting for %s to found with %s", set[0].Name, names(set))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	plan := &ctlpb.FoundingPromise{
		Attempt: f.abandoned + 1, Founder: o.Node, FounderServerId: string(o.ServerID), Found: f.newFound(set),
	}
	if f.bound == nil && !f.hasLog && f.write(keyPromise, plan) {
		f.bound = plan
	}
}

// candidates are the nodes without a cluster, by name, this one among them.
func (f *founder) candidates() []discovery.Peer {
	o := &f.c.opt
	set := []discovery.Peer{{
		Name: o.Node, Addr: o.Addresses.Peer, HTTP: o.Addresses.HTTP, MQTT: o.Addresses.MQTT,
		Zone: o.Zone, Version: o.Version, Disk: o.Disk, ServerID: string(o.ServerID),
	}}
	for _, p := range o.Discovery.Peers() {
		if p.ClusterID == "" && p.ServerID != "" && p.Name != o.Node {
			set = append(set, p)
		}
	}
	slices.SortFunc(set, func(a, b discovery.Peer) int { return strings.Compare(a.Name, b.Name) })
	return set
}

func names(set []discovery.Peer) string {
	var ns []string
	for _, p := range set {
		ns = append(ns, p.Name)
	}
	return strings.Join(ns, ", ")
}

// newFound is the founding of a new cluster by these nodes.
func (f *founder) newFound(set []discovery.Peer) *ctlpb.Found {
	o := &f.c.opt
	var id [16]byte
	rand.Read(id[:]) // never fails
	found := &ctlpb.Found{
		ClusterId: hex.EncodeToString(id[:]), Partitions: o.Partitions, Replicas: o.Replicas,
		FoundedAt: o.Now().UnixNano(),
	}
	for _, p := range set {
		found.Members = append(found.Members, &ctlpb.FoundingMember{
			Name: p.Name, Disk: p.Disk, ServerId: p.ServerID, Zone: p.Zone, Version: p.Version,
			Addresses: &ctlpb.Addresses{Mqtt: p.MQTT, Peer: p.Addr, Http: p.HTTP},
		})
	}
	found.Placements = spread(o.Partitions, o.Replicas, found.Members)
	return found
}

// pursue asks everyone in our own plan to promise, and bootstraps when all have.
func (f *founder) pursue(plan *ctlpb.FoundingPromise, seen string) {
	o := &f.c.opt
	switch {
	case seen != "":
		f.abandon(plan, "there is a cluster already: "+seen)
		return
	case f.outdated(plan):
		f.abandon(plan, "the nodes or their settings have changed")
		return
	}
	type answer struct {
		name  string
		reply *ctlpb.PromiseReply
		err   error
	}
	answers := make(chan answer, len(plan.Found.Members))
	asked := 0
	for _, m := range plan.Found.Members {
		if m.Name == o.Node {
			continue
		}
		if f.c.goFunc(func() {
			rep, err := f.askPromise(plan, m)
			answers <- answer{m.Name, rep, err}
		}) {
			asked++
		}
	}
	missing := len(plan.Found.Members) - 1
	for range asked {
		a := <-answers
		switch {
		case a.err != nil:
			f.say(phaseFounding, "%s does not answer: %v", a.name, a.err)
		case a.reply.Code == ctlpb.Code_OK:
			missing--
		case a.reply.Code == ctlpb.Code_FOUNDED:
			f.abandon(plan, a.name+" belongs to a cluster already")
		case a.reply.Code == ctlpb.Code_PROMISED && a.reply.Founder < o.Node:
			// Of two founders that wait for each other the later name gives way.
			f.abandon(plan, a.name+" has promised to "+a.reply.Founder)
		default:
			f.say(phaseFounding, "%s does not promise: %s %s", a.name, a.reply.Code, a.reply.Detail)
		}
	}
	if missing == 0 {
		f.bootstrap(plan)
	}
}

// promiseTimeout bounds one request for a promise; it is then asked again.
const promiseTimeout = time.Second

func (f *founder) askPromise(plan *ctlpb.FoundingPromise, m *ctlpb.FoundingMember) (*ctlpb.PromiseReply, error) {
	o := &f.c.opt
	conn, err := o.Conn(m.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(f.c.ctx, promiseTimeout)
	defer cancel()
	return ctlpb.NewControlClient(conn).Promise(ctx, &ctlpb.PromiseRequest{
		From: o.Node, TargetServerId: m.ServerId, Expect: uint32(o.Expect), Promise: plan,
	})
}

// outdated reports that the plan is not what this node would plan now: other
// settings, a member with another disk, or other nodes in a member's stead.
func (f *founder) outdated(plan *ctlpb.FoundingPromise) bool {
	o, found := &f.c.opt, plan.Found
	if found.Partitions != o.Partitions || found.Replicas != o.Replicas || len(found.Members) != o.Expect {
		return true
	}
	set := f.candidates()
	for _, m := range found.Members {
		i := slices.IndexFunc(set, func(p discovery.Peer) bool { return p.Name == m.Name })
		switch {
		case i < 0 && len(set) >= o.Expect:
			return true // others can found without it
		case i >= 0 && set[i].ServerID != m.ServerId:
			return true
		}
	}
	return false
}

// abandon gives up our own plan for ever: durably, before anybody hears of it.
func (f *founder) abandon(plan *ctlpb.FoundingPromise, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bound != plan || f.hasLog {
		return
	}
	if !f.write(keyAttempts, &ctlpb.FoundingPromise{Attempt: plan.Attempt}) {
		return
	}
	f.abandoned, f.bound = plan.Attempt, nil
	f.c.log.Info("founding: gave up an attempt", "attempt", plan.Attempt, "reason", why)
}

// bootstrap makes our plan the beginning of the group's log.
func (f *founder) bootstrap(plan *ctlpb.FoundingPromise) {
	c := f.c
	var conf raft.Configuration
	for _, m := range plan.Found.Members {
		conf.Servers = append(conf.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(m.ServerId), Address: raft.ServerAddress(m.ServerId),
		})
	}
	f.mu.Lock()
	if f.bound != plan || f.hasLog {
		f.mu.Unlock()
		return
	}
	err := c.bootstrapLog(conf)
	f.hasLog = err == nil
	f.mu.Unlock()
	if err == nil {
		c.setAdmitted(true)
		err = c.startRaft()
	}
	if err != nil {
		c.opt.Fatal(fmt.Errorf("control: founding: %w", err))
		return
	}
	c.log.Info("founding: everyone has promised", "cluster", plan.Found.ClusterId)
	c.announce()
}

// bootstrapLog writes the first configuration. It is raft.BootstrapCluster, but
// may be done again after a crash half way, when the term is there and the
// entry is not.
func (c *Control) bootstrapLog(conf raft.Configuration) error {
	if r := c.raft.Load(); r != nil {
		return r.BootstrapCluster(conf).Error()
	}
	if err := c.opt.Stable.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		return err
	}
	return c.opt.Store.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)})
}
