package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
)

// Keys: group(4) kind(1) then index(8) for log entries or the key of a stable
// value. Everything of a group lies in one range.
const (
	kindLog    = 1
	kindStable = 2
	logKeyLen  = 13
)

func logKey(group uint32, index uint64) []byte {
	k := make([]byte, logKeyLen)
	putLogKey(k, group, index)
	return k
}

func putLogKey(k []byte, group uint32, index uint64) {
	binary.BigEndian.PutUint32(k, group)
	k[4] = kindLog
	binary.BigEndian.PutUint64(k[5:], index)
}

func stableKey(group uint32, key []byte) []byte {
	k := make([]byte, 5, 5+len(key))
	binary.BigEndian.PutUint32(k, group)
	k[4] = kindStable
	return append(k, key...)
}

// groupRange is the range of all keys of a group; the end is exclusive.
func groupRange(group uint32) (from, to []byte) {
	from = binary.BigEndian.AppendUint32(nil, group)
	return from, append(bytes.Clone(from), 0xFF)
}

const (
	blockCacheSize = 8 << 20
	// maxBatch bounds one Pebble batch. A batch beyond half a memtable takes a
	// slow path in Pebble and stays in memory twice.
	maxBatch = 2 << 20
)

// openPebble opens or creates the Pebble store in dir. A flush that fails while
// Pebble replays its WAL is tried again by Pebble without end and without a
// pause. Pebble cannot be told to stop, so it is left behind then, with its lock
// on dir, see park: the error makes the process end. After any other failure
// openPebble waits until Pebble has let go of dir.
func (s *Store) openPebble(dir string) (*pebble.DB, error) {
	if s.cache == nil {
		s.cache = pebble.NewCache(blockCacheSize)
	}
	type opened struct {
		db  *pebble.DB
		err error
	}
	result := make(chan opened, 1)
	parked := s.replay.begin()
	go func() {
		db, err := s.pebbleOpen(dir)
		result <- opened{db, err}
	}()
	var r opened
	select {
	case r = <-result:
	case <-parked:
	}
	// A failure does not always come back as an error. One that does may have lost
	// what tells a refusing disk from a damaged one.
	err := errors.Join(s.replay.end(), r.err)
	if err != nil && r.db != nil {
		err = errors.Join(err, closePebble(r.db))
	}
	if err != nil {
		return nil, err
	}
	return r.db, nil
}

// replay gathers what goes wrong while openPebble is running.
type replay struct {
	mu      sync.Mutex
	running bool
	err     error         // the first failure
	parked  chan struct{} // closed when a failure keeps Pebble from returning
}

func (r *replay) begin() (parked <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.err, r.parked = true, nil, make(chan struct{})
	return r.parked
}

// end returns the first failure since begin.
func (r *replay) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = false
	return r.err
}

// fail makes the running openPebble return err, at once if Pebble will not
// return. It reports whether one is running.
func (r *replay) fail(err error, park bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running {
		return false
	}
	if r.err == nil {
		r.err = err
	}
	if park {
		r.running = false
		close(r.parked)
	}
	return true
}

// pebbleOpen turns the panics into which some kinds of damage drive Pebble into
// errors.
func (s *Store) pebbleOpen(dir string) (db *pebble.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("log store panicked while opening: %v", r)
		}
	}()
	o := &pebble.Options{
		FS:                          s.pebbleFS(),
		Cache:                       s.cache,
		FormatMajorVersion:          pebble.FormatWALSyncChunks, // tells a damaged WAL from one that ends
		MemTableSize:                uint64(s.opts.MemTableBytes),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       1000, // a stalled append costs leadership; a deep L0 only read speed
		MaxOpenFiles:                256,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
		Logger:                      pebbleLog{s},
		EventListener:               s.pebbleEvents(),
	}
	for i := range o.Levels {
		// Entries live for minutes: the CPU is worth more than the disk.
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	return pebble.Open(dir, o)
}

// closePebble closes db. After a failed write Pebble may panic instead.
func closePebble(db *pebble.DB) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("closing the log store: %v", r)
		}
	}()
	return db.Close()
}

func (s *Store) pebbleEvents() *pebble.EventListener {
	l := &pebble.EventListener{
		BackgroundError: func(err error) { s.background(err) },
		DataCorruption:  func(i pebble.DataCorruptionInfo) { s.background(errors.Join(pebble.ErrCorruption, i.Details)) },
	}
	l.EnsureDefaults(pebbleLog{s})
	return l
}

// background judges an error of Pebble's flushes and compactions.
func (s *Store) background(err error) {
	switch {
	case errors.Is(err, pebble.ErrCancelledCompaction), errors.Is(err, pebble.ErrClosed):
	case noSpace(err):
		// Nothing is lost: the WAL keeps the data and Pebble tries again.
		s.slow.space.Add(1)
		s.log.Error("log store has no disk space for background work", "error", err)
		s.park(err)
	case pebble.IsCorruptionError(err):
		// The next Open must look at every file: the damage may lie where no
		// live entry is, and compactions would find it again and again.
		if s.opening.Load() {
			s.damaged.Store(true) // Open will rebuild
			return
		}
		err = errors.Join(err, s.marks.updateHeader(func(h *markHeader) { h.rebuild = true }))
		_ = s.fail(err)
	default:
		s.park(err)
		_ = s.fail(err)
	}
}

// park ends the goroutine of a flush that failed while the WAL is replayed.
func (s *Store) park(err error) {
	if s.replay.fail(err, true) {
		runtime.Goexit()
	}
}

// pebbleLog carries Pebble's messages to slog.
type pebbleLog struct{ s *Store }

func (l pebbleLog) debug(format string, args []any) {
	// Formatting is not free, and Pebble talks at every flush.
	if l.s.log.Enabled(context.Background(), slog.LevelDebug) {
		l.s.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

func (l pebbleLog) Infof(format string, args ...any)  { l.debug(format, args) }
func (l pebbleLog) Errorf(format string, args ...any) { l.debug(format, args) }

// Fatalf keeps an error among the arguments visible to errors.Is.
func (l pebbleLog) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if e, ok := a.(error); ok {
			err = &pebbleError{text: err.Error(), cause: e}
		}
	}
	// What Pebble does next is return the error, or report it again as one of
	// background work.
	if !l.s.replay.fail(err, false) {
		_ = l.s.fail(err)
	}
}

type pebbleError struct {
	text  string
	cause error
}

func (e *pebbleError) Error() string { return e.text }
func (e *pebbleError) Unwrap() error { return e.cause }

// backend stores the checked bytes of one group. Values handed out by read and
// stable belong to the caller.
type backend interface {
	// append makes logs durable; they follow an entry of term prevTerm.
	append(logs []*raft.Log, prevTerm uint64) error
	// read returns the stored entry, nil if there is none.
	read(index uint64) ([]byte, error)
	// delete removes [min..max], durably if durable is set.
	delete(min, max uint64, durable bool) error
	// scan calls fn for every entry in order until it returns false.
	scan(fn func(index uint64, v []byte) bool) error
	setStable(key, framed []byte) error
	// stable returns the framed value, nil if there is none.
	stable(key []byte) ([]byte, error)
	// wipe durably removes all of the group.
	wipe() error
}

// pebbleBackend is a group in the shared Pebble store.
type pebbleBackend struct {
	s     *Store
	db    *pebble.DB
	group uint32
}

// done turns the outcome of a Pebble write into ours: Pebble reports a failed
// WAL write to Fatalf and then returns nil, expecting the process to be gone.
func (b *pebbleBackend) done(err error) error {
	if err == nil {
		err = b.s.failed()
	}
	return err
}

func (b *pebbleBackend) append(logs []*raft.Log, prevTerm uint64) error {
	for len(logs) > 0 {
		n, size := 0, 0
		for n < len(logs) && (n == 0 || size+entrySize(logs[n]) <= maxBatch) {
			size += entrySize(logs[n]) + logKeyLen + 8
			n++
		}
		batch := b.db.NewBatchWithSize(size + 32)
		for _, l := range logs[:n] {
			op := batch.SetDeferred(logKeyLen, entrySize(l))
			putLogKey(op.Key, b.group, l.Index)
			encodeEntry(op.Value, b.group, prevTerm, l)
			if err := op.Finish(); err != nil {
				return err
			}
			prevTerm = l.Term
		}
		// The WAL is one sequence: syncing the last part syncs those before.
		o := pebble.NoSync
		if n == len(logs) && !mutant.CommitWithoutSync {
			o = pebble.Sync
		}
		err := b.done(batch.Commit(o))
		if cerr := batch.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		logs = logs[n:]
	}
	return nil
}

func (b *pebbleBackend) get(key []byte) ([]byte, error) {
	v, closer, err := b.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(v))
	copy(out, v)
	return out, closer.Close()
}

func (b *pebbleBackend) read(index uint64) ([]byte, error) { return b.get(logKey(b.group, index)) }

func (b *pebbleBackend) delete(min, max uint64, durable bool) error {
	o := pebble.NoSync
	if durable {
		o = pebble.Sync
	}
	end := logKey(b.group, max+1)
	if max == ^uint64(0) {
		end = stableKey(b.group, nil) // sorts right behind the log
	}
	return b.done(b.db.DeleteRange(logKey(b.group, min), end, o))
}

func (b *pebbleBackend) scan(fn func(index uint64, v []byte) bool) error {
	it, err := b.db.NewIter(&pebble.IterOptions{LowerBound: logKey(b.group, 0), UpperBound: stableKey(b.group, nil)})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()
		if len(k) != logKeyLen {
			return errors.Join(fmt.Errorf("key %x: %w", k, pebble.ErrCorruption), it.Close())
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if !fn(binary.BigEndian.Uint64(k[5:]), v) {
			break
		}
	}
	return errors.Join(it.Error(), it.Close())
}

func (b *pebbleBackend) setStable(key, framed []byte) error {
	return b.done(b.db.Set(stableKey(b.group, key), framed, pebble.Sync))
}

func (b *pebbleBackend) stable(key []byte) ([]byte, error) { return b.get(stableKey(b.group, key)) }

func (b *pebbleBackend) wipe() error {
	from, to := groupRange(b.group)
	return b.done(b.db.DeleteRange(from, to, pebble.Sync))
}
