package topic

import (
	"fmt"
	"runtime"
	"testing"
)

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Match("fleet/+/vehicle/+/#", "fleet/eu/vehicle/4711/speed")
	}
}

// BenchmarkTreeMatch looks one topic up among 100,000 filters with one subscriber each.
func BenchmarkTreeMatch(b *testing.B) {
	tree := filters100k()
	tree.Set("dev/+/temp", 1, 1)
	tree.Set("dev/#", 1, 1)
	names := make([]string, 1024)
	for i := range names {
		names[i] = fmt.Sprintf("dev/%d/temp", i*97)
	}
	b.ReportAllocs()
	n, i := 0, 0
	for b.Loop() {
		tree.Match(names[i&1023], func(string, uint64, int) { n++ })
		i++
	}
}

// BenchmarkTreeFanOut visits 1000 subscribers of one filter.
func BenchmarkTreeFanOut(b *testing.B) {
	var tree Tree[uint64, int]
	for i := range 1000 {
		tree.Set("news/all", uint64(i), i)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		tree.Match("news/all", func(string, uint64, int) { n++ })
	}
}

// BenchmarkTreeSetDelete changes a tree of 100,000 filters.
func BenchmarkTreeSetDelete(b *testing.B) {
	tree := filters100k()
	b.ReportAllocs()
	for b.Loop() {
		tree.Set("dev/new/temp", 1, 1)
		tree.Delete("dev/new/temp", 1)
	}
}

// BenchmarkTreeMemory reports the memory of one of 100,000 distinct filters, the
// filter string included.
func BenchmarkTreeMemory(b *testing.B) {
	for b.Loop() {
		before := heap()
		tree := filters100k()
		b.ReportMetric(float64(heap()-before)/100_000, "B/filter")
		runtime.KeepAlive(tree)
	}
}

func BenchmarkStoreMatchFilter(b *testing.B) {
	var store Store[int]
	for i := range 10_000 {
		store.Put(fmt.Sprintf("dev/%d/temp", i), i)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		store.MatchFilter("dev/+/temp", func(string, int) bool { n++; return true })
	}
}

func filters100k() *Tree[uint64, int] {
	tree := &Tree[uint64, int]{}
	for i := range 100_000 {
		tree.Set(fmt.Sprintf("dev/%d/temp", i), uint64(i), i)
	}
	return tree
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
