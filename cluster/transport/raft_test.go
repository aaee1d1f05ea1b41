package transport_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
)

func TestElectReplicateAndClose(t *testing.T) {
	leaks := noLeaks(t)
	c := newCluster(t, 3)
	for _, name := range c.names {
		c.startNode(name)
	}
	for g := range uint32(3) {
		c.startGroup(g)
	}
	for g := range uint32(3) {
		for i := range 20 {
			c.apply(g, fmt.Sprintf("%d-%d", g, i))
		}
		c.sameLogs(g, fmt.Sprintf("%d-19", g))
	}
	for _, n := range c.nodes {
		if n.tr.Stats().RaftRefused != 0 {
			t.Errorf("%s refused requests: %+v", n.name, n.tr.Stats())
		}
	}
	c.close()
	leaks()
}

func TestLeadershipTransfer(t *testing.T) {
	c := newCluster(t, 3)
	for _, name := range c.names {
		c.startNode(name)
	}
	c.startGroup(7)
	defer c.close()
	old := c.leader(7)
	if err := old.groups[7].r.LeadershipTransfer().Error(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "another leader", func() bool {
		_, id := old.groups[7].r.LeaderWithID()
		return id != "" && id != old.id()
	})
	if old.groups[7].r.State() == raft.Leader {
		t.Fatal("the old leader still leads")
	}
}

func TestRefusals(t *testing.T) {
	c := newCluster(t, 2)
	a, b := c.startNode("node-1"), c.startNode("node-2")
	defer c.close()
	const group = 5
	from := a.tr.Raft(group, a.id())
	from.SetAdmitted(true)
	vote := func(target raft.ServerID) error {
		var resp raft.RequestVoteResponse
		return from.RequestVote(target, "", &raft.RequestVoteRequest{Term: 1, RPCHeader: raft.RPCHeader{ProtocolVersion: 3}}, &resp)
	}
	preVote := func(target raft.ServerID) error {
		var resp raft.RequestPreVoteResponse
		return from.RequestPreVote(target, "", &raft.RequestPreVoteRequest{Term: 1, RPCHeader: raft.RPCHeader{ProtocolVersion: 3}}, &resp)
	}
	if err := vote(b.id()); !errors.Is(err, transport.ErrUnknownGroup) {
		t.Errorf("group that is not there: %v", err)
	}
	to := b.tr.Raft(group, b.id())
	for name, ask := range map[string]func(raft.ServerID) error{"vote": vote, "pre-vote": preVote} {
		if err := ask(b.id()); !errors.Is(err, transport.ErrNotAdmitted) {
			t.Errorf("%s of one not admitted: %v", name, err)
		}
		if err := ask("node-2#00000000000000ff"); !errors.Is(err, transport.ErrWrongTarget) {
			t.Errorf("%s of a wiped disk: %v", name, err)
		}
	}
	// What carries the log is taken all the same.
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		rpc := <-to.Consumer()
		term := rpc.Command.(*raft.AppendEntriesRequest).Term
		rpc.Respond(&raft.AppendEntriesResponse{Term: term, Success: true, LastLog: 9}, nil)
	}()
	var resp raft.AppendEntriesResponse
	args := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 8, Entries: []*raft.Log{{Index: 9, Term: 3, Data: []byte("x")}}}
	if err := from.AppendEntries(b.id(), "", args, &resp); err != nil || !resp.Success || resp.LastLog != 9 || resp.Term != 3 {
		t.Errorf("append to one not admitted: %+v, %v", resp, err)
	}
	<-answered
	if err := from.AppendEntries("node-2#00000000000000ff", "", args, &resp); !errors.Is(err, transport.ErrWrongTarget) {
		t.Errorf("append to a wiped disk: %v", err)
	}
	snap := func(target raft.ServerID) error {
		var resp raft.InstallSnapshotResponse
		return from.InstallSnapshot(target, "", &raft.InstallSnapshotRequest{Term: 3, Size: 4}, &resp, strings.NewReader("data"))
	}
	if err := snap("node-2#00000000000000ff"); !errors.Is(err, transport.ErrWrongTarget) {
		t.Errorf("snapshot to a wiped disk: %v", err)
	}
	var refused *transport.RefusedError
	to.SetAdmitted(true)
	from.SetAdmitted(false)
	if err := vote(b.id()); !errors.Is(err, transport.ErrNotAdmitted) || errors.As(err, &refused) {
		t.Errorf("one not admitted asks for a vote: %v", err)
	}
	if err := preVote(b.id()); !errors.Is(err, transport.ErrNotAdmitted) || errors.As(err, &refused) {
		t.Errorf("one not admitted asks for a pre-vote: %v", err)
	}
	if got := b.tr.Stats().RaftRefused; got != 7 {
		t.Errorf("%d refusals counted, want 7", got)
	}
	from.SetAdmitted(true)
	// Nobody reads to.Consumer: the deadline counts.
	if err := vote(b.id()); !errors.Is(err, transport.ErrTimeout) {
		t.Errorf("busy peer: %v", err)
	}
	eventually(t, 5*time.Second, "the late request dropped", func() bool { return b.tr.Stats().RaftExpired > 0 })
}

// A replica that was not admitted neither elects nor is elected.
func TestNotAdmittedDoesNotElect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, network := newMemCluster(t, 3)
		for _, name := range c.names {
			c.startNode(name)
		}
		defer c.close()
		c.startGroup(1)
		c.apply(1, "first")
		c.sameLogs(1, "first")
		l := c.leader(1)
		followers := c.others(l.name)
		for _, f := range followers {
			f.groups[1].rt.SetAdmitted(false)
			network.Cut(l.name, f.name)
		}
		eventually(t, 5*time.Second, "the old leader steps down", func() bool { return l.groups[1].r.State() != raft.Leader })
		for range 6000 { // a minute
			time.Sleep(10 * time.Millisecond)
			for _, f := range followers {
				if f.groups[1].r.State() == raft.Leader {
					t.Fatalf("%s leads", f.name)
				}
			}
		}
		for _, f := range followers {
			f.groups[1].rt.SetAdmitted(true)
		}
		c.apply(1, "second", l.name)
	})
}

func TestSnapshotInstall(t *testing.T) {
	c := newCluster(t, 3)
	for _, name := range c.names {
		c.startNode(name)
	}
	defer c.close()
	c.cfg = func(cfg *raft.Config) { cfg.TrailingLogs = 1 }
	c.startGroup(1)
	l := c.leader(1)
	slow := c.others(l.name)[0]
	for _, o := range c.others(slow.name) {
		c.faults.set(slow.name, o.name, true)
	}
	big := strings.Repeat("x", 1<<20)
	for i := range 8 {
		c.apply(1, fmt.Sprintf("%d%s", i, big), slow.name)
	}
	l = c.leader(1, slow.name)
	if err := l.groups[1].r.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	c.apply(1, "after", slow.name)
	for _, o := range c.others(slow.name) {
		c.faults.set(slow.name, o.name, false)
	}
	c.sameLogs(1, "after")
	var sent uint64
	for _, n := range c.nodes {
		sent += n.tr.Stats().SnapshotBytes
	}
	if sent < 8<<20 {
		t.Errorf("only %d bytes of snapshots sent", sent)
	}
}

// A sender that stalls in the middle of a snapshot must not block the
// receiver's raft for ever.
func TestStalledSnapshotIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, network := newMemCluster(t, 2)
		a, b := c.startNode("node-1"), c.startNode("node-2")
		defer c.close()
		from, to := a.tr.Raft(1, a.id()), b.tr.Raft(1, b.id())
		const size = 4 << 20
		started, read := make(chan struct{}), make(chan error)
		go func() {
			rpc := <-to.Consumer()
			close(started)
			_, err := io.Copy(io.Discard, rpc.Reader)
			read <- err
			rpc.Respond(&raft.InstallSnapshotResponse{}, err)
		}()
		data := &stallingReader{left: size / 2, stall: make(chan struct{})}
		sent := make(chan error)
		go func() {
			var resp raft.InstallSnapshotResponse
			sent <- from.InstallSnapshot(b.id(), "", &raft.InstallSnapshotRequest{Term: 1, Size: size}, &resp, data)
		}()
		<-started
		network.Cut("node-1", "node-2")
		start := time.Now()
		if err := <-read; err == nil {
			t.Error("half a snapshot read without error")
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("the receiver waited %v", took)
		}
		close(data.stall)
		if err := <-sent; err == nil {
			t.Error("the sender got no error")
		}
		network.Heal("node-1", "node-2")
	})
}

// stallingReader gives half and then nothing until stall is closed.
type stallingReader struct {
	left  int
	stall chan struct{}
}

func (r *stallingReader) Read(b []byte) (int, error) {
	if r.left <= 0 {
		<-r.stall
		return 0, io.EOF
	}
	n := min(len(b), r.left)
	r.left -= n
	return n, nil
}

// Closing a group ends what it waits for: raft.Shutdown would wait for it too.
func TestCloseEndsHeldAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, network := newMemCluster(t, 2)
		a, b := c.startNode("node-1"), c.startNode("node-2")
		defer c.close()
		network.Cut("node-1", "node-2")
		for name, tc := range map[string]struct {
			end  func(g *transport.RaftTransport)
			want error
		}{
			"close":      {func(g *transport.RaftTransport) { _ = g.Close() }, transport.ErrClosed},
			"disconnect": {func(*transport.RaftTransport) { a.tr.Disconnect("node-2") }, transport.ErrLinkDown},
			"newer term": {func(g *transport.RaftTransport) {
				var resp raft.RequestVoteResponse
				g.SetAdmitted(true)
				_ = g.RequestVote(b.id(), "", &raft.RequestVoteRequest{Term: 4}, &resp) // fails: the link is cut
			}, transport.ErrDeposed},
			"patience": {func(*transport.RaftTransport) { time.Sleep(6 * time.Minute) }, transport.ErrLinkDown},
		} {
			g := a.tr.Raft(1, a.id())
			got := make(chan error)
			go func() {
				var resp raft.AppendEntriesResponse
				got <- g.AppendEntries(b.id(), "", &raft.AppendEntriesRequest{Term: 3, LeaderCommitIndex: 1}, &resp)
			}()
			time.Sleep(time.Minute)
			select {
			case err := <-got:
				t.Fatalf("%s: not held: %v", name, err)
			default:
			}
			go tc.end(g)
			if err := <-got; !errors.Is(err, tc.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		network.Heal("node-1", "node-2")
		time.Sleep(10 * time.Minute) // the ends above
	})
}
