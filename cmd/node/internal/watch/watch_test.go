package watch

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const interval = time.Second

// rig is a watcher on fake time with one group of files. What is in the files is real,
// so their modification times mean nothing to it, as on a file system with coarse ones.
type rig struct {
	t     *testing.T
	w     *Watcher
	dir   string
	calls atomic.Int32
}

func newRig(t *testing.T, files ...string) *rig {
	r := &rig{t: t, w: New(interval), dir: t.TempDir()}
	t.Cleanup(r.w.Close)
	for i, f := range files {
		files[i] = filepath.Join(r.dir, f)
	}
	r.w.Add(func() { r.calls.Add(1) }, files...)
	return r
}

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// after lets looks pass and checks how often the watcher has called by then.
func (r *rig) after(looks int, calls int32) {
	r.t.Helper()
	time.Sleep(time.Duration(looks) * interval)
	synctest.Wait()
	if n := r.calls.Load(); n != calls {
		r.t.Fatalf("%d calls, want %d", n, calls)
	}
}

func TestChangesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a", "b")
		r.after(3, 0)
		r.write("a", "1")
		r.after(2, 1) // that it is there
		r.after(5, 1)
		r.write("a", "2") // of the same size
		r.after(2, 2)
		r.write("b", "1")
		r.after(2, 3)
		r.write("a", "2") // the same again
		r.after(3, 3)
		if err := os.Remove(filepath.Join(r.dir, "a")); err != nil {
			t.Fatal(err)
		}
		r.after(2, 4)
		r.after(5, 4)
	})
}

// TestWaitsUntilAllIsWritten: while files still change nothing is told.
func TestWaitsUntilAllIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "cert", "key")
		for _, part := range []string{"1", "12", "123"} {
			r.write("cert", part)
			r.after(1, 0)
		}
		r.write("key", "1")
		r.after(1, 0)
		r.after(1, 1)
	})
}

// TestChangeAndBack: what is as it was told last is no change.
func TestChangeAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a")
		r.write("a", "1")
		r.after(2, 1)
		r.write("a", "2")
		r.after(1, 1)
		r.write("a", "1")
		r.after(3, 1)
	})
}

// TestLinkIsReplaced: Kubernetes replaces a link to the folder above the file.
func TestLinkIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "cert")
		for _, f := range []string{"v1", "v2"} {
			if err := os.Mkdir(filepath.Join(r.dir, f), 0o700); err != nil {
				t.Fatal(err)
			}
			r.write(filepath.Join(f, "cert"), f)
		}
		for i, link := range [][2]string{{"v1", "data"}, {"data/cert", "cert"}} {
			if err := os.Symlink(link[0], filepath.Join(r.dir, link[1])); err != nil {
				t.Fatal(i, err)
			}
		}
		r.after(2, 1)
		if err := os.Symlink("v2", filepath.Join(r.dir, "new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(r.dir, "new"), filepath.Join(r.dir, "data")); err != nil {
			t.Fatal(err)
		}
		r.after(2, 2)
	})
}

func TestTrigger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a")
		var other atomic.Int32
		r.w.Add(func() { other.Add(1) }, filepath.Join(r.dir, "b"))
		r.w.Trigger()
		r.after(0, 1) // at once
		r.write("a", "1")
		r.w.Trigger()
		r.after(0, 2)
		r.after(5, 2) // what was told by Trigger is told
		if n := other.Load(); n != 2 {
			t.Errorf("the other group: %d calls", n)
		}
		r.w.Close()
		r.w.Trigger()
		r.w.Close()
		r.after(1, 2)
	})
}

// TestOldFilesAreNotReadAgain: a look at a large file that has not changed for a while
// costs a look at its times.
func TestOldFilesAreNotReadAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(name, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := look([]string{name}, nil)
	if again := look([]string{name}, first); again[0].at.Equal(first[0].at) {
		t.Error("a file that was written just now was not read again")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Fatal(err)
	}
	second := look([]string{name}, first)
	if third := look([]string{name}, second); !third[0].at.Equal(second[0].at) {
		t.Error("an old file was read again")
	}
}
