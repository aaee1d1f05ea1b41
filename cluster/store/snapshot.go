package store

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

const (
	snapRoot  = "snapshots"
	tmpSuffix = ".tmp"
	stateFile = "state"
	metaFile  = "meta"
)

// SnapshotStore keeps the snapshots of one group. It implements
// raft.SnapshotStore. A snapshot is a folder; it is visible when its files, its
// name and the mark that says it must be there are on the disk.
type SnapshotStore struct {
	s     *Store
	group uint32
	dir   string

	listing lock            // held while the folder is read or changed
	sound   map[string]bool // id → verdict of a full check; guarded by listing
	names   atomic.Uint64   // makes the ids of this process unique
	once    sync.Once
}

// snapMeta is the content of the file "meta": version(1) crc32c(4) JSON.
type snapMeta struct {
	raft.SnapshotMeta
	CRC uint32 // CRC32C of the state, started with the group
}

// SnapshotError says that a snapshot is damaged.
type SnapshotError struct {
	Group  uint32
	ID     string
	Reason string
	Err    error
}

func (e *SnapshotError) Error() string {
	s := fmt.Sprintf("group %d: snapshot %s is damaged: %s", e.Group, e.ID, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, if there is one.
func (e *SnapshotError) Unwrap() error { return e.Err }

// Snapshots returns the snapshots of a group.
func (s *Store) Snapshots(group uint32) *SnapshotStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.snaps[group]
	if p == nil {
		p = &SnapshotStore{s: s, group: group, dir: s.path(snapRoot, fmt.Sprintf("%08x", group)),
			listing: newLock(), sound: map[string]bool{}}
		s.snaps[group] = p
	}
	return p
}

func (p *SnapshotStore) path(elem ...string) string {
	return p.s.fs.PathJoin(append([]string{p.dir}, elem...)...)
}

// Create begins a snapshot. Nothing is visible until the sink is closed.
func (p *SnapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshots of raft version %d are not supported", version)
	}
	if err := p.s.enter(); err != nil {
		return nil, err
	}
	defer p.s.leave()
	if err := p.s.failed(); err != nil {
		return nil, err
	}
	p.listing.Lock()
	defer p.listing.Unlock()
	if err := p.makeDir(); err != nil {
		return nil, err
	}
	id, err := p.newID(index, term)
	if err != nil {
		return nil, err
	}
	k := &snapSink{store: p, tmp: p.path(id + tmpSuffix), crc: keyCRC(p.group, 0, formatVersion), meta: snapMeta{SnapshotMeta: raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term, Configuration: configuration, ConfigurationIndex: configurationIndex}}}
	if err := p.s.fs.MkdirAll(k.tmp, 0o700); err != nil {
		return nil, err
	}
	if k.file, err = p.s.fs.Create(p.s.fs.PathJoin(k.tmp, stateFile), vfs.WriteCategoryUnspecified); err != nil {
		return nil, errors.Join(err, p.s.fs.RemoveAll(k.tmp))
	}
	k.buf = bufio.NewWriterSize(k.file, 256<<10)
	return k, nil
}

// makeDir creates the group's folder, durably, with what leads to it.
func (p *SnapshotStore) makeDir() error {
	if ok, err := exists(p.s.fs, p.dir); ok || err != nil {
		return err
	}
	if err := p.s.fs.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	return errors.Join(syncDir(p.s.fs, p.s.path(snapRoot)), syncDir(p.s.fs, p.s.dir))
}

// newID names a snapshot after what it holds.
func (p *SnapshotStore) newID(index, term uint64) (string, error) {
	for {
		id := fmt.Sprintf("%d-%d-%d", term, index, p.names.Add(1))
		for _, name := range []string{id, id + tmpSuffix} {
			if ok, err := exists(p.s.fs, p.path(name)); err != nil {
				return "", err
			} else if ok {
				id = ""
				break
			}
		}
		if id != "" {
			return id, nil
		}
	}
}

// List returns the sound snapshots, newest first. Damaged ones are left out. A
// snapshot of a newer release gives a *FormatError.
func (p *SnapshotStore) List() ([]*raft.SnapshotMeta, error) {
	if err := p.s.enter(); err != nil {
		return nil, err
	}
	defer p.s.leave()
	p.listing.Lock()
	defer p.listing.Unlock()
	metas, err := p.soundOnes(p.s.opts.RetainSnapshots)
	out := make([]*raft.SnapshotMeta, 0, len(metas))
	for _, m := range metas {
		out = append(out, &m.SnapshotMeta)
	}
	return out, err
}

// newest returns index and term of the newest sound snapshot, 0 if none.
func (p *SnapshotStore) newest() (index, term uint64, err error) {
	p.listing.Lock()
	defer p.listing.Unlock()
	metas, err := p.soundOnes(1)
	if err != nil || len(metas) == 0 {
		return 0, 0, err
	}
	return metas[0].Index, metas[0].Term, nil
}

// soundOnes returns up to limit sound snapshots, newest first. Called with
// listing held.
func (p *SnapshotStore) soundOnes(limit int) ([]*snapMeta, error) {
	metas, err := p.readAll()
	if err != nil {
		return nil, err
	}
	var out []*snapMeta
	for _, m := range metas {
		ok, known := p.sound[m.ID]
		if !known {
			err := p.verify(m)
			if err != nil && !isDamage(err) {
				return nil, err
			}
			if err != nil {
				p.s.log.Error("snapshot is damaged and not used", "group", p.group, "snapshot", m.ID, "error", err)
			}
			ok = err == nil
			p.sound[m.ID] = ok
		}
		if ok {
			out = append(out, m)
		}
		if len(out) == limit {
			break
		}
	}
	return out, nil
}

// readAll reads the metadata of all snapshots, newest first. Those with damaged
// metadata are left out. What an interrupted Create left is removed, once.
func (p *SnapshotStore) readAll() ([]*snapMeta, error) {
	names, err := p.s.fs.List(p.dir)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p.once.Do(func() { err = p.removeLeftovers(names) })
	if err != nil {
		return nil, err
	}
	var metas []*snapMeta
	for _, name := range names {
		if strings.HasSuffix(name, tmpSuffix) || p.isKnownBad(name) {
			continue
		}
		m, err := p.readMeta(name)
		var damaged *SnapshotError
		if errors.As(err, &damaged) {
			p.s.log.Error("snapshot is damaged and not used", "group", p.group, "snapshot", name, "error", err)
			p.sound[name] = false
			continue
		}
		if err != nil {
			return nil, err
		}
		metas = append(metas, m)
	}
	slices.SortFunc(metas, func(a, b *snapMeta) int {
		switch {
		case a.Index != b.Index:
			return compare(b.Index, a.Index)
		case a.Term != b.Term:
			return compare(b.Term, a.Term)
		default:
			return strings.Compare(b.ID, a.ID)
		}
	})
	return metas, nil
}

func compare(a, b uint64) int {
	if a < b {
		return -1
	}
	return 1
}

func (p *SnapshotStore) isKnownBad(id string) bool {
	ok, known := p.sound[id]
	return known && !ok
}

func (p *SnapshotStore) removeLeftovers(names []string) error {
	for _, name := range names {
		if strings.HasSuffix(name, tmpSuffix) {
			if err := p.s.fs.RemoveAll(p.path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// readMeta returns a *SnapshotError for metadata that fail their check.
func (p *SnapshotStore) readMeta(id string) (*snapMeta, error) {
	bad := func(reason string, err error) error {
		return &SnapshotError{Group: p.group, ID: id, Reason: reason, Err: err}
	}
	path := p.path(id, metaFile)
	b, err := readFile(p.s.fs, path)
	if missing(err) {
		return nil, bad("it has no metadata", err)
	}
	if err != nil {
		return nil, err
	}
	if len(b) < stableHeader || binary.BigEndian.Uint32(b[1:]) != stableCRC(p.group, []byte(id), b[0], b[stableHeader:]) {
		return nil, bad("checksum of the metadata does not match", nil)
	}
	if b[0] != formatVersion {
		return nil, &FormatError{Path: path, Version: int(b[0])}
	}
	m := &snapMeta{}
	if err := json.Unmarshal(b[stableHeader:], m); err != nil {
		return nil, bad("metadata cannot be parsed", err)
	}
	return m, nil
}

// verify reads the whole state.
func (p *SnapshotStore) verify(m *snapMeta) error {
	f, err := p.s.fs.Open(p.path(m.ID, stateFile))
	if err != nil {
		return &SnapshotError{Group: p.group, ID: m.ID, Reason: "state cannot be opened", Err: err}
	}
	r := &snapReader{store: p, meta: m, file: f, crc: keyCRC(p.group, 0, formatVersion)}
	_, err = io.CopyBuffer(io.Discard, onlyReader{r}, make([]byte, 256<<10))
	return errors.Join(err, f.Close())
}

// onlyReader hides everything but Read from io.Copy.
type onlyReader struct{ io.Reader }

// Open returns a snapshot after its whole state was checked. The reader checks
// again while it is read: it ends in a *SnapshotError instead of io.EOF when the
// bytes were not those that were written.
func (p *SnapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if err := p.s.enter(); err != nil {
		return nil, nil, err
	}
	defer p.s.leave()
	p.listing.Lock()
	defer p.listing.Unlock()
	m, err := p.readMeta(id)
	if err != nil {
		return nil, nil, err
	}
	err = p.verify(m)
	p.sound[id] = err == nil
	if err != nil {
		return nil, nil, err
	}
	f, err := p.s.fs.Open(p.path(id, stateFile))
	if err != nil {
		return nil, nil, err
	}
	r := &snapReader{store: p, meta: m, file: f, crc: keyCRC(p.group, 0, formatVersion)}
	return &m.SnapshotMeta, &bufferedSnap{Reader: bufio.NewReaderSize(r, 64<<10), file: f}, nil
}

type bufferedSnap struct {
	*bufio.Reader
	file   vfs.File
	closed sync.Once
}

// Close may be called twice: Raft closes what the FSM has already closed.
func (b *bufferedSnap) Close() (err error) {
	b.closed.Do(func() { err = b.file.Close() })
	return err
}

// snapReader checks size and CRC of the state when it reaches the end.
type snapReader struct {
	store *SnapshotStore
	meta  *snapMeta
	file  vfs.File
	crc   uint32
	n     int64
}

func (r *snapReader) Read(b []byte) (int, error) {
	n, err := r.file.Read(b)
	r.crc = crc32.Update(r.crc, castagnoli, b[:n])
	r.n += int64(n)
	if errors.Is(err, io.EOF) && (r.n != r.meta.Size || r.crc != r.meta.CRC) {
		err = &SnapshotError{Group: r.store.group, ID: r.meta.ID,
			Reason: fmt.Sprintf("state has %d bytes with checksum %08x, should be %d with %08x", r.n, r.crc, r.meta.Size, r.meta.CRC)}
	}
	return n, err
}

// Bytes returns the disk space of all snapshots of the group.
func (p *SnapshotStore) Bytes() (int64, error) {
	p.listing.Lock()
	defer p.listing.Unlock()
	names, err := p.s.fs.List(p.dir)
	if err != nil {
		return 0, ignoreMissing(err)
	}
	var total int64
	for _, name := range names {
		for _, file := range []string{stateFile, metaFile} {
			st, err := p.s.fs.Stat(p.path(name, file))
			if err == nil {
				total += st.Size()
			} else if !missing(err) {
				return 0, err
			}
		}
	}
	return total, nil
}

// reap removes all but the newest sound snapshots, damaged ones included: they
// are of no use once a newer one is in place. Called with listing held.
func (p *SnapshotStore) reap() error {
	keep, err := p.soundOnes(p.s.opts.RetainSnapshots)
	if err != nil {
		return err
	}
	names, err := p.s.fs.List(p.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		kept := slices.ContainsFunc(keep, func(m *snapMeta) bool { return m.ID == name })
		if kept || strings.HasSuffix(name, tmpSuffix) {
			continue
		}
		if err := p.s.fs.RemoveAll(p.path(name)); err != nil {
			return err
		}
		delete(p.sound, name)
	}
	return syncDir(p.s.fs, p.dir)
}

// wipe durably removes all snapshots of the group.
func (p *SnapshotStore) wipe() error {
	p.listing.Lock()
	defer p.listing.Unlock()
	ok, err := exists(p.s.fs, p.dir)
	if err != nil || !ok {
		return err
	}
	if err := p.s.fs.RemoveAll(p.dir); err != nil {
		return err
	}
	clear(p.sound)
	return syncDir(p.s.fs, p.s.path(snapRoot))
}
