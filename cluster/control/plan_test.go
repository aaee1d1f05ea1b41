package control

import (
	"fmt"
	"maps"
	"math/rand"
	"strings"
	"testing"
)

// planned is a state of P partitions on the nodes "name" or "name@zone".
func planned(partitions, replicas int, nodes ...string) (*State, Fleet) {
	s := &State{ClusterID: "c", Partitions: uint32(partitions), Replicas: uint32(replicas)}
	f := Fleet{Usable: map[string]bool{}, Leaving: map[string]bool{}, Lost: map[string]bool{}}
	for i, n := range nodes {
		name, zone, _ := strings.Cut(n, "@")
		s.Members = append(s.Members, &Member{Name: name, Number: uint32(i + 1), Zone: zone})
		f.Usable[name] = true
	}
	for p := range partitions {
		s.Placements = append(s.Placements, &Placement{Partition: uint32(p), Version: 1,
			Replicas: []Replica{{Node: s.Members[0].Name, ServerID: "old"}}, Preferred: s.Members[0].Name})
	}
	return s, f
}

// settle carries out moves until there are none, as partitions' leaders do.
func settle(t *testing.T, s *State, f Fleet) (moves int) {
	t.Helper()
	for {
		p, why := s.NextMove(f)
		if p == nil {
			return moves
		}
		if moves++; moves > 1000 {
			t.Fatalf("no end of moves; the last: %+v, %s", p, why)
		}
		if p.Leaving != "" && p.Preferred == p.Leaving {
			t.Fatalf("partition %d prefers who leaves: %+v", p.Partition, p)
		}
		p = p.Completed()
		if len(p.Replicas) == 0 {
			t.Fatalf("partition %d lost its last replica", p.Partition)
		}
		s.Placements[p.Partition] = p
	}
}

func loads(s *State) (holds, leads map[string]int) {
	holds, leads = map[string]int{}, map[string]int{}
	for _, p := range s.Placements {
		for _, r := range p.Replicas {
			holds[r.Node]++
		}
		leads[p.Preferred]++
	}
	return holds, leads
}

func even(m map[string]int, nodes []string) bool {
	low, high := 1<<30, 0
	for _, n := range nodes {
		low, high = min(low, m[n]), max(high, m[n])
	}
	return high-low <= 1
}

// A cluster grows from one node to three to five and shrinks again, and is even each time.
func TestGrowAndShrink(t *testing.T) {
	s, f := planned(16, 3, "a", "b", "c", "d", "e")
	all := []string{"a", "b", "c", "d", "e"}
	for _, size := range []int{1, 2, 3, 5, 4, 3, 2, 1, 3} {
		nodes := all[:size]
		for i, n := range all {
			f.Usable[n], f.Leaving[n] = i < size, i >= size
		}
		moves := settle(t, s, f)
		holds, leads := loads(s)
		want := 16 * min(3, size)
		if got := holds["a"] + holds["b"] + holds["c"] + holds["d"] + holds["e"]; got != want && !(size == 2 && got == 16) {
			t.Errorf("%d nodes: %d replicas, not %d", size, got, want)
		}
		if !even(holds, nodes) || !even(leads, nodes) {
			t.Errorf("%d nodes: replicas %v, leaders %v", size, holds, leads)
		}
		for n := range maps.Keys(f.Leaving) {
			if f.Leaving[n] && holds[n] > 0 {
				t.Errorf("%d nodes: %s has left and holds %d", size, n, holds[n])
			}
		}
		t.Logf("%d nodes: %d moves", size, moves)
	}
}

// Replicas are in as many zones as there are.
func TestPlanSpreadsOverZones(t *testing.T) {
	s, f := planned(12, 3, "a@1", "b@1", "c@2", "d@2", "e@3", "f@3")
	settle(t, s, f)
	for _, p := range s.Placements {
		zones := map[string]bool{}
		for _, r := range p.Replicas {
			zones[s.Member(r.Node).Zone] = true
		}
		if len(zones) != 3 {
			t.Errorf("partition %d: %v", p.Partition, p.Replicas)
		}
	}
	if holds, _ := loads(s); !even(holds, []string{"a", "b", "c", "d", "e", "f"}) {
		t.Errorf("replicas %v", holds)
	}
}

// A node that is away for a while keeps what it has, and gets nothing.
func TestPlanLeavesTheAwayAlone(t *testing.T) {
	s, f := planned(16, 3, "a", "b", "c", "d")
	settle(t, s, f)
	f.Usable["b"] = false
	if moves := settle(t, s, f); moves != 0 {
		t.Errorf("%d moves", moves)
	}
	f.Lost["b"] = true // for too long
	settle(t, s, f)
	if holds, leads := loads(s); holds["b"] != 0 || leads["b"] != 0 || holds["a"] != 16 {
		t.Errorf("replicas %v, leaders %v", holds, leads)
	}
	f.Usable["c"], f.Lost["c"] = false, true // nobody can take its place
	settle(t, s, f)
	if holds, leads := loads(s); holds["c"] != 16 || leads["c"] != 0 {
		t.Errorf("replicas %v, leaders %v", holds, leads)
	}
}

// Whoever comes and goes, moves come to an end, and nothing loses its last replica.
func TestRandomPlans(t *testing.T) {
	seeds(t, func(t *testing.T, r *rand.Rand) {
		var nodes []string
		for i := range 1 + r.Intn(7) {
			nodes = append(nodes, fmt.Sprintf("n%d@%d", i, r.Intn(3)))
		}
		s, f := planned(1+r.Intn(40), 1+r.Intn(5), nodes...)
		for range 10 {
			for n := range f.Usable {
				f.Usable[n], f.Leaving[n], f.Lost[n] = r.Intn(3) > 0, r.Intn(4) == 0, r.Intn(5) == 0
			}
			settle(t, s, f)
		}
	})
}
