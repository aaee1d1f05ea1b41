package mqtt

import (
	"hash/maphash"
	"sync"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
)

// registry finds connections by client identifier and epoch.
//
// The cluster orders the connections of a session by their epochs, and tells this
// gateway about it by Connect's answer, Close and Deliver, from several goroutines
// and in no fixed order. These are the interleavings, all decided under the lock of
// the client's shard:
//
//   - Close names a connection that is here: it ends (0x8E), and done is called
//     when it has settled. If it is ending already, done joins the others.
//   - Close names one that has settled, or was never here: done at once.
//   - Close comes while a Connect of the client is unanswered. Its epoch is not
//     known yet: if it is at most the closed one, the answer is on its way and the
//     connection was superseded before it began; if greater, it is not meant. So
//     the closed epoch is remembered while Connects are pending, done waits only
//     for connections whose epoch is known, and the answer decides: adopt says
//     "fenced", and the connection ends without CONNACK. A Connect that is asked
//     after Close was called gets a greater epoch, since Close follows a committed
//     newer Connect: so nothing need be remembered when no Connect is pending.
//   - Takeover on the same node: the new connection's Connect is pending while
//     Close ends the old one; its done lets the cluster answer the Connect. Nothing
//     here waits for anything but the old connection's own questions.
//   - The socket fails while Connect is pending: the connection is closing when
//     its answer comes. It is adopted all the same, so that a Close finds it until
//     it has settled, that is until its Disconnect is on the way.
//   - Deliveries come before Connect's answer: they are kept by epoch while a
//     Connect is pending, and go through the connection in adopt, before any
//     that come later.
type registry struct {
	seed   maphash.Seed
	shards [64]registryShard
}

type registryShard struct {
	mu sync.Mutex
	m  map[string]*presence
}

// presence is what is known of one client identifier. The shard's lock owns it.
type presence struct {
	conns   []*conn // with an epoch, not settled
	pending int     // Connects without answer
	// closed is the greatest epoch that Close named, and early what was delivered
	// by epoch, both only while pending > 0.
	closed uint64
	early  map[uint64][]delivery
}

func (r *registry) init() {
	r.seed = maphash.MakeSeed()
	for i := range r.shards {
		r.shards[i].m = map[string]*presence{}
	}
}

func (r *registry) shard(clientID string) *registryShard {
	return &r.shards[maphash.String(r.seed, clientID)%uint64(len(r.shards))]
}

// asking notes that Connect is about to be called.
func (r *registry) asking(clientID string) {
	s := r.shard(clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.m[clientID]
	if p == nil {
		p = &presence{}
		s.m[clientID] = p
	}
	p.pending++
}

// refused notes that a Connect failed.
func (r *registry) refused(clientID string) {
	s := r.shard(clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered(clientID, s.m[clientID])
}

// answered takes one off the pending Connects.
func (s *registryShard) answered(clientID string, p *presence) {
	p.pending--
	if p.pending == 0 {
		p.closed, p.early = 0, nil
		if len(p.conns) == 0 {
			delete(s.m, clientID)
		}
	}
}

// adopt gives a connection the session that its Connect brought. fenced: a newer
// connection has been ordered to close it already.
func (r *registry) adopt(c *conn, session flow.Session) (fenced bool) {
	s := r.shard(c.client.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.m[c.client.ID]
	fenced = session.Epoch <= p.closed
	early := p.early[session.Epoch]
	delete(p.early, session.Epoch)
	p.conns = append(p.conns, c)
	s.answered(c.client.ID, p)
	c.adopt(session, early)
	return fenced
}

// adopt is called with the shard's lock held.
func (c *conn) adopt(session flow.Session, early []delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch, c.ephemeral = session.Epoch, session.Ephemeral
	if c.phase == phaseConnecting {
		c.phase = phaseAttaching
		for _, d := range early {
			c.takeDelivery(d)
		}
	}
}

// remove forgets a connection that has settled.
func (r *registry) remove(c *conn) {
	s := r.shard(c.client.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.m[c.client.ID]
	for i := range p.conns {
		if p.conns[i] == c {
			p.conns = append(p.conns[:i], p.conns[i+1:]...)
			break
		}
	}
	if len(p.conns) == 0 && p.pending == 0 {
		delete(s.m, c.client.ID)
	}
}

func (p *presence) find(epoch uint64) *conn {
	if p == nil {
		return nil
	}
	for _, c := range p.conns {
		if c.epoch == epoch { // written under the shard's lock
			return c
		}
	}
	return nil
}

// connection returns the connection with this epoch, or nil.
func (r *registry) connection(clientID string, epoch uint64) *conn {
	s := r.shard(clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[clientID].find(epoch)
}

// keepEarly keeps deliveries for a Connect that is not answered yet. c is the
// connection if there is one already; it gets them instead.
func (r *registry) keepEarly(clientID string, epoch uint64, ds []delivery) (c *conn) {
	s := r.shard(clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.m[clientID]
	if p == nil {
		return nil
	}
	if c := p.find(epoch); c != nil {
		return c
	}
	if p.pending == 0 || epoch <= p.closed {
		return nil
	}
	if p.early == nil {
		p.early = map[uint64][]delivery{}
	}
	p.early[epoch] = append(p.early[epoch], ds...)
	return nil
}

// closing returns the connections up to an epoch, and remembers the epoch for
// those to come.
func (r *registry) closing(clientID string, epoch uint64) (cs []*conn) {
	s := r.shard(clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.m[clientID]
	if p == nil {
		return nil
	}
	for _, c := range p.conns {
		if c.epoch <= epoch {
			cs = append(cs, c)
		}
	}
	if p.pending > 0 {
		p.closed = max(p.closed, epoch)
		for e := range p.early {
			if e <= p.closed {
				delete(p.early, e)
			}
		}
	}
	return cs
}
