package cluster

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// attachment is a stream of pushes to a gateway.
type attachment struct {
	nonce uint64
	next  uint64 // number of the next frame
}

// attach takes a gateway's word on where its connections stand, and pushes what
// they lack. From then on the gateway gets pushes as entries are applied.
func (ld *leader) attach(from string, a *peerpb.Attach) {
	g := a.Gateway
	ld.attaching[g] = append(ld.attaching[g], a.Sessions...)
	if a.More {
		return
	}
	sessions := ld.attaching[g]
	delete(ld.attaching, g)
	at := make(map[connection]uint64, len(sessions))
	for _, s := range sessions {
		at[connection{s.ClientId, s.Epoch}] = s.Position
	}
	var pushes []fsm.Push
	ld.r.sm.read(func(m *fsm.Machine) {
		m.Owned(g, func(client string, epoch uint64) {
			ps, _ := m.Attach(client, epoch, at[connection{client, epoch}])
			pushes = append(pushes, ps...)
		})
		for _, s := range sessions {
			for _, id := range s.Releasing {
				if !m.Releasing(s.ClientId, s.Epoch, uint16(id)) {
					ld.completed(fsm.Completed{
						Connection: fsm.Connection{ClientID: s.ClientId, Gateway: g, Epoch: s.Epoch}, PacketID: uint16(id),
					})
				}
			}
		}
	})
	ld.attached[g] = &attachment{nonce: a.Nonce}
	ld.pushes[g] = pushes // also if there are none: the first frame is the answer
	ld.sendSettled(from, ld.ann.settledVersion())
}

// completed tells a gateway that the flow of a retained QoS 2 message is over.
func (ld *leader) completed(c fsm.Completed) {
	ld.n.send(ld.n.gatewayNode(c.Gateway), &peerpb.Frame{Body: &peerpb.Frame_Completed{Completed: &peerpb.Completed{
		Partition: ld.r.partition, Gateway: c.Gateway, ClientId: c.ClientID, Epoch: c.Epoch, PacketId: uint32(c.PacketID),
	}}})
}

func (ld *leader) kickAll(cs []fsm.Connection) {
	for _, c := range cs {
		ld.n.send(ld.n.gatewayNode(c.Gateway), &peerpb.Frame{Body: &peerpb.Frame_Kick{Kick: &peerpb.Kick{
			Partition: ld.r.partition, Gateway: c.Gateway, ClientId: c.ClientID, Epoch: c.Epoch,
		}}})
	}
}

// ownersGone tells the gateways that connections which lost their sessions are
// closed: the new owner's may have no link to the old one's.
func (ld *leader) ownersGone(cs []fsm.Connection) {
	for _, c := range cs {
		f := &peerpb.Frame{Body: &peerpb.Frame_Kicked{Kicked: &peerpb.Kicked{
			Partition: ld.r.partition, Gateway: c.Gateway, ClientId: c.ClientID, Epoch: c.Epoch,
		}}}
		for _, node := range ld.n.memberNodes() {
			ld.n.send(node, f)
		}
	}
}

// flushPushes sends the deliveries of a pass to their gateways.
func (ld *leader) flushPushes() {
	for g, pushes := range ld.pushes {
		delete(ld.pushes, g)
		if ld.attached[g] == nil {
			continue
		}
		switch node := ld.n.gatewayNode(g); node {
		case "":
			delete(ld.attached, g)
		case ld.n.name:
			ld.pushHere(g, pushes)
		default:
			ld.pushTo(node, g, pushes)
		}
	}
}

// pushHere hands deliveries to this node's own gateway.
func (ld *leader) pushHere(g uint64, pushes []fsm.Push) {
	in := ld.n.ingress()
	if in == nil || in.id != g {
		delete(ld.attached, g)
		return
	}
	at := ld.attached[g]
	ok, gap := in.parts[ld.r.partition].inStream(ld.n.name, at.nonce, at.next)
	at.next++
	if gap {
		ld.announceTo(ld.n.name) // it attaches again
	}
	if !ok {
		delete(ld.attached, g)
		return
	}
	now := ld.clock.now()
	var msgs map[*logpb.Message]*flow.Message
	if len(pushes) > 1 {
		msgs = make(map[*logpb.Message]*flow.Message)
	}
	for _, p := range pushes {
		ds := make([]flow.Delivery, len(p.Items))
		for i := range p.Items {
			it := &p.Items[i]
			ds[i] = flow.Delivery{
				Seq: it.Seq, PacketID: it.PacketID, QoS: it.QoS, Release: it.Release, Dup: it.Dup,
				Retained: it.Retained, SubscriptionIDs: it.SubscriptionIDs,
			}
			if it.Message == nil {
				continue
			}
			m := msgs[it.Message]
			if m == nil {
				m = messageFromLog(remaining(it.Message, now))
				if msgs != nil {
					msgs[it.Message] = m
				}
			}
			ds[i].Message = m
		}
		in.push(ld.r.partition, p.ClientID, p.Epoch, ds)
	}
}

// pushTo sends deliveries to another node's gateway. If the link has no room the
// gateway is told to attach again, from the state.
func (ld *leader) pushTo(node string, g uint64, pushes []fsm.Push) {
	now := ld.clock.now()
	var encoded map[*logpb.Message][]byte
	if len(pushes) > 1 {
		encoded = make(map[*logpb.Message][]byte)
	}
	at := ld.attached[g]
	var frame *peerpb.Push
	var size int
	begin := func() {
		frame = &peerpb.Push{Partition: ld.r.partition, Gateway: g, Term: ld.term, Nonce: at.nonce, Number: at.next}
		at.next++
		size = 0
	}
	begin()
	send := func() bool {
		f := frame
		begin()
		return ld.n.send(node, &peerpb.Frame{Body: &peerpb.Frame_Push{Push: f}})
	}
	for _, p := range pushes {
		sp := &peerpb.SessionPush{ClientId: p.ClientID, Epoch: p.Epoch}
		frame.Sessions = append(frame.Sessions, sp)
		vals := make([]peerpb.PushItem, len(p.Items))
		for i := range p.Items {
			it := &p.Items[i]
			v := &vals[i]
			v.Seq, v.PacketId, v.Qos = it.Seq, uint32(it.PacketID), uint32(it.QoS)
			v.Release, v.Dup, v.Retained, v.SubscriptionIds = it.Release, it.Dup, it.Retained, it.SubscriptionIDs
			if it.Message != nil {
				v.Message = ld.encodePushed(it.Message, now, encoded)
			}
			if size+len(v.Message) > maxFrameBytes && len(sp.Items) > 0 {
				if !send() {
					ld.detach(node, g)
					return
				}
				sp = &peerpb.SessionPush{ClientId: p.ClientID, Epoch: p.Epoch}
				frame.Sessions = append(frame.Sessions, sp)
			}
			sp.Items = append(sp.Items, v)
			size += len(v.Message) + 16
		}
		if size > maxFrameBytes && !send() {
			ld.detach(node, g)
			return
		}
	}
	if (len(frame.Sessions) > 0 || frame.Number == 0) && !send() {
		ld.detach(node, g)
		return
	}
	at.next-- // of the frame that was begun and not sent
}

func (ld *leader) encodePushed(m *logpb.Message, now int64, encoded map[*logpb.Message][]byte) []byte {
	if b, ok := encoded[m]; ok {
		return b
	}
	b, err := remaining(m, now).MarshalVT()
	if err != nil {
		ld.n.fatal(err)
	}
	if encoded != nil {
		encoded[m] = b
	}
	return b
}

// detach gives up pushing to a gateway until it attaches again.
func (ld *leader) detach(node string, g uint64) {
	delete(ld.attached, g)
	ld.reannounce[node] = true
}

// readRequest is a question for retained messages.
type readRequest struct {
	node string
	q    *peerpb.RetainedRead
}

// read collects questions for retained messages. They are answered after a
// check that this node still led when they had come (design §3): what was
// acknowledged before is applied here.
func (ld *leader) read(from string, q *peerpb.RetainedRead) {
	ld.reads = append(ld.reads, readRequest{from, q})
	ld.verify()
}

func (ld *leader) verify() {
	if ld.verifying || len(ld.reads) == 0 {
		return
	}
	ld.verifying = true
	batch := ld.reads
	ld.reads = nil
	asked := time.Now()
	ld.wg.Go(func() {
		leads := ld.r.leads(ld.term, asked)
		ld.box.put(event{call: func() {
			ld.verifying = false
			for _, q := range batch {
				ld.answerRead(q, leads)
			}
			ld.verify()
		}})
	})
}

// leads finds out whether this replica led the term at some moment after since: a
// quorum must have answered to something that was sent later.
func (r *replica) leads(term uint64, since time.Time) bool {
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	r.transport.Prompt()
	// VerifyLeader may be content with answers to what was sent before, of which
	// each follower has a few on their way: a heartbeat and entries.
	const perFollower = 4
	for range perFollower * len(f.Configuration().Servers) {
		if r.raft.VerifyLeader().Error() != nil || r.raft.CurrentTerm() != term {
			return false
		}
		voters, confirmed := 0, 0
		for _, s := range f.Configuration().Servers {
			if s.Suffrage != raft.Voter {
				continue
			}
			voters++
			if s.ID == r.id || r.transport.Confirmed(s.ID, term, since) {
				confirmed++
			}
		}
		if confirmed > voters/2 {
			return true
		}
	}
	return false
}

func (ld *leader) answerRead(q readRequest, leads bool) {
	d := &peerpb.RetainedData{Partition: ld.r.partition, Id: q.q.Id, NotLeader: !leads}
	var found []*logpb.Message
	if leads {
		ld.r.sm.read(func(m *fsm.Machine) {
			for i, f := range q.q.Filters {
				m.RetainedMatch(f, func(msg *logpb.Message) bool {
					matches := func(other string) bool { return topic.Match(other, msg.Topic) }
					if !slices.ContainsFunc(q.q.Filters[:i], matches) { // else it is there already
						found = append(found, msg)
					}
					return true
				})
			}
		})
	}
	now := ld.clock.now()
	size := 0
	for _, msg := range found {
		b := ld.encodePushed(msg, now, nil)
		if size+len(b) > maxFrameBytes && size > 0 {
			d.More = true
			ld.n.send(q.node, &peerpb.Frame{Body: &peerpb.Frame_RetainedData{RetainedData: d}})
			d = &peerpb.RetainedData{Partition: ld.r.partition, Id: q.q.Id}
			size = 0
		}
		d.Messages = append(d.Messages, b)
		size += len(b)
	}
	ld.n.send(q.node, &peerpb.Frame{Body: &peerpb.Frame_RetainedData{RetainedData: d}})
}
