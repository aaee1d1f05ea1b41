package store

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// damagedGroup is a folder in which group 1 has lost an acknowledged entry and
// group 2 is whole.
func damagedGroup(t *testing.T) *vfs.MemFS {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	for id := uint32(1); id <= 2; id++ {
		g := mustGroup(t, s, id)
		must(t, g.StoreLogs(entries(1, 20, 1)))
		must(t, g.SetUint64(keyCurrentTerm, 1))
		writeSnapshot(t, s.Snapshots(id), 10, 1, []byte("state"))
	}
	must(t, (&pebbleBackend{s: s, db: s.db, group: 1}).delete(15, 15, true))
	must(t, s.Close())
	return fs
}

func TestSetAside(t *testing.T) {
	fs := damagedGroup(t)
	s := mustOpen(t, fs)
	disk := s.Identity().DiskIncarnation
	wantQuarantine(t, s, 1)
	if got := s.Quarantined(); !slices.Equal(got, []uint32{1}) {
		t.Fatalf("set aside are %v", got)
	}
	must(t, s.Close())

	s = mustOpen(t, fs)
	wantQuarantine(t, s, 1)
	if s.ReplicaIncarnation(1) != disk {
		t.Fatal("the incarnation changed before the replica was wiped")
	}
	must(t, s.SetAside(1))
	fresh := s.ReplicaIncarnation(1)
	if fresh == disk || fresh == 0 || s.ReplicaIncarnation(2) != disk || s.ReplicaIncarnation(7) != disk {
		t.Fatal("incarnations are wrong")
	}
	g := mustGroup(t, s, 1)
	wantLog(t, g, nil)
	if term, err := g.GetUint64(keyCurrentTerm); err != nil || term != 0 {
		t.Fatalf("term is %d (%v)", term, err)
	}
	if l, err := s.Snapshots(1).List(); err != nil || len(l) != 0 {
		t.Fatalf("snapshots are %v (%v)", l, err)
	}
	must(t, g.StoreLogs(entries(1, 3, 5)))
	// A Group of a wiped replica is of no use.
	must(t, s.SetAside(1))
	if err := g.StoreLogs(entries(4, 4, 5)); !errors.Is(err, ErrClosed) {
		t.Fatalf("a write to a wiped replica gives %v", err)
	}
	if s.ReplicaIncarnation(1) == fresh {
		t.Fatal("wiped twice under one incarnation")
	}
	fresh = s.ReplicaIncarnation(1)
	must(t, s.Close())

	s = mustOpen(t, fs)
	defer s.Close()
	wantLog(t, mustGroup(t, s, 1), nil)
	wantLog(t, mustGroup(t, s, 2), entries(1, 20, 1))
	if s.ReplicaIncarnation(1) != fresh {
		t.Fatal("the incarnation was lost")
	}
}

// The power goes at any disk operation of SetAside: afterwards the replica is
// still set aside, or empty under a new incarnation.
func TestCrashInSetAside(t *testing.T) {
	for n := int64(0); ; n++ {
		mem := damagedGroup(t)
		var count atomic.Int64
		fs, on := failing(mem, syscall.EIO, func(op errorfs.Op) bool { return op.Kind.ReadOrWrite() == errorfs.OpIsWrite && count.Add(1) > n })
		s := mustOpen(t, fs, func(o *Options) { o.Fatal = func(error) {} })
		disk := s.Identity().DiskIncarnation
		wantQuarantine(t, s, 1)
		on.Store(true)
		err := s.SetAside(1)
		on.Store(false)
		image := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(n), 2))})
		_ = s.Close() // may fail after a failed write

		s = mustOpen(t, image)
		if s.ReplicaIncarnation(1) == disk {
			wantQuarantine(t, s, 1)
			must(t, s.SetAside(1))
		}
		wantLog(t, mustGroup(t, s, 1), nil)
		wantLog(t, mustGroup(t, s, 2), entries(1, 20, 1))
		must(t, s.Close())
		if err == nil {
			if n < 5 {
				t.Fatalf("SetAside takes only %d operations", n)
			}
			return
		}
	}
}
