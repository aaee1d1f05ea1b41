package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// ControlGroup is the group id of the control group's log, marks and snapshots.
const ControlGroup uint32 = 0xFFFFFFFF

// Defaults of Options.
const (
	DefaultCacheBytes        = 2 << 20
	DefaultMemTableBytes     = 8 << 20
	DefaultDiskSlowThreshold = time.Second
)

// Options say how to open a Store. Only Dir is required.
type Options struct {
	// Dir is the data folder. It is created if it does not exist.
	Dir string
	// FS is the file system; vfs.Default if nil.
	FS vfs.FS
	// Logger gets what an operator should know; Pebble's own chatter goes to
	// it at debug level. Default: slog.Default().
	Logger *slog.Logger
	// Fatal is called once, with the first failed write or fsync or broken
	// invariant. It is expected to end the process. The failing call returns
	// the error too, and every later write returns ErrFailed. It is called
	// from any goroutine and must not call the Store.
	Fatal func(error)
	// OnCorrupt is called, from the reading goroutine, when an entry that was
	// good when the store was opened fails its check. The read returns the same
	// error. Opening the store again decides what becomes of the replica.
	OnCorrupt func(*CorruptError)
	// OnSync is called with the time each durable write of a log or a stable
	// value took, from the call to both fsyncs done.
	OnSync func(time.Duration)
	// Repair lets Open move a damaged log store aside, save the groups in it
	// that are whole and report the others as set aside. Without it Open
	// returns a *DamagedError.
	Repair bool
	// CacheBytes bounds the newest entries kept in memory per group.
	// Default DefaultCacheBytes; negative for none.
	CacheBytes int
	// MemTableBytes is how much of the logs Pebble keeps in memory, and how long its WAL
	// gets. Default DefaultMemTableBytes.
	MemTableBytes int
	// DiskSlowThreshold is how long a durable write may take before it counts
	// as slow. Default DefaultDiskSlowThreshold.
	DiskSlowThreshold time.Duration
	// RetainSnapshots is how many snapshots per group are kept. Default 2.
	RetainSnapshots int
	// Incarnation draws incarnations, which must be random and not 0.
	// Default: crypto/rand.
	Incarnation func() uint64
}

// LogStable is what Raft needs of a group's log.
type LogStable interface {
	raft.LogStore
	raft.StableStore
}

// Store is the data folder of one node. Its methods may be called from any
// goroutine.
type Store struct {
	opts Options
	dir  string
	fs   vfs.FS
	// closeFS ends what fs needs; nil: nothing.
	closeFS func() error
	log     *slog.Logger
	flock   io.Closer
	marks   *marks
	db      *pebble.DB
	cache   *pebble.Cache
	bolt    *boltBackend // nil unless the control group's log is open in bolt

	nodeLock  lock // serialises writers of the node file
	groupLock lock // serialises opening and setting aside of groups

	mu     sync.Mutex
	node   nodeFile
	groups map[uint32]*Group
	snaps  map[uint32]*SnapshotStore
	scans  map[uint32]*scanResult // of groups not opened yet
	calls  int                    // running calls that use the files
	closed bool
	idle   chan struct{} // closed when closed is set and calls is 0

	opening atomic.Bool // errors are returned by Open instead of going to Fatal
	replay  replay
	damaged atomic.Bool // Pebble met corruption while opening is set
	failure atomic.Pointer[failedError]
	slow    slowDisk
}

// slowDisk counts writes that took too long or met a full disk.
type slowDisk struct {
	count atomic.Uint64
	last  atomic.Int64 // unix nanoseconds
	space atomic.Uint64
}

// Open opens or creates the data folder. It returns an *InUseError when another
// process has it, a *DamagedError when one of its files cannot be used, and a
// *FormatError when a newer release wrote it. Every log is read and checked.
func Open(o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.MemTableBytes <= 0 {
		o.MemTableBytes = DefaultMemTableBytes
	}
	if o.DiskSlowThreshold <= 0 {
		o.DiskSlowThreshold = DefaultDiskSlowThreshold
	}
	if o.RetainSnapshots <= 0 {
		o.RetainSnapshots = 2
	}
	if o.Incarnation == nil {
		o.Incarnation = randomIncarnation
	}
	s := &Store{opts: o, dir: o.Dir, fs: o.FS, log: o.Logger, nodeLock: newLock(), groupLock: newLock(),
		groups: map[uint32]*Group{}, snaps: map[uint32]*SnapshotStore{}, scans: map[uint32]*scanResult{}, idle: make(chan struct{})}
	if o.FS == vfs.Default {
		// The lock of one process is known by the path's spelling.
		abs, err := filepath.Abs(o.Dir)
		if err != nil {
			return nil, err
		}
		s.dir = abs
		s.fs, s.closeFS = newAsyncFS(s.fs)
	}
	s.opening.Store(true)
	err := s.open()
	if err == nil {
		err = s.failed()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening data folder %s: %w", s.dir, err), s.release())
	}
	s.opening.Store(false)
	return s, nil
}

func randomIncarnation() uint64 {
	for {
		var b [8]byte
		// crypto/rand.Read never fails: it ends the process instead.
		_, _ = rand.Read(b[:])
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return v
		}
	}
}

func (s *Store) path(elem ...string) string {
	return s.fs.PathJoin(append([]string{s.dir}, elem...)...)
}

func (s *Store) open() error {
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.fs.PathDir(s.dir)); err != nil {
		return err
	}
	var err error
	if s.flock, err = s.fs.Lock(s.path("LOCK")); err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			return err // the lock file itself cannot be created
		}
		return &InUseError{Dir: s.dir, Err: err}
	}
	if err := s.openIdentity(); err != nil {
		return err
	}
	return s.openLog()
}

// openIdentity reads the node file and the marks file, which vouch for each
// other, and creates what is missing.
func (s *Store) openIdentity() error {
	n, nodeErr := readNode(s.fs, s.path("node"))
	var damaged *DamagedError
	if nodeErr != nil && !missing(nodeErr) && !(s.opts.Repair && errors.As(nodeErr, &damaged)) {
		return nodeErr
	}
	if err := s.openMarks(n, nodeErr == nil); err != nil {
		return err
	}
	h := s.marks.head()
	if nodeErr != nil {
		// Only a node that belongs to no cluster yet has promised anything in its
		// small values, and only a first start leaves no node file.
		if unused := h.slots == 0 && h.nodeName == ""; h.clusterID == "" && !(missing(nodeErr) && unused) {
			return &DamagedError{Path: s.path("node"), What: "node file", Err: fmt.Errorf(
				"%w; the node belongs to no cluster yet: empty the folder unless this node may have promised to found one", nodeErr)}
		}
		if !missing(nodeErr) {
			s.log.Error("node file is damaged, restored from the marks file without its small values", "error", nodeErr)
		}
		n = nodeFile{Identity: Identity{ClusterID: h.clusterID, NodeName: h.nodeName, DiskIncarnation: h.incarnation}}
		if err := s.writeNode(n); err != nil {
			return err
		}
	}
	if n.DiskIncarnation != h.incarnation {
		return &DamagedError{Path: s.path("marks"), What: "marks file", Err: fmt.Errorf(
			"it belongs to disk %016x, the node file to disk %016x: files of two data folders were mixed", h.incarnation, n.DiskIncarnation)}
	}
	s.node = n
	return nil
}

// openMarks opens the marks file. When it is lost while the node file is there,
// nobody knows any more what was acknowledged: all groups become suspect.
func (s *Store) openMarks(n nodeFile, haveNode bool) error {
	path := s.path("marks")
	m, err := openMarksIfThere(s.fs, path)
	var damaged *DamagedError
	switch {
	case err != nil && !missing(err) && !errors.As(err, &damaged):
		return err
	case missing(err) && !haveNode:
		m, err = s.createFirstMarks()
	case err != nil:
		if damaged == nil {
			damaged = &DamagedError{Path: path, What: "marks file", Err: err}
		}
		if !s.opts.Repair || !haveNode {
			return damaged
		}
		s.log.Error("marks file is lost, all replicas on this disk are set aside", "error", err)
		m, err = s.createMarks(markHeader{incarnation: n.DiskIncarnation, clusterID: n.ClusterID, nodeName: n.NodeName, suspectAll: true})
	}
	if err != nil {
		return err
	}
	s.marks = m
	if m.torn > 0 {
		s.log.Warn("a block of the marks file was torn, its other copy is used", "path", path, "blocks", m.torn)
	}
	if !m.unreadable {
		return nil
	}
	if !s.opts.Repair {
		return &DamagedError{Path: path, What: "marks file", Err: errBlocks}
	}
	s.log.Error("part of the marks file is lost, replicas without a mark are set aside", "path", path)
	return m.updateHeader(func(h *markHeader) { h.suspectAll = true; h.slots = 0 })
}

// createFirstMarks starts a new disk. The marks file is the first that a first
// start creates: where there are logs already, it was lost with the node file.
func (s *Store) createFirstMarks() (*marks, error) {
	old, err := exists(s.fs, s.path(logDir))
	if err != nil {
		return nil, err
	}
	if old && !s.opts.Repair {
		return nil, &DamagedError{Path: s.path("marks"), What: "marks file", Err: errors.New("it is missing, and so is the node file, but there are logs")}
	}
	return s.createMarks(markHeader{incarnation: s.opts.Incarnation(), suspectAll: old})
}

func openMarksIfThere(fsys vfs.FS, path string) (*marks, error) {
	// OpenReadWrite would create it.
	if _, err := fsys.Stat(path); err != nil {
		return nil, err
	}
	return openMarks(fsys, path)
}

func (s *Store) createMarks(h markHeader) (*marks, error) {
	if err := createMarks(s.fs, s.dir, s.path("marks"), h); err != nil {
		return nil, err
	}
	return openMarks(s.fs, s.path("marks"))
}

// enter admits a call that uses the files; leave ends it.
func (s *Store) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.calls++
	return nil
}

func (s *Store) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	if s.closed && s.calls == 0 {
		close(s.idle)
	}
}

// Close waits for running calls and for all goroutines, and releases the folder.
// Snapshots that are open for reading stay readable. A second Close returns
// ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	if s.calls == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	<-s.idle
	return s.release()
}

// release closes what open has opened.
func (s *Store) release() error {
	var err error
	if s.bolt != nil {
		err = errors.Join(err, s.bolt.close())
	}
	if s.db != nil {
		err = errors.Join(err, closePebble(s.db))
	}
	if s.cache != nil {
		s.cache.Unref()
	}
	if s.marks != nil {
		err = errors.Join(err, s.marks.close())
	}
	if s.flock != nil {
		err = errors.Join(err, s.flock.Close())
	}
	if s.closeFS != nil {
		err = errors.Join(err, s.closeFS())
	}
	return err
}

// fail records the first failure and hands it to Fatal. It returns err in a
// form that matches both ErrFailed and err itself.
func (s *Store) fail(err error) error {
	f := &failedError{cause: err}
	if s.failure.CompareAndSwap(nil, f) && !s.opening.Load() {
		s.log.Error("store has failed", "error", err)
		if s.opts.Fatal != nil {
			s.opts.Fatal(err)
		}
	}
	return f
}

// failIf is fail for an error that may be nil. Being closed is no failure.
func (s *Store) failIf(err error) error {
	if err == nil || errors.Is(err, ErrClosed) {
		return err
	}
	return s.fail(err)
}

// failed returns the first failure, nil if there is none.
func (s *Store) failed() error {
	if f := s.failure.Load(); f != nil {
		return f
	}
	return nil
}

// Free returns the free and total bytes of the disk. In-memory file systems
// give an error that matches errors.ErrUnsupported or vfs.ErrUnsupported.
func (s *Store) Free() (free, total uint64, err error) {
	u, err := s.fs.GetDiskUsage(s.dir)
	return u.AvailBytes, u.TotalBytes, err
}

// synced accounts for a durable write that took d.
func (s *Store) synced(d time.Duration) {
	if d >= s.opts.DiskSlowThreshold {
		s.slow.count.Add(1)
		s.slow.last.Store(time.Now().UnixNano())
	}
	if s.opts.OnSync != nil {
		s.opts.OnSync(d)
	}
}

// Stats are numbers for metrics and for the watch over a stalled disk.
type Stats struct {
	SlowOps  uint64        // durable writes that took longer than DiskSlowThreshold
	LastSlow time.Time     // when the last of them ended, zero if never
	NoSpace  uint64        // background work that met a full disk and is retried
	Pending  time.Duration // age of the oldest durable write that is still running
	LogBytes int64         // live log bytes of all open groups
	DiskUsed uint64        // bytes of the shared log store on disk
	Memory   uint64        // bytes of memtables and block cache
}

// Stats returns the current numbers.
func (s *Store) Stats() Stats {
	st := Stats{SlowOps: s.slow.count.Load(), NoSpace: s.slow.space.Load()}
	if at := s.slow.last.Load(); at != 0 {
		st.LastSlow = time.Unix(0, at)
	}
	s.mu.Lock()
	groups := make([]*Group, 0, len(s.groups))
	for _, g := range s.groups {
		groups = append(groups, g)
	}
	s.mu.Unlock()
	for _, g := range groups {
		st.LogBytes += g.LogBytes()
		st.Pending = max(st.Pending, g.Pending())
	}
	if s.enter() == nil {
		m := s.db.Metrics()
		st.DiskUsed = m.DiskSpaceUsage()
		st.Memory = m.MemTable.Size + m.MemTable.ZombieSize + uint64(m.BlockCache.Size)
		s.leave()
	}
	return st
}
