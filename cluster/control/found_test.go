package control

import (
	"context"
	"testing"
	"time"
)

func TestFoundsAloneAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1, "a")
		w.start("a")
		w.ready()
		took := w.until(2*time.Second, "lease", func() bool { return w.nodes["a"].ctl.State().ClusterID != "" })
		t.Logf("founded after %v", took)
		w.incarnate("a")
		s := w.nodes["a"].ctl.State()
		if len(s.Placements) != 16 || len(s.Members) != 1 || s.Members[0].Number != 1 {
			t.Fatalf("state: %+v", s)
		}
		if g := w.nodes["a"].ctl.Gateway(); g != 1<<40|1 {
			t.Fatalf("gateway %x", g)
		}
	})
}

func TestFoundsThree(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3, "a", "b", "c")
		from := time.Now()
		w.start("c", "b", "a")
		w.ready()
		t.Logf("founded after %v", time.Since(from))
		w.incarnate("a", "b", "c")
		t.Logf("serving after %v", time.Since(from))
		leads := make(map[string]int)
		for i, p := range w.nodes["b"].ctl.State().Placements {
			if int(p.Partition) != i || len(p.Replicas) != 3 || p.Version != 1 {
				t.Fatalf("placement %d: %+v", i, p)
			}
			leads[p.Preferred]++
		}
		for _, n := range []string{"a", "b", "c"} {
			if leads[n] < 5 || leads[n] > 6 {
				t.Fatalf("leaders are not spread evenly: %v", leads)
			}
		}
		// Followers learn of a commit soon, although an idle group sends little.
		if err := w.leader().ctl.SetSetting(context.Background(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		w.until(50*time.Millisecond, "setting everywhere", func() bool {
			for _, n := range w.running() {
				if n.ctl.State().Settings["k"] != "v" {
					return false
				}
			}
			return true
		})
	})
}
