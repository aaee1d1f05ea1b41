package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
)

// scanResult is what a reading of a whole log found.
type scanResult struct {
	first, last uint64 // bounds of the sound run, 0 if there is none
	lastTerm    uint64
	markTerm    uint64 // term of the entry at the mark, 0 if it was not met
	sizes       logSizes
	defect      *CorruptError // what ended the run before the end of the log
}

// scanLog reads a group's log up to the first defect: an entry that fails its
// check, a gap, or one that does not follow the one before. The error is of the
// file that cannot be read, or a *FormatError.
func scanLog(be backend, group uint32, markAt uint64) (*scanResult, error) {
	r := &scanResult{}
	var format error
	err := be.scan(func(index uint64, v []byte) bool {
		t, err := checkEntry(v, group, index)
		if err == nil {
			err = r.follow(group, index, t)
		}
		if err != nil && !errors.As(err, &r.defect) {
			format = err
		}
		if err != nil {
			return false
		}
		if r.first == 0 {
			r.first = index
		}
		r.last, r.lastTerm = index, t.term
		if index == markAt {
			r.markTerm = t.term
		}
		r.sizes.add(index, len(v)+logKeyLen)
		return true
	})
	if err == nil {
		err = format
	}
	return r, err
}

// follow checks that the entry follows the last one.
func (r *scanResult) follow(group uint32, index uint64, t entryTerms) error {
	bad := func(at uint64, format string, args ...any) error {
		return &CorruptError{Group: group, Index: at, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case index == 0:
		return bad(0, "there is no entry 0")
	case r.first == 0:
		return nil
	case index != r.last+1:
		return bad(r.last+1, "it is missing, the next is %d", index)
	case t.prevTerm != r.lastTerm:
		return bad(index, "it follows an entry of term %d, but the one before it is of term %d", t.prevTerm, r.lastTerm)
	case t.term < r.lastTerm:
		return bad(index, "its term %d is older than term %d before it", t.term, r.lastTerm)
	}
	return nil
}

// judge decides whether a replica may go on with what was found, given its mark
// and the newest sound snapshot. nil: it may, after cutting what lies behind
// r.last. Otherwise it has lost something it acknowledged.
func (r *scanResult) judge(m mark, snap uint64) *QuarantineError {
	lost := func(err error, format string, args ...any) *QuarantineError {
		return &QuarantineError{Group: m.group, Reason: fmt.Sprintf(format, args...), Err: err}
	}
	switch {
	case mutant.ShortLogAccepted && r.defect == nil:
		return nil
	case r.defect != nil && r.defect.Index <= m.last:
		return lost(r.defect, "an acknowledged entry is damaged")
	case r.last < m.last:
		return lost(nil, "the log ends at %d, but entries up to %d were acknowledged", r.last, m.last)
	case m.last > 0 && m.last < r.first:
		return lost(nil, "the log begins at %d, behind the last acknowledged entry %d", r.first, m.last)
	case m.last > 0 && r.markTerm != m.lastTerm:
		return lost(nil, "entry %d is of term %d, but one of term %d was acknowledged", m.last, r.markTerm, m.lastTerm)
	case r.first > snap+1:
		return lost(nil, "the log begins at %d, but the newest sound snapshot ends at %d", r.first, snap)
	case max(r.last, snap) < m.snap:
		return lost(nil, "the snapshot at %d is gone, and what is left ends at %d", m.snap, max(r.last, snap))
	}
	return nil
}

// judgeVote compares Raft's term and vote with the mark.
func (g *Group) judgeVote(m mark) error {
	term, err := g.storedUint64(keyCurrentTerm)
	if err != nil {
		return err
	}
	if g.voteTerm, err = g.storedUint64(keyLastVoteTerm); err != nil {
		return err
	}
	cand, err := g.readStable(keyLastVoteCand)
	if err != nil {
		return err
	}
	switch hash := sha256.Sum256(cand); {
	case term < m.term:
		err = fmt.Errorf("stored term is %d, but term %d was acknowledged", term, m.term)
	case g.voteTerm < m.voteTerm:
		err = fmt.Errorf("stored vote is of term %d, but one of term %d was given", g.voteTerm, m.voteTerm)
	case m.voteTerm > 0 && g.voteTerm == m.voteTerm && !bytes.Equal(hash[:], m.voteHash[:]):
		err = fmt.Errorf("stored vote of term %d is not the one that was given", m.voteTerm)
	}
	if err != nil {
		return &CorruptError{Group: g.id, Reason: "the term or the vote was lost", Err: err}
	}
	return nil
}

func (g *Group) storedUint64(key []byte) (uint64, error) {
	b, err := g.readStable(key)
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, &CorruptError{Group: g.id, Reason: fmt.Sprintf("value of %q is no number", key)}
	}
	return binary.BigEndian.Uint64(b), nil
}
