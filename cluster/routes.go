package cluster

import (
	"maps"
	"sync"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// routes is what this node knows of the interest of every destination (design
// §5): for each the last complete summary, and over all of them one tree.
// A summary stays in force while its destination is silent.
type routes struct {
	mu    sync.RWMutex
	tree  *topic.Tree[uint64, flow.Interest] // guarded by mu
	views map[uint64]*view                   // guarded by mu
}

// view is one destination's summary.
type view struct {
	generation uint64
	version    uint64
	member     uint64 // our incarnation that the destination reckons with
	complete   bool
	filters    map[string]flow.Interest
	loading    map[string]flow.Interest // parts of a whole summary so far
}

// target is a destination that wants a message.
type target struct {
	end  uint64
	want flow.Interest
}

func newRoutes() *routes {
	return &routes{tree: new(topic.Tree[uint64, flow.Interest]), views: make(map[uint64]*view)}
}

// match appends the destinations that want messages of a topic to buf, each once.
func (r *routes) match(name string, buf []target) []target {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.tree.Match(name, func(_ string, end uint64, want flow.Interest) {
		for i := range buf {
			if buf[i].end == end {
				buf[i].want |= want
				return
			}
		}
		buf = append(buf, target{end, want})
	})
	return buf
}

// update takes a destination's news and returns the answer to it.
func (r *routes) update(u *peerpb.InterestUpdate) *peerpb.InterestAck {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.views[u.Destination]
	if v == nil {
		v = &view{filters: make(map[string]flow.Interest)}
		r.views[u.Destination] = v
	}
	ack := &peerpb.InterestAck{Destination: u.Destination, Generation: u.Generation}
	if u.Generation < v.generation {
		ack.Generation = v.generation
		ack.Version = v.version
		ack.WantFull = !v.complete
		return ack
	}
	v.generation = u.Generation
	switch {
	case u.Base == 0:
		if !r.load(v, u) {
			return nil // more parts follow
		}
	case v.complete && u.Base <= v.version:
		if u.Version >= v.version {
			// Re-stating changes between base and our version does no harm: they
			// come in order, so the last word on each filter is the newest.
			for _, f := range u.Filters {
				r.set(u.Destination, v, f.Filter, flow.Interest(f.Want))
			}
			v.version = u.Version
		}
		v.member = u.Member
	}
	ack.Version = v.version
	ack.WantFull = !v.complete
	return ack
}

// load takes a part of a whole summary; true when it is complete.
func (r *routes) load(v *view, u *peerpb.InterestUpdate) bool {
	if v.loading == nil {
		v.loading = make(map[string]flow.Interest, len(u.Filters))
	}
	for _, f := range u.Filters {
		v.loading[f.Filter] = flow.Interest(f.Want)
	}
	if u.More {
		return false
	}
	loaded := v.loading
	v.loading = nil
	v.member = u.Member
	if v.complete && u.Version < v.version {
		return true // we know better already
	}
	for f := range maps.Clone(v.filters) {
		if _, ok := loaded[f]; !ok {
			r.set(u.Destination, v, f, 0)
		}
	}
	for f, want := range loaded {
		r.set(u.Destination, v, f, want)
	}
	v.version, v.complete = u.Version, true
	return true
}

func (r *routes) set(end uint64, v *view, filter string, want flow.Interest) {
	if want == 0 {
		delete(v.filters, filter)
		r.tree.Delete(filter, end)
		return
	}
	v.filters[filter] = want
	r.tree.Set(filter, end, want)
}

// drop forgets a destination that has ended.
func (r *routes) drop(end uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.views[end]
	if v == nil {
		return
	}
	for f := range v.filters {
		r.tree.Delete(f, end)
	}
	delete(r.views, end)
}

// gateways lists the gateways with a view, for dropping those that ended.
func (r *routes) gateways() []uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var ends []uint64
	for end := range r.views {
		if !isPartition(end) {
			ends = append(ends, end)
		}
	}
	return ends
}

// knows reports whether the destination's summary is complete and the
// destination reckons with our incarnation.
func (r *routes) knows(end, gateway uint64) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v := r.views[end]
	return v != nil && v.complete && v.member == gateway
}
