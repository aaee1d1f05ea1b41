package store

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// appender stands for the main loop of one raft group: it takes what writers
// have queued, up to 64 entries, and stores it with one call.
type appender struct {
	store raft.LogStore
	queue chan chan error
}

func (a *appender) run(size int) {
	data := make([]byte, size)
	var index uint64
	for first := range a.queue {
		waiting := []chan error{first}
		for more := true; more && len(waiting) < 64; {
			select {
			case w, ok := <-a.queue:
				if more = ok; ok {
					waiting = append(waiting, w)
				}
			default:
				more = false
			}
		}
		logs := make([]*raft.Log, len(waiting))
		for i := range logs {
			index++
			logs[i] = &raft.Log{Index: index, Term: 1, Data: data, AppendedAt: time.Now()}
		}
		err := a.store.StoreLogs(logs)
		for _, w := range waiting {
			w <- err
		}
	}
}

// benchAppend lets writers append entries of size bytes to each of the stores,
// each waiting for its own entry.
func benchAppend(b *testing.B, stores []raft.LogStore, writers, size int) {
	var groups, all sync.WaitGroup
	work := make(chan struct{}, 1024)
	for _, s := range stores {
		a := &appender{store: s, queue: make(chan chan error, writers)}
		groups.Go(func() { a.run(size) })
		var own sync.WaitGroup
		for range writers {
			own.Go(func() {
				done := make(chan error, 1)
				for range work {
					a.queue <- done
					if err := <-done; err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Go(func() { own.Wait(); close(a.queue) })
	}
	b.ResetTimer()
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	all.Wait()
	groups.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkAppend is the choice of the log store: one Pebble for all groups with
// the marks beside it, against a raft-boltdb file per group without checks.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ groups, writers, size int }{{8, 32, 256}, {1, 512, 256}, {16, 1, 256}} {
		name := fmt.Sprintf("groups=%d/writers=%d/bytes=%d", c.groups, c.writers, c.size)
		b.Run("shared/"+name, func(b *testing.B) {
			s := mustOpen(b, vfs.Default, onDisk(b.TempDir()))
			var stores []raft.LogStore
			for id := range uint32(c.groups) {
				stores = append(stores, mustGroup(b, s, id))
			}
			benchAppend(b, stores, c.writers, c.size)
			must(b, s.Close())
		})
		b.Run("boltdb/"+name, func(b *testing.B) {
			dir := b.TempDir()
			var stores []raft.LogStore
			for id := range c.groups {
				s, err := raftboltdb.NewBoltStore(filepath.Join(dir, fmt.Sprint(id)))
				must(b, err)
				defer s.Close()
				stores = append(stores, s)
			}
			benchAppend(b, stores, c.writers, c.size)
		})
	}
}

// BenchmarkStoreLogs is one group without a disk: what an append costs in CPU.
func BenchmarkStoreLogs(b *testing.B) {
	for _, size := range []int{256, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			s := mustOpen(b, vfs.NewMem())
			g := mustGroup(b, s, 1)
			data := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			index := uint64(0)
			for b.Loop() {
				index++
				must(b, g.StoreLog(&raft.Log{Index: index, Term: 1, Data: data}))
				if index%64 == 0 { // the log stays short
					first, _ := g.FirstIndex()
					must(b, g.DeleteRange(first, index-1))
				}
			}
			must(b, s.Close())
		})
	}
}

// BenchmarkOpen is the start of a node with 100 MiB of log.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := mustOpen(b, vfs.Default, onDisk(dir))
	data := make([]byte, 4<<10)
	for id := range uint32(16) {
		g := mustGroup(b, s, id)
		for i := uint64(1); i <= 1600; i += 64 {
			var logs []*raft.Log
			for k := range uint64(64) {
				logs = append(logs, &raft.Log{Index: i + k, Term: 1, Data: data})
			}
			must(b, g.StoreLogs(logs))
		}
	}
	must(b, s.Close())
	for b.Loop() {
		s := mustOpen(b, vfs.Default, onDisk(dir))
		for id := range uint32(16) {
			mustGroup(b, s, id)
		}
		must(b, s.Close())
	}
}
