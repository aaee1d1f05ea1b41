package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// model is one group and the naive store that it must agree with.
type model struct {
	g      LogStable
	want   *raft.InmemStore
	term   uint64
	byName map[string]bool
}

// step does one random operation on both.
func (m *model) step(t *testing.T, rng *rand.Rand) {
	first, err := m.want.FirstIndex()
	must(t, err)
	last, err := m.want.LastIndex()
	must(t, err)
	switch k := rng.IntN(100); {
	case k < 55:
		if rng.IntN(5) == 0 {
			m.term++
		}
		logs := m.randomLogs(rng, last+1)
		must(t, m.g.StoreLogs(logs))
		must(t, m.want.StoreLogs(logs))
	case k < 62 && last > first:
		m.deleteBoth(t, first, first+rng.Uint64N(last-first))
	case k < 75 && last > first:
		m.deleteBoth(t, first+1+rng.Uint64N(last-first), last)
	case k < 80:
		// From the first entry raft starts with, so that no snapshot is needed.
		if first == 1 {
			m.deleteBoth(t, first, last)
		}
	case k < 90:
		key := []byte(fmt.Sprintf("key %d", rng.IntN(4)))
		val := bytes.Repeat([]byte{byte(rng.IntN(256))}, 1+rng.IntN(20))
		must(t, m.g.Set(key, val))
		must(t, m.want.Set(key, val))
		m.byName[string(key)] = true
	default:
		must(t, m.g.SetUint64(keyCurrentTerm, m.term))
		must(t, m.want.SetUint64(keyCurrentTerm, m.term))
	}
}

func (m *model) deleteBoth(t *testing.T, min, max uint64) {
	must(t, m.g.DeleteRange(min, max))
	must(t, m.want.DeleteRange(min, max))
}

func (m *model) randomLogs(rng *rand.Rand, from uint64) []*raft.Log {
	var logs []*raft.Log
	for i := range uint64(1 + rng.IntN(8)) {
		l := entry(from+i, m.term, "")
		l.Type = raft.LogType(rng.IntN(6))
		l.Data = bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(3000))
		if rng.IntN(10) == 0 {
			l.Extensions = []byte("extension")
		}
		logs = append(logs, l)
	}
	return logs
}

// compare checks that both say the same about everything.
func (m *model) compare(t *testing.T) {
	t.Helper()
	first, err := m.want.FirstIndex()
	must(t, err)
	last, err := m.want.LastIndex()
	must(t, err)
	var want []*raft.Log
	for i := first; i != 0 && i <= last; i++ {
		l := &raft.Log{}
		must(t, m.want.GetLog(i, l))
		want = append(want, l)
	}
	wantLog(t, m.g, want)
	for key := range m.byName {
		a, err := m.g.Get([]byte(key))
		must(t, err)
		b, err := m.want.Get([]byte(key))
		must(t, err)
		if !bytes.Equal(a, b) {
			t.Fatalf("%s is %x, want %x", key, a, b)
		}
	}
	a, err := m.g.GetUint64(keyCurrentTerm)
	must(t, err)
	if b, _ := m.want.GetUint64(keyCurrentTerm); a != b {
		t.Fatalf("term is %d, want %d", a, b)
	}
	if _, err := m.g.Get([]byte("never set")); !errors.Is(err, ErrKeyNotFound) || err.Error() != "not found" {
		t.Fatalf("missing key gives %v", err)
	}
	if g, ok := m.g.(*Group); ok {
		m.compareBytes(t, g, want)
	}
}

func (m *model) compareBytes(t *testing.T, g *Group, want []*raft.Log) {
	t.Helper()
	var bytes, largest int64
	for _, l := range want {
		n := int64(entrySize(l) + logKeyLen)
		bytes, largest = bytes+n, max(largest, n)
	}
	if off := g.LogBytes() - bytes; off > 2*sizeChunk || off < -2*sizeChunk {
		t.Fatalf("LogBytes is %d, want %d", g.LogBytes(), bytes)
	}
}

// A group behaves as raft's own in-memory store, over restarts, for the
// sequences of calls that raft makes: no gaps, deletions from the ends. The
// model's snapshot is at an index that lets the log begin anywhere.
func TestGroupsBehaveAsInmemStore(t *testing.T) {
	rng := seedOf(t)
	fs := vfs.NewMem()
	small := func(o *Options) { o.CacheBytes = 20_000 }
	s := mustOpen(t, fs, small)
	models := make([]*model, 4)
	reopen := func() {
		for i, m := range models {
			id := uint32(i)
			if i == 3 {
				id = ControlGroup
			}
			m.g = mustGroup(t, s, id)
		}
	}
	for i := range models {
		models[i] = &model{want: raft.NewInmemStore(), term: 1, byName: map[string]bool{}}
		id := uint32(i)
		if i == 3 {
			id = ControlGroup
		}
		// Logs begin behind this index only after entries were compacted into it.
		models[i].g = mustGroup(t, s, id)
	}
	for n := range 600 {
		models[rng.IntN(len(models))].step(t, rng)
		if n%100 != 99 {
			continue
		}
		for i, m := range models {
			m.compare(t)
			snapshotBelow(t, s, m, []uint32{0, 1, 2, ControlGroup}[i])
		}
		must(t, s.Close())
		s = mustOpen(t, fs, small)
		reopen()
		for _, m := range models {
			m.compare(t)
		}
	}
	must(t, s.Close())
}

// snapshotBelow makes the snapshot that raft would have made before it removed
// the head of the log.
func snapshotBelow(t *testing.T, s *Store, m *model, id uint32) {
	first, err := m.want.FirstIndex()
	must(t, err)
	if first > 1 {
		writeSnapshot(t, s.Snapshots(id), first-1, 1, []byte("state"))
	}
}

func TestStoreLogsRefusesGaps(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(g *Group) error
	}{
		{"gap", func(g *Group) error { return g.StoreLogs(entries(12, 13, 1)) }},
		{"overwrite", func(g *Group) error { return g.StoreLogs(entries(10, 10, 1)) }},
		{"gap inside", func(g *Group) error { return g.StoreLogs([]*raft.Log{entry(11, 1, ""), entry(13, 1, "")}) }},
		{"older term", func(g *Group) error { return g.StoreLogs(entries(11, 11, 0)) }},
		{"middle deletion", func(g *Group) error { return g.DeleteRange(4, 5) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f fatals
			s := mustOpen(t, vfs.NewMem(), func(o *Options) { o.Fatal = f.add })
			defer s.Close()
			g := mustGroup(t, s, 1)
			must(t, g.StoreLogs(entries(1, 10, 1)))
			var order *OrderError
			if err := c.do(g); !errors.As(err, &order) {
				t.Fatalf("got %v, want an OrderError", err)
			}
			if len(f.get()) != 1 {
				t.Fatalf("Fatal was called with %v", f.get())
			}
			if err := g.StoreLogs(entries(11, 11, 1)); !errors.Is(err, ErrFailed) {
				t.Fatalf("a write after the failure gives %v", err)
			}
		})
	}
}
