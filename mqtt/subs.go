package mqtt

import (
	"sync"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// subscriptions is the gateway's own view of who wants what: the subscriptions
// of ephemeral sessions, which live nowhere else, and a copy of those of
// connected persistent sessions, which is needed for messages at QoS 0. From it
// follows the gateway's interest, which it tells the cluster.
//
// No lock is held while the cluster is called: changes of the interest are
// queued under mu, in the order in which they happened, and whoever finds nobody
// sending sends them all.
type subscriptions struct {
	cluster Cluster
	metrics *Metrics

	mu       sync.RWMutex
	tree     topic.Tree[uint64, subscriber] // mu; by conn.id
	interest map[string]*want               // mu; by filter
	queue    []interestUpdate               // mu
	sending  bool                           // mu; somebody is in send
}

// subscriber is one subscription in the tree. Its connection's persistence does
// not change while it is there.
type subscriber struct {
	c         *conn
	id        uint32 // Subscription Identifier; 0: none
	qos       byte
	noLocal   bool
	asPublish bool // Retain As Published
}

// want counts the reasons for the interest in one filter.
type want struct {
	subscribers int32
	downgraded  int32 // of them at QoS 0
	reliable    int32 // of them ephemeral and at QoS 1 or 2
	unconfirmed int32 // updates that include the filter and are not done
}

func (w *want) interest() (i Interest) {
	if w.subscribers > 0 {
		i |= WantQoS0
	}
	if w.downgraded > 0 {
		i |= WantDowngraded
	}
	if w.reliable > 0 {
		i |= WantReliable
	}
	return i
}

func (w *want) count(s subscriber, n int32) {
	w.subscribers += n
	switch {
	case s.qos == 0:
		w.downgraded += n
	case s.c.ephemeral:
		w.reliable += n
	}
}

type interestUpdate struct {
	changes []InterestChange
	done    func(error) // may be nil
}

// set adds or replaces subscriptions of c. done is called when every member
// routes by them, at once if that is so already. c.filters is owned by the
// caller's side of the connection (see conn.filters).
//
// afresh tells the cluster even what it knows: the acknowledgement of a member
// then comes behind every message that it sent here before, for a session that
// had them on its last connection, elsewhere (QoS 0 comes at most once).
func (s *subscriptions) set(c *conn, list []flow.Subscription, afresh bool, done func(error)) (existed []bool) {
	existed = make([]bool, len(list))
	s.mu.Lock()
	var changes []InterestChange
	for i, f := range list {
		sub := subscriber{c, f.ID, f.QoS, f.NoLocal, f.RetainAsPublished}
		w := s.interest[f.Filter]
		if w == nil {
			w = &want{}
			s.interest[f.Filter] = w
		}
		before := w.interest()
		var old subscriber
		if old, existed[i] = s.tree.Set(f.Filter, c.id, sub); existed[i] {
			w.count(old, -1)
		} else {
			c.entries++
		}
		w.count(sub, 1)
		// An interest that is set but not confirmed is as good as none: whoever
		// relies on it waits by setting it once more.
		if after := w.interest(); afresh || after != before || w.unconfirmed > 0 {
			changes = append(changes, InterestChange{Filter: f.Filter, Want: after})
			w.unconfirmed++
		}
	}
	s.metrics.Subscriptions.Store(int64(s.tree.Len()))
	if len(changes) > 0 {
		s.queue = append(s.queue, interestUpdate{changes: changes, done: func(err error) {
			s.confirm(changes)
			done(err)
		}})
	}
	s.mu.Unlock()
	if len(changes) == 0 {
		done(nil)
		return existed
	}
	s.send()
	return existed
}

// confirm notes that an update with these changes is done.
func (s *subscriptions) confirm(changes []InterestChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range changes {
		if w := s.interest[ch.Filter]; w != nil {
			w.unconfirmed--
			s.prune(ch.Filter, w)
		}
	}
}

func (s *subscriptions) prune(filter string, w *want) {
	if w.subscribers == 0 && w.unconfirmed == 0 {
		delete(s.interest, filter)
	}
}

// remove takes away subscriptions of c.
func (s *subscriptions) remove(c *conn, filters []string) (existed []bool) {
	if len(filters) == 0 {
		return nil
	}
	existed = make([]bool, len(filters))
	s.mu.Lock()
	var changes []InterestChange
	for i, f := range filters {
		var old subscriber
		if old, existed[i] = s.tree.Delete(f, c.id); !existed[i] {
			continue
		}
		c.entries--
		w := s.interest[f]
		before := w.interest()
		w.count(old, -1)
		if after := w.interest(); after != before {
			changes = append(changes, InterestChange{Filter: f, Want: after})
		}
		s.prune(f, w)
	}
	s.metrics.Subscriptions.Store(int64(s.tree.Len()))
	if len(changes) > 0 {
		s.queue = append(s.queue, interestUpdate{changes: changes})
	}
	s.mu.Unlock()
	s.send()
	return existed
}

// send hands queued updates to the cluster, unless somebody is at it already.
func (s *subscriptions) send() {
	s.mu.Lock()
	if s.sending {
		s.mu.Unlock()
		return
	}
	s.sending = true
	for len(s.queue) > 0 {
		batch := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, u := range batch {
			s.cluster.SetInterest(u.changes, u.done)
		}
		s.mu.Lock()
	}
	s.sending = false
	s.mu.Unlock()
}

// get returns c's subscription to a filter.
func (s *subscriptions) get(c *conn, filter string) (subscriber, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tree.Get(filter, c.id)
}

// matches are the subscribers of a topic.
type matches struct {
	single []subscriber // of connections with one subscription
	multi  []subscriber // of others: the same connection may be there several times
}

// match adds the subscribers of a topic name to m.
func (s *subscriptions) match(name string, m *matches) {
	s.mu.RLock()
	s.tree.Match(name, func(_ string, _ uint64, sub subscriber) {
		if sub.c.entries == 1 {
			m.single = append(m.single, sub)
		} else {
			m.multi = append(m.multi, sub)
		}
	})
	s.mu.RUnlock()
}
