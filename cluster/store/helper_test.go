package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// seedOf returns the seed of a random test, printed so that a failure can be
// repeated with STORE_SEED.
func seedOf(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("STORE_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("STORE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// fatals collects what went to Options.Fatal.
type fatals struct {
	mu   sync.Mutex
	errs []error
}

func (f *fatals) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

func (f *fatals) get() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errs
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func testOptions(fs vfs.FS) Options {
	return Options{Dir: "data", FS: fs, Logger: quiet(), Repair: true}
}

// mustOpen opens a store in which nothing may go wrong.
func mustOpen(t testing.TB, fs vfs.FS, change ...func(*Options)) *Store {
	t.Helper()
	o := testOptions(fs)
	o.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	for _, c := range change {
		c(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func mustGroup(t testing.TB, s *Store, id uint32) *Group {
	t.Helper()
	g, err := s.Group(id)
	if err != nil {
		t.Fatalf("Group(%d): %v", id, err)
	}
	return g
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantQuarantine opens a group that must turn out to be set aside.
func wantQuarantine(t testing.TB, s *Store, id uint32) *QuarantineError {
	t.Helper()
	_, err := s.Group(id)
	var q *QuarantineError
	if !errors.As(err, &q) || q.Group != id {
		t.Fatalf("Group(%d) = %v, want a QuarantineError", id, err)
	}
	return q
}

func entry(index, term uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte(data), AppendedAt: time.Unix(0, int64(index))}
}

func entries(from, to, term uint64) []*raft.Log {
	var out []*raft.Log
	for i := from; i <= to; i++ {
		out = append(out, entry(i, term, fmt.Sprintf("entry %d of term %d", i, term)))
	}
	return out
}

func sameEntry(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}

// wantLog checks that the log is exactly want, read through GetLog.
func wantLog(t testing.TB, g LogStable, want []*raft.Log) {
	t.Helper()
	first, err := g.FirstIndex()
	must(t, err)
	last, err := g.LastIndex()
	must(t, err)
	if len(want) == 0 {
		if first != 0 || last != 0 {
			t.Fatalf("log is [%d..%d], want it empty", first, last)
		}
		return
	}
	if first != want[0].Index || last != want[len(want)-1].Index {
		t.Fatalf("log is [%d..%d], want [%d..%d]", first, last, want[0].Index, want[len(want)-1].Index)
	}
	for _, w := range want {
		var l raft.Log
		must(t, g.GetLog(w.Index, &l))
		if !sameEntry(&l, w) {
			t.Fatalf("entry %d is %+v, want %+v", w.Index, l, *w)
		}
	}
	var l raft.Log
	for _, i := range []uint64{first - 1, last + 1} {
		if err := g.GetLog(i, &l); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("GetLog(%d) = %v, want ErrLogNotFound", i, err)
		}
	}
}

// writeSnapshot makes a snapshot that ends at index.
func writeSnapshot(t testing.TB, p *SnapshotStore, index, term uint64, state []byte) string {
	t.Helper()
	k, err := p.Create(1, index, term, raft.Configuration{}, 1, nil)
	must(t, err)
	_, err = k.Write(state)
	must(t, err)
	must(t, k.Close())
	return k.ID()
}

// powerLoss returns what is left of fs after a crash in which some writes that
// were not synced survive and others do not.
func powerLoss(fs *vfs.MemFS, rng *rand.Rand) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(3) * 50, RNG: rng})
}

func putCRC(b []byte, crc uint32) { binary.BigEndian.PutUint32(b, crc) }
