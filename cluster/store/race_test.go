package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// Readers race with appends, truncations of the tail and compactions: they get
// an entry that was in the log under that index at some time, or not found.
func TestReadersRaceWithTruncation(t *testing.T) {
	for _, cache := range []int{-1, 2000, 1 << 20} {
		t.Run(fmt.Sprint("cache ", cache), func(t *testing.T) {
			rng := seedOf(t)
			s := mustOpen(t, vfs.NewMem(), func(o *Options) { o.CacheBytes = cache })
			defer s.Close()
			g := mustGroup(t, s, 1)
			must(t, g.StoreLogs(entries(1, 50, 1)))
			done := make(chan struct{})
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(done)
			for range 2 {
				wg.Go(func() {
					for i := uint64(0); ; i++ {
						select {
						case <-done:
							return
						default:
						}
						var l raft.Log
						index := 1 + i%80
						err := g.GetLog(index, &l)
						if errors.Is(err, raft.ErrLogNotFound) {
							continue
						}
						if want := fmt.Sprintf("entry %d of term %d", index, l.Term); err != nil || l.Index != index || string(l.Data) != want {
							t.Errorf("entry %d is %+v (%v)", index, l, err)
							return
						}
					}
				})
			}
			last, term := uint64(50), uint64(1)
			for range 300 {
				if cut := last - rng.Uint64N(min(last, 10)); rng.IntN(3) == 0 && cut > 1 {
					must(t, g.DeleteRange(cut, last))
					last, term = cut-1, term+1
				}
				n := 1 + rng.Uint64N(4)
				if last+n > 80 {
					must(t, g.DeleteRange(40, last))
					last, term = 39, term+1
				}
				must(t, g.StoreLogs(entries(last+1, last+n, term)))
				last += n
				// A newly read entry must be the newest under its index.
				var l raft.Log
				must(t, g.GetLog(last, &l))
				if l.Term != term {
					t.Fatalf("entry %d is of term %d, want %d", last, l.Term, term)
				}
			}
		})
	}
}
