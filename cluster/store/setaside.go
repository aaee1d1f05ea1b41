package store

import (
	"errors"
	"fmt"
)

// Group opens the log of a group, creating it if it is new. The same Group is
// returned for later calls. A replica that has lost something it acknowledged
// gives a *QuarantineError, now and after every restart, until SetAside.
//
// The group's snapshots must be kept in Snapshots(id): whether the log is whole
// depends on them.
func (s *Store) Group(id uint32) (*Group, error) {
	if s.inBolt(id) {
		return nil, fmt.Errorf("group %d is the control group: use OpenControl", id)
	}
	return s.openGroup(id, func() (backend, *scanResult, error) {
		be := &pebbleBackend{s: s, db: s.db, group: id}
		s.mu.Lock()
		r := s.scans[id]
		delete(s.scans, id)
		s.mu.Unlock()
		if r != nil {
			return be, r, nil
		}
		m, _ := s.marks.get(id)
		r, err := scanLog(be, id, m.last)
		return be, r, err
	})
}

// openGroup judges what open finds and cuts a torn tail.
func (s *Store) openGroup(id uint32, open func() (backend, *scanResult, error)) (*Group, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	s.groupLock.Lock()
	defer s.groupLock.Unlock()
	if err := s.failed(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	g := s.groups[id]
	s.mu.Unlock()
	if g != nil {
		return g, nil
	}
	if err := s.marks.ensure(id); err != nil {
		return nil, s.failIf(err)
	}
	m, _ := s.marks.get(id)
	if m.setAside {
		return nil, &QuarantineError{Group: id, Reason: "it was set aside before and has not been wiped yet"}
	}
	snap, _, err := s.Snapshots(id).newest()
	if err != nil {
		return nil, err
	}
	be, r, err := open()
	var format *FormatError
	if errors.As(err, &format) || (err != nil && !isDamage(err)) {
		return nil, err
	}
	if err != nil {
		return nil, s.quarantine(&QuarantineError{Group: id, Reason: "the log cannot be read", Err: err})
	}
	g = &Group{s: s, id: id, be: be, writing: newLock(), cache: logCache{limit: s.opts.CacheBytes}}
	if q := r.judge(m, snap); q != nil {
		return nil, s.quarantine(q)
	}
	if err := g.judgeVote(m); errors.As(err, &format) {
		return nil, err
	} else if err != nil {
		return nil, s.quarantine(&QuarantineError{Group: id, Reason: "stable values are damaged or old", Err: err})
	}
	if err := g.settle(m, r, snap); err != nil {
		return nil, s.failIf(err)
	}
	s.mu.Lock()
	s.groups[id] = g
	s.mu.Unlock()
	return g, nil
}

// settle makes disk, mark and memory agree after the log was found sound.
func (g *Group) settle(m mark, r *scanResult, snap uint64) error {
	if r.defect != nil {
		g.s.log.Warn("torn tail of the log is cut", "group", g.id, "last", r.last, "acknowledged", m.last, "found", r.defect)
		if err := g.be.delete(r.defect.Index, ^uint64(0), true); err != nil {
			return err
		}
	}
	first, last, term := r.first, r.last, r.lastTerm
	if last > 0 && snap > last {
		// The process ended between installing a snapshot and removing the log
		// before it. Raft will go on behind the snapshot, which would leave a gap.
		if err := g.s.marks.update(g.id, func(m *mark) { m.last, m.lastTerm = 0, 0 }); err != nil {
			return err
		}
		if err := g.be.delete(0, ^uint64(0), true); err != nil {
			return err
		}
		first, last, term, r.sizes = 0, 0, 0, logSizes{}
	} else if last != m.last {
		// Raft acknowledges entries that it finds in its log without storing
		// them again, so from here on they must not be lost.
		if err := g.s.marks.update(g.id, func(m *mark) { m.last, m.lastTerm = last, term }); err != nil {
			return err
		}
	}
	g.first, g.last, g.lastTerm, g.sizes = first, last, term, r.sizes
	return nil
}

// quarantine remembers durably that the replica is set aside.
func (s *Store) quarantine(q *QuarantineError) error {
	s.log.Error("replica is set aside", "group", q.Group, "reason", q.Reason, "error", q.Err)
	if err := s.marks.update(q.Group, func(m *mark) { m.setAside = true }); err != nil {
		return errors.Join(q, s.failIf(err))
	}
	return q
}

// Distrust sets a replica aside durably though its log is sound: at the next start
// Group gives a *QuarantineError. Raft may be running on it.
func (s *Store) Distrust(group uint32, reason string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.marks.ensure(group); err != nil {
		return s.failIf(err)
	}
	s.log.Error("replica is set aside", "group", group, "reason", reason)
	return s.failIf(s.marks.update(group, func(m *mark) { m.setAside = true }))
}

// ReplicaIncarnation returns the incarnation that belongs in the server id of
// the group's replica on this disk: the disk's, until SetAside draws another.
func (s *Store) ReplicaIncarnation(group uint32) uint64 {
	if m, ok := s.marks.get(group); ok && m.incarnation != 0 {
		return m.incarnation
	}
	return s.marks.head().incarnation
}

// SetAside wipes all that is stored of a group and draws a new incarnation for
// its replica, which thereby becomes a new server. Raft must not be running on
// the group; a Group opened before is of no use any more. A crash in between
// leaves the group set aside.
func (s *Store) SetAside(group uint32) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.groupLock.Lock()
	defer s.groupLock.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	s.mu.Lock()
	g := s.groups[group]
	delete(s.groups, group)
	delete(s.scans, group)
	s.mu.Unlock()
	if g != nil {
		g.gone.Store(true)
		g.writing.Lock() // waits for a running write; later ones see gone
		//lint:ignore SA2001 locked only to wait
		g.writing.Unlock()
	}
	if err := s.failIf(s.setAside(group)); err != nil {
		return err
	}
	s.log.Warn("replica was wiped and starts anew", "group", group, "incarnation", fmt.Sprintf("%016x", s.ReplicaIncarnation(group)))
	return nil
}

func (s *Store) setAside(group uint32) error {
	if err := s.marks.ensure(group); err != nil {
		return err
	}
	if err := s.marks.update(group, func(m *mark) { m.setAside = true }); err != nil {
		return err
	}
	if s.inBolt(group) {
		if err := s.wipeBolt(); err != nil {
			return err
		}
	} else if err := (&pebbleBackend{s: s, db: s.db, group: group}).wipe(); err != nil {
		return err
	}
	if err := s.Snapshots(group).wipe(); err != nil {
		return err
	}
	fresh := mark{used: true, group: group, incarnation: s.opts.Incarnation()}
	return s.marks.update(group, func(m *mark) { *m = fresh })
}

// Quarantined returns the groups that are set aside now, in no order. Others may
// turn out to be when they are opened.
func (s *Store) Quarantined() []uint32 {
	var out []uint32
	for _, m := range s.marks.all() {
		if m.setAside {
			out = append(out, m.group)
		}
	}
	return out
}

// Groups returns the groups of which anything was ever stored on this disk.
func (s *Store) Groups() []uint32 {
	var out []uint32
	for _, m := range s.marks.all() {
		if m.setAside || !m.empty() {
			out = append(out, m.group)
		}
	}
	return out
}
