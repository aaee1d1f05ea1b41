package store

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

// failing returns fs with an injector that fails the chosen operations with err
// while on is set.
func failing(fs vfs.FS, err error, which func(errorfs.Op) bool) (vfs.FS, *atomic.Bool) {
	on := &atomic.Bool{}
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && which(op) {
			return err
		}
		return nil
	})), on
}

func isWrite(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpFileWrite, errorfs.OpFileWriteAt:
		return true
	}
	return false
}

func isSync(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return true
	}
	return false
}

// A write or fsync that fails, of the log or of the marks, goes to Fatal; the
// call fails, and nothing is acknowledged afterwards.
func TestFailedWriteIsFatal(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		which func(errorfs.Op) bool
	}{
		{"full disk, log", syscall.ENOSPC, func(op errorfs.Op) bool { return isWrite(op) && strings.HasSuffix(op.Path, ".log") }},
		{"fsync of the log", syscall.EIO, func(op errorfs.Op) bool { return isSync(op) && strings.HasSuffix(op.Path, ".log") }},
		{"full disk, marks", syscall.ENOSPC, func(op errorfs.Op) bool { return isWrite(op) && strings.HasSuffix(op.Path, "marks") }},
		{"fsync of the marks", syscall.EIO, func(op errorfs.Op) bool { return isSync(op) && strings.HasSuffix(op.Path, "marks") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			fs, on := failing(mem, c.err, c.which)
			var f fatals
			s := mustOpen(t, fs, func(o *Options) { o.Fatal = f.add })
			g := mustGroup(t, s, 1)
			must(t, g.StoreLogs(entries(1, 5, 1)))
			on.Store(true)
			err := g.StoreLogs(entries(6, 7, 1))
			if !errors.Is(err, c.err) || !errors.Is(err, ErrFailed) {
				t.Fatalf("StoreLogs = %v, want %v", err, c.err)
			}
			if fs := f.get(); len(fs) != 1 || !errors.Is(fs[0], c.err) {
				t.Fatalf("Fatal was called with %v", fs)
			}
			on.Store(false)
			for _, err := range []error{g.StoreLogs(entries(6, 6, 1)), g.SetUint64(keyCurrentTerm, 2), g.DeleteRange(5, 5), s.SetAside(2)} {
				if !errors.Is(err, ErrFailed) {
					t.Fatalf("a write after the failure gives %v", err)
				}
			}
			if last, _ := g.LastIndex(); last != 5 {
				t.Fatalf("log ends at %d", last)
			}
			// The process is gone now; what was acknowledged is there.
			after := mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{}))
			defer after.Close()
			g = mustGroup(t, after, 1)
			for _, e := range entries(1, 5, 1) {
				var l raft.Log
				must(t, g.GetLog(e.Index, &l))
			}
			_ = s.Close() // of a failed store: it must only end
		})
	}
}

// The disk fills at the n-th write of the first start, for every n: what is left
// can be opened once there is space.
func TestDiskFullAtFirstStart(t *testing.T) {
	start := func(fs vfs.FS) error {
		o := testOptions(fs)
		s, err := Open(o)
		if err != nil {
			return err
		}
		err = func() error {
			if err := s.SetIdentity("cluster", "node"); err != nil {
				return err
			}
			g, err := s.Group(1)
			if err != nil {
				return err
			}
			return g.StoreLogs(entries(1, 3, 1))
		}()
		return errors.Join(err, s.Close())
	}
	takesSpace := func(op errorfs.Op) bool {
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpMkdirAll, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate, errorfs.OpFileSync, errorfs.OpFileSyncData:
			return true
		}
		return false
	}
	for n := int64(0); ; n++ {
		mem := vfs.NewCrashableMem()
		var count atomic.Int64
		fs, on := failing(mem, syscall.ENOSPC, func(op errorfs.Op) bool { return takesSpace(op) && count.Add(1) > n })
		on.Store(true)
		err := start(fs)
		if err == nil {
			if n < 10 {
				t.Fatalf("a first start takes only %d writes", n)
			}
			t.Logf("a first start takes %d writes", n)
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("at write %d: %v", n, err)
		}
		for _, fs := range []vfs.FS{mem, mem.CrashClone(vfs.CrashCloneCfg{})} {
			s := mustOpen(t, fs, func(o *Options) { o.Repair = false })
			must(t, s.SetIdentity("cluster", "node"))
			g := mustGroup(t, s, 1)
			if last, _ := g.LastIndex(); last == 0 {
				must(t, g.StoreLogs(entries(1, 3, 1)))
			}
			must(t, s.Close())
		}
	}
}

// A full disk while a snapshot or a small value is written is no reason to end
// the process: nothing was promised.
func TestDiskFullWhileWritingSnapshot(t *testing.T) {
	fs, on := failing(vfs.NewMem(), syscall.ENOSPC, func(op errorfs.Op) bool {
		return isWrite(op) && (strings.Contains(op.Path, snapRoot) || strings.HasSuffix(op.Path, "node.tmp"))
	})
	s := mustOpen(t, fs)
	defer s.Close()
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 20, 1)))
	p := s.Snapshots(1)
	id := writeSnapshot(t, p, 10, 1, []byte("state"))
	must(t, s.SetMeta("k", []byte("old")))
	on.Store(true)
	k, err := p.Create(1, 15, 1, raft.Configuration{}, 1, nil)
	must(t, err)
	if _, err = k.Write([]byte("state")); err == nil {
		err = k.Close()
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if err := s.SetMeta("k", []byte("new")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if v, _ := s.Meta("k"); string(v) != "old" {
		t.Fatalf("value is %q", v)
	}
	on.Store(false)
	list, err := p.List()
	must(t, err)
	if len(list) != 1 || list[0].ID != id {
		t.Fatalf("snapshots are %v", list)
	}
	must(t, g.StoreLogs(entries(21, 21, 1)))
}

// errorLog is a slog.Handler that passes on that an error was logged.
type errorLog chan struct{}

func (l errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (l errorLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l errorLog) WithGroup(string) slog.Handler                    { return l }
func (l errorLog) Handle(context.Context, slog.Record) error {
	select {
	case l <- struct{}{}:
	default:
	}
	return nil
}

// Background work that meets a full disk is tried again; the store lives on.
func TestDiskFullInBackground(t *testing.T) {
	fs, on := failing(vfs.NewMem(), syscall.ENOSPC, func(op errorfs.Op) bool { return op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") })
	logged := make(errorLog, 100)
	s := mustOpen(t, fs, func(o *Options) { o.Logger = slog.New(logged) })
	defer s.Close()
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 20, 1)))
	on.Store(true)
	flushed, err := s.db.AsyncFlush()
	must(t, err)
	<-logged
	if s.Stats().NoSpace == 0 {
		t.Fatal("the full disk was not counted")
	}
	on.Store(false)
	<-flushed
	must(t, g.StoreLogs(entries(21, 21, 1)))
	wantLog(t, g, entries(1, 21, 1))
}

// A write that hangs can be told while it hangs, and counts as slow afterwards.
func TestSlowDiskIsCounted(t *testing.T) {
	hanging, release := make(chan struct{}), make(chan struct{})
	fs, on := failing(vfs.NewMem(), nil, func(op errorfs.Op) bool {
		if isSync(op) && strings.HasSuffix(op.Path, "marks") {
			close(hanging)
			<-release
		}
		return false
	})
	synced := make(chan time.Duration, 10)
	s := mustOpen(t, fs, func(o *Options) {
		o.DiskSlowThreshold = time.Nanosecond
		o.OnSync = func(d time.Duration) { synced <- d }
	})
	defer s.Close()
	g := mustGroup(t, s, 1)
	on.Store(true)
	done := make(chan error)
	go func() { done <- g.StoreLogs(entries(1, 1, 1)) }()
	<-hanging
	if st := s.Stats(); st.Pending == 0 || st.SlowOps != 0 {
		t.Fatalf("while a write hangs: %+v", st)
	}
	close(release)
	must(t, <-done)
	if d := <-synced; d <= 0 {
		t.Fatalf("the write took %v", d)
	}
	if st := s.Stats(); st.Pending != 0 || st.SlowOps != 1 || st.LastSlow.IsZero() {
		t.Fatalf("afterwards: %+v", st)
	}
}
