package transport_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
)

func entry(i uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, Term: 1, PrevLogEntry: i - 1, PrevLogTerm: 1,
		Entries: []*raft.Log{{Index: i, Term: 1, Data: fmt.Appendf(nil, "%d", i)}},
	}
}

// newPipeline returns a pipeline from node-1 to node-2, whose raft is played by
// follower; it waits for the link.
func newPipeline(t *testing.T, c *testCluster, follower func(*raft.AppendEntriesRequest) *raft.AppendEntriesResponse) raft.AppendPipeline {
	a, b := c.startNode("node-1"), c.startNode("node-2")
	to := b.tr.Raft(1, b.id())
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		for {
			select {
			case rpc := <-to.Consumer():
				rpc.Respond(follower(rpc.Command.(*raft.AppendEntriesRequest)), nil)
			case <-stop:
				return
			}
		}
	}()
	from := a.tr.Raft(1, a.id())
	var resp raft.AppendEntriesResponse
	if err := from.AppendEntries(b.id(), "", entry(1), &resp); err != nil {
		t.Fatal(err)
	}
	p, err := from.AppendEntriesPipeline(b.id(), "")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPipelineKeepsOrder(t *testing.T) {
	c := newCluster(t, 2)
	c.opts = func(o *transport.Options) { o.PipelineDepth = 8 }
	defer c.close()
	last := uint64(0) // the follower's goroutine
	p := newPipeline(t, c, func(a *raft.AppendEntriesRequest) *raft.AppendEntriesResponse {
		if a.Entries[0].Index != last+1 {
			t.Errorf("entry %d after %d", a.Entries[0].Index, last)
		}
		last = a.Entries[0].Index
		return &raft.AppendEntriesResponse{Term: 1, LastLog: last, Success: true}
	})
	defer p.Close()
	const n = 2000
	go func() {
		for i := uint64(2); i <= n; i++ {
			if _, err := p.AppendEntries(entry(i), new(raft.AppendEntriesResponse)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := uint64(2); i <= n; i++ {
		f := <-p.Consumer()
		if f.Error() != nil || f.Request().Entries[0].Index != i || f.Response().LastLog != i {
			t.Fatalf("future %d: %v %+v %+v", i, f.Error(), f.Request(), f.Response())
		}
	}
}

// After an answer without success raft reads Consumer no more, but may send: it
// must not block (hashicorp/raft #612).
func TestBrokenPipelineNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newMemCluster(t, 2)
		p := newPipeline(t, c, func(a *raft.AppendEntriesRequest) *raft.AppendEntriesResponse {
			return &raft.AppendEntriesResponse{Term: 1, Success: a.Entries[0].Index < 3}
		})
		results := make(chan error, 100)
		go func() {
			for i := uint64(2); i < 102; i++ {
				_, err := p.AppendEntries(entry(i), new(raft.AppendEntriesResponse))
				results <- err
			}
		}()
		for i := 2; i <= 3; i++ {
			if f := <-p.Consumer(); f.Error() != nil || f.Response().Success != (i < 3) {
				t.Fatalf("future %d: %v, %+v", i, f.Error(), f.Response())
			}
		}
		var last error
		for range 100 { // a deadlock here fails the bubble
			last = <-results
		}
		if !errors.Is(last, transport.ErrPipelineBroken) {
			t.Errorf("append on a broken pipeline: %v", last)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		c.close()
	})
}

func TestPipelineFailsWithItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, network := newMemCluster(t, 2)
		p := newPipeline(t, c, func(a *raft.AppendEntriesRequest) *raft.AppendEntriesResponse {
			return &raft.AppendEntriesResponse{Term: 1, Success: true}
		})
		network.Cut("node-1", "node-2")
		start := time.Now()
		if _, err := p.AppendEntries(entry(2), new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
		f := <-p.Consumer()
		if !errors.Is(f.Error(), transport.ErrLinkDown) {
			t.Errorf("append over a cut link: %v", f.Error())
		}
		if took := time.Since(start); took > 2100*time.Millisecond {
			t.Errorf("noticed after %v", took)
		}
		if _, err := p.AppendEntries(entry(3), new(raft.AppendEntriesResponse)); err == nil {
			t.Error("append on a broken pipeline")
		}
		network.Heal("node-1", "node-2")
		c.close()
	})
}

// stutteringStore fails a follower's appends now and then, as a disk that stalls
// behind a time limit would. (A leader's failed append only costs its lead.)
type stutteringStore struct {
	raft.LogStore
	raft  atomic.Pointer[raft.Raft] // nil: never fails
	calls atomic.Int64
	fails *atomic.Int64
}

var errStutter = errors.New("disk stutters")

func (s *stutteringStore) StoreLogs(logs []*raft.Log) error {
	if r := s.raft.Load(); r != nil && r.State() == raft.Follower && s.calls.Add(1)%3 == 0 {
		s.fails.Add(1)
		return errStutter
	}
	return s.LogStore.StoreLogs(logs)
}

// Followers that refuse appends under load, and leaders that change, must leave
// nobody behind for ever (hashicorp/raft #612).
func TestPipeliningUnderRefusalsAndLeaderChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, network := newMemCluster(t, 3)
		c.opts = func(o *transport.Options) { o.PipelineDepth = 4 }
		for _, a := range c.names {
			for _, b := range c.names {
				if a < b {
					network.Delay(a, b, time.Millisecond)
				}
			}
		}
		var fails atomic.Int64
		c.wrapLogs = func(s raft.LogStore) raft.LogStore { return &stutteringStore{LogStore: s, fails: &fails} }
		for _, name := range c.names {
			c.startNode(name)
		}
		defer c.close()
		c.startGroup(1)
		for _, n := range c.nodes {
			m := n.groups[1]
			m.logs.(*stutteringStore).raft.Store(m.r)
		}
		committed := map[string]bool{}
		for round := range 20 {
			l := c.leader(1)
			var futures []raft.ApplyFuture
			var datas []string
			for i := range 100 {
				data := fmt.Sprintf("%d-%d", round, i)
				futures = append(futures, l.groups[1].r.Apply([]byte(data), time.Second))
				datas = append(datas, data)
			}
			for i, f := range futures {
				if f.Error() == nil {
					committed[datas[i]] = true
				}
			}
			if round%3 == 2 {
				// May fail when the disk stutters; then the leader stays.
				_ = c.leader(1).groups[1].r.LeadershipTransfer().Error()
			}
			if round%5 == 4 {
				v := c.names[round%3]
				for _, o := range c.others(v) {
					network.Reset(v, o.name)
				}
			}
		}
		for _, n := range c.nodes {
			n.groups[1].logs.(*stutteringStore).raft.Store(nil) // the disks are well again
		}
		c.apply(1, "last")
		c.sameLogs(1, "last")
		seen := map[string]bool{}
		for _, d := range c.nodes["node-1"].groups[1].fsm.list() {
			seen[d] = true
		}
		for d := range committed {
			if !seen[d] {
				t.Errorf("%s was committed and is lost", d)
			}
		}
		t.Logf("%d committed, %d appends failed", len(committed), fails.Load())
		if len(committed) < 500 || fails.Load() < 50 {
			t.Error("the test is void")
		}
	})
}

// A message far above gRPC's usual limit and both flow-control windows.
func TestLargeAppend(t *testing.T) {
	c := newCluster(t, 2)
	c.opts = func(o *transport.Options) { o.EntriesTimeout = time.Minute }
	defer c.close()
	const size = 20 << 20
	got := make(chan int, 2)
	p := newPipeline(t, c, func(a *raft.AppendEntriesRequest) *raft.AppendEntriesResponse {
		got <- len(a.Entries[0].Data)
		return &raft.AppendEntriesResponse{Term: 1, Success: true}
	})
	defer p.Close()
	<-got // of newPipeline
	big := entry(2)
	big.Entries[0].Data = make([]byte, size)
	if _, err := p.AppendEntries(big, new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != size {
		t.Errorf("%d bytes arrived", n)
	}
	if f := <-p.Consumer(); f.Error() != nil {
		t.Error(f.Error())
	}
	tooBig := entry(3)
	tooBig.Entries[0].Data = make([]byte, transport.MaxMessageBytes)
	if _, err := p.AppendEntries(tooBig, new(raft.AppendEntriesResponse)); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("beyond the limit: %v", err)
	}
}
