package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// writeOff is how long a publisher of QoS 0 waits for what may be lost.
const writeOff = 100 * time.Millisecond

// batchBytes bounds how much a publisher gathers for one write.
const batchBytes = 64 << 10

// publisher sends the messages of one client. All but the atomics belongs to
// its goroutine until that has ended.
type publisher struct {
	r    *run
	n    int // which publisher
	role role
	c    *conn
	wire packet.EncodedPublish // every message, but for packet id and head of payload

	window   int
	quota    uint64 // messages to send; 0: until told to stop
	interval float64
	began    int64 // when the first message was due, with a rate

	sent  uint64
	slots []slot   // by packet id - 1
	free  []uint16 // packet ids that can be used, oldest first
	head  int      // of free

	acked      atomic.Uint64 // answered to the end, for good or ill
	credit     credit
	refused    map[packet.ReasonCode]uint64
	unpromised []uint64 // numbers of messages that were refused or left unanswered
	latency    histogram
	err        error
}

// slot is a message on its way.
type slot struct {
	seq   uint64
	sent  int64
	taken bool
}

// credit lets a publisher of QoS 0 wait for its subscribers.
type credit struct {
	received atomic.Int64  // receptions by all subscribers
	wanted   atomic.Int64  // wake the publisher when received gets here
	wake     chan struct{} // holds one token
}

// take notes a reception; any subscriber's goroutine may call it.
func (c *credit) take() {
	if c.received.Add(1) == c.wanted.Load() {
		c.ring()
	}
}

func (c *credit) ring() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func newPublisher(r *run, n int, role role, c *conn) *publisher {
	o := &r.opts
	p := &publisher{r: r, n: n, role: role, c: c, refused: map[packet.ReasonCode]uint64{}}
	p.credit.wake = make(chan struct{}, 1)
	p.wire = packet.EncodePublish(c.version, &packet.Publish{Topic: role.topic, QoS: o.QoS, Payload: make([]byte, o.Size)})
	p.window = o.Window
	if o.QoS > 0 {
		p.window = min(p.window, int(packet.Value(c.server.ReceiveMaximum, 65535)))
	}
	if o.Count > 0 {
		p.quota = uint64(o.Count / o.Publishers)
		if n < o.Count%o.Publishers {
			p.quota++
		}
	}
	if o.Rate > 0 {
		p.interval = float64(time.Second) * float64(o.Publishers) / o.Rate
	}
	return p
}

// work sends until told to stop and waits for what is unanswered.
func (p *publisher) work() {
	p.began = p.r.now()
	// Spread the publishers over one interval, or all would send at once.
	p.began += int64(p.interval * float64(p.n) / float64(p.r.opts.Publishers))
	if p.r.opts.QoS == 0 {
		p.err = p.workUnacked()
	} else {
		p.err = p.workAcked()
	}
	for _, s := range p.slots {
		if s.taken {
			p.unpromised = append(p.unpromised, s.seq)
		}
	}
	if errors.Is(p.err, os.ErrDeadlineExceeded) {
		p.err = fmt.Errorf("%s: %d messages were not acknowledged", p.role.addr, p.underway())
	}
}

// due is how many messages should have been sent by now.
func (p *publisher) due(now int64) uint64 {
	most := ^uint64(0)
	if p.quota > 0 {
		most = p.quota
	}
	if p.interval == 0 {
		return most
	}
	if now < p.began {
		return 0
	}
	return min(most, 1+uint64(float64(now-p.began)/p.interval))
}

// at is when a message counts as sent: when it was due, with a rate, so that a
// broker that holds up the publisher does not look fast.
func (p *publisher) at(seq uint64, now int64) int64 {
	if p.interval == 0 {
		return now
	}
	return p.began + int64(float64(seq)*p.interval)
}

func (p *publisher) done() bool {
	return p.r.stopping.Load() || (p.quota > 0 && p.sent >= p.quota)
}

func (p *publisher) underway() int { return len(p.slots) - (len(p.free) - p.head) }

// append puts the next message into the write buffer.
func (p *publisher) append(packetID uint16, now int64) {
	p.c.out = p.wire.AppendTo(p.c.out, packetID, false)
	putPayload(p.c.out[len(p.c.out)-p.r.opts.Size:], uint32(p.n), p.sent, p.at(p.sent, now))
	p.sent++
}

// workAcked is for QoS 1 and 2: one goroutine writes, reads and writes again,
// so that acknowledgements that come together are answered together.
func (p *publisher) workAcked() error {
	for {
		now := p.r.now()
		for due := p.due(now); !p.done() && p.sent < due && p.underway() < p.window && len(p.c.out) < batchBytes; {
			id := p.takeSlot(now)
			p.append(id, now)
		}
		if err := p.c.flush(); err != nil {
			return err
		}
		if p.done() && p.underway() == 0 {
			return nil
		}
		if err := p.wait(now); err != nil {
			return err
		}
		if err := p.acks(); err != nil {
			return err
		}
	}
}

// wait reads once, but with a rate not beyond the time when the next message is due.
func (p *publisher) wait(now int64) error {
	if p.interval == 0 {
		return p.c.fill() // Run sets the deadline when it stops
	}
	next := now + int64(time.Second) // to look whether the run has stopped
	if !p.done() && p.underway() < p.window {
		next = min(next, p.at(p.sent, now))
	}
	if err := p.c.nc.SetReadDeadline(p.r.base.Add(time.Duration(next))); err != nil {
		return err
	}
	err := p.c.fill()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if end := p.r.drainUntil.Load(); end == 0 || p.r.now() < end {
			return nil
		}
	}
	return err
}

func (p *publisher) takeSlot(now int64) uint16 {
	if p.head == len(p.free) {
		p.slots = append(p.slots, slot{})
		p.free, p.head = append(p.free[:0], uint16(len(p.slots))), 0
	}
	id := p.free[p.head]
	p.head++
	p.slots[id-1] = slot{seq: p.sent, sent: p.at(p.sent, now), taken: true}
	return id
}

// acks handles all packets that have been read.
func (p *publisher) acks() error {
	now, answered := p.r.now(), uint64(0)
	defer func() { p.acked.Add(answered) }()
	for {
		header, body, ok, err := p.c.next()
		if !ok || err != nil {
			return err
		}
		var a packet.Ack
		switch kind := packet.Type(header >> 4); kind {
		case packet.TypePuback, packet.TypePubrec, packet.TypePubcomp:
			err = packet.DecodeAck(header, body, p.c.version, &a)
		default:
			q, err := packet.Decode(header, body, p.c.version)
			if err != nil {
				return err
			}
			return p.c.unexpected(q)
		}
		if err != nil {
			return err
		}
		if a.PacketID == 0 || int(a.PacketID) > len(p.slots) || !p.slots[a.PacketID-1].taken {
			return fmt.Errorf("%s: %v for packet id %d, which is not in use", p.role.addr, a.Kind, a.PacketID)
		}
		if a.Kind == packet.TypePubrec && a.Code < packet.UnspecifiedError {
			rel := packet.Ack{Kind: packet.TypePubrel, PacketID: a.PacketID}
			p.c.out = rel.AppendTo(p.c.out, p.c.version)
			continue
		}
		p.answer(&a, now)
		answered++
	}
}

// answer ends the flow of a message.
func (p *publisher) answer(a *packet.Ack, now int64) {
	s := &p.slots[a.PacketID-1]
	if a.Code >= packet.UnspecifiedError {
		p.refused[a.Code]++
		p.unpromised = append(p.unpromised, s.seq)
	} else if p.r.measures(s.sent) {
		p.latency.add(now - s.sent)
	}
	s.taken = false
	if p.head > len(p.slots) {
		p.free = p.free[:copy(p.free, p.free[p.head:])]
		p.head = 0
	}
	p.free = append(p.free, a.PacketID)
}

// workUnacked is for QoS 0: nothing comes back but by way of the subscribers.
func (p *publisher) workUnacked() error {
	fan := int64(p.role.to)
	for !p.done() {
		now := p.r.now()
		limit := p.due(now)
		if p.window > 0 {
			limit = min(limit, uint64(p.credit.received.Load()/fan)+uint64(p.window))
		}
		for p.sent < limit && len(p.c.out) < batchBytes {
			p.append(0, now)
		}
		if len(p.c.out) > 0 {
			if err := p.c.flush(); err != nil {
				return err
			}
			p.acked.Store(p.sent)
			continue
		}
		if err := p.pause(now, fan); err != nil {
			return err
		}
	}
	return nil
}

// pause waits until the next message is due, or until half of the window has
// arrived. What has not come after a while is lost: it must not stop the rest.
func (p *publisher) pause(now, fan int64) error {
	atMost := writeOff
	if p.interval > 0 && p.due(now) <= p.sent {
		atMost = min(atMost, time.Duration(p.at(p.sent, now)-now))
	}
	wanted := (int64(p.sent) - int64(p.window)/2) * fan
	p.credit.wanted.Store(wanted)
	if p.window > 0 && p.credit.received.Load() >= wanted && p.due(now) > p.sent {
		return nil
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	before := p.credit.received.Load()
	select {
	case <-p.credit.wake:
	case <-p.r.stopped:
	case <-timer.C:
		if lost := int64(p.sent)*fan - before; p.window > 0 && atMost == writeOff && before == p.credit.received.Load() {
			p.credit.received.Add(lost) // counted as lost by the trackers
		}
	}
	return nil
}

// ended tells a lost connection from the end of a run.
func ended(err error) bool {
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed)
}
