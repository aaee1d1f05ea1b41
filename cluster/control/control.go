package control

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// Control is this node's part of the control group.
type Control struct {
	opt   Options
	log   *slog.Logger
	svc   *service
	clock clock

	state    atomic.Pointer[State] // published by raft's FSM goroutine
	watchers watchers
	holder   *holder
	founder  *founder
	suspects suspects
	// leading is set while this node leads the group and is ready to grant.
	leading atomic.Pointer[leadership]

	// raft is set once, when the replica starts.
	raft     atomic.Pointer[raft.Raft]
	leaderCh chan bool   // raft's NotifyCh
	hurried  atomic.Bool // hurry is running

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines of the Control

	mu     sync.Mutex // guards closed, and the start of raft
	closed bool       // no goroutine is started any more
}

// Open prepares this node's part of the control group and registers its
// answers on opt.Registrar, which must not serve before. It reads the stores but
// starts nothing.
func Open(opt Options) (*Control, error) {
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	c := &Control{
		opt:      opt,
		log:      opt.Logger.With("group", "control"),
		leaderCh: make(chan bool, 16),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.clock.read = opt.Boottime
	c.state.Store(&State{})
	c.holder = newHolder(c)
	c.suspects.at = make(map[string]time.Duration)
	var err error
	if c.founder, err = openFounder(c); err != nil {
		c.cancel()
		return nil, err
	}
	c.svc = &service{c: c}
	ctlpb.RegisterControlServer(opt.Registrar, c.svc)
	return c, nil
}

// Start begins: it founds, joins, or goes on with what is on the disk. It
// returns when everything is under way, and does not wait for a cluster.
func (c *Control) Start() error {
	if c.founder.hasReplica() {
		if err := c.startRaft(); err != nil {
			return err
		}
	}
	c.announce()
	c.goFunc(c.leaderLoop)
	c.goFunc(c.founder.run)
	c.goFunc(c.holder.renewLoop)
	c.goFunc(c.holder.eventLoop)
	return nil
}

// Close stops this node's replica, closes the group's transport, and waits for
// all goroutines. The stores are the caller's to close. It does not end the incarnation:
// see StopIncarnation.
func (c *Control) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	var err error
	// Raft first: goroutines of ours may be waiting for its futures; and before
	// it its transport, for which its own goroutines may be waiting.
	if t, ok := c.opt.Transport.(raft.WithClose); ok {
		err = t.Close()
	}
	if r := c.raft.Load(); r != nil {
		err = errors.Join(err, r.Shutdown().Error())
	}
	c.wg.Wait()
	return err
}

// goFunc starts a goroutine that Close waits for; false: it is too late.
func (c *Control) goFunc(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		f()
	}()
	return true
}

// State is what this node has applied. It never returns nil.
func (c *Control) State() *State { return c.state.Load() }

// Watch returns a channel that is sent to after every change of State, of the
// group's leader, of the lease, and of EveryoneKnows; changes are coalesced.
// cancel ends it.
func (c *Control) Watch() (changed <-chan struct{}, cancel func()) { return c.watchers.add() }

// publish makes s the current state. It runs on raft's FSM goroutine.
func (c *Control) publish(s *State) {
	c.state.Store(s)
	c.changed()
}

// changed wakes everyone who waits for a change.
func (c *Control) changed() {
	c.watchers.wake()
	c.holder.wake()
}

// Leader returns the node that leads the control group, as far as this node
// knows; "" if there is none.
func (c *Control) Leader() (node string, isLocal bool) {
	r := c.raft.Load()
	if r == nil {
		return "", false
	}
	_, id := r.LeaderWithID()
	return nodeOf(id), id == c.opt.ServerID
}

// nodeOf takes the node's name out of a raft server id.
func nodeOf(id raft.ServerID) string {
	if i := strings.LastIndexByte(string(id), '#'); i >= 0 {
		return string(id[:i])
	}
	return string(id)
}

// Suspect tells that a connection to the node was seen to break. The leader
// then closes the node's incarnation as soon as its lease is over, unless it
// renews. Without it the leader waits for SilenceTimeout. Call it on every
// break and every refused attempt to connect, on every node: whoever leads next
// uses it too.
func (c *Control) Suspect(node string) {
	c.suspects.add(node, c.opt.Boottime())
	if l := c.leading.Load(); l != nil {
		l.wake()
	}
	if leader, _ := c.Leader(); leader == node && node != c.opt.Node && c.hurried.CompareAndSwap(false, true) {
		if !c.goFunc(c.hurry) {
			c.hurried.Store(false)
		}
	}
}

// unreachable suspects a node whose connection broke, or that refuses one. A
// call that ran out of time says nothing: the node may be slow.
func (c *Control) unreachable(node string, err error) {
	if status.Code(err) == codes.Unavailable && node != c.opt.Node {
		c.Suspect(node)
	}
}

// hurry shortens the wait for an election while the leader's connection is
// broken. It starts no election by itself: raft still waits for the heartbeat
// timeout, a shorter one, and then asks for pre-votes, which those refuse that
// hear the leader. So one bad link deposes nobody.
func (c *Control) hurry() {
	defer c.hurried.Store(false)
	r := c.raft.Load()
	conf := r.ReloadableConfig()
	usual := conf
	// Raft allows no shorter one.
	conf.HeartbeatTimeout, conf.ElectionTimeout = c.opt.LeaderLeaseTimeout, c.opt.LeaderLeaseTimeout
	if r.ReloadConfig(conf) != nil {
		return
	}
	c.pause(hurryFor, nil)
	if err := r.ReloadConfig(usual); err != nil {
		c.log.Error("raft refuses its own timings", "error", err)
	}
}

// hurryFor is how long the shorter timings last: a few elections.
const hurryFor = time.Second

// suspects remembers when each node was last suspected.
type suspects struct {
	mu sync.Mutex
	at map[string]time.Duration // by boottime
}

func (s *suspects) add(node string, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[node] = now
}

func (s *suspects) last(node string) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.at[node]
	return t, ok
}

// Status is the control group as the status page shows it.
type Status struct {
	// Phase is what this node is doing: "founding", "joining", "running".
	Phase string
	// Detail says what a phase other than running waits for.
	Detail string
	// Leader is "" if there is none.
	Leader      string
	Role        string // of our replica: "Follower", "Leader", ...; "" before it runs
	Term        uint64
	Commit      uint64
	AppliedRaft uint64
	Voters      []string // server ids
	Gateway     uint64
	LeaseValid  bool
	State       *State
}

// Status describes this node's part of the group.
func (c *Control) Status() Status {
	st := Status{State: c.State(), Gateway: c.Gateway(), LeaseValid: c.LeaseValid()}
	st.Phase, st.Detail = c.founder.phase()
	st.Leader, _ = c.Leader()
	if r := c.raft.Load(); r != nil {
		st.Role, st.Term = r.State().String(), r.CurrentTerm()
		st.Commit, st.AppliedRaft = r.CommitIndex(), r.AppliedIndex()
		for _, s := range c.voters() {
			st.Voters = append(st.Voters, string(s.ID))
		}
	}
	return st
}

// TransferLeadership hands the leadership of the group to another node before
// a planned stop, and only then: when it fails because the other cannot be
// reached, hashicorp/raft v1.7.3 may refuse entries if this node leads again. It
// does nothing if this node does not lead.
func (c *Control) TransferLeadership() error {
	r := c.raft.Load()
	if r == nil || r.State() != raft.Leader || len(c.voters()) < 2 {
		return nil
	}
	return r.LeadershipTransfer().Error()
}

// voters of the latest configuration.
func (c *Control) voters() []raft.Server {
	f := c.raft.Load().GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var vs []raft.Server
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			vs = append(vs, s)
		}
	}
	return vs
}

// watchers are the channels of Watch.
type watchers struct {
	mu  sync.Mutex
	chs map[chan struct{}]struct{}
}

func (w *watchers) add() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chs == nil {
		w.chs = make(map[chan struct{}]struct{})
	}
	w.chs[ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.chs, ch)
	}
}

func (w *watchers) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.chs {
		kick(ch)
	}
}

// kick sends to a channel of capacity 1 unless it is full.
func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
