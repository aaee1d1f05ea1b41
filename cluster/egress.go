package cluster

import (
	"sync"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// egress is this node's gateway as the destination of lanes: messages for its
// ephemeral sessions. An item is taken when it is in their queues (design §3).
// Marks live as long as the incarnation.
type egress struct {
	n  *Node
	id uint64

	mu     sync.Mutex
	marks  map[uint64]uint64 // by source; guarded by mu, which also orders delivery
	closed map[uint64]bool   // gateways of whose end a will told us; guarded by mu
}

func newEgress(n *Node, id uint64) *egress {
	return &egress{n: n, id: id, marks: make(map[uint64]uint64), closed: make(map[uint64]bool)}
}

// take carries out the lane rule of design §4 on a frame.
func (e *egress) take(from string, f *peerpb.LaneItems) {
	source := f.Lane.Source
	a := &peerpb.LaneAnswer{Lane: f.Lane, SourceTerm: f.Term}
	e.mu.Lock()
	if !isPartition(source) && (e.closed[source] || e.n.gatewayClosed(source)) {
		e.mu.Unlock()
		a.Status = peerpb.LaneAnswer_CLOSED
		e.n.send(from, &peerpb.Frame{Body: &peerpb.Frame_LaneAnswer{LaneAnswer: a}})
		return
	}
	for _, it := range f.Items {
		mark := e.marks[source]
		if it.Seq <= mark {
			continue
		}
		if it.Prev > mark {
			a.Status = peerpb.LaneAnswer_GAP
			break
		}
		if !e.route(it.Op) {
			e.mu.Unlock()
			return
		}
		e.marks[source] = it.Seq
	}
	a.Mark = e.marks[source]
	e.mu.Unlock()
	e.n.send(from, &peerpb.Frame{Body: &peerpb.Frame_LaneAnswer{LaneAnswer: a}})
}

// route delivers the message of an op, with mu held; false: it is of a kind that this release
// does not know.
func (e *egress) route(op []byte) bool {
	var o logpb.Op
	err := o.UnmarshalVT(op)
	if g := o.GetGroup(); err == nil && g != nil {
		e.assigned(g)
		return true
	}
	if err != nil || o.GetPublish().GetMessage() == nil {
		e.n.fatal(errUnknownItem)
		return false
	}
	p := o.GetPublish()
	if p.AfterClose != 0 {
		// A will: nothing that its gateway sent may come after it. The partition
		// may know of the gateway's end earlier than we do.
		e.closed[p.AfterClose] = true
	}
	e.n.gateway.Route(messageFromLog(p.Message), true)
	return true
}

// forget drops the mark of a source that has ended.
func (e *egress) forget(ended func(gateway uint64) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for source := range e.marks {
		if !isPartition(source) && ended(source) {
			delete(e.marks, source)
		}
	}
	for source := range e.closed {
		if ended(source) {
			delete(e.closed, source) // the state says so from now on
		}
	}
}
