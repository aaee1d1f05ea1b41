package mqtt

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// Kick ends a connection at an operator's word (DISCONNECT 0x98). It is otherwise as
// Close.
func (s *Server) Kick(clientID string, epoch uint64, done func()) {
	s.closeFor(clientID, epoch, packet.AdministrativeAction, done)
}

// Inspect tells of the connection with this epoch; false: it is not here.
func (s *Server) Inspect(clientID string, epoch uint64) (flow.Inspection, bool) {
	c := s.clients.connection(clientID, epoch)
	if c == nil {
		return flow.Inspection{}, false
	}
	i := flow.Inspection{Listener: c.client.Listener, KeepAlive: c.opts.keepAlive}
	if c.client.Remote != nil {
		i.Remote = c.client.Remote.String()
	}
	filters, open := c.inspect(&i)
	for _, f := range filters {
		if sub, ok := s.subs.get(c, f); ok {
			i.Subscriptions = append(i.Subscriptions, flow.Subscription{
				Filter: f, QoS: sub.qos, NoLocal: sub.noLocal, RetainAsPublished: sub.asPublish, ID: sub.id,
			})
		}
	}
	slices.SortFunc(i.Subscriptions, func(a, b flow.Subscription) int { return cmp.Compare(a.Filter, b.Filter) })
	return i, open
}

// inspect fills in what the connection itself knows, and returns those filters of an
// ephemeral session that are in the tree.
func (c *conn) inspect(i *flow.Inspection) (filters []string, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ephemeral {
		return nil, c.phase != phaseClosing
	}
	for c.changing { // the filters belong to somebody who holds no lock, for a moment
		c.mu.Unlock()
		time.Sleep(time.Millisecond)
		c.mu.Lock()
	}
	if c.flows != nil {
		i.Queued, i.QueuedBytes, i.Inflight = c.flows.queue.len()+c.flows.shared.len(), int64(c.flows.queueBytes), len(c.flows.flights)
	}
	for _, in := range c.groups {
		i.Subscriptions = append(i.Subscriptions, in.sub)
	}
	return slices.Collect(maps.Keys(c.filters)), c.phase != phaseClosing
}
