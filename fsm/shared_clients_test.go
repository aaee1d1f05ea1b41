package fsm

import (
	"maps"
	"slices"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// The clients of TestSharedWorld.

func (w *world) connect(c *worldClient, clean bool) {
	node := uint64(4)
	if !c.ephemeral {
		node = 1 + uint64(w.rng.IntN(3))
	}
	g := w.gateway(node)
	if c.ephemeral {
		c.gateway, c.epoch = g, c.epoch+1
		return
	}
	if clean {
		w.over(c, true)
	}
	w.over(c, false)
	c.gateway = g
	c.epoch = w.parts[w.part(c.id)].m.lastEpoch + 1
	w.ask(g, w.part(c.id), &logpb.Connect{ClientId: c.id, Protocol: 5, CleanStart: clean, Expiry: 1000, Window: uint32(1 + w.rng.IntN(4))})
}

// over forgets a connection; session: and all that outlives it.
func (w *world) over(c *worldClient, session bool) {
	c.gateway = 0
	if !session {
		return
	}
	for _, f := range c.flights {
		if m := w.sent[f.msg]; m.qos == 2 && !f.pubrec || !f.share {
			m.excused = true // [MQTT-4.8.2-5], or it was the client's alone
		}
	}
	clear(c.flights)
	c.member = false
}

func (w *world) disconnect(c *worldClient) {
	g, end := c.gateway, c.ephemeral || c.id != "zoe" && w.chance(3)
	if c.ephemeral {
		w.eveLeaves(c)
		return
	}
	w.over(c, end)
	w.ask(g, w.part(c.id), &logpb.Disconnect{ClientId: c.id, Epoch: c.epoch, Lost: w.chance(2), SetExpiry: end})
}

func (w *world) subscribe(c *worldClient) {
	qos := uint32(2)
	if w.alone {
		qos = 1 // so that there is one order
	}
	c.member = true
	if c.ephemeral {
		w.stamp++
		c.stamp = w.stamp
		w.ask(c.gateway, w.group(), &logpb.Group{Items: []*logpb.GroupItem{{Body: &logpb.GroupItem_Member{Member: &logpb.GroupMember{
			Filter: worldGroup, ClientId: c.id, Stamp: c.stamp, Gateway: c.gateway, Epoch: c.epoch, Window: 3, Qos: qos,
			Kept: slices.Sorted(maps.Keys(c.flights)),
		}}}}})
		return
	}
	w.ask(c.gateway, w.part(c.id), &logpb.Subscribe{ClientId: c.id, Epoch: c.epoch, Subscriptions: []*logpb.Subscription{{Filter: worldGroup, Qos: qos}}})
}

func (w *world) unsubscribe(c *worldClient) {
	if !c.member {
		return
	}
	if c.ephemeral {
		w.eveLeaves(c)
		return
	}
	c.member = false
	for _, f := range c.flights {
		f.share = false
	}
	w.ask(c.gateway, w.part(c.id), &logpb.Unsubscribe{ClientId: c.id, Epoch: c.epoch, Filters: []string{worldGroup}})
}

// pushed is a delivery to a client with a stored session.
func (w *world) pushed(p Push) {
	c := w.clients[p.ClientID]
	if c.gateway != p.Gateway || c.epoch != p.Epoch {
		return // of a connection that is gone already
	}
	for _, d := range p.Items {
		if d.Release {
			continue
		}
		name := string(d.Message.Payload)
		old := c.flights[uint64(d.PacketID)]
		if old != nil && old.msg != name {
			w.fatalf("packet id %d of %s names %s and %s", d.PacketID, c.id, old.msg, name)
		}
		if old == nil {
			if d.Dup && c.id == "zoe" && !w.alone {
				continue // it was sent and acknowledged on a connection that was closed
			}
			c.flights[uint64(d.PacketID)] = &worldFlight{msg: name, share: true}
			w.got(c, name)
		}
	}
}

// got notes that a message was sent to a client for the first time.
func (w *world) got(c *worldClient, name string) {
	m := w.sent[name]
	m.got[c.id] = true
	if m.qos == 2 && !w.alone && len(m.got) > 1 {
		w.fatalf("message %s of QoS 2 went to %v", name, m.got)
	}
	for later, x := range w.sent {
		if w.alone && later > name && x.got[c.id] {
			w.fatalf("%s came after %s", name, later)
		}
	}
}

// ack acknowledges some of a client's flows, or all.
func (w *world) ack(c *worldClient, all bool) {
	if c.gateway == 0 || len(c.flights) == 0 {
		return
	}
	op := &logpb.Acks{ClientId: c.id, Epoch: c.epoch}
	var items []uint64
	for _, id := range slices.Sorted(maps.Keys(c.flights)) {
		f := c.flights[id]
		m := w.sent[f.msg]
		qos := m.qos
		if w.alone {
			qos = 1
		}
		if !all && w.chance(2) {
			continue
		}
		if f.pubrec {
			op.Pubcomps = append(op.Pubcomps, uint32(id))
			delete(c.flights, id)
			continue
		}
		m.taken++
		if m.taken > 1 {
			w.fatalf("message %s was taken twice, went to %v", f.msg, m.got)
		}
		items = append(items, id)
		if qos == 2 && !c.ephemeral {
			op.Pubrecs = append(op.Pubrecs, uint32(id))
			f.pubrec = true
			continue
		}
		op.Pubacks = append(op.Pubacks, uint32(id))
		delete(c.flights, id)
	}
	if c.ephemeral {
		w.ask(c.gateway, w.group(), &logpb.Group{Items: []*logpb.GroupItem{{Body: &logpb.GroupItem_Taken{
			Taken: &logpb.GroupTaken{Filter: worldGroup, ClientId: c.id, Items: items},
		}}}})
		return
	}
	w.ask(c.gateway, w.part(c.id), op)
}

// eveGets is an item on the lane to the gateway of the ephemeral client.
func (w *world) eveGets(gateway uint64, lop *logpb.LaneOp) {
	var op logpb.Op
	must(op.UnmarshalVT(lop.Op))
	c := w.clients["eve"]
	mark := [2]uint64{lop.Source, gateway}
	if lop.Seq <= w.marks[mark] {
		return
	}
	w.marks[mark] = lop.Seq
	for _, it := range op.GetGroup().Items {
		a := it.GetAssigned()
		_, closed := w.parts[0].m.Mark(gateway)
		_, also := w.parts[1].m.Mark(gateway)
		if (closed || also) && a.Qos == 2 {
			w.sent[string(a.Message.Payload)].excused = true
			continue
		}
		if c.gateway != gateway || !c.member || a.Stamp != c.stamp || c.flights[a.Item] != nil {
			continue
		}
		c.flights[a.Item] = &worldFlight{msg: string(a.Message.Payload), share: true}
		w.got(c, string(a.Message.Payload))
	}
}

// eveLeaves ends her membership: what was sent at QoS 2 goes to nobody else.
func (w *world) eveLeaves(c *worldClient) {
	g := c.gateway
	var begun []uint64
	for _, item := range slices.Sorted(maps.Keys(c.flights)) {
		if w.sent[c.flights[item].msg].qos == 2 {
			begun = append(begun, item)
		}
	}
	member := c.member
	w.over(c, true)
	if !member {
		return
	}
	w.ask(g, w.group(), &logpb.Group{Items: []*logpb.GroupItem{
		{Body: &logpb.GroupItem_Taken{Taken: &logpb.GroupTaken{Filter: worldGroup, ClientId: c.id, Items: begun}}},
		{Body: &logpb.GroupItem_Leave{Leave: &logpb.GroupLeave{Filter: worldGroup, ClientId: c.id}}},
	}})
}

// finish lets everything come to rest, with zoe connected, and draws the balance.
func (w *world) finish() {
	for range 5000 {
		if zoe := w.clients["zoe"]; zoe.gateway == 0 {
			w.connect(zoe, false)
		}
		w.deliver()
		for _, id := range w.order {
			w.ack(w.clients[id], true)
		}
		quiet := len(w.lanes) == 0
		for _, c := range w.clients {
			quiet = quiet && (c.gateway == 0 || len(c.flights) == 0)
		}
		if quiet {
			break
		}
	}
	for _, id := range w.order { // sessions that are away end
		if c := w.clients[id]; c.gateway == 0 && !c.ephemeral {
			w.over(c, true)
			w.apply(w.part(id), leaderOp(&logpb.DeleteSession{ClientId: id}))
		}
	}
	for range 5000 {
		w.deliver()
		for _, id := range w.order {
			w.ack(w.clients[id], true)
		}
	}
	for name, m := range w.sent {
		if m.taken == 0 && !m.excused {
			x := w.parts[w.group()].m
			w.fatalf("message %s of QoS %d is lost; it went to %v; %+v", name, m.qos, m.got, x.Stats())
		}
	}
	if s := w.parts[w.group()].m.Stats(); s.GroupQueued != 0 || s.GroupAssigned != 0 {
		w.fatalf("%+v", s)
	}
}
