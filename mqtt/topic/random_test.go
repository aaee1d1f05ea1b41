package topic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// naiveMatch is section 4.7 written down without any cleverness.
func naiveMatch(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	if strings.HasPrefix(name, "$") && (f[0] == "#" || f[0] == "+") {
		return false
	}
	for i := range f {
		if f[i] == "#" {
			return true
		}
		if i >= len(n) || (f[i] != "+" && f[i] != n[i]) {
			return false
		}
		if i == len(n)-1 && i == len(f)-2 && f[i+1] == "#" {
			return true
		}
	}
	return len(f) == len(n)
}

// newRand returns a generator whose seed the test prints.
func newRand(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// randomLevels draws from a small alphabet, so that things match, and now and then
// from a large one, so that nodes become wide.
func randomLevels(r *rand.Rand, words []string) []string {
	levels := make([]string, 1+r.IntN(4))
	for i := range levels {
		levels[i] = words[r.IntN(len(words))]
		if r.IntN(4) == 0 {
			levels[i] = fmt.Sprint(r.IntN(30))
		}
	}
	return levels
}

func randomName(r *rand.Rand) string {
	for {
		if name := strings.Join(randomLevels(r, []string{"a", "b", "", "$x"}), "/"); name != "" {
			return name
		}
	}
}

func randomFilter(r *rand.Rand) string {
	for {
		levels := randomLevels(r, []string{"a", "b", "", "$x", "+", "+"})
		if r.IntN(4) == 0 {
			levels = append(levels, "#")
		}
		if r.IntN(20) == 0 {
			return "#"
		}
		if filter := strings.Join(levels, "/"); filter != "" {
			return filter
		}
	}
}

func TestRandomMatchAgainstNaive(t *testing.T) {
	r := newRand(t)
	hits := 0
	for range 50_000 {
		filter, name := randomFilter(r), randomName(r)
		if err := ValidFilter(filter); err != nil {
			t.Fatal(filter, err)
		}
		if err := ValidName(name); err != nil {
			t.Fatal(name, err)
		}
		want := naiveMatch(filter, name)
		if got := Match(filter, name); got != want {
			t.Fatalf("Match(%q, %q) = %v, want %v", filter, name, got, want)
		}
		if want {
			hits++
		}
	}
	if hits < 1000 {
		t.Fatalf("only %d matches: the test shows little", hits)
	}
}

type subscription struct {
	filter string
	key    int
}

// TestRandomTree compares a tree with a map under random changes.
func TestRandomTree(t *testing.T) {
	r := newRand(t)
	var tree Tree[int, int]
	model := map[subscription]int{}
	for step := range 20_000 {
		s := subscription{randomFilter(r), r.IntN(40)}
		grow := step%8000 < 4000 // phases in which the tree grows and shrinks
		if grow == (r.IntN(4) > 0) {
			old, existed := tree.Set(s.filter, s.key, step)
			if want, ok := model[s]; ok != existed || old != want {
				t.Fatalf("Set(%v) = %d, %v, want %d, %v", s, old, existed, want, ok)
			}
			model[s] = step
		} else {
			if len(model) > 0 && r.IntN(2) == 0 {
				s = slices.MinFunc(slices.Collect(maps.Keys(model)), func(a, b subscription) int { return model[a] - model[b] })
			}
			old, existed := tree.Delete(s.filter, s.key)
			if want, ok := model[s]; ok != existed || old != want {
				t.Fatalf("Delete(%v) = %d, %v, want %d, %v", s, old, existed, want, ok)
			}
			delete(model, s)
		}
		if tree.Len() != len(model) {
			t.Fatalf("Len() = %d, want %d", tree.Len(), len(model))
		}
		if step%100 == 0 {
			compareTree(t, &tree, model, randomName(r))
		}
	}
	for s := range model {
		tree.Delete(s.filter, s.key)
	}
	if tree.Len() != 0 || tree.root.next != nil || tree.root.subs != nil {
		t.Fatalf("an empty tree keeps nodes: %+v", tree)
	}
}

func compareTree(t *testing.T, tree *Tree[int, int], model map[subscription]int, name string) {
	t.Helper()
	want, filters := map[subscription]int{}, map[string]int{}
	for s, v := range model {
		filters[s.filter]++
		if naiveMatch(s.filter, name) {
			want[s] = v
		}
		if got, ok := tree.Get(s.filter, s.key); !ok || got != v {
			t.Fatalf("Get(%v) = %d, %v, want %d", s, got, ok, v)
		}
		for _, absent := range []subscription{{s.filter, -1}, {s.filter + "/none", s.key}, {"none", s.key}} {
			if got, ok := tree.Get(absent.filter, absent.key); ok {
				t.Fatalf("Get(%v) = %d", absent, got)
			}
		}
	}
	got := map[subscription]int{}
	tree.Match(name, func(filter string, key, v int) {
		if _, twice := got[subscription{filter, key}]; twice {
			t.Fatalf("Match(%q) visits %q, %d twice", name, filter, key)
		}
		got[subscription{filter, key}] = v
	})
	if !maps.Equal(got, want) {
		t.Fatalf("Match(%q) = %v, want %v", name, got, want)
	}
	gotFilters := map[string]int{}
	tree.Filters(func(filter string, n int) { gotFilters[filter] = n })
	if !maps.Equal(gotFilters, filters) {
		t.Fatalf("Filters() = %v, want %v", gotFilters, filters)
	}
}

// TestRandomStore compares a store with a map under random changes.
func TestRandomStore(t *testing.T) {
	r := newRand(t)
	var store Store[int]
	model := map[string]int{}
	for step := range 20_000 {
		name := randomName(r)
		if (step%8000 < 4000) == (r.IntN(4) > 0) {
			old, existed := store.Put(name, step)
			if want, ok := model[name]; ok != existed || old != want {
				t.Fatalf("Put(%q) = %d, %v, want %d, %v", name, old, existed, want, ok)
			}
			model[name] = step
		} else {
			old, existed := store.Delete(name)
			if want, ok := model[name]; ok != existed || old != want {
				t.Fatalf("Delete(%q) = %d, %v, want %d, %v", name, old, existed, want, ok)
			}
			delete(model, name)
		}
		if step%100 == 0 {
			compareStore(t, &store, model, randomFilter(r))
		}
	}
	for name := range model {
		store.Delete(name)
	}
	if store.Len() != 0 || store.root.kids != nil || store.root.leaf != nil {
		t.Fatalf("an empty store keeps nodes: %+v", store)
	}
}

func compareStore(t *testing.T, store *Store[int], model map[string]int, filter string) {
	t.Helper()
	var want []string
	for name, v := range model {
		if naiveMatch(filter, name) {
			want = append(want, name)
		}
		if got, ok := store.Get(name); !ok || got != v {
			t.Fatalf("Get(%q) = %d, %v, want %d", name, got, ok, v)
		}
		parent, _, deeper := strings.Cut(name, "/")
		_, want := model[parent]
		if got, ok := store.Get(parent); deeper && ok != want {
			t.Fatalf("Get(%q) = %d, %v, want %v", parent, got, ok, want)
		}
		if got, ok := store.Get(name + "/none"); ok {
			t.Fatalf("Get(%q/none) = %d", name, got)
		}
	}
	slices.SortFunc(want, func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) })
	var got []string
	store.MatchFilter(filter, func(name string, v int) bool {
		if v != model[name] {
			t.Fatalf("MatchFilter(%q) gives %q = %d, want %d", filter, name, v, model[name])
		}
		got = append(got, name)
		return true
	})
	if !slices.Equal(got, want) { // the order is promised too
		t.Fatalf("MatchFilter(%q) = %q, want %q", filter, got, want)
	}
	n := 0
	store.All(func(string, int) bool { n++; return true })
	if n != len(model) || store.Len() != n {
		t.Fatalf("All() visits %d, Len() = %d, want %d", n, store.Len(), len(model))
	}
	n = 0
	store.MatchFilter(filter, func(string, int) bool { n++; return n < 2 })
	if n != min(2, len(want)) {
		t.Fatalf("MatchFilter(%q) did not stop: %d of %d", filter, n, len(want))
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	var tree Tree[string, int]
	for i := range 100 {
		tree.Set(fmt.Sprintf("dev/%d/temp", i), "k", i)
	}
	tree.Set("dev/+/temp", "k", 1)
	tree.Set("#", "k", 1)
	sum := 0
	if n := testing.AllocsPerRun(100, func() {
		tree.Match("dev/42/temp", func(_ string, _ string, v int) { sum += v })
	}); n != 0 {
		t.Errorf("Tree.Match allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { Match("dev/+/temp/#", "dev/42/temp") }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}
