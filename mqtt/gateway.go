package mqtt

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// The methods of Gateway may be called while the cluster holds locks of its own, so
// none of them calls the cluster: what they cause to be asked is asked later, from
// another goroutine.
var _ Gateway = (*Server)(nil)

// Deliver implements Gateway.
func (s *Server) Deliver(clientID string, epoch uint64, ds []flow.Delivery) {
	xs := withDeadlines(ds, s.now())
	c := s.clients.keepEarly(clientID, epoch, xs)
	if c == nil {
		return
	}
	c.mu.Lock()
	for i := range xs {
		c.takeDelivery(xs[i])
	}
	c.unlock()
}

// Route implements Gateway.
func (s *Server) Route(m *flow.Message, reliable bool) {
	r := routePool.Get().(*route)
	r.fan.reset(m, s.now())
	if strings.HasPrefix(m.Topic, sysBrokers) {
		s.sys.overhear(m, r.fan.now)
	}
	s.subs.match(m.Topic, &r.matches)
	r.fan.shared = len(r.single)+len(r.multi) > 1
	for i := range r.single {
		sub := r.single[i : i+1]
		r.ids = sub[0].c.accept(sub, &r.fan, reliable, r.ids[:0])
	}
	// Several subscriptions of one connection make one copy.
	slices.SortFunc(r.multi, func(a, b subscriber) int { return cmp.Compare(a.c.id, b.c.id) })
	for rest := r.multi; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].c == rest[0].c {
			n++
		}
		if rest[0].c.limits.CopyPerSubscription {
			n = 1
		}
		r.ids = rest[0].c.accept(rest[:n], &r.fan, reliable, r.ids[:0])
		rest = rest[n:]
	}
	r.release()
}

// route is the scratch space of one call of Route.
type route struct {
	matches
	fan fanout
	ids []uint32
}

var routePool = sync.Pool{New: func() any { return &route{} }}

func (r *route) release() {
	const keep = 1 << 12
	if cap(r.single) > keep || cap(r.multi) > keep {
		return
	}
	clear(r.single)
	clear(r.multi)
	r.single, r.multi = r.single[:0], r.multi[:0]
	r.fan = fanout{}
	routePool.Put(r)
}

// Close implements Gateway.
func (s *Server) Close(clientID string, epoch uint64, done func()) {
	s.closeFor(clientID, epoch, packet.SessionTakenOver, done) // [MQTT-3.1.4-3]
}

func (s *Server) closeFor(clientID string, epoch uint64, code packet.ReasonCode, done func()) {
	cs := s.clients.closing(clientID, epoch)
	s.later.do(func() {
		open := atomic.Int32{}
		open.Store(int32(len(cs)) + 1)
		settled := func() {
			if open.Add(-1) == 0 {
				done()
			}
		}
		for _, c := range cs {
			if !c.onSettled(settled) {
				settled()
			}
			c.end(ending{Code: code})
		}
		settled()
	})
}

// onSettled asks for a call when the connection has settled; false: it has already.
func (c *conn) onSettled(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return false
	}
	c.closers = append(c.closers, fn)
	return true
}

// CloseAll implements Gateway.
func (s *Server) CloseAll(done func()) {
	s.later.do(func() {
		s.endAll(ending{Code: packet.ServerUnavailable})
		s.later.busy.Add(1)
		go func() {
			defer s.later.busy.Done()
			<-s.departing.idle()
			done()
		}()
	})
}
