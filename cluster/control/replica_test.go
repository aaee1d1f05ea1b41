package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A log that is gone needs a new server id; with one, the replica is replaced
// and catches up, here by a snapshot, because the log was truncated.
func TestReplicaSetAside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		aside := ""
		w.tune = func(name string, o *Options) {
			o.SnapshotThreshold, o.TrailingLogs = 16, 4
			if name == "b" && aside != "" {
				o.ServerID = raft.ServerID(aside)
				w.nodes["b"].port.id = o.ServerID
			}
		}
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		b := w.nodes["b"]
		gateway := b.ctl.Gateway()
		b.kill()
		meta := b.disk.meta
		incarnation := b.disk.incarnation
		b.disk = newDisk(incarnation)
		b.disk.meta = meta
		if _, err := Open(b.options()); !errors.Is(err, ErrAmnesia) {
			t.Fatalf("opened with the log lost: %v", err)
		}
		for i := range 100 {
			if err := w.nodes["a"].ctl.SetSetting(context.Background(), fmt.Sprint(i%7), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		w.takeSnapshot("a")
		w.takeSnapshot("c")
		aside = "b#new"
		b.start()
		w.ready()
		w.incarnate("b")
		if g := b.ctl.Gateway(); g != gateway+1 {
			t.Errorf("gateway %x after %x", g, gateway)
		}
		if got := b.ctl.State().Settings["0"]; got != "98" {
			t.Errorf("settings after the snapshot: %v", b.ctl.State().Settings)
		}
		if vs := strings.Join(b.ctl.Status().Voters, " "); !strings.Contains(vs, "b#new") || strings.Count(vs, "b#") != 1 {
			t.Errorf("voters: %s", vs)
		}
		if first, _ := b.disk.FirstIndex(); first < 2 {
			t.Errorf("first index %d: it did not come by a snapshot", first)
		}
		// And it goes on from what it has.
		b.kill()
		b.start()
		w.ready()
		w.incarnate("b")
	})
}

func (w *world) takeSnapshot(name string) {
	w.t.Helper()
	r := w.nodes[name].ctl.raft.Load()
	if err := r.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		w.t.Fatal(err)
	}
}

// All nodes at once: they go on from their disks, and a second time by snapshot.
func TestRestartAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		id := w.ready()
		w.incarnate("a", "b", "c")
		for round := range 3 {
			for _, n := range w.running() {
				w.takeSnapshot(n.name)
			}
			for _, n := range w.running() {
				n.kill()
			}
			from := time.Now()
			w.start("a", "b", "c")
			if got := w.ready(); got != id {
				t.Fatalf("cluster %s, was %s", got, id)
			}
			w.incarnate("a", "b", "c")
			t.Logf("serving %v after all were killed", time.Since(from))
			for _, n := range w.running() {
				if _, inc := SplitGateway(n.ctl.Gateway()); inc != uint64(round+2) {
					t.Errorf("%s: incarnation %d", n.name, inc)
				}
			}
		}
	})
}

// A node beyond those that are expected joins, and so does one with an empty disk that
// expects nobody: neither founds a second cluster. A member that has stopped can be
// removed, and its replica goes with it.
func TestNoSecondCluster(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c", "d")
		w.start("a", "b", "c")
		id := w.ready()
		w.incarnate("a", "b", "c")
		w.nodes["b"].kill()
		w.wipe("b")
		w.expect = 1
		w.start("d", "b")
		w.until(10*time.Second, "b is back, d has joined", func() bool {
			return w.nodes["b"].ctl.Status().Phase == phaseRunning && w.nodes["d"].ctl.Status().Phase == phaseRunning
		})
		for _, n := range []string{"b", "d"} {
			if got := w.nodes[n].ctl.State().ClusterID; got != id {
				t.Errorf("%s: cluster %s, was %s", n, got, id)
			}
		}
		w.incarnate("d")
		if m := w.nodes["d"].ctl.State().Member("d"); m == nil || m.Number != 4 {
			t.Errorf("d is %+v", m)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.nodes["a"].ctl.RemoveMember(ctx, "d"); !errors.Is(err, ErrConflict) {
			t.Errorf("removing a live member: %v", err)
		}
		w.nodes["d"].kill()
		w.until(10*time.Second, "d is closed", func() bool { return w.nodes["a"].ctl.State().Member("d").Live() == 0 })
		if err := w.nodes["a"].ctl.RemoveMember(ctx, "d"); err != nil {
			t.Error(err)
		}
		w.until(10*time.Second, "d has no vote", func() bool { return len(w.nodes["a"].ctl.Status().Voters) == 3 })
	})
}

// A member of the plan that loses its disk before it is founded is planned anew.
func TestWipedWhileFounding(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.net.split([]string{"c"}, []string{"a", "b"}, true) // seen, and not reached
		w.until(5*time.Second, "b has promised", func() bool { return w.nodes["b"].ctl.founder.founding() != nil })
		w.nodes["b"].kill()
		w.wipe("b")
		w.start("b")
		w.net.heal()
		w.ready()
		w.incarnate("a", "b", "c")
	})
}

// A founder that loses its disk leaves the others bound: they say so, and go on
// when their data folders are removed.
func TestFounderLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.net.split([]string{"c"}, []string{"a", "b"}, true)
		w.until(5*time.Second, "b has promised", func() bool { return w.nodes["b"].ctl.founder.founding() != nil })
		w.nodes["a"].kill()
		w.wipe("a")
		w.start("a")
		w.net.heal()
		w.until(10*time.Second, "b says what to do", func() bool {
			return strings.Contains(w.nodes["b"].ctl.Status().Detail, "remove the data folder")
		})
		w.nodes["b"].kill()
		w.wipe("b")
		w.start("b")
		w.ready()
		w.incarnate("a", "b", "c")
	})
}

// Nodes whose settings differ found nothing; when they are put right, they do.
func TestFoundingMismatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 2, "a", "b")
		partitions := uint32(8)
		w.tune = func(name string, o *Options) {
			if name == "a" {
				o.Partitions = partitions
			}
		}
		w.start("a", "b")
		w.until(5*time.Second, "a says why", func() bool {
			return strings.Contains(w.nodes["a"].ctl.Status().Detail, "partitions 16")
		})
		w.nodes["a"].stop()
		partitions = 16
		w.start("a")
		w.ready()
		if n := len(w.nodes["b"].ctl.State().Placements); n != 16 {
			t.Errorf("%d placements", n)
		}
	})
}

// From the moment a leader decides to close an incarnation it grants no more,
// although the others may not know for long.
func TestNoGrantWhileClosing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		l := w.leader()
		lead := l.ctl.leading.Load()
		victim, other := w.others(l)[0], w.others(l)[1]
		gateway := victim.ctl.Gateway()
		w.net.split([]string{victim.name}, []string{l.name, other.name}, true)
		l.ctl.Suspect(victim.name)
		w.until(time.Second, "lease over", func() bool { return !victim.ctl.LeaseValid() })
		due := func() time.Duration {
			lead.mu.Lock()
			defer lead.mu.Unlock()
			return lead.over(lead.grantees[gateway]) - l.ctl.opt.Boottime()
		}
		time.Sleep(due() - time.Millisecond)
		w.net.split([]string{l.name}, []string{other.name}, true) // the close cannot commit
		time.Sleep(3 * time.Millisecond)
		if l.ctl.State().Closed(gateway) {
			t.Fatal("closed without a quorum")
		}
		w.net.split([]string{l.name}, []string{victim.name, other.name}, false)
		if l.ctl.leading.Load() != lead {
			t.Fatal("the leader has stepped down too early for this test")
		}
		w.until(time.Second, "closed", func() bool { return l.ctl.State().Closed(gateway) })
		if victim.ctl.LeaseValid() {
			t.Error("a lease was granted while the close was under way")
		}
		lead.mu.Lock()
		defer lead.mu.Unlock()
		if g := lead.grantees[gateway]; g != nil && g.ending == "" {
			t.Error("the close was not marked before it was committed")
		}
	})
}

// The machine is suspended: monotonic time stands still, boottime goes on.
func TestSuspend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var slept atomic.Int64
		w := newWorld(t, 1, "a")
		w.tune = func(_ string, o *Options) {
			clock := o.Boottime
			o.Boottime = func() time.Duration { return clock() + time.Duration(slept.Load()) }
		}
		w.start("a")
		w.ready()
		w.incarnate("a")
		slept.Add(int64(time.Second))
		time.Sleep(fresh) // the wall clock of this bubble does not show the suspension
		if w.nodes["a"].ctl.LeaseValid() {
			t.Error("a lease outlived the suspension")
		}
		w.until(time.Second, "renewed", func() bool { return w.nodes["a"].ctl.LeaseValid() })
	})
}

// A node may serve when every member acts on its incarnation.
func TestEveryoneKnows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var behind atomic.Uint64 // the index at which b stands; 0: none
		w := newWorld(t, 3, "a", "b", "c")
		w.tune = func(name string, o *Options) {
			n := w.nodes[name]
			o.Knows = func() uint64 {
				if at := behind.Load(); name == "b" && at != 0 {
					return at
				}
				return n.ctl.State().Applied
			}
		}
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b")
		behind.Store(w.nodes["b"].ctl.State().Applied)
		c := w.nodes["c"].ctl
		if _, err := c.StartIncarnation(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if !c.LeaseValid() || c.EveryoneKnows() || c.KnownBy("b") != behind.Load() || c.KnownBy("a") < c.State().Member("c").StartedIndex {
			t.Errorf("lease %v, everyone %v, a knows %d, b %d", c.LeaseValid(), c.EveryoneKnows(), c.KnownBy("a"), c.KnownBy("b"))
		}
		changed, stop := c.Watch()
		defer stop()
		behind.Store(0)
		w.until(time.Second, "everyone knows", c.EveryoneKnows)
		select {
		case <-changed:
		case <-time.After(time.Second):
			t.Error("Watch was not told")
		}
		// One that is closed does not count.
		w.nodes["b"].kill()
		w.suspect("b")
		w.nodes["c"].kill()
		w.start("c")
		w.incarnate("c")
	})
}

// An orderly handover of the leadership leaves every lease valid.
func TestTransfer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		for range 5 {
			l := w.leader()
			if err := l.ctl.TransferLeadership(); err != nil {
				t.Fatal(err)
			}
			w.until(time.Second, "another leader", func() bool { return l.ctl.leading.Load() == nil && w.leader() != l })
			for range 2000 {
				for _, n := range w.running() {
					if !n.ctl.LeaseValid() {
						t.Fatalf("%s has lost its lease", n.name)
					}
				}
				time.Sleep(time.Millisecond)
			}
		}
	})
}
