package fsm

import (
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// command makes the op of a line. Ops of clients go by the lane of the gateway
// that the client connected from last, with the epoch of that connection;
// from=, epoch=, seq= and prev= say otherwise.
func (s *scenario) command(t *testing.T, c command) *logpb.LaneOp {
	var body any
	client := c.arg
	switch c.name {
	case "connect": // connect CLIENT from=1.1 [clean] [expiry=S] [window=N] [max_packet=N] [v=5] [will=TOPIC:PAYLOAD] [will_qos=N] [delay=S] [will_retain]
		s.sources[client] = c.source("from")
		body = connectOp(t, c)
	case "disconnect": // disconnect CLIENT [lost] [expiry=S]
		body = &logpb.Disconnect{ClientId: client, Epoch: s.epoch(c), Lost: c.has("lost"), SetExpiry: c.has("expiry"), Expiry: uint32(c.num("expiry"))}
	case "subscribe": // subscribe CLIENT FILTER:QOS[,nl][,rap][,rh=N][,id=N]...
		body = &logpb.Subscribe{ClientId: client, Epoch: s.epoch(c), Subscriptions: subscriptions(t, c)}
	case "unsubscribe": // unsubscribe CLIENT FILTER...
		body = &logpb.Unsubscribe{ClientId: client, Epoch: s.epoch(c), Filters: filters(c)}
	case "publish": // publish TOPIC from=1.1 payload=P qos=N [retain] [store] [nodeliver] [by=CLIENT] [expiry=MS] [after_close=1.1] [id=N]
		p := &logpb.Publish{Message: messageOf(c, c.arg), Deliver: !c.has("nodeliver"), Store: c.has("store")}
		if c.has("after_close") {
			p.AfterClose = c.source("after_close")
		}
		body = p
	case "receive": // receive CLIENT pid=N topic=T payload=P [retain]
		msg := messageOf(c, c.opts["topic"])
		msg.Qos, msg.Publisher = 2, client
		body = &logpb.Receive{ClientId: client, Epoch: s.epoch(c), PacketId: uint32(c.num("pid")), Message: msg}
	case "release": // release CLIENT pid=N
		body = &logpb.Release{ClientId: client, Epoch: s.epoch(c), PacketId: uint32(c.num("pid"))}
	case "ack": // ack CLIENT [puback=1,2] [pubrec=3] [pubcomp=4] [failed=5]
		body = &logpb.Acks{ClientId: client, Epoch: s.epoch(c), Pubacks: c.nums("puback"), Pubrecs: c.nums("pubrec"), Pubcomps: c.nums("pubcomp"), FailedPubrecs: c.nums("failed")}
	case "answer": // answer CLIENT hold=N [more] TOPIC:PAYLOAD[:ID]...
		body = &logpb.RetainedAnswer{ClientId: client, Epoch: s.epoch(c), Hold: c.num("hold"), More: c.has("more"), Messages: answers(t, c)}
	case "member", "leave", "taken", "assigned":
		body = &logpb.Group{Items: []*logpb.GroupItem{groupCommand(c)}}
	default:
		return s.leaderCommand(t, c)
	}
	source := s.sources[client]
	if c.has("from") {
		source = c.source("from")
	}
	op := s.lanes.op(source, body)
	if c.has("seq") {
		op.Seq, op.Prev = c.num("seq"), c.num("seq")-1
		s.lanes[source]-- // it is told apart from the ops that follow
	}
	if c.has("prev") {
		op.Prev = c.num("prev")
	}
	return op
}

// groupCommand makes what a home tells a group, or a group a member's home.
func groupCommand(c command) *logpb.GroupItem {
	filter, client := c.opts["of"], c.arg
	switch c.name {
	case "member": // member CLIENT of=FILTER from=p1|1.1 stamp=N qos=N window=N [at=1.1] [epoch=N] [rap] [id=N] [kept=1,2]
		p := &logpb.GroupMember{
			Filter: filter, ClientId: client, Stamp: c.num("stamp"), Epoch: c.num("epoch"), Window: uint32(c.num("window")),
			Qos: uint32(c.num("qos")), RetainAsPublished: c.has("rap"), Id: uint32(c.num("id")), Kept: wide(c.nums("kept")),
		}
		if c.has("at") {
			p.Gateway = c.source("at")
		}
		return &logpb.GroupItem{Body: &logpb.GroupItem_Member{Member: p}}
	case "leave": // leave CLIENT of=FILTER from=p1|1.1
		return &logpb.GroupItem{Body: &logpb.GroupItem_Leave{Leave: &logpb.GroupLeave{Filter: filter, ClientId: client}}}
	case "taken": // taken CLIENT of=FILTER from=p1|1.1 items=1,2
		return &logpb.GroupItem{Body: &logpb.GroupItem_Taken{Taken: &logpb.GroupTaken{Filter: filter, ClientId: client, Items: wide(c.nums("items"))}}}
	}
	// assigned CLIENT of=FILTER from=p1 stamp=N item=N qos=N topic=T payload=P [id=N]
	return &logpb.GroupItem{Body: &logpb.GroupItem_Assigned{Assigned: &logpb.GroupAssigned{
		Filter: filter, ClientId: client, Stamp: c.num("stamp"), Item: c.num("item"), Qos: uint32(c.num("qos")),
		SubscriptionId: uint32(c.num("id")), Message: messageOf(c, c.opts["topic"]),
	}}}
}

func wide(list []uint32) (numbers []uint64) {
	for _, n := range list {
		numbers = append(numbers, uint64(n))
	}
	return numbers
}

// leaderCommand makes the ops of a leader.
func (s *scenario) leaderCommand(t *testing.T, c command) *logpb.LaneOp {
	switch c.name {
	case "lead": // lead [max_queue=N] [max_bytes=N] [full=oldest|newest|refuse] [max_inflight=N] [max_inbound=N] [max_subs=N] [max_expiry=S] [copies]
		full := map[string]logpb.QueueFull{"newest": logpb.QueueFull_DROP_NEWEST, "refuse": logpb.QueueFull_REFUSE}[c.opts["full"]]
		return leaderOp(&logpb.Lead{Leader: "n1", Settings: &logpb.Settings{
			MaxQueueMessages: uint32(c.num("max_queue")), MaxQueueBytes: c.num("max_bytes"), QueueFull: full,
			MaxInflight: uint32(c.num("max_inflight")), MaxInflightBytes: c.num("max_inflight_bytes"), MaxInbound: uint32(c.num("max_inbound")),
			MaxSubscriptions: uint32(c.num("max_subs")), MaxExpiry: uint32(c.num("max_expiry")), CopyPerSubscription: c.has("copies"),
		}})
	case "close": // close 1.1
		return leaderOp(&logpb.CloseGateway{Gateway: parseSource(c.arg)})
	case "outbox_done": // outbox_done [done=1,2] [stored=3]
		op := &logpb.OutboxDone{}
		for _, n := range c.nums("done") {
			op.Done = append(op.Done, uint64(n))
		}
		for _, n := range c.nums("stored") {
			op.Stored = append(op.Stored, uint64(n))
		}
		return leaderOp(op)
	case "tick":
		return leaderOp(&logpb.Tick{})
	case "owner_closed": // owner_closed CLIENT gateway=1.1 epoch=N
		return leaderOp(&logpb.OwnerClosed{ClientId: c.arg, Owners: []*logpb.Owner{{Gateway: c.source("gateway"), Epoch: c.num("epoch")}}})
	case "checkpoint": // checkpoint N
		return leaderOp(&logpb.Checkpoint{Id: c.argNum()})
	case "delete": // delete CLIENT
		return leaderOp(&logpb.DeleteSession{ClientId: c.arg})
	}
	t.Fatalf("no command %q", c.name)
	return nil
}

func connectOp(t *testing.T, c command) *logpb.Connect {
	op := &logpb.Connect{
		ClientId: c.arg, Protocol: 5, CleanStart: c.has("clean"), Expiry: uint32(c.num("expiry")),
		Window: uint32(c.num("window")), MaxPacket: uint32(c.num("max_packet")),
	}
	if c.has("will") {
		name, payload, _ := strings.Cut(c.opts["will"], ":")
		op.Will = &logpb.Will{Delay: uint32(c.num("delay")), Message: &logpb.Message{
			Topic: name, Payload: []byte(payload), Qos: uint32(c.num("will_qos")), Retain: c.has("will_retain"), Publisher: c.arg,
		}}
	}
	return op
}

func messageOf(c command, name string) *logpb.Message {
	m := &logpb.Message{
		Topic: name, Payload: []byte(c.opts["payload"]), Qos: uint32(c.num("qos")), Retain: c.has("retain"), Publisher: c.opts["by"],
		HasExpiry: c.has("expiry"), Expiry: int64(c.num("expiry")),
	}
	if c.has("id") {
		m.IdSource, m.IdSeq = gw(9, 1), c.num("id")
	}
	return m
}

func filters(c command) (list []string) {
	for _, w := range c.words {
		if _, _, option := strings.Cut(w, "="); !option {
			list = append(list, w)
		}
	}
	return list
}

func subscriptions(t *testing.T, c command) (subs []*logpb.Subscription) {
	for _, w := range c.words {
		at := strings.LastIndex(w, ":")
		if at < 0 {
			continue
		}
		options := strings.Split(w[at+1:], ",")
		sub := &logpb.Subscription{Filter: w[:at], Qos: uint32(parseNum(t, options[0]))}
		for _, o := range options[1:] {
			k, v, _ := strings.Cut(o, "=")
			switch k {
			case "nl":
				sub.NoLocal = true
			case "rap":
				sub.RetainAsPublished = true
			case "rh":
				sub.RetainHandling = uint32(parseNum(t, v))
			case "id":
				sub.Id = uint32(parseNum(t, v))
			}
		}
		subs = append(subs, sub)
	}
	return subs
}

func answers(t *testing.T, c command) (msgs []*logpb.Message) {
	for _, w := range c.words {
		parts := strings.Split(w, ":")
		if len(parts) < 2 {
			continue
		}
		m := &logpb.Message{Topic: parts[0], Payload: []byte(parts[1]), Qos: 2, Retain: true}
		if len(parts) > 2 {
			m.IdSource, m.IdSeq = gw(9, 1), parseNum(t, parts[2])
		}
		msgs = append(msgs, m)
	}
	return msgs
}
