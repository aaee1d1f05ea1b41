package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// counterFSM remembers how many entries it applied, and their sum.
type counterFSM struct {
	mu       sync.Mutex
	n, total uint64
}

func (f *counterFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	f.total += binary.BigEndian.Uint64(l.Data)
	return f.total
}

func (f *counterFSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return counterSnapshot(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, f.n), f.total)), nil
}

func (f *counterFSM) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 16 {
		return fmt.Errorf("state of %d bytes: %w", len(b), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n, f.total = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return r.Close()
}

type counterSnapshot []byte

func (c counterSnapshot) Persist(k raft.SnapshotSink) error {
	if _, err := io.Copy(k, bytes.NewReader(c)); err != nil {
		return err
	}
	return k.Close()
}
func (counterSnapshot) Release() {}

// member is one raft server on its own disk.
type member struct {
	id    raft.ServerID
	fs    *vfs.MemFS
	store *Store
	raft  *raft.Raft
	fsm   *counterFSM
	trans *raft.InmemTransport
}

func (m *member) start(t *testing.T) {
	t.Helper()
	m.store = mustOpen(t, m.fs)
	g := mustGroup(t, m.store, 1)
	m.fsm = &counterFSM{}
	_, m.trans = raft.NewInmemTransport(raft.ServerAddress(m.id))
	c := raft.DefaultConfig()
	c.LocalID = m.id
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 150*time.Millisecond
	c.TrailingLogs, c.SnapshotThreshold, c.SnapshotInterval = 10, 1<<40, time.Hour
	c.Logger = hclog.NewNullLogger()
	var err error
	m.raft, err = raft.NewRaft(c, m.fsm, g, g, m.store.Snapshots(1), m.trans)
	must(t, err)
}

func (m *member) stop(t *testing.T) {
	t.Helper()
	must(t, m.raft.Shutdown().Error())
	must(t, m.store.Close())
}

func connect(ms ...*member) {
	for _, a := range ms {
		for _, b := range ms {
			if a != b {
				a.trans.Connect(b.trans.LocalAddr(), b.trans)
			}
		}
	}
}

// tally counts what clients were promised and what they tried.
type tally struct{ acked, tried uint64 }

// apply proposes n entries at whoever leads; a lost leadership leaves open
// whether an entry was committed.
func (c *tally) apply(t *testing.T, n int, ms ...*member) {
	t.Helper()
	for range n {
		c.tried++
		if leaderOf(t, ms...).raft.Apply(binary.BigEndian.AppendUint64(nil, 1), 5*time.Second).Error() == nil {
			c.acked++
		}
	}
}

// check compares the leader's state with the tally.
func (c *tally) check(t *testing.T, ms ...*member) {
	t.Helper()
	f := leaderOf(t, ms...).fsm
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n != f.total || f.n < c.acked || f.n > c.tried {
		t.Fatalf("%d entries add up to %d; %d were acknowledged of %d tried", f.n, f.total, c.acked, c.tried)
	}
}

// until waits for something that raft does by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) { // fake time
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// leaderOf waits for one of ms to lead and to have applied all before.
func leaderOf(t *testing.T, ms ...*member) (lead *member) {
	t.Helper()
	until(t, "a leader", func() bool {
		for _, m := range ms {
			if m.raft.State() == raft.Leader && m.raft.Barrier(5*time.Second).Error() == nil {
				lead = m
				return true
			}
		}
		return false
	})
	return lead
}

// Raft itself on the store: a follower that was away catches up by a snapshot,
// and everybody restarts from snapshot plus log after a power loss.
func TestRaftOnStore(t *testing.T) {
	rng := seedOf(t)
	synctest.Test(t, func(t *testing.T) { raftOnStore(t, rng) })
}

func raftOnStore(t *testing.T, rng *rand.Rand) {
	ms := make([]*member, 3)
	var conf raft.Configuration
	for i := range ms {
		id := raft.ServerID(fmt.Sprintf("node-%d", i))
		ms[i] = &member{id: id, fs: vfs.NewCrashableMem()}
		conf.Servers = append(conf.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
		ms[i].start(t)
	}
	connect(ms...)
	must(t, ms[0].raft.BootstrapCluster(conf).Error())
	var count tally
	count.apply(t, 30, ms...)

	lead := leaderOf(t, ms...)
	var away *member
	var rest []*member
	for _, m := range ms {
		if m != lead && away == nil {
			away = m
		} else {
			rest = append(rest, m)
		}
	}
	away.stop(t)
	count.apply(t, 30, rest...)
	for _, m := range rest {
		must(t, m.raft.Snapshot().Error())
	}
	count.apply(t, 5, rest...)
	away.start(t)
	connect(ms...)
	target := leaderOf(t, ms...).raft.AppliedIndex()
	until(t, "the follower to catch up", func() bool { return away.raft.AppliedIndex() >= target })
	if first, _ := mustGroup(t, away.store, 1).FirstIndex(); first <= 30 {
		t.Fatalf("the follower did not catch up by a snapshot: its log begins at %d", first)
	}
	count.apply(t, 5, ms...)
	count.check(t, ms...)

	images := make([]*vfs.MemFS, len(ms))
	for i, m := range ms {
		images[i] = powerLoss(m.fs, rng)
	}
	for i, m := range ms {
		m.stop(t)
		m.fs = images[i]
	}
	for _, m := range ms {
		m.start(t)
	}
	connect(ms...)
	count.check(t, ms...)
	count.apply(t, 5, ms...)
	count.check(t, ms...)
	for _, m := range ms {
		m.stop(t)
	}
}
