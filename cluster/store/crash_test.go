package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// ledger is what one group has acknowledged, and what was on its way when the
// power went.
type ledger struct {
	mu       sync.Mutex
	acked    []*raft.Log // the log as acknowledged
	pending  []*raft.Log // being stored: may survive or not
	cutting  bool        // the tail behind acked is being removed: may survive or not
	cut      []*raft.Log
	term     uint64 // acknowledged current term
	termTry  uint64
	vote     string // acknowledged, for voteTerm
	voteTerm uint64
	snap     uint64
}

func (l *ledger) lastIndex() uint64 {
	if len(l.acked) == 0 {
		return l.snap
	}
	return l.acked[len(l.acked)-1].Index
}

// act does one random operation as raft would, keeping the ledger true at every
// moment at which the power may go.
func (l *ledger) act(g *Group, p *SnapshotStore, rng *rand.Rand) error {
	switch k := rng.IntN(100); {
	case k < 60:
		return l.append(g, rng)
	case k < 72:
		return l.truncate(g, rng)
	case k < 80:
		return l.compact(g, p, rng)
	case k < 90:
		return l.raiseTerm(g)
	default:
		return l.giveVote(g, rng)
	}
}

func (l *ledger) append(g *Group, rng *rand.Rand) error {
	var logs []*raft.Log
	l.mu.Lock()
	for i := range uint64(1 + rng.IntN(4)) {
		logs = append(logs, entry(l.lastIndex()+1+i, max(l.term, 1), fmt.Sprintf("%d/%x", l.term, rng.Uint64())))
	}
	l.pending = logs
	l.mu.Unlock()
	if err := g.StoreLogs(logs); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked, l.pending = append(l.acked, logs...), nil
	return nil
}

func (l *ledger) truncate(g *Group, rng *rand.Rand) error {
	l.mu.Lock()
	n := len(l.acked)
	if n < 3 {
		l.mu.Unlock()
		return nil
	}
	// The power may go before, while or after the tail is removed.
	keep := n - 1 - rng.IntN(min(n-1, 5))
	l.cut, l.acked, l.cutting = l.acked[keep:], l.acked[:keep:keep], true
	cut := l.cut
	l.mu.Unlock()
	if err := g.DeleteRange(cut[0].Index, cut[len(cut)-1].Index); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.cutting = nil, false
	return nil
}

func (l *ledger) compact(g *Group, p *SnapshotStore, rng *rand.Rand) error {
	l.mu.Lock()
	n := len(l.acked)
	if n < 4 {
		l.mu.Unlock()
		return nil
	}
	at := l.acked[n/2]
	upTo := l.acked[rng.IntN(n/2)].Index
	first := l.acked[0].Index
	l.mu.Unlock()
	k, err := p.Create(1, at.Index, at.Term, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(k, "state at %d", at.Index); err != nil {
		return err
	}
	if err := k.Close(); err != nil {
		return err
	}
	l.mu.Lock()
	l.snap = at.Index
	for l.acked[0].Index <= upTo {
		l.acked = l.acked[1:]
	}
	l.mu.Unlock()
	return g.DeleteRange(first, upTo)
}

func (l *ledger) raiseTerm(g *Group) error {
	l.mu.Lock()
	l.termTry = l.term + 1
	try := l.termTry
	l.mu.Unlock()
	if err := g.SetUint64(keyCurrentTerm, try); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = try
	return nil
}

func (l *ledger) giveVote(g *Group, rng *rand.Rand) error {
	l.mu.Lock()
	term, done := l.term, l.voteTerm >= l.term
	l.mu.Unlock()
	if done {
		return nil
	}
	cand := fmt.Sprintf("node-%d", rng.IntN(3))
	if err := g.SetUint64(keyLastVoteTerm, term); err != nil {
		return err
	}
	if err := g.Set(keyLastVoteCand, []byte(cand)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.vote, l.voteTerm = cand, term
	return nil
}

// clone copies what must be true of a disk image taken now.
func (l *ledger) clone() *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &ledger{acked: l.acked[:len(l.acked):len(l.acked)], pending: l.pending, cut: l.cut, cutting: l.cutting,
		term: l.term, vote: l.vote, voteTerm: l.voteTerm, snap: l.snap}
}

// check compares a reopened group with what was acknowledged before and what
// may have been written after it, at most.
func (l *ledger) check(t *testing.T, g *Group, later *ledger) {
	t.Helper()
	last, err := g.LastIndex()
	must(t, err)
	for _, w := range l.acked {
		var got raft.Log
		err := g.GetLog(w.Index, &got)
		if err == nil && sameEntry(&got, w) {
			continue
		}
		// Removed meanwhile, by a truncation or a compaction that had begun.
		if later.kept(w) {
			t.Fatalf("acknowledged entry %d is %+v (%v), log ends at %d", w.Index, got, err, last)
		}
	}
	if term, err := g.GetUint64(keyCurrentTerm); err != nil || term < l.term {
		t.Fatalf("term is %d (%v), %d was acknowledged", term, err, l.term)
	}
	voteTerm, err := g.GetUint64(keyLastVoteTerm)
	must(t, err)
	if voteTerm < l.voteTerm {
		t.Fatalf("vote is of term %d, %d was acknowledged", voteTerm, l.voteTerm)
	}
	if l.voteTerm > 0 && voteTerm == l.voteTerm {
		if cand := votedFor(t, g); cand != l.vote {
			t.Fatalf("vote is for %q, %q was acknowledged", cand, l.vote)
		}
	}
}

// kept reports whether the entry is still to be there in a later state.
func (l *ledger) kept(w *raft.Log) bool {
	for _, e := range l.acked {
		if e == w {
			return true
		}
	}
	return false
}

// The power goes at arbitrary moments while several groups write: nothing that
// was acknowledged is lost, nothing is set aside, and the log goes on.
func TestPowerLossLosesNothingAcknowledged(t *testing.T) {
	rng := seedOf(t)
	const groups = 3
	fs := vfs.NewCrashableMem()
	books := make([]*ledger, groups)
	for i := range books {
		books[i] = &ledger{}
	}
	for round := range 25 {
		s := mustOpen(t, fs, func(o *Options) { o.Repair = false })
		reopened := make([]*Group, groups)
		for i, l := range books {
			reopened[i] = mustGroup(t, s, uint32(i))
			l.adopt(t, reopened[i], s.Snapshots(uint32(i)))
		}
		image, before, after := runUntilCrash(t, s, fs, reopened, books, rng, round)
		must(t, s.Close())

		probe := mustOpen(t, image, func(o *Options) { o.Repair = false })
		for i := range books {
			before[i].check(t, mustGroup(t, probe, uint32(i)), after[i])
		}
		must(t, probe.Close())
		fs, books = image, before
	}
}

// runUntilCrash lets the groups work and takes a disk image meanwhile, with the
// ledgers from before and after the image was taken.
func runUntilCrash(t *testing.T, s *Store, fs *vfs.MemFS, gs []*Group, books []*ledger, rng *rand.Rand, round int) (*vfs.MemFS, []*ledger, []*ledger) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	steps := make(chan struct{}, 1024)
	for i, g := range gs {
		own := rand.New(rand.NewPCG(rng.Uint64(), uint64(round)))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := books[i].act(g, s.Snapshots(g.ID()), own); err != nil {
					t.Errorf("group %d: %v", g.ID(), err)
					return
				}
				select {
				case steps <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 1 + rng.IntN(60) {
		<-steps
	}
	clone := func() []*ledger {
		var out []*ledger
		for _, l := range books {
			out = append(out, l.clone())
		}
		return out
	}
	before := clone()
	image := powerLoss(fs, rng)
	after := clone()
	close(stop)
	wg.Wait()
	return image, before, after
}

// adopt makes the ledger say what the reopened group says, after check has
// compared them: entries that were on their way may be part of the log now.
func (l *ledger) adopt(t *testing.T, g *Group, p *SnapshotStore) {
	t.Helper()
	first, err := g.FirstIndex()
	must(t, err)
	last, err := g.LastIndex()
	must(t, err)
	l.acked, l.pending, l.cut, l.cutting = nil, nil, nil, false
	for i := first; i != 0 && i <= last; i++ {
		e := &raft.Log{}
		must(t, g.GetLog(i, e))
		l.acked = append(l.acked, e)
	}
	snaps, err := p.List()
	must(t, err)
	if l.snap > 0 && (len(snaps) == 0 || snaps[0].Index < l.snap) {
		t.Fatalf("snapshot at %d is gone, have %v", l.snap, snaps)
	}
	if len(snaps) > 0 {
		l.snap = snaps[0].Index
	}
	if l.term, err = g.GetUint64(keyCurrentTerm); err != nil {
		t.Fatal(err)
	}
	if l.voteTerm, err = g.GetUint64(keyLastVoteTerm); err != nil {
		t.Fatal(err)
	}
	l.vote = votedFor(t, g)
}

// votedFor is the candidate of the last vote; empty: the power went after the first vote's
// term was stored and before its candidate was.
func votedFor(t *testing.T, g *Group) string {
	t.Helper()
	cand, err := g.Get(keyLastVoteCand)
	if err != nil && !errors.Is(err, ErrKeyNotFound) {
		t.Fatal(err)
	}
	return string(cand)
}

// Entries that were stored but not acknowledged stay in the log after a crash,
// and Raft may acknowledge them without storing them again: from then on losing
// them must be noticed.
func TestMarkIsRaisedToWhatIsFound(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 5, 1)))
	// As if the power went between the log and the mark.
	must(t, s.marks.update(1, func(m *mark) { m.last, m.lastTerm = 3, 1 }))
	must(t, s.Close())

	s = mustOpen(t, fs)
	g = mustGroup(t, s, 1)
	wantLog(t, g, entries(1, 5, 1))
	must(t, s.Close())

	s = mustOpen(t, fs)
	must(t, (&pebbleBackend{s: s, db: s.db, group: 1}).delete(5, 5, true))
	must(t, s.Close())
	s = mustOpen(t, fs)
	defer s.Close()
	wantQuarantine(t, s, 1)
}

// A snapshot was installed and the process ended before raft removed the log
// before it: the log must not keep raft from going on behind the snapshot.
func TestLogBeforeInstalledSnapshotGoes(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs)
	g := mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(1, 5, 1)))
	writeSnapshot(t, s.Snapshots(1), 100, 2, []byte("state"))
	must(t, s.Close())

	for range 2 {
		s = mustOpen(t, fs)
		g = mustGroup(t, s, 1)
		wantLog(t, g, nil)
		must(t, s.Close())
	}
	s = mustOpen(t, fs)
	g = mustGroup(t, s, 1)
	must(t, g.StoreLogs(entries(101, 103, 2)))
	must(t, s.Close())
	s = mustOpen(t, fs)
	defer s.Close()
	wantLog(t, mustGroup(t, s, 1), entries(101, 103, 2))
}
