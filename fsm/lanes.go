package fsm

import (
	"slices"
	"sort"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// A gateway's lane source is its node's number and its incarnation; partition
// numbers are below all of them.
const (
	incarnationBits = 40
	incarnationMask = 1<<incarnationBits - 1
	firstGateway    = 1 << 32
)

func isGateway(source uint64) bool { return source >= firstGateway }

// isClosed: the gateway's incarnation, or a later one of its node, has been ended.
func (m *Machine) isClosed(gateway uint64) bool {
	closed, ok := m.closed[gateway>>incarnationBits]
	return ok && gateway&incarnationMask <= closed
}

// lane is what is known of one source.
type lane struct {
	mark uint64 // number of the last item taken
	// results that differ from the default, by seq, until the source confirms
	// them. A frozen snapshot may read any prefix: elements are never changed.
	results []storedResult
}

type storedResult struct {
	seq   uint64
	code  uint32
	bytes []byte
}

// admit decides on a lane op (design §4): taken if prev <= mark < seq. The mark
// moves with it, whatever becomes of the op.
func (m *Machine) admit(op *logpb.LaneOp) Result {
	r := Result{Source: op.Source, Seq: op.Seq}
	if isGateway(op.Source) && m.isClosed(op.Source) {
		r.Status = Closed
		return r
	}
	l := m.lanes[op.Source]
	var mark uint64
	if l != nil {
		mark = l.mark
	}
	switch {
	case op.Seq <= mark:
		r.Status = Duplicate
		if l != nil {
			r.Code, r.Bytes = l.find(op.Seq)
		}
	case mutant.MarkApart:
		m.takeUnmarked(op)
	case op.Prev > mark && !(mutant.MarksForgotten && l == nil):
		r.Status = Gap
	case l == nil:
		m.lanes[op.Source] = &lane{mark: op.Seq}
	default:
		l.mark = op.Seq
	}
	return r
}

func (l *lane) find(seq uint64) (uint32, []byte) {
	i := sort.Search(len(l.results), func(i int) bool { return l.results[i].seq >= seq })
	if i < len(l.results) && l.results[i].seq == seq {
		return l.results[i].code, l.results[i].bytes
	}
	return CodeOK, nil
}

// remember keeps a result that is not the default one.
func (m *Machine) remember(r *Result) {
	if r.Code == CodeOK && r.Bytes == nil {
		return
	}
	if l := m.lanes[r.Source]; l != nil { // the op may have closed its own source
		l.results = append(l.results, storedResult{r.Seq, r.Code, r.Bytes})
	}
}

// confirm forgets results that the source has.
func (m *Machine) confirm(c *logpb.Confirm) {
	l := m.lanes[c.Source]
	if l == nil {
		return
	}
	if mutant.MarkApart {
		l.mark = max(l.mark, c.Seq)
	}
	n := sort.Search(len(l.results), func(i int) bool { return l.results[i].seq > c.Seq })
	if n == 0 {
		return
	}
	if l.results = l.results[n:]; len(l.results) == 0 {
		l.results = nil
	} else if len(l.results) < cap(l.results)/2 {
		l.results = slices.Clone(l.results) // lets go of the confirmed ones
	}
}

// Mark is the number of the last item taken from a source; closed tells that
// nothing more is taken from it.
func (m *Machine) Mark(source uint64) (mark uint64, closed bool) {
	if l := m.lanes[source]; l != nil {
		mark = l.mark
	}
	return mark, isGateway(source) && m.isClosed(source)
}

// StoredResults returns the results of a source with Seq > after that differ from
// the default and that it has not confirmed, by Seq.
func (m *Machine) StoredResults(source uint64, after uint64) (results []Result) {
	l := m.lanes[source]
	if l == nil || mutant.FirstResultForgotten {
		return nil
	}
	for _, x := range l.results {
		if x.seq > after {
			results = append(results, Result{Source: source, Seq: x.seq, Code: x.code, Bytes: x.bytes})
		}
	}
	return results
}

// gatewayRefs counts what refers to a gateway incarnation.
type gatewayRefs struct{ sessions, previous int }

func (m *Machine) gateway(gateway uint64, sessions, previous int) {
	g := m.gateways[gateway]
	g.sessions += sessions
	g.previous += previous
	if g == (gatewayRefs{}) {
		delete(m.gateways, gateway)
		return
	}
	m.gateways[gateway] = g
}

// Owners visits the gateway incarnations that own sessions here, or have a mark
// or a previous-owner entry, in order, with the number of sessions they own. The
// leader closes those that the control group has ended.
func (m *Machine) Owners(fn func(gateway uint64, sessions int)) {
	all := sortedKeys(m.gateways)
	for source := range m.lanes {
		if _, owner := m.gateways[source]; !owner && isGateway(source) {
			all = append(all, source)
		}
	}
	slices.Sort(all)
	for _, g := range all {
		fn(g, m.gateways[g].sessions)
	}
}

// slotsOf returns the places of sessions that a gateway owns or owned, by client id.
func (m *Machine) slotsOf(gateway func(uint64) bool) []*slot {
	var found []*slot
	for _, sl := range m.places {
		if sl.s.owner != 0 && gateway(sl.s.owner) ||
			slices.ContainsFunc(sl.s.previous, func(p previous) bool { return gateway(p.gateway) }) {
			found = append(found, sl)
		}
	}
	slices.SortFunc(found, func(a, b *slot) int {
		if a.s.id < b.s.id {
			return -1
		}
		return 1
	})
	return found
}
