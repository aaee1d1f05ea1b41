package bench

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// subscriber receives for one client. All but the atomics belongs to its
// goroutine until that has ended.
type subscriber struct {
	r        *run
	role     role
	c        *conn
	pubs     []*publisher // all of the run, by number
	trackers []*tracker   // by publisher; nil: not subscribed to

	received  atomic.Uint64 // messages, duplicates left out
	last      atomic.Int64  // when something last came
	silence   int64         // longest time without anything, while measured
	strangers uint64        // messages that are not of this run
	latency   histogram
	err       error
}

func newSubscriber(r *run, role role, c *conn, pubs []*publisher) *subscriber {
	s := &subscriber{r: r, role: role, c: c, pubs: pubs, trackers: make([]*tracker, len(pubs))}
	for _, p := range role.from {
		s.trackers[p] = &tracker{}
	}
	return s
}

// work receives until the connection or the run ends.
func (s *subscriber) work() {
	for {
		if s.err = s.c.flush(); s.err != nil {
			break
		}
		if s.err = s.c.fill(); s.err != nil {
			break
		}
		if s.err = s.packets(); s.err != nil {
			break
		}
	}
	if ended(s.err) && s.r.ending.Load() {
		s.err = nil
	}
}

// packets handles all that has been read. The time is taken once: what is
// read together has come together.
func (s *subscriber) packets() error {
	now := s.r.now()
	var p packet.Publish
	fresh, heard := uint64(0), false
	for {
		header, body, ok, err := s.c.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch packet.Type(header >> 4) {
		case packet.TypePublish:
			if err := packet.DecodePublish(header, body, s.c.version, &p); err != nil {
				return err
			}
			heard = true
			if s.message(&p, now) {
				fresh++
			}
		case packet.TypePubrel:
			var a packet.Ack
			if err := packet.DecodeAck(header, body, s.c.version, &a); err != nil {
				return err
			}
			s.answer(packet.TypePubcomp, a.PacketID)
		default:
			q, err := packet.Decode(header, body, s.c.version)
			if err != nil {
				return err
			}
			return s.c.unexpected(q)
		}
	}
	if heard {
		s.received.Add(fresh)
		s.heard(now)
	}
	return nil
}

// heard notes how long it was silent before.
func (s *subscriber) heard(now int64) {
	if begin := s.r.measuredFrom.Load(); begin != 0 && now >= begin {
		s.silence = max(s.silence, now-max(begin, s.last.Load()))
	}
	s.last.Store(now)
}

// message notes a reception, acknowledges it and reports whether it is new.
func (s *subscriber) message(p *packet.Publish, now int64) bool {
	switch p.QoS {
	case 1:
		s.answer(packet.TypePuback, p.PacketID)
	case 2:
		s.answer(packet.TypePubrec, p.PacketID)
	}
	from, seq, sent, ok := readPayload(p.Payload)
	if !ok || int(from) >= len(s.trackers) || s.trackers[from] == nil {
		s.strangers++
		return false
	}
	if !s.trackers[from].receive(seq) {
		return false
	}
	if s.r.measures(sent) {
		s.latency.add(now - sent)
	}
	if s.r.opts.QoS == 0 {
		s.pubs[from].credit.take()
	}
	return true
}

func (s *subscriber) answer(kind packet.Type, id uint16) {
	a := packet.Ack{Kind: kind, PacketID: id}
	s.c.out = a.AppendTo(s.c.out, s.c.version)
}

// sums adds up what the trackers know.
func (s *subscriber) sums() (lost, duplicates, disordered uint64) {
	for n, t := range s.trackers {
		if t == nil {
			continue
		}
		p := s.pubs[n]
		unpromised := slices.Compact(slices.Sorted(slices.Values(p.unpromised)))
		lost += t.missing(p.sent, unpromised)
		duplicates += t.duplicates
		disordered += t.disordered
	}
	return lost, duplicates, disordered
}

// String names the subscriber in errors.
func (s *subscriber) String() string {
	return fmt.Sprintf("subscriber %s at %s", s.role.id, s.role.addr)
}
