package store

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// sound is a data folder with known content: three groups with logs and votes,
// one of which has snapshots and a log that begins behind them.
type sound struct {
	fs   *vfs.MemFS
	logs map[uint32][]*raft.Log
	term map[uint32]uint64
}

const snapState = "state of the group, long enough to be hit"

// buildSound makes the folder. flushed puts most of the logs into sstables, and
// closed decides whether the process ended well or was killed.
func buildSound(t testing.TB, rng *rand.Rand, flushed, closed bool) *sound {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	want := &sound{logs: map[uint32][]*raft.Log{}, term: map[uint32]uint64{}}
	for id := range uint32(3) {
		g := mustGroup(t, s, id)
		must(t, g.SetUint64(keyCurrentTerm, uint64(3+id)))
		must(t, g.SetUint64(keyLastVoteTerm, uint64(3+id)))
		must(t, g.Set(keyLastVoteCand, []byte("node-1")))
		var logs []*raft.Log
		for i := uint64(1); i <= 40; i++ {
			logs = append(logs, entry(i, 1+i/20, strings.Repeat(fmt.Sprintf("%d.", i), 1+rng.IntN(300))))
		}
		must(t, g.StoreLogs(logs[:30]))
		if flushed {
			must(t, s.db.Flush())
		}
		must(t, g.StoreLogs(logs[30:35]))
		must(t, g.StoreLogs(logs[35:]))
		want.logs[id], want.term[id] = logs, uint64(3+id)
	}
	p := s.Snapshots(2)
	writeSnapshot(t, p, 10, 1, []byte(snapState))
	writeSnapshot(t, p, 20, 1, []byte(snapState))
	must(t, mustGroup(t, s, 2).DeleteRange(1, 15))
	want.logs[2] = want.logs[2][15:]
	must(t, s.SetIdentity("cluster", "node-1"))
	must(t, s.SetMeta("promise", []byte("founding set")))
	// A killed process leaves what the kernel has, closed or not.
	if closed {
		must(t, s.Close())
		want.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
	} else {
		want.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
		must(t, s.Close())
	}
	return want
}

func (w *sound) copy(rng *rand.Rand) *vfs.MemFS {
	return w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
}

// files lists all files with content below dir.
func files(t testing.TB, fs vfs.FS, dir string) []string {
	names, err := fs.List(dir)
	must(t, err)
	var out []string
	for _, name := range names {
		p := path.Join(dir, name)
		st, err := fs.Stat(p)
		must(t, err)
		switch {
		case st.IsDir():
			out = append(out, files(t, fs, p)...)
		case st.Size() > 0:
			out = append(out, p)
		}
	}
	return out
}

// change rewrites a file.
func change(t testing.TB, fs vfs.FS, name string, fn func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	b, err := io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	f, err = fs.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(fn(b))
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// harm does one kind of damage to b.
func harm(rng *rand.Rand, b []byte) ([]byte, string) {
	at := rng.IntN(len(b))
	switch rng.IntN(4) {
	case 0:
		n := rng.IntN(len(b)-at) + 1
		clear(b[at : at+n])
		return b, fmt.Sprintf("%d bytes zeroed at %d", n, at)
	case 1:
		return b[:at], fmt.Sprintf("cut at %d", at)
	default:
		bit := byte(1) << rng.IntN(8)
		b[at] ^= bit
		return b, fmt.Sprintf("bit %02x flipped at %d", bit, at)
	}
}

// verdict opens the folder and checks that every group is either whole or set
// aside. It returns how many are whole.
func (w *sound) verdict(t *testing.T, fs vfs.FS, what string) (whole int) {
	t.Helper()
	o := testOptions(fs)
	o.Fatal = func(err error) { t.Errorf("%s: fatal: %v", what, err) }
	s, err := Open(o)
	if err != nil {
		var damaged *DamagedError
		if !errors.As(err, &damaged) {
			t.Fatalf("%s: Open: %v", what, err)
		}
		return -1
	}
	defer s.Close()
	for id, logs := range w.logs {
		g, err := s.Group(id)
		var q *QuarantineError
		if errors.As(err, &q) {
			must(t, s.SetAside(id))
			if s.ReplicaIncarnation(id) == s.Identity().DiskIncarnation {
				t.Fatalf("%s: group %d kept its incarnation", what, id)
			}
			wantLog(t, mustGroup(t, s, id), nil)
			continue
		}
		if err != nil {
			t.Fatalf("%s: Group(%d): %v", what, id, err)
		}
		whole++
		w.wantWhole(t, s, g, logs, what)
	}
	return whole
}

// wantWhole allows a log that begins earlier than it did: the removal of a head
// is not synced.
func (w *sound) wantWhole(t *testing.T, s *Store, g *Group, logs []*raft.Log, what string) {
	t.Helper()
	for _, e := range logs {
		var got raft.Log
		if err := g.GetLog(e.Index, &got); err != nil || !sameEntry(&got, e) {
			t.Fatalf("%s: group %d: entry %d is %+v (%v)", what, g.id, e.Index, got, err)
		}
	}
	if term, err := g.GetUint64(keyCurrentTerm); err != nil || term != w.term[g.id] {
		t.Fatalf("%s: group %d: term is %d (%v)", what, g.id, term, err)
	}
	if cand, err := g.Get(keyLastVoteCand); err != nil || string(cand) != "node-1" {
		t.Fatalf("%s: group %d: vote is %q (%v)", what, g.id, cand, err)
	}
	first, err := g.FirstIndex()
	must(t, err)
	snaps, err := s.Snapshots(g.id).List()
	must(t, err)
	if first > 1 && (len(snaps) == 0 || snaps[0].Index+1 < first) {
		t.Fatalf("%s: group %d: log begins at %d with snapshots %v", what, g.id, first, snaps)
	}
	for _, m := range snaps {
		_, r, err := s.Snapshots(g.id).Open(m.ID)
		must(t, err)
		b, err := io.ReadAll(r)
		if err != nil || string(b) != snapState {
			t.Fatalf("%s: snapshot %s reads %q (%v)", what, m.ID, b, err)
		}
		must(t, r.Close())
	}
}

// Damage of any kind at any place of any file: what is read is right, or the
// replica is set aside, or the folder is refused with a typed error.
func TestDamageAnywhereIsNoticed(t *testing.T) {
	rng := seedOf(t)
	hits := map[string]int{}
	for _, c := range []struct{ flushed, closed bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		w := buildSound(t, rng, c.flushed, c.closed)
		if n := w.verdict(t, w.copy(rng), "no damage"); n != 3 {
			t.Fatalf("only %d groups are whole without damage", n)
		}
		for range 120 {
			fs := w.copy(rng)
			all := files(t, fs, "data")
			name := all[rng.IntN(len(all))]
			var what string
			change(t, fs, name, func(b []byte) []byte {
				b, what = harm(rng, b)
				return b
			})
			whole := w.verdict(t, fs, fmt.Sprintf("%s: %s", name, what))
			hits[fmt.Sprintf("%s whole=%d", kindOf(name), whole)]++
		}
	}
	t.Logf("what was left: %v", hits)
}

func kindOf(name string) string {
	base := path.Base(name)
	if ext := path.Ext(base); ext != "" {
		return ext
	}
	return strings.TrimRight(base, "0123456789-")
}

// Pebble's replay stops without a word at a damaged record at the end of the
// last WAL; the mark notices.
func TestLostTailOfWALIsNoticed(t *testing.T) {
	rng := seedOf(t)
	w := buildSound(t, rng, false, false)
	for _, cut := range []int{1, 20, 500, 5000} {
		fs := w.copy(rng)
		wal := ""
		for _, name := range files(t, fs, "data/log") {
			if strings.HasSuffix(name, ".log") && name > wal {
				wal = name
			}
		}
		change(t, fs, wal, func(b []byte) []byte { return b[:len(b)-cut] })
		s := mustOpen(t, fs)
		lost := 0
		for id := range w.logs {
			if _, err := s.Group(id); err != nil {
				wantQuarantine(t, s, id)
				lost++
			}
		}
		must(t, s.Close())
		if cut > 20 && lost == 0 {
			t.Fatalf("%d bytes of the WAL are gone and nobody noticed", cut)
		}
	}
}

// Flipped bits in the value of every entry, below all of Pebble's checksums.
func TestFlippedBitInEntry(t *testing.T) {
	rng := seedOf(t)
	fs := vfs.NewMem()
	var seen []*CorruptError
	s := mustOpen(t, fs, func(o *Options) {
		o.CacheBytes = -1
		o.OnCorrupt = func(err *CorruptError) { seen = append(seen, err) }
	})
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 10, 1)))
	be := &pebbleBackend{s: s, db: s.db, group: 1}
	for range 200 {
		index := 1 + rng.Uint64N(10)
		v, err := be.read(index)
		must(t, err)
		bad := append([]byte(nil), v...)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		must(t, s.db.Set(logKey(1, index), bad, nil))
		var l raft.Log
		var corrupt *CorruptError
		if err := g.GetLog(index, &l); !errors.As(err, &corrupt) || corrupt.Group != 1 || corrupt.Index != index {
			t.Fatalf("GetLog(%d) = %v, want a CorruptError", index, err)
		}
		must(t, s.db.Set(logKey(1, index), v, nil))
		must(t, g.GetLog(index, &l))
	}
	if len(seen) != 1 {
		t.Fatalf("OnCorrupt was called %d times, want once", len(seen))
	}
	// A whole entry under another key is no entry.
	v, err := be.read(3)
	must(t, err)
	must(t, s.db.Set(logKey(1, 4), v, nil))
	var corrupt *CorruptError
	if err := g.GetLog(4, &raft.Log{}); !errors.As(err, &corrupt) {
		t.Fatalf("entry 3 was read as entry 4: %v", err)
	}
	must(t, s.Close())
	s = mustOpen(t, fs)
	defer s.Close()
	wantQuarantine(t, s, 1)
}

// An entry of an older term among newer ones has a good checksum, but the one
// behind it says that it follows another.
func TestStaleEntryIsNoticed(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs)
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 4, 1)))
	must(t, g.StoreLogs(entries(5, 5, 2)))
	be := &pebbleBackend{s: s, db: s.db, group: 1}
	stale, err := be.read(5)
	must(t, err)
	must(t, g.DeleteRange(5, 5))
	must(t, g.StoreLogs(entries(5, 8, 3)))
	must(t, s.db.Set(logKey(1, 5), stale, nil))
	must(t, s.Close())
	s = mustOpen(t, fs)
	defer s.Close()
	q := wantQuarantine(t, s, 1)
	var corrupt *CorruptError
	if !errors.As(q, &corrupt) || corrupt.Index != 6 {
		t.Fatalf("got %v", q)
	}
}

// Torn entries above the mark are cut, those below are not.
func TestTornTailIsCut(t *testing.T) {
	for _, gap := range []bool{false, true} {
		fs := vfs.NewMem()
		s := mustOpen(t, fs)
		g := mustGroup(t, s, 1)
		must(t, g.StoreLogs(entries(1, 9, 1)))
		must(t, s.marks.update(1, func(m *mark) { m.last = 6 }))
		if gap {
			must(t, s.db.Delete(logKey(1, 8), nil))
		} else {
			must(t, s.db.Set(logKey(1, 8), []byte("torn"), nil))
		}
		must(t, s.Close())
		for range 2 {
			s = mustOpen(t, fs)
			wantLog(t, mustGroup(t, s, 1), entries(1, 7, 1))
			must(t, s.Close())
		}
		s = mustOpen(t, fs)
		g = mustGroup(t, s, 1)
		must(t, g.StoreLogs(entries(8, 8, 2)))
		wantLog(t, g, append(entries(1, 7, 1), entries(8, 8, 2)...))
		must(t, s.Close())
	}
}

// A log that was rolled back to an older state as a whole, as by a restored
// backup, must not vote again.
func TestRolledBackVoteIsNoticed(t *testing.T) {
	for _, key := range [][]byte{keyCurrentTerm, keyLastVoteTerm, keyLastVoteCand} {
		fs := vfs.NewMem()
		s := mustOpen(t, fs)
		g := mustGroup(t, s, 1)
		must(t, g.SetUint64(keyCurrentTerm, 4))
		must(t, g.SetUint64(keyLastVoteTerm, 4))
		must(t, g.Set(keyLastVoteCand, []byte("node-1")))
		must(t, s.db.Delete(stableKey(1, key), nil))
		must(t, s.Close())
		s = mustOpen(t, fs)
		wantQuarantine(t, s, 1)
		must(t, s.Close())
	}
}
