package mqtt

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// stubCluster writes down what it is asked and answers at once, from within the
// call, or when the test says so.
type stubCluster struct {
	asked  []string // what was asked since the last look
	held   map[string]bool
	wait   []func(err error) // answers to held questions, oldest first
	down   bool
	fail   error        // the answer to everything but Disconnect
	next   flow.Session // the answer to Connect; Epoch 0: a new one, ephemeral by Expiry
	epoch  uint64
	match  bool // somebody wants what is published
	subErr map[string]packet.ReasonCode
	stored []*flow.Message // retained messages
	msgs   []*flow.Message // what was published or received
	will   *flow.Will
	groups map[string]*stubGroup // that the client is a member of
}

// stubGroup is what a group knows of the client.
type stubGroup struct {
	stamp, last uint64
	assigned    int
}

func (s *stubCluster) ask(name, details string, answer func(error)) {
	s.asked = append(s.asked, strings.TrimSpace(name+" "+details))
	if s.held[name] {
		s.wait = append(s.wait, answer)
	} else if answer != nil {
		answer(s.fail)
	}
}

// answer answers the oldest held question, or another by its position.
func (s *stubCluster) answer(at int, err error) {
	fn := s.wait[at]
	s.wait = slices.Delete(s.wait, at, at+1)
	fn(err)
}

func (s *stubCluster) Available() bool { return !s.down }

func (s *stubCluster) Connect(c flow.Connect, done func(flow.Session, error)) {
	s.will = c.Will
	answer := s.next
	if answer.Epoch == 0 {
		s.epoch++
		answer = flow.Session{ClientID: c.ClientID, Epoch: s.epoch, Ephemeral: c.Expiry == 0}
	}
	details := fmt.Sprintf("%s v%d clean=%v expiry=%d window=%d", c.ClientID, c.Protocol, c.CleanStart, c.Expiry, c.Window)
	s.ask("connect", details, func(err error) { done(answer, err) })
}

func (s *stubCluster) Disconnect(id string, epoch uint64, d flow.Disconnect, done func(error)) {
	how := "lost"
	if d.Reason == flow.Normal {
		how = "normal"
	}
	if d.SetExpiry {
		how += fmt.Sprintf(" expiry=%d", d.Expiry)
	}
	s.ask("disconnect", fmt.Sprintf("%s %d %s", id, epoch, how), func(error) { done(nil) })
}

func (s *stubCluster) Publish(m *flow.Message, done func(bool, error)) {
	s.msgs = append(s.msgs, m)
	s.ask("publish", fmt.Sprintf("%s q%d %s", m.Topic, m.QoS, m.Payload), func(err error) { done(s.match, err) })
}

func (s *stubCluster) Receive(_ string, _ uint64, id uint16, m *flow.Message, done func(bool, error)) {
	s.msgs = append(s.msgs, m)
	s.ask("receive", fmt.Sprintf("%d %s", id, m.Topic), func(err error) { done(s.match, err) })
}

func (s *stubCluster) Release(_ string, _ uint64, id uint16, done func(error)) {
	s.ask("release", fmt.Sprint(id), done)
}

func (s *stubCluster) Subscribe(_ string, _ uint64, subs []flow.Subscription, done func([]flow.Subscribed, error)) {
	var answers []flow.Subscribed
	var details []string
	for _, sub := range subs {
		code := byte(s.subErr[sub.Filter])
		if code == 0 {
			code = sub.QoS
		}
		answers = append(answers, flow.Subscribed{Code: code})
		details = append(details, fmt.Sprintf("%s q%d", sub.Filter, sub.QoS))
	}
	s.ask("subscribe", strings.Join(details, ", "), func(err error) { done(answers, err) })
}

func (s *stubCluster) Unsubscribe(_ string, _ uint64, filters []string, done func([]bool, error)) {
	existed := make([]bool, len(filters))
	for i := range existed {
		existed[i] = filters[i] != "unknown"
	}
	s.ask("unsubscribe", strings.Join(filters, ", "), func(err error) { done(existed, err) })
}

func (s *stubCluster) Ack(_ string, _ uint64, acks []flow.Ack, done func(error)) {
	var details []string
	for _, a := range acks {
		d := fmt.Sprintf("%s %d", [...]string{"puback", "pubrec", "pubcomp"}[a.Kind], a.PacketID)
		if a.Failed {
			d += " failed"
		}
		details = append(details, d)
	}
	s.ask("ack", strings.Join(details, ", "), func(err error) {
		if done != nil {
			done(err)
		}
	})
}

func (s *stubCluster) JoinGroup(_ string, _ uint64, m flow.Membership, done func(bool, error)) {
	details := fmt.Sprintf("%s q%d stamp=%d window=%d", m.Filter, m.QoS, m.Stamp, m.Window)
	if len(m.Kept) > 0 {
		slices.Sort(m.Kept)
		details += fmt.Sprintf(" keeps %v", m.Kept)
	}
	if s.groups == nil {
		s.groups = map[string]*stubGroup{}
	}
	s.groups[m.Filter] = &stubGroup{stamp: m.Stamp, assigned: len(m.Kept), last: 1000 * m.Stamp}
	s.ask("join", details, func(err error) { done(false, err) })
}

func (s *stubCluster) LeaveGroup(_, filter string, done func(bool, error)) {
	delete(s.groups, filter)
	s.ask("leave", filter, func(err error) { done(true, err) })
}

func (s *stubCluster) Taken(_, filter string, items []uint64) {
	slices.Sort(items)
	if g := s.groups[filter]; g != nil {
		g.assigned -= len(items)
	}
	s.ask("taken", fmt.Sprintf("%s %v", filter, items), nil)
}

func (s *stubCluster) SetInterest(changes []InterestChange, done func(error)) {
	var details []string
	for _, ch := range changes {
		details = append(details, fmt.Sprintf("%s=%d", ch.Filter, ch.Want))
	}
	slices.Sort(details)
	s.ask("interest", strings.Join(details, ", "), func(err error) {
		if done != nil {
			done(err)
		}
	})
}

func (s *stubCluster) Retained(filters []string, done func([]*flow.Message, int, error)) {
	s.ask("retained", strings.Join(filters, ", "), func(err error) { done(s.stored, 0, err) })
}

// client drives one connection without a socket.
type client struct {
	t       testing.TB
	srv     *Server
	stub    *stubCluster
	c       conn
	version byte

	hung      bool // hangup was called
	keepAlive int  // -1: not established
	// anyVersion: the server may answer in another version than the client's.
	anyVersion bool
}

func (k *client) wake()                      {}
func (k *client) hangup()                    { k.hung = true }
func (k *client) established(seconds uint16) { k.keepAlive = int(seconds) }

// newMachine makes a server on a stub cluster; it has no goroutine but those of
// later.
func newMachine(t testing.TB, change func(*Options)) (*Server, *stubCluster) {
	stub := &stubCluster{held: map[string]bool{}, match: true}
	o := Options{Cluster: stub, Limits: DefaultLimits(), Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	return NewServer(o), stub
}

func newClient(t testing.TB, s *Server, stub *stubCluster, version byte) *client {
	k := &client{t: t, srv: s, stub: stub, version: version, keepAlive: -1}
	k.c.init(s, k, &s.limits, Client{Listener: "test"})
	return k
}

// in hands packets to the connection as one read.
func (k *client) in(ps ...packet.Packet) *client {
	k.t.Helper()
	var raw []byte
	for _, p := range ps {
		raw = p.AppendTo(raw, k.version)
	}
	return k.bytes(raw)
}

// bytes hands wire bytes to the connection as the reader would.
func (k *client) bytes(raw []byte) *client {
	k.t.Helper()
	for len(raw) > 0 {
		header, start, length, err := packet.Frame(raw)
		if err == nil && len(raw) < start+length {
			break
		}
		if err == nil {
			err = k.c.handle(header, raw[start:start+length])
		}
		if err != nil {
			k.c.readBatchDone()
			k.c.fail(err)
			break
		}
		raw = raw[start+length:]
	}
	k.c.readBatchDone()
	if k.c.phase == phaseClosing {
		k.c.readerDone()
	}
	return k
}

// gone is the end of the network connection.
func (k *client) gone() *client {
	k.c.end(networkFailure())
	k.c.readerDone()
	return k
}

// packets takes what the connection has sent.
func (k *client) packets() (ps []packet.Packet) {
	k.t.Helper()
	for {
		b, _ := k.c.take()
		if b == nil {
			break
		}
		var raw []byte
		for _, p := range b.pieces {
			raw = append(raw, p...)
		}
		if len(raw) != b.size {
			k.t.Errorf("batch of %d bytes says it has %d", len(raw), b.size)
		}
		n := b.size
		b.release()
		k.c.wrote(n)
		for len(raw) > 0 {
			header, start, length, err := packet.Frame(raw)
			if err != nil {
				k.t.Fatalf("sent garbage: %x", raw)
			}
			p, err := packet.Decode(header, raw[start:start+length], k.version)
			for v := packet.V31; err != nil && k.anyVersion && v <= packet.V5; v++ {
				p, err = packet.Decode(header, raw[start:start+length], v)
			}
			if err != nil {
				k.t.Fatalf("sent garbage: %v", err)
			}
			ps = append(ps, p)
			raw = raw[start+length:]
		}
	}
	return ps
}

// out checks what the connection has sent since the last look; "closed" at the end
// says that it hangs up.
func (k *client) out(want ...string) *client {
	k.t.Helper()
	var got []string
	for _, p := range k.packets() {
		got = append(got, describe(p))
	}
	if k.hung {
		got = append(got, "closed")
	}
	if !slices.Equal(got, want) {
		k.t.Errorf("sent %q, want %q", got, want)
	}
	return k
}

// asks checks what the cluster was asked since the last look.
func (k *client) asks(want ...string) *client {
	k.t.Helper()
	got := k.stub.asked
	k.stub.asked = nil
	if !slices.Equal(got, want) {
		k.t.Errorf("asked %q, want %q", got, want)
	}
	return k
}

// connect completes a CONNECT and forgets what it said.
func (k *client) connect(change func(*packet.Connect)) *client {
	k.t.Helper()
	p := connectPacket(k.version)
	if change != nil {
		change(p)
	}
	k.in(p)
	if got := k.packets(); len(got) != 1 || got[0].Type() != packet.TypeConnack || got[0].(*packet.Connack).Code != packet.Success {
		k.t.Fatalf("CONNECT is answered with %v", got)
	}
	k.stub.asked = nil
	return k
}

// connectPacket is a CONNECT of a client "c" with a clean session.
func connectPacket(version byte) *packet.Connect {
	return &packet.Connect{Version: version, ClientID: "c", CleanStart: true}
}

// persistent asks for a session that outlives its connection.
func persistent(p *packet.Connect) {
	p.CleanStart = false
	if p.Version >= packet.V5 {
		p.Props.SessionExpiry = new(uint32(3600))
	}
}

// describe says what the tests compare about a packet.
func describe(p packet.Packet) string {
	s := p.Type().String()
	switch p := p.(type) {
	case *packet.Connack:
		s += fmt.Sprintf(" %02X", byte(p.Code))
		if p.SessionPresent {
			s += " present"
		}
	case *packet.Ack:
		s += fmt.Sprintf(" %d", p.PacketID)
		if p.Code != 0 {
			s += fmt.Sprintf(" %02X", byte(p.Code))
		}
	case *packet.Publish:
		s += " " + describePublish(p)
	case *packet.Suback:
		s += fmt.Sprintf(" %d % X", p.PacketID, codeBytes(p.Codes))
	case *packet.Unsuback:
		s = strings.TrimSpace(s + fmt.Sprintf(" %d % X", p.PacketID, codeBytes(p.Codes)))
	case *packet.Disconnect:
		s += fmt.Sprintf(" %02X", byte(p.Code))
	}
	return s
}

func codeBytes(codes []packet.ReasonCode) (b []byte) {
	for _, c := range codes {
		b = append(b, byte(c))
	}
	return b
}

func describePublish(p *packet.Publish) string {
	s := fmt.Sprintf("%s %s q%d", p.Topic, p.Payload, p.QoS)
	if p.QoS > 0 {
		s += fmt.Sprintf(" #%d", p.PacketID)
	}
	if p.Dup {
		s += " dup"
	}
	if p.Retain {
		s += " retain"
	}
	if p.HasExpiry {
		s += fmt.Sprintf(" expiry=%d", p.Expiry)
	}
	if p.TopicAlias != 0 {
		s += fmt.Sprintf(" alias=%d", p.TopicAlias)
	}
	if len(p.SubscriptionIDs) > 0 {
		slices.Sort(p.SubscriptionIDs)
		s += fmt.Sprintf(" ids=%v", p.SubscriptionIDs)
	}
	return s
}
