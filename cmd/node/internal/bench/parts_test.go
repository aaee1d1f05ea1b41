package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestHistogramIsNearlyExact(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, seed))
	var h, a, b histogram
	var all []int64
	for i := range 100_000 {
		v := int64(rnd.ExpFloat64() * 1e6)
		if i%1000 == 0 {
			v = rnd.Int64N(1 << 40)
		}
		all = append(all, v)
		h.add(v)
		if i%2 == 0 {
			a.add(v)
		} else {
			b.add(v)
		}
	}
	a.merge(&b)
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		got := h.quantile(q)
		if diff := float64(got - want); diff > 0.01*float64(want)+1 || diff < -0.01*float64(want)-1 {
			t.Errorf("seed %d: quantile %v is %d, want %d", seed, q, got, want)
		}
		if merged := a.quantile(q); merged != got {
			t.Errorf("quantile %v of merged halves is %d, of the whole %d", q, merged, got)
		}
	}
	if h.max != all[len(all)-1] || h.count != uint64(len(all)) {
		t.Errorf("max %d, count %d", h.max, h.count)
	}
}

func TestHistogramEdges(t *testing.T) {
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	h.add(-5)
	h.add(1<<63 - 1)
	if h.quantile(0) != 0 || h.quantile(1) != 1<<63-1 {
		t.Errorf("got %d and %d", h.quantile(0), h.quantile(1))
	}
	for v := range int64(1 << 12) {
		row, col := bucket(v)
		if mid := value(row, col); mid-v > v/100+1 || v-mid > v/100+1 {
			t.Fatalf("%d is counted as %d", v, mid)
		}
	}
}

// TestTrackerAgainstModel compares with sets.
func TestTrackerAgainstModel(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		sent := uint64(rnd.IntN(300))
		var tr tracker
		seen := map[uint64]bool{}
		var dups, disordered, highest uint64
		for range rnd.IntN(500) {
			seq := rnd.Uint64N(sent + 1)
			if tr.receive(seq) == seen[seq] {
				t.Fatalf("seed %d: receive(%d) is wrong about whether it is new", seed, seq)
			}
			switch {
			case seen[seq]:
				dups++
			case seq < highest:
				disordered++
			}
			highest = max(highest, seq+1)
			seen[seq] = true
		}
		var unpromised []uint64
		var lost uint64
		for seq := range sent {
			refused := rnd.IntN(4) == 0
			if refused {
				unpromised = append(unpromised, seq)
			}
			if !seen[seq] && !refused {
				lost++
			}
		}
		if got := tr.missing(sent, unpromised); got != lost || tr.duplicates != dups || tr.disordered != disordered || tr.unique != uint64(len(seen)) {
			t.Errorf("seed %d: missing %d (want %d), duplicates %d (%d), disordered %d (%d)", seed, got, lost, tr.duplicates, dups, tr.disordered, disordered)
		}
	}
}

func TestPayload(t *testing.T) {
	b := make([]byte, MinSize)
	putPayload(b, 7, 1<<40, -3)
	if p, seq, sent, ok := readPayload(b); p != 7 || seq != 1<<40 || sent != -3 || !ok {
		t.Errorf("%d %d %d %v", p, seq, sent, ok)
	}
	for _, bad := range [][]byte{nil, b[:MinSize-1], make([]byte, MinSize)} {
		if _, _, _, ok := readPayload(bad); ok {
			t.Errorf("%x was taken for one of ours", bad)
		}
	}
}

func TestPlanCrossesNodes(t *testing.T) {
	three := []string{"a:1", "b:1", "c:1"}
	for _, tt := range []struct {
		name  string
		opts  Options
		cross float64
	}{
		{"one node", Options{Scenario: FanIn, Addrs: three[:1], Publishers: 4, Subscribers: 2}, 0},
		{"fan-in", Options{Scenario: FanIn, Addrs: three, Publishers: 4, Subscribers: 2}, 1},
		{"many to many", Options{Scenario: FanIn, Addrs: three, Publishers: 100, Subscribers: 7}, 1},
		{"pairs", Options{Scenario: Pairs, Addrs: three, Publishers: 5, Subscribers: 5}, 1},
		{"fan-out", Options{Scenario: FanOut, Addrs: three, Publishers: 2, Subscribers: 20}, 1},
		{"explicit", Options{Scenario: FanIn, PubAddrs: three[:1], SubAddrs: three[:1], Addrs: three, Publishers: 2, Subscribers: 2}, 0},
	} {
		pubs, subs := tt.opts.plan("r")
		if got := crossed(pubs, subs); got != tt.cross {
			t.Errorf("%s: %v of all pairs cross nodes, want %v", tt.name, got, tt.cross)
		}
		receivers := 0
		for _, p := range pubs {
			receivers += p.to
		}
		heard := 0
		for _, s := range subs {
			heard += len(s.from)
		}
		if receivers != heard {
			t.Errorf("%s: publishers count on %d receptions a round, subscribers on %d", tt.name, receivers, heard)
		}
	}
}
