package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

func onDisk(dir string) func(*Options) {
	return func(o *Options) { o.Dir = dir }
}

func mustControl(t testing.TB, s *Store) LogStable {
	t.Helper()
	c, err := s.OpenControl()
	must(t, err)
	return c
}

func TestControlGroupInMemoryIsOneMoreGroup(t *testing.T) {
	s := mustOpen(t, vfs.NewMem())
	defer s.Close()
	c := mustControl(t, s)
	must(t, c.StoreLogs(entries(1, 3, 1)))
	if g := mustGroup(t, s, ControlGroup); LogStable(g) != c {
		t.Fatal("the control group is not the group of its id")
	}
}

func TestControlGroupOnDisk(t *testing.T) {
	rng := seedOf(t)
	dir := t.TempDir()
	s := mustOpen(t, vfs.Default, onDisk(dir))
	if _, err := s.Group(ControlGroup); err == nil {
		t.Fatal("the control group can be opened in Pebble")
	}
	m := &model{g: mustControl(t, s), want: raft.NewInmemStore(), term: 1, byName: map[string]bool{}}
	for n := range 120 {
		m.step(t, rng)
		if n%40 != 39 {
			continue
		}
		m.compare(t)
		snapshotBelow(t, s, m, ControlGroup)
		must(t, s.Close())
		s = mustOpen(t, vfs.Default, onDisk(dir))
		m.g = mustControl(t, s)
		m.compare(t)
	}
	must(t, s.SetAside(ControlGroup))
	wantLog(t, mustControl(t, s), nil)
	if s.ReplicaIncarnation(ControlGroup) == s.Identity().DiskIncarnation {
		t.Fatal("no new incarnation")
	}
	must(t, s.Close())
}

// Damage anywhere in the bolt file: what is read is right, or the replica is set
// aside. raft-boltdb alone returns flipped bits as entries.
func TestDamagedControlGroup(t *testing.T) {
	rng := seedOf(t)
	master := t.TempDir()
	s := mustOpen(t, vfs.Default, onDisk(master))
	c := mustControl(t, s)
	want := entries(1, 60, 2)
	for i := range want {
		must(t, c.StoreLog(want[i]))
	}
	must(t, c.SetUint64(keyCurrentTerm, 2))
	must(t, s.Close())
	whole, lost := 0, 0
	for range 80 {
		dir := filepath.Join(t.TempDir(), "copy")
		must(t, os.CopyFS(dir, os.DirFS(master)))
		file := filepath.Join(dir, boltFile)
		b, err := os.ReadFile(file)
		must(t, err)
		if rng.IntN(8) == 0 {
			b = b[:rng.IntN(len(b))]
		} else {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		must(t, os.WriteFile(file, b, 0o600))
		s := mustOpen(t, vfs.Default, onDisk(dir))
		c, err := s.OpenControl()
		var q *QuarantineError
		if errors.As(err, &q) {
			must(t, s.SetAside(ControlGroup))
			wantLog(t, mustControl(t, s), nil)
			lost++
		} else {
			must(t, err)
			wantLog(t, c, want)
			whole++
		}
		must(t, s.Close())
	}
	t.Logf("%d whole, %d set aside", whole, lost)
	if lost == 0 {
		t.Fatal("no damage was noticed at all")
	}
}
