package store

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

// damagedTable is a folder whose only table has a flipped bit in its first
// block, which costs group 0.
func damagedTable(t *testing.T, rng *rand.Rand) (*sound, *vfs.MemFS) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	w := &sound{logs: map[uint32][]*raft.Log{}, term: map[uint32]uint64{}}
	for id := range uint32(3) {
		g := mustGroup(t, s, id)
		must(t, g.SetUint64(keyCurrentTerm, 1))
		must(t, g.Set(keyLastVoteCand, []byte("node-1")))
		w.logs[id], w.term[id] = entries(1, 120, 1), 1
		must(t, g.StoreLogs(w.logs[id]))
	}
	must(t, s.db.Flush())
	must(t, s.Close())
	w.fs = fs
	for _, name := range files(t, fs, "data/log") {
		if strings.HasSuffix(name, ".sst") {
			change(t, fs, name, func(b []byte) []byte {
				b[100] ^= 1
				return b
			})
		}
	}
	return w, w.copy(rng)
}

// Without Repair a damaged table keeps the folder from opening, and nothing is
// changed; with it the other groups stay whole.
func TestRebuildKeepsWholeGroups(t *testing.T) {
	w, fs := damagedTable(t, seedOf(t))
	var damaged *DamagedError
	if _, err := Open(opts(fs, false)); !errors.As(err, &damaged) || damaged.What != "log store" {
		t.Fatalf("without Repair: %v", err)
	}
	if n := w.verdict(t, fs, "rebuilt"); n != 2 {
		t.Fatalf("%d groups are whole, want 2", n)
	}
	if _, err := fs.Stat("data/quarantine-1"); err != nil {
		t.Fatalf("the damaged store was not kept: %v", err)
	}
}

// The power goes at any disk operation of a rebuilding: the next start completes
// it without losing a group that is whole.
func TestCrashWhileRebuilding(t *testing.T) {
	rng := seedOf(t)
	w, _ := damagedTable(t, rng)
	for n := int64(1); ; n++ {
		mem := w.copy(rng)
		var count atomic.Int64
		var image *vfs.MemFS
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && count.Add(1) == n {
				image = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(n), 3))})
			}
			return nil
		}))
		must(t, mustOpen(t, fs).Close())
		if image == nil {
			if n < 20 {
				t.Fatalf("a rebuilding takes only %d operations", n)
			}
			t.Logf("a rebuilding takes %d operations", n)
			return
		}
		if whole := w.verdict(t, image, "after a crash while rebuilding"); whole != 2 {
			t.Fatalf("crash at operation %d leaves %d groups whole, want 2", n, whole)
		}
	}
}

// A disk that is full when the WAL is replayed: Open says so instead of waiting
// for space, and what was acknowledged is there afterwards.
func TestDiskFullWhileOpening(t *testing.T) {
	rng := seedOf(t)
	w := buildSound(t, rng, false, false)
	mem := w.copy(rng)
	fs, on := failing(mem, syscall.ENOSPC, func(op errorfs.Op) bool { return op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") })
	on.Store(true)
	if _, err := Open(opts(fs, true)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Open gives %v", err)
	}
	if n := w.verdict(t, mem.CrashClone(vfs.CrashCloneCfg{}), "with space again"); n != 3 {
		t.Fatalf("%d groups are whole", n)
	}
}

// Damage that a compaction meets ends the process once: the next start rebuilds
// even if the damage lies where no live entry is.
func TestDamageMetByCompaction(t *testing.T) {
	fs := vfs.NewMem()
	var f fatals
	s := mustOpen(t, fs, func(o *Options) { o.Fatal = f.add })
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 10, 1)))
	s.background(pebble.ErrCorruption)
	if errs := f.get(); len(errs) != 1 || !pebble.IsCorruptionError(errs[0]) {
		t.Fatalf("Fatal was called with %v", errs)
	}
	must(t, s.Close())
	var damaged *DamagedError
	if _, err := Open(opts(fs, false)); !errors.As(err, &damaged) {
		t.Fatalf("without Repair: %v", err)
	}
	for range 2 {
		s = mustOpen(t, fs)
		wantLog(t, mustGroup(t, s, 1), entries(1, 10, 1))
		must(t, s.Close())
	}
	if _, err := fs.Stat("data/quarantine-1"); err != nil {
		t.Fatalf("the damaged store was not kept: %v", err)
	}
	if _, err := fs.Stat("data/quarantine-2"); err == nil {
		t.Fatal("rebuilt twice")
	}
}
