package transport_test

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
)

// processCPU is the processor time that this process has used.
func processCPU(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIdle measures what three idle nodes with 16 groups cost, all in one
// process: run it with -benchtime 1x. "%core" is percent of one core.
func BenchmarkIdle(b *testing.B) {
	for _, align := range []time.Duration{0, 250 * time.Millisecond} {
		for _, commit := range []time.Duration{50 * time.Millisecond, 2 * time.Second} {
			b.Run(fmt.Sprintf("align=%v/commit=%v", align, commit), func(b *testing.B) {
				c := newCluster(b, 3)
				c.opts = func(o *transport.Options) { o.HeartbeatTimeout = align }
				c.cfg = func(cfg *raft.Config) { cfg.CommitTimeout = commit }
				idle(b, c)
			})
		}
	}
}

func idle(b *testing.B, c *testCluster) {
	c.dial = func(string) func(context.Context, string) (net.Conn, error) { return nil } // the default
	const groups, spell = 16, 4 * time.Second
	for _, name := range c.names {
		c.startNode(name)
	}
	for _, name := range c.names {
		for _, other := range c.names {
			if name != other {
				c.nodes[name].tr.Connect(other)
			}
		}
	}
	for g := range uint32(groups) {
		c.startGroup(g)
	}
	for g := range uint32(groups) {
		c.leader(g)
	}
	stats := func() (requests, batches uint64) {
		for _, n := range c.nodes {
			s := n.tr.Stats()
			requests += s.RaftRequests
			batches += s.RaftBatches
		}
		return requests, batches
	}
	r0, b0 := stats()
	cpu, start := processCPU(b), time.Now()
	for range b.N {
		time.Sleep(spell)
	}
	took := time.Since(start)
	used := processCPU(b) - cpu
	r1, b1 := stats()
	b.ReportMetric(100*used.Seconds()/took.Seconds(), "%core")
	b.ReportMetric(float64(r1-r0)/took.Seconds(), "requests/s")
	b.ReportMetric(float64(r1-r0)/float64(max(b1-b0, 1)), "requests/msg")
	b.ReportMetric(0, "ns/op")
	c.close()
}

// BenchmarkIdleFloor is the same without a network: what raft itself costs.
func BenchmarkIdleFloor(b *testing.B) {
	const groups, spell = 16, 4 * time.Second
	c := newCluster(b, 3)
	c.cfg = func(cfg *raft.Config) { cfg.CommitTimeout = 2 * time.Second }
	var all []*raft.Raft
	for range groups {
		var conf raft.Configuration
		trans := map[string]*raft.InmemTransport{}
		for _, name := range c.names {
			_, tr := raft.NewInmemTransport(raft.ServerAddress(name))
			trans[name] = tr
			conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(name)})
		}
		for a, ta := range trans {
			for o, to := range trans {
				if a != o {
					ta.Connect(raft.ServerAddress(o), to)
				}
			}
		}
		for _, name := range c.names {
			s, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
			cfg := c.config(raft.ServerID(name))
			if err := raft.BootstrapCluster(cfg, s, s, snaps, trans[name], conf); err != nil {
				b.Fatal(err)
			}
			r, err := raft.NewRaft(cfg, &listFSM{}, s, s, snaps, trans[name])
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, r)
		}
	}
	time.Sleep(2 * time.Second)
	cpu, start := processCPU(b), time.Now()
	for range b.N {
		time.Sleep(spell)
	}
	b.ReportMetric(100*(processCPU(b)-cpu).Seconds()/time.Since(start).Seconds(), "%core")
	b.ReportMetric(0, "ns/op")
	for _, r := range all {
		if err := r.Shutdown().Error(); err != nil {
			b.Error(err)
		}
	}
}
