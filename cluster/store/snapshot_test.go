package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

func indexesOf(t *testing.T, p *SnapshotStore) []uint64 {
	t.Helper()
	list, err := p.List()
	must(t, err)
	var out []uint64
	for _, m := range list {
		out = append(out, m.Index)
	}
	return out
}

func TestSnapshots(t *testing.T) {
	rng := seedOf(t)
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	p := s.Snapshots(1)
	if got := indexesOf(t, p); got != nil {
		t.Fatalf("a new store has snapshots %v", got)
	}
	conf := raft.Configuration{Servers: []raft.Server{{ID: "a#1", Address: "a#1"}, {Suffrage: raft.Nonvoter, ID: "b#2", Address: "b#2"}}}
	var state []byte
	for index := uint64(10); index <= 40; index += 10 {
		k, err := p.Create(1, index, 3, conf, 7, nil)
		must(t, err)
		state = make([]byte, 600_000+rng.IntN(300_000))
		for i := range state {
			state[i] = byte(rng.Uint32())
		}
		want := bytes.Clone(state)
		for b := state; len(b) > 0; {
			n := min(len(b), 1+rng.IntN(400_000))
			if _, err := k.Write(b[:n]); err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		if !bytes.Equal(state, want) {
			t.Fatal("Write changed its argument")
		}
		must(t, k.Close())
		must(t, k.Close())
	}
	k, err := p.Create(1, 50, 3, conf, 7, nil)
	must(t, err)
	must(t, k.Cancel())
	left, err := p.Create(1, 60, 3, conf, 7, nil)
	must(t, err)
	_, err = left.Write([]byte("never finished"))
	must(t, err)
	if got := indexesOf(t, p); !slices.Equal(got, []uint64{40, 30}) {
		t.Fatalf("snapshots are %v", got)
	}
	image := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
	must(t, left.Cancel())
	must(t, s.Close())

	s = mustOpen(t, image)
	defer s.Close()
	p = s.Snapshots(1)
	if got := indexesOf(t, p); !slices.Equal(got, []uint64{40, 30}) {
		t.Fatalf("snapshots are %v after a crash", got)
	}
	if names, err := image.List(p.dir); err != nil || len(names) != 2 {
		t.Fatalf("leftovers: %v (%v)", names, err)
	}
	list, err := p.List()
	must(t, err)
	m, r, err := p.Open(list[0].ID)
	must(t, err)
	got, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	if !bytes.Equal(got, state) || m.Index != 40 || m.Term != 3 || m.ConfigurationIndex != 7 || m.Size != int64(len(state)) ||
		fmt.Sprint(m.Configuration) != fmt.Sprint(conf) {
		t.Fatalf("snapshot is %+v with %d bytes", m, len(got))
	}
	if n, err := p.Bytes(); err != nil || n < int64(len(state)) || n > 3*900_000 {
		t.Fatalf("snapshots have %d bytes (%v)", n, err)
	}
}

// damageSnapshot flips a bit in the state of the group's newest snapshot.
func damageSnapshot(t *testing.T, fs *vfs.MemFS, group uint32, id string) {
	change(t, fs, fmt.Sprintf("data/%s/%08x/%s/%s", snapRoot, group, id, stateFile), func(b []byte) []byte {
		b[len(b)/2] ^= 4
		return b
	})
}

// A damaged newest snapshot falls back to the older one while the log covers the
// rest; when it does not, the replica is set aside.
func TestDamagedSnapshot(t *testing.T) {
	for _, c := range []struct {
		name    string
		compact uint64
		whole   bool
	}{{"log covers", 10, true}, {"log begins behind", 15, false}, {"log is gone", 30, false}} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := mustOpen(t, fs)
			g := mustGroup(t, s, 1)
			must(t, g.StoreLogs(entries(1, 30, 1)))
			writeSnapshot(t, s.Snapshots(1), 10, 1, []byte("older state"))
			id := writeSnapshot(t, s.Snapshots(1), 30, 1, []byte("newer state"))
			must(t, g.DeleteRange(1, c.compact))
			must(t, s.db.Flush()) // the removal of a head is not synced
			must(t, s.Close())
			damageSnapshot(t, fs, 1, id)
			s = mustOpen(t, fs)
			defer s.Close()
			if !c.whole {
				wantQuarantine(t, s, 1)
				return
			}
			wantLog(t, mustGroup(t, s, 1), entries(c.compact+1, 30, 1))
			if got := indexesOf(t, s.Snapshots(1)); !slices.Equal(got, []uint64{10}) {
				t.Fatalf("snapshots are %v", got)
			}
			var damaged *SnapshotError
			if _, _, err := s.Snapshots(1).Open(id); !errors.As(err, &damaged) {
				t.Fatalf("Open of the damaged one gives %v", err)
			}
			// The next one makes it go.
			writeSnapshot(t, s.Snapshots(1), 31, 1, []byte("next"))
			if got := indexesOf(t, s.Snapshots(1)); !slices.Equal(got, []uint64{31, 10}) {
				t.Fatalf("snapshots are %v", got)
			}
		})
	}
}

// Bits that flip between the check and the reading end the reading in an error.
func TestSnapshotDamagedWhileRead(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs)
	defer s.Close()
	p := s.Snapshots(1)
	id := writeSnapshot(t, p, 10, 1, []byte(strings.Repeat("state ", 1000)))
	_, r, err := p.Open(id)
	must(t, err)
	b, err := fs.UnsafeGetFileDataBuffer(p.path(id, stateFile))
	must(t, err)
	b[700] ^= 1
	var damaged *SnapshotError
	if _, err := io.ReadAll(r); !errors.As(err, &damaged) {
		t.Fatalf("reading gives %v", err)
	}
	must(t, r.Close())
}

func TestSnapshotOfNewerReleaseIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs)
	id := writeSnapshot(t, s.Snapshots(1), 10, 1, []byte("state"))
	must(t, s.Close())
	change(t, fs, fmt.Sprintf("data/%s/%08x/%s/%s", snapRoot, 1, id, metaFile), func(b []byte) []byte {
		b[0] = formatVersion + 1
		putCRC(b[1:], stableCRC(1, []byte(id), b[0], b[stableHeader:]))
		return b
	})
	s = mustOpen(t, fs)
	defer s.Close()
	var format *FormatError
	if _, err := s.Snapshots(1).List(); !errors.As(err, &format) {
		t.Fatalf("List gives %v", err)
	}
	if _, err := s.Group(1); !errors.As(err, &format) {
		t.Fatalf("Group gives %v", err)
	}
	if q := s.Quarantined(); len(q) != 0 {
		t.Fatalf("set aside: %v", q)
	}
}

// The power goes while snapshots are written: one that was closed is there.
func TestPowerLossWhileSnapshotting(t *testing.T) {
	rng := seedOf(t)
	for n := range 30 {
		fs := vfs.NewCrashableMem()
		s := mustOpen(t, fs)
		p := s.Snapshots(1)
		closed := make(chan uint64, 100)
		go func() {
			defer close(closed)
			for i := uint64(1); i <= 8; i++ {
				k, err := p.Create(1, i, 1, raft.Configuration{}, 1, nil)
				if err == nil {
					_, err = k.Write([]byte("state"))
				}
				if err == nil {
					err = k.Close()
				}
				if err != nil {
					t.Errorf("snapshot %d: %v", i, err)
					return
				}
				closed <- i
			}
		}()
		var acked uint64
		for range rng.IntN(8) {
			acked = <-closed
		}
		image := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(n), 9))})
		for range closed {
		}
		must(t, s.Close())
		s = mustOpen(t, image)
		mustGroup(t, s, 1)
		if got := indexesOf(t, s.Snapshots(1)); acked > 0 && (len(got) == 0 || got[0] < acked) {
			t.Fatalf("snapshot %d was closed, have %v", acked, got)
		}
		must(t, s.Close())
	}
}
