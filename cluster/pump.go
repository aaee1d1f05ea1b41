package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const pumpInterval = 50 * time.Millisecond // how often lanes with items are looked at by the clock

// pump is the node's one goroutine that sends for all its lanes and routes: what
// came while it was busy goes out together, so that a busy node batches by
// itself and an idle one sends at once.
type pump struct {
	send  func(node string, f *peerpb.Frame) bool
	knows func() uint64 // our applied index of the control group

	mu     sync.Mutex
	lanes  map[*lane]struct{}
	dirty  []*lane
	routes map[string]*peerpb.Route // by node: messages of the unreliable path
	wake   chan struct{}

	ticking bool // owned by run: the timer is set

	// routeDropped counts messages of the unreliable path that a link had no
	// room for.
	routeDropped func(n int)
}

func newPump(send func(string, *peerpb.Frame) bool, knows func() uint64, routeDropped func(int)) *pump {
	return &pump{
		send:         send,
		knows:        knows,
		lanes:        make(map[*lane]struct{}),
		routes:       make(map[string]*peerpb.Route),
		wake:         make(chan struct{}, 1),
		ticking:      true,
		routeDropped: routeDropped,
	}
}

func (p *pump) add(l *lane) {
	p.mu.Lock()
	p.lanes[l] = struct{}{}
	p.mu.Unlock()
}

func (p *pump) remove(l *lane) {
	p.mu.Lock()
	delete(p.lanes, l)
	p.mu.Unlock()
}

// mark asks for a flush of the lane.
func (p *pump) mark(l *lane) {
	p.mu.Lock()
	if l.dirty {
		p.mu.Unlock()
		return
	}
	l.dirty = true
	p.dirty = append(p.dirty, l)
	p.mu.Unlock()
	p.nudge()
}

func (p *pump) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// routeTo queues a message for a node's gateway, without acknowledgement.
// gateway is our own.
func (p *pump) routeTo(node string, gateway uint64, message []byte) {
	p.mu.Lock()
	r := p.routes[node]
	if r != nil && r.Gateway != gateway {
		p.routeDropped(len(r.Messages)) // of an incarnation that has ended
	}
	if r == nil || r.Gateway != gateway {
		r = &peerpb.Route{Gateway: gateway}
		p.routes[node] = r
	}
	r.Messages = append(r.Messages, message)
	p.mu.Unlock()
	p.nudge()
}

// linkUp starts the lanes to a node again.
func (p *pump) linkUp(node string) {
	for _, l := range p.all() {
		l.linkUp(node)
	}
}

// rerouted looks at all lanes to a destination again: its leader changed.
func (p *pump) rerouted(destination uint64) {
	for _, l := range p.all() {
		if l.id.Destination == destination {
			p.mark(l)
		}
	}
}

func (p *pump) all() []*lane {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*lane, 0, len(p.lanes))
	for l := range p.lanes {
		all = append(all, l)
	}
	return all
}

func (p *pump) run(ctx context.Context) {
	// The clock runs only while something waits: an idle node sleeps.
	tick := time.NewTimer(pumpInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			p.flush(time.Now())
			if !p.ticking {
				p.ticking = true
				tick.Reset(pumpInterval)
			}
		case now := <-tick.C:
			p.ticking = false
			for _, l := range p.all() {
				waits, overdue := l.overdue(now)
				if overdue {
					l.flush(now)
				}
				p.ticking = p.ticking || waits
			}
			if p.ticking {
				tick.Reset(pumpInterval)
			}
		}
	}
}

func (p *pump) flush(now time.Time) {
	p.mu.Lock()
	lanes, routes := p.dirty, p.routes
	p.dirty = nil
	if len(routes) > 0 {
		p.routes = make(map[string]*peerpb.Route, len(routes))
	} else {
		routes = nil // p.routes goes on being written to
	}
	for _, l := range lanes {
		l.dirty = false
	}
	p.mu.Unlock()
	for node, r := range routes {
		p.flushRoute(node, r)
	}
	for _, l := range lanes {
		l.flush(now)
	}
}

func (p *pump) flushRoute(node string, r *peerpb.Route) {
	for len(r.Messages) > 0 {
		n, size := 0, 0
		for n < len(r.Messages) && (n == 0 || size+len(r.Messages[n]) <= maxFrameBytes) {
			size += len(r.Messages[n])
			n++
		}
		part := &peerpb.Route{Gateway: r.Gateway, Messages: r.Messages[:n:n]}
		r.Messages = r.Messages[n:]
		if !p.send(node, &peerpb.Frame{Body: &peerpb.Frame_Route{Route: part}}) {
			p.routeDropped(n)
		}
	}
}
