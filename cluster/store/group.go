package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Group is the log and the stable values of one Raft group. It implements
// raft.LogStore, raft.StableStore and raft.MonotonicLogStore. After StoreLogs
// the entries' Data and Extensions must not be changed: they may be cached.
type Group struct {
	s  *Store
	id uint32
	be backend

	writing  lock         // held by the one running write; guards voteTerm
	voteTerm uint64       // set by Raft before the candidate it belongs to
	since    atomic.Int64 // when the running write began, unix ns, 0 if none
	gone     atomic.Bool  // set aside: this object is of no use any more
	warned   atomic.Bool  // OnCorrupt was called

	mu       sync.RWMutex // guards what follows, held for memory access only
	first    uint64       // 0 for an empty log
	last     uint64
	lastTerm uint64
	epoch    uint64 // counts deletions, so a reader notices one that it raced with
	sizes    logSizes
	cache    logCache
}

var _ LogStable = (*Group)(nil)

// IsMonotonic says that the log has no gaps: Raft then removes the old log when
// it has installed a snapshot, before it appends what follows the snapshot.
func (g *Group) IsMonotonic() bool { return true }

// ID returns the group's id.
func (g *Group) ID() uint32 { return g.id }

// FirstIndex returns the index of the oldest entry, 0 for an empty log.
func (g *Group) FirstIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.first, nil
}

// LastIndex returns the index of the newest entry, 0 for an empty log.
func (g *Group) LastIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.last, nil
}

// LogBytes returns the bytes of the live log. After a truncation it may be off
// by up to 64 KiB, or one entry if that is larger.
func (g *Group) LogBytes() int64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.sizes.total
}

// Pending returns for how long the running durable write has been waiting, 0 if
// there is none. A leader whose disk stalls can be told by it.
func (g *Group) Pending() time.Duration {
	at := g.since.Load()
	if at == 0 {
		return 0
	}
	return max(time.Since(time.Unix(0, at)), 1)
}

// begin admits a write and serialises it with the group's other writes.
func (g *Group) begin() (start time.Time, err error) {
	if err := g.s.enter(); err != nil {
		return start, err
	}
	g.writing.Lock()
	err = g.s.failed()
	if g.gone.Load() {
		err = ErrClosed
	}
	if err != nil {
		g.end(time.Time{})
		return start, err
	}
	start = time.Now()
	g.since.Store(start.UnixNano())
	return start, nil
}

func (g *Group) end(start time.Time) {
	g.since.Store(0)
	g.writing.Unlock()
	g.s.leave()
	if !start.IsZero() {
		g.s.synced(time.Since(start))
	}
}

// StoreLog appends one entry; see StoreLogs.
func (g *Group) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends logs, which must follow the last entry. It returns when the
// entries and then the high-water mark are on the disk. A failure is fatal: what
// of logs is on the disk is unknown then.
func (g *Group) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	start, err := g.begin()
	if err != nil {
		return err
	}
	defer g.end(start)
	prevTerm, err := g.checkOrder(logs)
	if err != nil {
		return g.s.failIf(err)
	}
	if err := g.be.append(logs, prevTerm); err != nil {
		return g.s.failIf(fmt.Errorf("group %d: storing entries [%d..%d]: %w", g.id, logs[0].Index, logs[len(logs)-1].Index, err))
	}
	last := logs[len(logs)-1]
	err = g.s.marks.update(g.id, func(m *mark) { m.last, m.lastTerm = last.Index, last.Term })
	if err != nil {
		return g.s.failIf(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.first == 0 {
		g.first = logs[0].Index
	}
	g.last, g.lastTerm = last.Index, last.Term
	for _, l := range logs {
		g.sizes.add(l.Index, entrySize(l)+logKeyLen)
		g.cache.add(l)
	}
	return nil
}

// checkOrder returns the term before logs, or an *OrderError when they do not
// follow the log, or, if it is empty, the newest snapshot.
func (g *Group) checkOrder(logs []*raft.Log) (uint64, error) {
	g.mu.RLock()
	first, last, term := g.first, g.last, g.lastTerm
	g.mu.RUnlock()
	want, prev := last+1, term
	if first == 0 {
		want = logs[0].Index
		if m, _ := g.s.marks.get(g.id); want == 0 || want > m.snap+1 {
			return 0, g.order("append", first, last, logs[0].Index, logs[len(logs)-1].Index)
		}
	}
	for _, l := range logs {
		if l.Index != want || l.Term < prev {
			return 0, g.order("append", first, last, logs[0].Index, logs[len(logs)-1].Index)
		}
		want, prev = want+1, l.Term
	}
	return term, nil
}

func (g *Group) order(op string, first, last, min, max uint64) error {
	return &OrderError{Group: g.id, Op: op, First: first, Last: last, Min: min, Max: max}
}

// GetLog reads the entry at index into l: raft.ErrLogNotFound outside the log, a
// *CorruptError for an entry that fails its check or is missing.
func (g *Group) GetLog(index uint64, l *raft.Log) error {
	for {
		g.mu.RLock()
		if g.first == 0 || index < g.first || index > g.last {
			g.mu.RUnlock()
			return raft.ErrLogNotFound
		}
		hit, epoch := g.cache.get(index, l), g.epoch
		g.mu.RUnlock()
		if hit {
			return nil
		}
		err := g.readLog(index, l)
		if err == nil {
			return nil
		}
		g.mu.RLock()
		raced := epoch != g.epoch
		g.mu.RUnlock()
		if !raced {
			return g.corrupt(err)
		}
	}
}

func (g *Group) readLog(index uint64, l *raft.Log) error {
	if g.gone.Load() {
		return ErrClosed
	}
	if err := g.s.enter(); err != nil {
		return err
	}
	defer g.s.leave()
	v, err := g.be.read(index)
	if err != nil {
		return &CorruptError{Group: g.id, Index: index, Reason: "it cannot be read", Err: err}
	}
	if v == nil {
		return &CorruptError{Group: g.id, Index: index, Reason: "it is missing"}
	}
	return decodeEntry(v, g.id, index, l)
}

// corrupt reports the first corrupt entry met while running.
func (g *Group) corrupt(err error) error {
	var c *CorruptError
	if errors.As(err, &c) && g.warned.CompareAndSwap(false, true) {
		g.s.log.Error("stored entry is corrupt", "group", g.id, "error", err)
		if g.s.opts.OnCorrupt != nil {
			g.s.opts.OnCorrupt(c)
		}
	}
	return err
}

// DeleteRange removes the entries [min..max], which must reach one end of the
// log. When the tail goes, the high-water mark is lowered first.
func (g *Group) DeleteRange(min, max uint64) error {
	start, err := g.begin()
	if err != nil {
		return err
	}
	defer g.end(start)
	g.mu.RLock()
	first, last := g.first, g.last
	g.mu.RUnlock()
	switch {
	case first == 0 || max < first || min > last || min > max:
		return nil
	case max >= last:
		return g.s.failIf(g.deleteTail(first, last, max64(min, first)))
	case min <= first:
		g.mu.Lock()
		g.first = max + 1
		g.epoch++
		g.cache.dropUpTo(max)
		g.sizes.dropUpTo(max)
		g.mu.Unlock()
		// Not synced: if it is lost, the log only begins earlier.
		return g.s.failIf(g.be.delete(first, max, false))
	default:
		return g.s.fail(g.order("deletion", first, last, min, max))
	}
}

// max64 is needed where a parameter is named max, as in raft.LogStore.
func max64(a, b uint64) uint64 { return max(a, b) }

func (g *Group) deleteTail(first, last, min uint64) error {
	var newLast, term uint64
	if min > first {
		var l raft.Log
		newLast = min - 1
		if err := g.GetLog(newLast, &l); err != nil {
			return err
		}
		term = l.Term
	}
	if err := g.s.marks.update(g.id, func(m *mark) { m.last, m.lastTerm = newLast, term }); err != nil {
		return err
	}
	g.mu.Lock()
	if newLast == 0 {
		g.first = 0
	}
	g.last, g.lastTerm = newLast, term
	g.epoch++
	g.cache.dropFrom(min)
	g.sizes.dropFrom(min)
	g.mu.Unlock()
	return g.be.delete(min, last, true)
}

// The keys under which Raft keeps its term and vote.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
)

// Set stores a value durably. Raft's vote is recorded in the marks as well, so
// that a log store rolled back to an older state cannot vote twice.
func (g *Group) Set(key, val []byte) error {
	start, err := g.begin()
	if err != nil {
		return err
	}
	defer g.end(start)
	if err := g.be.setStable(key, encodeStable(g.id, key, val)); err != nil {
		return g.s.failIf(fmt.Errorf("group %d: storing %q: %w", g.id, key, err))
	}
	var change func(*mark)
	switch {
	case bytes.Equal(key, keyCurrentTerm) && len(val) == 8:
		change = func(m *mark) { m.term = binary.BigEndian.Uint64(val) }
	case bytes.Equal(key, keyLastVoteTerm) && len(val) == 8:
		// Goes into the marks together with the candidate, which follows.
		g.voteTerm = binary.BigEndian.Uint64(val)
		return nil
	case bytes.Equal(key, keyLastVoteCand):
		change = func(m *mark) { m.voteTerm, m.voteHash = g.voteTerm, sha256.Sum256(val) }
	default:
		return nil
	}
	return g.s.failIf(g.s.marks.update(g.id, change))
}

// Get returns the value of key, or ErrKeyNotFound.
func (g *Group) Get(key []byte) ([]byte, error) {
	if g.gone.Load() {
		return nil, ErrClosed
	}
	if err := g.s.enter(); err != nil {
		return nil, err
	}
	defer g.s.leave()
	val, err := g.readStable(key)
	if err != nil {
		return nil, g.corrupt(err)
	}
	if val == nil {
		return nil, ErrKeyNotFound
	}
	return val, nil
}

// readStable returns nil for a missing key.
func (g *Group) readStable(key []byte) ([]byte, error) {
	b, err := g.be.stable(key)
	if err != nil {
		return nil, &CorruptError{Group: g.id, Reason: fmt.Sprintf("value of %q cannot be read", key), Err: err}
	}
	if b == nil {
		return nil, nil
	}
	return decodeStable(g.id, key, b)
}

// SetUint64 stores a number durably; see Set.
func (g *Group) SetUint64(key []byte, val uint64) error {
	return g.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 returns the number stored under key, 0 if there is none.
func (g *Group) GetUint64(key []byte) (uint64, error) {
	b, err := g.Get(key)
	if errors.Is(err, ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, &CorruptError{Group: g.id, Reason: fmt.Sprintf("value of %q is no number", key)}
	}
	return binary.BigEndian.Uint64(b), nil
}
