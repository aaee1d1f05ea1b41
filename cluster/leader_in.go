package cluster

import (
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// source is what a leader keeps for one lane that ends here. The state machine
// applies the lane rule; this only keeps repeats and gaps out of the log.
type source struct {
	id       uint64
	node     string // where its frames come from
	term     uint64 // of the source partition's leader
	proposed uint64 // highest number that is proposed or applied
	told     uint64 // highest mark that an answer has gone out for
	confirm  uint64
	stored   bool // results are stored since confirm

	mark    uint64 // to tell; above told: an answer is due
	results []*peerpb.LaneResult
}

func (ld *leader) source(id uint64) (s *source, closed bool) {
	if s := ld.sources[id]; s != nil {
		return s, false
	}
	var mark uint64
	ld.r.sm.read(func(m *fsm.Machine) { mark, closed = m.Mark(id) })
	if closed {
		return nil, true
	}
	s = &source{id: id, proposed: mark, told: mark, mark: mark, stored: true}
	ld.sources[id] = s
	return s, false
}

// Kinds of ops by the field number of Op.body, which an encoded op begins with.
const (
	kindPublish = 5
	kindReceive = 6
)

func opKind(op []byte) byte {
	if len(op) == 0 {
		return 0
	}
	return op[0] >> 3
}

// items takes a frame of lane items.
func (ld *leader) items(from string, f *peerpb.LaneItems) {
	s, closed := ld.source(f.Lane.Source)
	if closed || (!isPartition(f.Lane.Source) && ld.n.gatewayClosed(f.Lane.Source) && !mutant.MarksForgotten) {
		ld.answer(from, f.Lane, f.Term, &peerpb.LaneAnswer{Status: peerpb.LaneAnswer_CLOSED})
		return
	}
	s.node, s.term = from, f.Term
	if f.Confirmed > s.confirm {
		s.confirm = f.Confirmed
		if s.stored {
			ld.confirms = append(ld.confirms, &logpb.Confirm{Source: s.id, Seq: s.confirm})
			s.stored = false
		}
	}
	repeated, gap := false, false
	refuse := ld.refuse || ld.n.lowDisk(from) // a node with a low disk takes nothing from its clients
	for _, it := range f.Items {
		if it.Seq <= s.proposed {
			repeated = true
			continue
		}
		if it.Prev > s.proposed && !(mutant.MarkApart || mutant.MarksForgotten && s.proposed == 0) {
			gap = true
			break
		}
		op := &logpb.LaneOp{Source: s.id, Seq: it.Seq, Prev: it.Prev, Op: it.Op}
		if err := fsm.Validate(it.Op, s.id, false); err != nil {
			// Applying it would stop every replica. A peer of a newer release
			// must not send what not every member knows.
			ld.n.log.Error("refused an op of a peer", "partition", ld.r.partition, "from", from, "error", err)
			ld.n.metrics.OpsRefused.Add(1)
			return
		}
		if k := opKind(it.Op); refuse && (k == kindPublish || k == kindReceive) && !isPartition(s.id) {
			op.Refuse = fsm.CodeQuota
			ld.n.metrics.PublishRefused.Add(1)
		}
		ld.pending = append(ld.pending, op)
		ld.pendingBytes += len(it.Op)
		s.proposed = it.Seq
	}
	if repeated {
		ld.repeat(from, f, s)
	}
	if gap {
		ld.answer(from, f.Lane, f.Term, &peerpb.LaneAnswer{Status: peerpb.LaneAnswer_GAP, Mark: s.proposed})
	}
}

// repeat answers items that were taken before with their stored results.
func (ld *leader) repeat(from string, f *peerpb.LaneItems, s *source) {
	a := &peerpb.LaneAnswer{Base: f.Confirmed}
	ld.r.sm.read(func(m *fsm.Machine) {
		a.Mark, _ = m.Mark(s.id)
		if mutant.MarkApart {
			a.Mark = s.mark
		}
		for _, r := range m.StoredResults(s.id, f.Confirmed) {
			a.Results = append(a.Results, &peerpb.LaneResult{Seq: r.Seq, Code: r.Code, Result: r.Bytes})
		}
	})
	if a.Mark > f.Confirmed {
		ld.answer(from, f.Lane, f.Term, a)
	}
}

// results notes what there is to answer after an entry.
func (ld *leader) results(rs []fsm.Result) {
	for i := range rs {
		r := &rs[i]
		if r.Seq == 0 { // an op of our own
			if then := ld.owned[0]; then != nil {
				then(true)
			}
			ld.owned = ld.owned[1:]
			continue
		}
		s := ld.sources[r.Source]
		if s == nil {
			continue // it ended in the same entry
		}
		switch r.Status {
		case fsm.Taken:
			if s.mark == s.told {
				ld.dirty = append(ld.dirty, s)
			}
			s.mark = r.Seq
			if r.Code != fsm.CodeOK || r.Bytes != nil {
				s.stored = true
				s.results = append(s.results, &peerpb.LaneResult{Seq: r.Seq, Code: r.Code, Result: r.Bytes})
			}
		case fsm.Closed:
			ld.answer(s.node, &peerpb.Lane{Source: s.id, Destination: uint64(ld.r.partition)}, s.term,
				&peerpb.LaneAnswer{Status: peerpb.LaneAnswer_CLOSED})
			delete(ld.sources, s.id)
		default:
			// A repeat or a gap can be in the log only if what we keep of the
			// source is wrong; the state knows.
			delete(ld.sources, s.id)
		}
	}
}

func (ld *leader) flushAnswers() {
	for _, s := range ld.dirty {
		if s.mark == s.told {
			continue
		}
		ld.answer(s.node, &peerpb.Lane{Source: s.id, Destination: uint64(ld.r.partition)}, s.term,
			&peerpb.LaneAnswer{Base: s.told, Mark: s.mark, Results: s.results})
		s.told, s.results = s.mark, nil
	}
	ld.dirty = ld.dirty[:0]
}

func (ld *leader) answer(node string, lane *peerpb.Lane, sourceTerm uint64, a *peerpb.LaneAnswer) {
	a.Lane, a.Term, a.SourceTerm = lane, ld.term, sourceTerm
	ld.n.send(node, &peerpb.Frame{Body: &peerpb.Frame_LaneAnswer{LaneAnswer: a}})
}
