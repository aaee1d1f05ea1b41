package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	logDir     = "log"
	rebuiltDir = "log.rebuilt"
	// quarantinePrefix names damaged log stores; the newest two are kept.
	quarantinePrefix = "quarantine-"
	keepQuarantines  = 2
)

func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// isDamage tells damaged files from a disk or a system that refuses: moving
// files aside helps against the first only.
func isDamage(err error) bool {
	var no syscall.Errno
	if errors.As(err, &no) && no != syscall.ENOENT {
		return false
	}
	return true
}

// openLog opens the Pebble store and reads every log in it. A damaged one is
// rebuilt when Options.Repair allows it.
func (s *Store) openLog() error {
	if err := s.finishRebuild(); err != nil {
		return err
	}
	if err := s.openPebbleOrQuarantine(); err != nil {
		return err
	}
	bad, err := s.scanAll()
	if err != nil {
		return err
	}
	if len(bad) == 0 && !s.marks.head().rebuild && !s.damaged.Load() {
		return nil
	}
	if !s.opts.Repair {
		return s.damagedLog(fmt.Errorf("unreadable in groups %v", bad))
	}
	s.log.Error("log store is damaged, rebuilding it from what is whole", "unreadable_groups", bad)
	return s.rebuild(bad)
}

func (s *Store) damagedLog(err error) error {
	return &DamagedError{Path: s.path(logDir), What: "log store", Err: err}
}

func (s *Store) openPebbleOrQuarantine() error {
	// A version that this Pebble does not know is no damage.
	if _, err := pebble.Peek(s.path(logDir), s.fs); err != nil && !missing(err) {
		return fmt.Errorf("log store of an unknown format: %w", err)
	}
	var err error
	s.db, err = s.openPebble(s.path(logDir))
	if err != nil && isDamage(err) && s.opts.Repair {
		// The options are a note about how the store was opened last; a damaged
		// note must not cost all replicas.
		if err := s.removeOptions(); err != nil {
			return err
		}
		s.db, err = s.openPebble(s.path(logDir))
	}
	if err == nil || !isDamage(err) {
		return err
	}
	used := slices.ContainsFunc(s.marks.all(), func(m mark) bool { return !m.empty() })
	if !used {
		// A first start that was interrupted: nothing was acknowledged.
		s.log.Warn("log store of an interrupted first start is created anew", "error", err)
		if err := s.fs.RemoveAll(s.path(logDir)); err != nil {
			return err
		}
	} else {
		if !s.opts.Repair {
			return s.damagedLog(err)
		}
		s.log.Error("log store is damaged beyond opening, all its replicas are set aside", "error", err)
		if err := s.markSetAside(func(m *mark) bool { return !m.empty() }); err != nil {
			return err
		}
		if err := s.moveAside(); err != nil {
			return err
		}
	}
	s.db, err = s.openPebble(s.path(logDir))
	return err
}

func (s *Store) removeOptions() error {
	names, err := s.fs.List(s.path(logDir))
	if err != nil {
		return ignoreMissing(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "OPTIONS-") {
			if err := s.fs.Remove(s.path(logDir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// markSetAside durably sets aside the groups in Pebble that which selects.
func (s *Store) markSetAside(which func(*mark) bool) error {
	return s.marks.updateAll(func(m *mark) {
		if !s.inBolt(m.group) && which(m) {
			m.setAside = true
		}
	})
}

// moveAside renames the log store to the next free quarantine-N.
func (s *Store) moveAside() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	var nums []int
	for _, name := range names {
		if n, err := strconv.Atoi(strings.TrimPrefix(name, quarantinePrefix)); err == nil && strings.HasPrefix(name, quarantinePrefix) {
			nums = append(nums, n)
		}
	}
	slices.Sort(nums)
	next := 1
	if len(nums) > 0 {
		next = nums[len(nums)-1] + 1
	}
	name := func(n int) string { return s.path(quarantinePrefix + strconv.Itoa(n)) }
	if err := s.fs.Rename(s.path(logDir), name(next)); err != nil {
		return err
	}
	for ; len(nums) >= keepQuarantines; nums = nums[1:] {
		if err := s.fs.RemoveAll(name(nums[0])); err != nil {
			return err
		}
	}
	s.log.Warn("damaged log store was moved aside", "to", name(next))
	return syncDir(s.fs, s.dir)
}

// scanAll reads the logs of all groups in Pebble that are not set aside, and
// returns those that cannot be read.
func (s *Store) scanAll() (bad []uint32, err error) {
	for _, m := range s.marks.all() {
		if m.setAside || s.inBolt(m.group) {
			continue
		}
		be := &pebbleBackend{s: s, db: s.db, group: m.group}
		r, err := scanLog(be, m.group, m.last)
		var format *FormatError
		switch {
		case errors.As(err, &format):
			return nil, err
		case err != nil && !isDamage(err):
			return nil, err
		case err != nil:
			s.log.Error("log cannot be read", "group", m.group, "error", err)
			bad = append(bad, m.group)
		default:
			s.scans[m.group] = r
		}
	}
	return bad, nil
}

// rebuild copies every group that can be read into a new Pebble store, sets the
// others aside and puts the new store in the place of the damaged one.
func (s *Store) rebuild(bad []uint32) error {
	dir := s.path(rebuiltDir)
	fresh, err := s.openPebble(dir)
	if err != nil {
		return err
	}
	for _, m := range s.marks.all() {
		if m.setAside || s.inBolt(m.group) || slices.Contains(bad, m.group) {
			continue
		}
		err := s.copyGroup(fresh, m.group)
		if err != nil && isDamage(err) && !errors.Is(err, errTarget) {
			s.log.Error("group cannot be copied", "group", m.group, "error", err)
			bad = append(bad, m.group)
			err = wipeGroup(fresh, m.group)
		}
		if err != nil {
			return errors.Join(err, closePebble(fresh))
		}
	}
	if err := errors.Join(fresh.LogData(nil, pebble.Sync), s.failed(), closePebble(fresh)); err != nil {
		return err
	}
	if err := s.markSetAside(func(m *mark) bool { return slices.Contains(bad, m.group) }); err != nil {
		return err
	}
	for _, group := range bad {
		delete(s.scans, group)
	}
	// The damaged store may complain while closing; it is given up anyway.
	if err := closePebble(s.db); err != nil {
		s.log.Warn("closing the damaged log store", "error", err)
	}
	s.db = nil
	s.failure.Store(nil)
	s.damaged.Store(false)
	if err := s.moveAside(); err != nil {
		return err
	}
	if err := s.finishRebuild(); err != nil {
		return err
	}
	if err := s.marks.updateHeader(func(h *markHeader) { h.rebuild = false }); err != nil {
		return err
	}
	s.db, err = s.openPebble(s.path(logDir))
	return err
}

// finishRebuild completes or discards a rebuilding that was interrupted. While
// the old store is in place the new one may be incomplete.
func (s *Store) finishRebuild() error {
	fresh, err := exists(s.fs, s.path(rebuiltDir))
	if err != nil || !fresh {
		return err
	}
	old, err := exists(s.fs, s.path(logDir))
	if err != nil {
		return err
	}
	if old {
		err = s.fs.RemoveAll(s.path(rebuiltDir))
	} else {
		err = s.fs.Rename(s.path(rebuiltDir), s.path(logDir))
	}
	if err != nil {
		return err
	}
	return syncDir(s.fs, s.dir)
}

// errTarget marks an error of the store that is copied to.
var errTarget = errors.New("writing the rebuilt log store")

// copyGroup copies all keys of a group. The entries keep their checksums.
func (s *Store) copyGroup(to *pebble.DB, group uint32) error {
	lo, hi := groupRange(group)
	full := s.slow.space.Load()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return err
	}
	batch := to.NewBatch()
	flush := func() error {
		defer func() { batch = to.NewBatch() }()
		err := errors.Join(batch.Commit(pebble.NoSync), batch.Close(), s.failed())
		if err == nil && s.slow.space.Load() != full {
			// Pebble would wait for space, and Open with it.
			err = syscall.ENOSPC
		}
		if err != nil {
			return errors.Join(errTarget, err)
		}
		return nil
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var v []byte
		if v, err = it.ValueAndErr(); err != nil {
			break
		}
		if err = batch.Set(bytes.Clone(it.Key()), v, nil); err == nil && batch.Len() > maxBatch {
			err = flush()
		}
	}
	if err == nil && it.Error() == nil {
		err = flush()
	}
	return errors.Join(err, it.Close(), batch.Close())
}

func wipeGroup(db *pebble.DB, group uint32) error {
	from, to := groupRange(group)
	return db.DeleteRange(from, to, pebble.Sync)
}

// inBolt reports whether the group's log is kept in bolt, not in Pebble: bolt
// maps its file into memory and so needs a real disk.
func (s *Store) inBolt(group uint32) bool {
	return group == ControlGroup && s.opts.FS == vfs.Default
}
