package control

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A node that is killed is closed soon after its lease is over, and its
// successor's incarnation is another.
func TestKillFollower(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		l := w.leader()
		victim := w.others(l)[0]
		gateway := victim.ctl.Gateway()
		time.Sleep(5 * time.Second)
		victim.kill()
		w.suspect(victim.name)
		took := w.until(2*time.Second, "closed", func() bool { return w.closedEverywhere(gateway) })
		t.Logf("closed after %v", took)
		if took > 900*time.Millisecond {
			t.Errorf("closed after %v, want at most 900ms", took)
		}
		victim.start()
		w.ready()
		w.incarnate(victim.name)
		if g := victim.ctl.Gateway(); g != gateway+1 {
			t.Errorf("gateway %x after %x", g, gateway)
		}
	})
}

func TestKillLeader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var worst time.Duration
		for range 20 {
			w := newWorld(t, 3, "a", "b", "c")
			w.start("a", "b", "c")
			w.ready()
			w.incarnate("a", "b", "c")
			victim := w.leader()
			gateway := victim.ctl.Gateway()
			time.Sleep(5 * time.Second)
			victim.kill()
			w.suspect(victim.name)
			took := w.until(5*time.Second, "closed", func() bool { return w.closedEverywhere(gateway) })
			worst = max(worst, took)
			for _, n := range w.running() {
				if !n.ctl.LeaseValid() {
					t.Errorf("%s has no lease after the change of leader", n.name)
				}
				n.stop()
			}
		}
		t.Logf("closed after at most %v", worst)
		if worst > 1500*time.Millisecond {
			t.Errorf("closed after %v, want at most 1.5s", worst)
		}
	})
}

// Without a broken connection the leader waits for SilenceTimeout; the lease of
// a node that is cut off ends long before.
func TestCutOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		l := w.leader()
		victim := w.others(l)[0]
		gateway := victim.ctl.Gateway()
		w.net.split([]string{victim.name}, []string{l.name, w.others(l)[1].name}, true)
		took := w.until(time.Second, "lease lost", func() bool { return !victim.ctl.LeaseValid() })
		t.Logf("lease lost after %v", took)
		if l.ctl.State().Closed(gateway) {
			t.Error("closed already")
		}
		took = w.until(5*time.Second, "closed", func() bool { return l.ctl.State().Closed(gateway) })
		t.Logf("closed %v later", took)
		w.net.heal()
		w.until(5*time.Second, "told", func() bool {
			victim.mu.Lock()
			defer victim.mu.Unlock()
			return len(victim.closed) == 1 && victim.closed[0] == gateway
		})
		if victim.ctl.Gateway() != 0 || victim.ctl.LeaseValid() {
			t.Error("an ended incarnation still counts")
		}
		w.incarnate(victim.name)
		victim.mu.Lock()
		defer victim.mu.Unlock()
		if want := []bool{true, false, true}; !equal(victim.leases, want) {
			t.Errorf("OnLease was told %v, want %v", victim.leases, want)
		}
	})
}

func equal(a, b []bool) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// A leader that is cut off from a quorum grants nothing, not even to itself and
// not from the moment it is cut off.
func TestDeposedLeaderGrantsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		old := w.leader()
		gateway := old.ctl.Gateway()
		rest := w.others(old)
		lead := old.ctl.leading.Load()
		w.net.split([]string{old.name}, []string{rest[0].name, rest[1].name}, true)
		if lead.quorum(context.Background(), old.ctl.opt.ServerID, lead.term) {
			t.Error("a quorum that cannot be reached has confirmed")
		}
		// A sender's own reading makes a quorum of two, if it is of this term.
		sender := rest[0].ctl.opt.ServerID
		if !lead.quorum(context.Background(), sender, lead.term) {
			t.Error("leader and sender are a quorum of three")
		}
		if lead.quorum(context.Background(), sender, lead.term+1) {
			t.Error("a sender of a newer term has confirmed")
		}
		w.suspect(old.name)
		w.until(3*time.Second, "closed by the new leader", func() bool { return rest[0].ctl.State().Closed(gateway) })
		if old.ctl.LeaseValid() {
			t.Error("closed, and its lease is valid")
		}
		w.net.heal()
		// The old leadership must not come back to life by answers of voters
		// that have moved on: this is what it would ask them.
		if lead.confirmed() {
			t.Error("voters of a newer term have confirmed the old one")
		}
		w.until(5*time.Second, "told", func() bool {
			old.mu.Lock()
			defer old.mu.Unlock()
			return len(old.closed) == 1
		})
	})
}

// A start on the same disk ends the last incarnation at once.
func TestRestartClosesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		victim := w.others(w.leader())[0]
		gateway := victim.ctl.Gateway()
		victim.kill()
		victim.start()
		from := time.Now()
		w.incarnate(victim.name)
		if s := w.leader().ctl.State(); !s.Closed(gateway) || s.Member(victim.name).CloseReason != "restarted" {
			t.Errorf("member %+v", s.Member(victim.name))
		}
		t.Logf("serving %v after the start", time.Since(from))
	})
}

// A wiped disk gets its incarnation only when the old lease is over, a new
// replica of the control group, and everyone's trust again.
func TestWipedDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		id := w.ready()
		w.incarnate("a", "b", "c")
		l := w.leader()
		victim := w.others(l)[0]
		gateway := victim.ctl.Gateway()
		victim.kill()
		w.wipe(victim.name)
		victim.start()
		w.incarnate(victim.name)
		if again := w.ready(); again != id {
			t.Fatalf("cluster %s, was %s", again, id)
		}
		s := l.ctl.State()
		m := s.Member(victim.name)
		if !s.Closed(gateway) || m.CloseReason != "disk replaced" || m.Disk != victim.disk.incarnation || m.Number != uint32(gateway>>40) {
			t.Errorf("member %+v", m)
		}
		if vs := l.ctl.Status().Voters; len(vs) != 3 {
			t.Errorf("voters %v", vs)
		}
		// It votes again: with the third node gone the two have a quorum.
		w.others(l)[1].kill()
		w.until(5*time.Second, "leases", func() bool { return l.ctl.LeaseValid() && victim.ctl.LeaseValid() })
		if err := victim.ctl.SetSetting(context.Background(), "k", "v"); err != nil {
			t.Fatal(err)
		}
	})
}

// While the old process lives, a new disk under its name must wait.
func TestNameInUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		l := w.leader()
		victim := w.others(l)[0]
		lead := l.ctl.leading.Load()
		for range 50 {
			if rep := lead.evict(victim.name, 999); rep == nil {
				t.Fatal("a live node was evicted")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if !victim.ctl.LeaseValid() {
			t.Error("the live node has lost its lease")
		}
	})
}

func TestStopAndEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		w.start("a", "b", "c")
		w.ready()
		w.incarnate("a", "b", "c")
		ctx := context.Background()
		b, c := w.nodes["b"].ctl, w.nodes["c"].ctl
		gb, gc := b.Gateway(), c.Gateway()
		from := time.Now()
		if err := b.StopIncarnation(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(from); took > 100*time.Millisecond || !b.State().Closed(gb) || b.LeaseValid() {
			t.Errorf("stopped after %v", took)
		}
		from = time.Now()
		ga := w.nodes["a"].ctl.Gateway()
		ended := make(chan error, 1)
		go func() { ended <- w.nodes["a"].ctl.EndIncarnation(ctx, gc, "takes nothing") }()
		time.Sleep(50 * time.Millisecond) // of the bubble: the leader has it, and waits for the lease to run out
		if err := c.EndIncarnation(ctx, ga, "takes nothing either"); !errors.Is(err, ErrConflict) {
			t.Errorf("a gateway that is being ended ends another: %v", err)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if b.State().Closed(ga) {
			t.Error("two gateways ended each other")
		}
		if c.LeaseValid() {
			t.Error("ended with a valid lease")
		}
		if m := w.nodes["a"].ctl.State().Member("c"); m.CloseReason != "takes nothing" || m.Live() != 0 {
			t.Errorf("member %+v", m)
		}
		t.Logf("ended after %v", time.Since(from))
		if err := b.EndIncarnation(ctx, GatewayID(9, 1), ""); !errors.Is(err, ErrConflict) {
			t.Errorf("ending an unknown gateway: %v", err)
		}
	})
}

// suspect tells every running node that the connection to the node broke.
func (w *world) suspect(name string) {
	for _, n := range w.running() {
		if n.name != name {
			n.ctl.Suspect(name)
		}
	}
}

// closedEverywhere reports whether all running nodes know that the gateway is closed.
func (w *world) closedEverywhere(gateway uint64) bool {
	for _, n := range w.running() {
		if !n.ctl.State().Closed(gateway) {
			return false
		}
	}
	return true
}
