package store

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// The store lives in a bubble of fake time, also with a disk that takes its
// time, and Close ends all its goroutines: the bubble would not end otherwise.
func TestStoreInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := errorfs.Wrap(vfs.NewCrashableMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if isSync(op) {
				time.Sleep(5 * time.Millisecond)
			}
			return nil
		}))
		s := mustOpen(t, fs)
		start := time.Now()
		done := make(chan error)
		for id := range uint32(4) {
			g := mustGroup(t, s, id)
			go func() {
				for i := uint64(1); i <= 50; i++ {
					if err := g.StoreLogs(entries(i, i, 1)); err != nil {
						done <- err
						return
					}
				}
				done <- g.DeleteRange(40, 50)
			}()
		}
		for range 4 {
			must(t, <-done)
		}
		if d := time.Since(start); d < 500*time.Millisecond || d > 10*time.Second {
			t.Fatalf("50 appends of 4 groups took %v of fake time", d)
		}
		time.Sleep(10 * time.Minute)
		must(t, s.Close())
	})
}

// slowUnlock is a file system on which Pebble's lock takes a second to be released.
type slowUnlock struct{ vfs.FS }

func (f slowUnlock) Lock(name string) (io.Closer, error) {
	l, err := f.FS.Lock(name)
	if err != nil || name != "data/log/LOCK" {
		return l, err
	}
	return slowCloser{l}, nil
}

type slowCloser struct{ io.Closer }

func (c slowCloser) Close() error {
	time.Sleep(time.Second)
	return c.Closer.Close()
}

// A start that fails lets go of the folder before Open returns, though Pebble
// takes its time to clean up: the next start finds no lock.
func TestFailedOpenLetsGoOfFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		fs, on := failing(slowUnlock{mem}, syscall.ENOSPC, func(op errorfs.Op) bool {
			return op.Kind == errorfs.OpCreate && strings.Contains(op.Path, "marker.manifest")
		})
		on.Store(true)
		if _, err := Open(testOptions(fs)); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Open = %v", err)
		}
		must(t, mustOpen(t, mem).Close())
	})
}
