package fsm

import (
	"fmt"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// Random ops, made with a look at the model so that most of them make sense.

func (d *driver) chance(oneIn int) bool { return d.rng.IntN(oneIn) == 0 }

func pick[T any](d *driver, list ...T) T { return list[d.rng.IntN(len(list))] }

func (d *driver) client() string { return pick(d, "a", "b", "c", "d") }

// gateway is one of three nodes', mostly in its newest incarnation.
func (d *driver) gateway() uint64 {
	node := uint64(1 + d.rng.IntN(3))
	incarnation := d.model.closed[node] + 1
	if d.chance(15) {
		incarnation += uint64(d.rng.IntN(2))
	}
	if d.chance(25) && incarnation > 1 {
		incarnation--
	}
	return gw(node, incarnation)
}

var topics = []string{"x", "y", "x/1", "x/2", "y/1", "$a/x"}

func (d *driver) topic() string { return pick(d, topics...) }

func (d *driver) filter() string {
	return pick(d, "x", "y", "x/+", "#", "+/1", "x/#", "+", "$a/#", "y/1", "x/#/y")
}

func (d *driver) message() *logpb.Message {
	d.ids++
	m := &logpb.Message{
		IdSource: gw(7, 7), IdSeq: d.ids, Topic: d.topic(), Payload: fmt.Appendf(nil, "m%d", d.ids),
		Qos: uint32(d.rng.IntN(3)), Retain: d.chance(3),
	}
	if d.chance(3) {
		m.Publisher = d.client()
	}
	if d.chance(4) {
		m.Payload = append(m.Payload, make([]byte, d.rng.IntN(200))...)
	}
	if d.chance(4) {
		m.HasExpiry, m.Expiry = true, int64(d.rng.IntN(4000))
	}
	if d.chance(6) {
		m.Payload = nil
	}
	if d.chance(4) {
		m.Props = []byte("props")
	}
	return m
}

func (d *driver) randomOp() *logpb.LaneOp {
	if n := len(d.history); n > 0 && d.chance(12) { // again
		return d.history[max(0, n-1-d.rng.IntN(10))]
	}
	var body any
	source := d.gateway()
	switch n := d.rng.IntN(100); {
	case n < 8:
		body = d.leaderBody()
		op := leaderOp(body)
		d.bodies[op] = body
		return op
	case n < 20:
		body = d.connect()
	case n < 45:
		p := &logpb.Publish{Message: d.liveCopy(), Deliver: !d.chance(6), Store: d.chance(4)}
		if d.chance(4) {
			source = 1
			if d.chance(6) {
				p.AfterClose = d.gateway()
			}
		}
		body = p
	default:
		body = d.clientBody(d.client())
	}
	if s := d.model.sessions[clientID(body)]; s != nil && s.owner != 0 && !d.chance(20) {
		if _, connect := body.(*logpb.Connect); !connect {
			source = s.owner
		}
	}
	op := d.lanes.op(source, body)
	// The source learns of marks that were reset only by its new incarnation;
	// numbers may have gaps.
	if mark := d.model.marks[source]; op.Prev != mark {
		op.Prev, op.Seq = mark, mark+1+uint64(d.rng.IntN(2))
		d.lanes[source] = op.Seq
	}
	if d.chance(25) {
		op.Prev, op.Seq = op.Prev+2, op.Seq+2 // a gap
	}
	if d.chance(25) {
		op.Refuse = CodeQuota
	}
	d.history = append(d.history, op)
	d.bodies[op] = body
	return op
}

func clientID(body any) string {
	if x, ok := body.(interface{ GetClientId() string }); ok {
		return x.GetClientId()
	}
	return ""
}

func (d *driver) connect() *logpb.Connect {
	c := &logpb.Connect{
		ClientId: d.client(), Protocol: pick(d, uint32(4), 5), CleanStart: d.chance(5),
		Expiry: pick(d, uint32(0), 1, 3, 30, 30, neverExpires), Window: uint32(d.rng.IntN(5)),
	}
	if d.chance(4) {
		c.MaxPacket = uint32(8 + d.rng.IntN(60))
	}
	if d.chance(2) {
		c.Will = &logpb.Will{Message: d.message(), Delay: uint32(d.rng.IntN(4))}
	}
	return c
}

func (d *driver) clientBody(id string) any {
	s := d.model.sessions[id]
	if s == nil {
		s = &mSession{}
	}
	epoch := s.epoch
	if d.chance(15) {
		epoch = uint64(d.rng.IntN(int(d.model.lastEpoch) + 2))
	}
	if len(s.previous) > 0 && d.chance(4) {
		return &logpb.Disconnect{ClientId: id, Epoch: s.previous[d.rng.IntN(len(s.previous))].Epoch, Lost: d.chance(2)}
	}
	packetID := uint32(1 + d.rng.IntN(6))
	if d.chance(40) {
		packetID = pick(d, uint32(0), 65535, 65536)
	}
	switch n := d.rng.IntN(100); {
	case n < 8:
		return &logpb.Disconnect{ClientId: id, Epoch: epoch, Lost: d.chance(2), SetExpiry: d.chance(3), Expiry: uint32(d.rng.IntN(4))}
	case n < 28:
		op := &logpb.Subscribe{ClientId: id, Epoch: epoch}
		for range 1 + d.rng.IntN(3) {
			op.Subscriptions = append(op.Subscriptions, &logpb.Subscription{
				Filter: d.filter(), Qos: uint32(d.rng.IntN(3)), NoLocal: d.chance(4), RetainAsPublished: d.chance(3),
				RetainHandling: uint32(d.rng.IntN(3)), Id: uint32(d.rng.IntN(3)),
			})
		}
		return op
	case n < 33:
		return &logpb.Unsubscribe{ClientId: id, Epoch: epoch, Filters: []string{d.filter(), d.filter()}}
	case n < 48:
		msg := d.message()
		msg.Qos, msg.Publisher = 2, id
		return &logpb.Receive{ClientId: id, Epoch: epoch, PacketId: packetID, Message: msg}
	case n < 63:
		return &logpb.Release{ClientId: id, Epoch: epoch, PacketId: packetID}
	case n < 75:
		return d.answer(id, epoch, s)
	}
	return d.acks(id, epoch, s)
}

func (d *driver) answer(id string, epoch uint64, s *mSession) *logpb.RetainedAnswer {
	op := &logpb.RetainedAnswer{ClientId: id, Epoch: epoch, Hold: 1, More: d.chance(3)}
	if len(s.holds) > 0 {
		h := s.holds[d.rng.IntN(len(s.holds))]
		op.Hold = h.id
		for _, q := range h.held {
			if d.chance(2) { // stored meanwhile
				m := &logpb.Message{
					IdSource: q.msg.IdSource, IdSeq: q.msg.IdSeq, Topic: q.msg.Topic, Payload: q.msg.Payload, Qos: q.msg.Qos,
				}
				op.Messages = append(op.Messages, m)
			}
		}
	}
	for range d.rng.IntN(4) {
		op.Messages = append(op.Messages, d.message())
	}
	return op
}

// liveCopy is a new message, or one that a retained answer has brought before its
// live copy.
func (d *driver) liveCopy() *logpb.Message {
	s := d.model.sessions[d.client()]
	if s == nil || len(s.answered) == 0 || !d.chance(4) {
		return d.message()
	}
	a := s.answered[d.rng.IntN(len(s.answered))].msg
	return &logpb.Message{IdSource: a.IdSource, IdSeq: a.IdSeq, Topic: a.Topic, Payload: a.Payload, Qos: uint32(d.rng.IntN(3)), Retain: !d.chance(5)}
}

// acks acknowledges some of what is in flight, and some nonsense.
func (d *driver) acks(id string, epoch uint64, s *mSession) *logpb.Acks {
	op := &logpb.Acks{ClientId: id, Epoch: epoch}
	for _, f := range s.inflight {
		switch {
		case d.chance(2):
		case f.qos == 1:
			op.Pubacks = append(op.Pubacks, uint32(f.id))
		case f.pubrec:
			op.Pubcomps = append(op.Pubcomps, uint32(f.id))
		case d.chance(5):
			op.FailedPubrecs = append(op.FailedPubrecs, uint32(f.id))
		default:
			op.Pubrecs = append(op.Pubrecs, uint32(f.id))
		}
	}
	if d.chance(5) {
		op.Pubacks = append(op.Pubacks, uint32(d.rng.IntN(9)))
		op.Pubrecs = append(op.Pubrecs, uint32(d.rng.IntN(9)))
		op.Pubcomps = append(op.Pubcomps, uint32(d.rng.IntN(9)), 70000)
	}
	return op
}

func (d *driver) leaderBody() any {
	switch d.rng.IntN(10) {
	case 0, 1:
		return &logpb.Lead{Settings: &logpb.Settings{
			MaxQueueMessages: uint32(d.rng.IntN(5)), MaxQueueBytes: uint64(d.rng.IntN(2)) * uint64(300+d.rng.IntN(1000)),
			QueueFull: logpb.QueueFull(d.rng.IntN(3)), MaxInflight: uint32(d.rng.IntN(4)),
			MaxInflightBytes: uint64(d.rng.IntN(2)) * uint64(d.rng.IntN(800)), MaxInbound: uint32(d.rng.IntN(4)),
			MaxSubscriptions: uint32(d.rng.IntN(6)), MaxExpiry: uint32(d.rng.IntN(2)) * 20, CopyPerSubscription: d.chance(3),
		}}
	case 2:
		return &logpb.CloseGateway{Gateway: d.gateway()}
	case 3, 4:
		op := &logpb.OutboxDone{}
		for _, seq := range sortedKeys(d.model.outbox) {
			if d.chance(2) {
				op.Done = append(op.Done, seq)
			} else if d.chance(2) {
				op.Stored = append(op.Stored, seq)
			}
		}
		return op
	case 5:
		id := d.client()
		op := &logpb.OwnerClosed{ClientId: id, Owners: []*logpb.Owner{{Gateway: 5, Epoch: 5}}}
		if s := d.model.sessions[id]; s != nil {
			for _, c := range s.previous {
				if d.chance(2) {
					op.Owners = append(op.Owners, &logpb.Owner{Gateway: c.Gateway, Epoch: c.Epoch})
				}
			}
		}
		return op
	case 6:
		return &logpb.DeleteSession{ClientId: d.client()}
	case 7:
		return &logpb.Checkpoint{Id: uint64(d.rng.IntN(9))}
	}
	return &logpb.Tick{}
}
