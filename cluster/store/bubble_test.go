package store

import (
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
