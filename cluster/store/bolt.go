package store

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

const boltFile = "control.bolt"

// OpenControl opens the log of the control group, which has the same checks and
// the same marks as the other groups and is named by ControlGroup in SetAside,
// ReplicaIncarnation and Snapshots. On a real disk it is a raft-boltdb file; on
// any other file system, as in a simulation, one more group of the shared store,
// since bolt maps its file into memory.
func (s *Store) OpenControl() (*Group, error) {
	if !s.inBolt(ControlGroup) {
		return s.Group(ControlGroup)
	}
	return s.openGroup(ControlGroup, func() (backend, *scanResult, error) {
		be, err := s.openBolt()
		if err != nil {
			return nil, nil, err
		}
		m, _ := s.marks.get(ControlGroup)
		r, err := scanLog(be, ControlGroup, m.last)
		return be, r, err
	})
}

// openBolt opens the file once; it stays open until wipeBolt or Close.
func (s *Store) openBolt() (*boltBackend, error) {
	if s.bolt != nil {
		return s.bolt, nil
	}
	b := &boltBackend{group: ControlGroup}
	err := b.guard(func() (err error) {
		b.db, err = raftboltdb.New(raftboltdb.Options{
			Path: s.path(boltFile),
			// The folder's own lock keeps others out; do not wait for ever.
			BoltOptions: &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType},
		})
		return err
	})
	if err == nil {
		// bolt syncs the file, not its entry in the folder.
		err = syncDir(s.fs, s.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(boltFile), err)
	}
	s.bolt = b
	return b, nil
}

func (s *Store) wipeBolt() error {
	if s.bolt != nil {
		if err := s.bolt.close(); err != nil {
			s.log.Warn("closing the control group's log", "error", err)
		}
		s.bolt = nil
	}
	if err := ignoreMissing(s.fs.Remove(s.path(boltFile))); err != nil {
		return err
	}
	return syncDir(s.fs, s.dir)
}

// boltBackend keeps a group in a raft-boltdb file. raft-boltdb returns flipped
// bits as valid entries, so the checked form of an entry is stored as the data
// of the entry that raft-boltdb sees.
type boltBackend struct {
	group uint32
	db    *raftboltdb.BoltStore
}

// guard turns bolt's panics on damaged pages into errors, and also the faults
// of reading beyond the end of a file that was cut while bolt maps more of it.
func (b *boltBackend) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("bolt panicked: %v", r)
		}
	}()
	return fn()
}

func (b *boltBackend) close() error { return b.guard(b.db.Close) }

func (b *boltBackend) append(logs []*raft.Log, prevTerm uint64) error {
	framed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		v := make([]byte, entrySize(l))
		encodeEntry(v, b.group, prevTerm, l)
		framed[i] = &raft.Log{Index: l.Index, Term: l.Term, Type: l.Type, Data: v}
		prevTerm = l.Term
	}
	return b.guard(func() error { return b.db.StoreLogs(framed) })
}

func (b *boltBackend) read(index uint64) ([]byte, error) {
	var l raft.Log
	err := b.guard(func() error { return b.db.GetLog(index, &l) })
	if errors.Is(err, raft.ErrLogNotFound) {
		return nil, nil
	}
	return l.Data, err
}

// delete is always durable in bolt.
func (b *boltBackend) delete(min, max uint64, _ bool) error {
	return b.guard(func() error { return b.db.DeleteRange(min, max) })
}

func (b *boltBackend) scan(fn func(index uint64, v []byte) bool) error {
	var first, last uint64
	err := b.guard(func() (err error) {
		if first, err = b.db.FirstIndex(); err != nil {
			return err
		}
		last, err = b.db.LastIndex()
		return err
	})
	if err != nil || first == 0 {
		return err
	}
	if last < first {
		return fmt.Errorf("log of group %d runs from %d to %d", b.group, first, last)
	}
	for i := first; i <= last; i++ {
		v, err := b.read(i)
		if err != nil {
			return err
		}
		// A gap ends in the check of an empty value.
		if !fn(i, v) {
			return nil
		}
	}
	return nil
}

func (b *boltBackend) setStable(key, framed []byte) error {
	return b.guard(func() error { return b.db.Set(key, framed) })
}

func (b *boltBackend) stable(key []byte) ([]byte, error) {
	var v []byte
	err := b.guard(func() (err error) {
		v, err = b.db.Get(key)
		return err
	})
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil, nil
	}
	return v, err
}

// wipe is done by removing the file; see Store.wipeBolt.
func (b *boltBackend) wipe() error {
	return b.delete(0, ^uint64(0), true)
}
