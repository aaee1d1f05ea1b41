package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestFolderInUse(t *testing.T) {
	for name, c := range map[string]struct {
		fs  vfs.FS
		dir string
	}{"memory": {vfs.NewMem(), "data"}, "disk": {vfs.Default, filepath.Join(t.TempDir(), "data")}} {
		t.Run(name, func(t *testing.T) {
			in := func(o *Options) { o.Dir = c.dir }
			s := mustOpen(t, c.fs, in)
			o := testOptions(c.fs)
			in(&o)
			_, err := Open(o)
			var used *InUseError
			if !errors.Is(err, ErrInUse) || !errors.As(err, &used) || used.Dir != c.dir {
				t.Fatalf("a second Open gives %v", err)
			}
			must(t, s.SetMeta("still", []byte("works")))
			must(t, s.Close())
			must(t, mustOpen(t, c.fs, in).Close())
		})
	}
}

// A folder that cannot be written is not one that is in use.
func TestFolderThatCannotBeCreated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	o := testOptions(vfs.Default)
	o.Dir = filepath.Join(file, "data")
	if _, err := Open(o); err == nil || errors.Is(err, ErrInUse) {
		t.Fatalf("got %v", err)
	}
}

func TestIdentity(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	disk := s.Identity().DiskIncarnation
	if disk == 0 {
		t.Fatal("no incarnation was drawn")
	}
	must(t, s.SetIdentity("", "node-1"))
	must(t, s.SetMeta("promise", []byte("a b c")))
	must(t, s.SetMeta("gone", []byte("x")))
	must(t, s.SetMeta("gone", nil))
	must(t, s.SetIdentity("cluster-1", ""))
	must(t, s.SetIdentity("cluster-1", "node-1"))
	must(t, s.Close())

	s = mustOpen(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	defer s.Close()
	want := Identity{ClusterID: "cluster-1", NodeName: "node-1", DiskIncarnation: disk}
	if got := s.Identity(); got != want {
		t.Fatalf("identity is %+v, want %+v", got, want)
	}
	if v, ok := s.Meta("promise"); !ok || string(v) != "a b c" {
		t.Fatalf("value is %q", v)
	}
	if _, ok := s.Meta("gone"); ok {
		t.Fatal("a removed value is back")
	}
	for _, c := range []struct{ cluster, node, field string }{
		{"cluster-2", "node-1", "cluster id"}, {"cluster-1", "node-2", "node name"},
	} {
		var e *IdentityError
		if err := s.SetIdentity(c.cluster, c.node); !errors.As(err, &e) || e.Field != c.field {
			t.Fatalf("SetIdentity(%s, %s) = %v", c.cluster, c.node, err)
		}
	}
	if got := s.Identity(); got != want {
		t.Fatalf("a refused identity was stored: %+v", got)
	}
}

func opts(fs vfs.FS, repair bool) Options {
	o := testOptions(fs)
	o.Repair = repair
	return o
}

// The node file is restored from the marks file, and the loss of the marks file
// sets aside everything on the disk, for ever.
func TestLostFiles(t *testing.T) {
	rng := seedOf(t)
	w := buildSound(t, rng, false, true)

	fs := w.copy(rng)
	must(t, fs.Remove("data/node"))
	s := mustOpen(t, fs)
	if id := s.Identity(); id.ClusterID != "cluster" || id.NodeName != "node-1" {
		t.Fatalf("identity is %+v", id)
	}
	must(t, s.Close())

	fs = w.copy(rng)
	must(t, fs.Remove("data/marks"))
	var damaged *DamagedError
	if _, err := Open(opts(fs, false)); !errors.As(err, &damaged) {
		t.Fatalf("without marks: %v", err)
	}
	for range 2 {
		s = mustOpen(t, fs)
		for id := range w.logs {
			wantQuarantine(t, s, id)
		}
		must(t, s.Close())
	}
	s = mustOpen(t, fs)
	must(t, s.SetAside(1))
	wantLog(t, mustGroup(t, s, 1), nil)
	wantQuarantine(t, s, 2)
	must(t, s.Close())

	// Logs without marks and identity are nobody's.
	fs = w.copy(rng)
	must(t, fs.Remove("data/marks"))
	must(t, fs.Remove("data/node"))
	if _, err := Open(opts(fs, false)); !errors.As(err, &damaged) {
		t.Fatalf("logs alone: %v", err)
	}
	s = mustOpen(t, fs)
	for id := range w.logs {
		wantQuarantine(t, s, id)
	}
	must(t, s.Close())

	// Before the node belongs to a cluster, its small values may be promises.
	fs = vfs.NewCrashableMem()
	s = mustOpen(t, fs)
	must(t, s.SetIdentity("", "node-1"))
	must(t, s.SetMeta("promise", []byte("a b c")))
	must(t, s.Close())
	must(t, fs.Remove("data/node"))
	if _, err := Open(testOptions(fs)); !errors.As(err, &damaged) {
		t.Fatalf("promises are lost: %v", err)
	}

	// Files of two folders that were mixed belong to neither.
	other := buildSound(t, rng, false, true)
	fs = w.copy(rng)
	f, err := other.fs.Open("data/node")
	must(t, err)
	st, err := f.Stat()
	must(t, err)
	b := make([]byte, st.Size())
	_, err = f.ReadAt(b, 0)
	must(t, err)
	must(t, writeFileSync(fs, "data", "data/node", b))
	if _, err := Open(testOptions(fs)); !errors.As(err, &damaged) {
		t.Fatalf("mixed folders: %v", err)
	}
}

// A file of a newer release is refused and left alone.
func TestNewerFormatIsRefused(t *testing.T) {
	rng := seedOf(t)
	w := buildSound(t, rng, false, true)
	fs := w.copy(rng)
	change(t, fs, "data/node", func(b []byte) []byte {
		b[8] = formatVersion + 1
		putCRC(b[9:], nodeCRC(b))
		return b
	})
	var format *FormatError
	if _, err := Open(testOptions(fs)); !errors.As(err, &format) || format.Version != formatVersion+1 {
		t.Fatalf("got %v", err)
	}

	s := mustOpen(t, w.copy(rng))
	defer s.Close()
	v, err := (&pebbleBackend{s: s, db: s.db, group: 1}).read(3)
	must(t, err)
	v[0] = formatVersion + 1
	putCRC(v[1:], entryCRC(v, 1, 3))
	if _, err := checkEntry(v, 1, 3); !errors.As(err, &format) {
		t.Fatalf("got %v", err)
	}
}

func TestFree(t *testing.T) {
	s := mustOpen(t, vfs.Default, func(o *Options) { o.Dir = t.TempDir() })
	defer s.Close()
	free, total, err := s.Free()
	if err != nil || free == 0 || total < free {
		t.Fatalf("free %d of %d (%v)", free, total, err)
	}
}

func TestClosedStore(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), func(o *Options) { o.CacheBytes = -1 })
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 1, 1)))
	must(t, s.Close())
	_, groupErr := s.Group(2)
	_, keyErr := g.Get(keyCurrentTerm)
	_, listErr := s.Snapshots(1).List()
	for i, err := range []error{g.StoreLogs(entries(2, 2, 1)), g.DeleteRange(1, 1), g.GetLog(1, entry(1, 1, "")), groupErr, keyErr,
		listErr, s.SetMeta("k", nil), s.SetAside(1), s.SetIdentity("c", "n"), s.Close()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d on a closed store gives %v", i, err)
		}
	}
}
