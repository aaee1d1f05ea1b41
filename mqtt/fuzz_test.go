package mqtt

import (
	"slices"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// FuzzConnection feeds arbitrary bytes to the connection state machine, after CONNECT
// or instead of it, while the cluster answers early, late or with errors and delivers
// messages. It must not panic, must not hold more than its limits allow, must send
// well-formed packets only, and must settle when the client goes.
func FuzzConnection(f *testing.F) {
	limits := DefaultLimits()
	limits.QueueMessages, limits.ReceiveMaximum, limits.MaxInflight, limits.TopicAliasMaximum = 5, 4, 3, 2
	limits.OutBuffer, limits.UnansweredBytes, limits.MaxSubscriptions, limits.QueueBytes = 2000, 3000, 6, 4000
	for _, version := range []byte{packet.V31, packet.V311, packet.V5} {
		var raw []byte
		for _, p := range []packet.Packet{
			sub(1, filter("a", 2), filter("#", 1), filter("$share/g/a", 2)), pub("a", "x", 2, 1), pub("a", "x", 1, 2), ack(packet.TypePubrel, 1), ack(packet.TypePuback, 1),
			ack(packet.TypePubrec, 2), ack(packet.TypePubcomp, 2), unsub(3, "#", "$share/g/a"), &packet.Pingreq{}, &packet.Disconnect{},
		} {
			raw = p.AppendTo(raw, version)
		}
		for mode := range byte(32) {
			f.Add(version, mode, raw)
		}
		f.Add(version, byte(0xff), connectPacket(version).AppendTo(nil, version))
	}
	raw := echo("more").AppendTo(nil, packet.V5)
	for _, p := range []packet.Packet{
		authPacket(goOn, "echo", "user alice"), sub(1, filter("a", 1), filter("secret", 1)), pub("secret", "x", 2, 1),
		authPacket(again, "echo", "more"), authPacket(goOn, "echo", "user alice"), pub("a", "x", 1, 2),
	} {
		raw = p.AppendTo(raw, packet.V5)
	}
	f.Add(packet.V5, byte(0xff), raw)
	f.Fuzz(func(t *testing.T, version, mode byte, raw []byte) {
		srv, stub := newMachine(t, func(o *Options) { o.Limits, o.Auth = limits, &doorman{closed: []string{"secret"}} })
		srv.withoutTimer()
		version = max(min(version, packet.V5), packet.V31)
		k := newClient(t, srv, stub, version)
		k.anyVersion = mode == 0xff
		if mode != 0xff { // else the bytes are all there is
			p := connectPacket(version)
			if mode&1 != 0 {
				persistent(p)
			}
			k.in(p)
			if k.packets()[0].(*packet.Connack).Code != packet.Success {
				t.Fatal("CONNECT is refused")
			}
			names := []string{"publish", "receive", "release", "subscribe", "unsubscribe", "ack", "interest", "retained", "join", "leave"}
			for i, name := range names {
				stub.held[name] = mode>>(1+i%4)&1 != 0
			}
		}
		stub.stored = []*flow.Message{live("a", "stored", 1, 1)}
		for seq := uint64(1); len(raw) > 0 && !k.hung; seq++ {
			n := min(len(raw), 1+int(raw[0])%64)
			k.piece(&raw, n)
			srv.Route(live("a", "x", byte(seq%3), seq), true)
			srv.Deliver("c", 1, []flow.Delivery{{Seq: seq, PacketID: uint16(1 + seq%3), QoS: byte(1 + seq%2), Message: live("a", "y", 2, seq)}})
			for filter, g := range stub.groups {
				if g.assigned < int(limits.MaxInflight) {
					g.assigned, g.last = g.assigned+1, g.last+1
					srv.Deliver("c", 1, []flow.Delivery{{QoS: byte(1 + seq%2), Message: live("a", "z", 2, seq), Group: filter, Stamp: g.stamp, Item: g.last}})
				}
			}
			if len(stub.wait) > 0 && seq%3 == 0 {
				err := []error{nil, nil, flow.ErrQuota, flow.ErrUnavailable, flow.ErrFenced, flow.ErrUnknownPacketID}[int(raw0(raw))%6]
				stub.answer(int(seq)%len(stub.wait), err)
			}
			k.bounded(&limits)
			if seq%5 == 0 {
				srv.grants.Add(1)
				k.c.recheck()
			}
			if seq%4 == 0 {
				k.packets()
			}
		}
		k.packets()
		k.gone()
		stub.held = nil
		for len(stub.wait) > 0 {
			stub.answer(0, nil)
		}
		<-srv.later.busy.idle()
		if !k.c.gone {
			t.Error("not settled")
		}
		if n := srv.metrics.Subscriptions.Load(); n != 0 || len(srv.subs.interest) != 0 {
			t.Errorf("%d subscriptions left, interest %v", n, srv.subs.interest)
		}
		if n := srv.metrics.QueuedMessages.Load() + srv.metrics.QueuedBytes.Load(); n != 0 {
			t.Errorf("%d queued", n)
		}
		connects, disconnects := 0, 0
		for _, a := range stub.asked {
			if len(a) > 7 && a[:7] == "connect" {
				connects++
			}
			if len(a) > 10 && a[:10] == "disconnect" {
				disconnects++
			}
		}
		for filter, g := range stub.groups {
			t.Errorf("still a member of %s, with %d assigned", filter, g.assigned)
		}
		if connects != disconnects {
			t.Errorf("%d Connects and %d Disconnects", connects, disconnects)
		}
		srv.ackers.mu.Lock()
		if srv.ackers.timer != nil {
			srv.ackers.timer.Stop()
		}
		srv.ackers.mu.Unlock()
	})
}

func raw0(raw []byte) byte {
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

// piece hands on some bytes, as the reader does: whole packets only, none while the
// gate is shut; what it cannot frame ends the connection.
func (k *client) piece(raw *[]byte, n int) {
	rest := (*raw)[:n]
	for len(rest) > 0 && !k.hung && !k.c.gated(0) {
		_, start, length, err := packet.Frame(rest)
		if err == nil && len(rest) < start+length || err == packet.ErrShort {
			if len(rest) == len(*raw) {
				*raw = nil // the end of the input
				return
			}
			if n = min(2*len(rest), len(*raw)); n == len(rest) {
				*raw = nil
				return
			}
			rest = (*raw)[:n]
			continue
		}
		if err != nil {
			k.bytes(rest)
			break
		}
		k.bytes(rest[:start+length])
		*raw, rest = (*raw)[start+length:], rest[start+length:]
	}
	if k.c.gated(0) && len(k.stub.wait) == 0 {
		k.t.Error("the gate is shut for nothing")
		*raw = nil
	}
}

// bounded checks that nothing grows beyond its limit.
func (k *client) bounded(l *Limits) {
	k.t.Helper()
	c := &k.c
	const slack = 300 // what one packet may add after the last check
	if c.unanswered > c.maxUnanswered()+slack || len(c.ops) > c.maxUnanswered()+slack {
		k.t.Errorf("%d unanswered, %d changes of subscriptions", c.unanswered, len(c.ops))
	}
	if o := c.flows; o != nil {
		if o.queue.len() > l.QueueMessages || o.queueBytes > l.QueueBytes {
			k.t.Errorf("%d messages with %d bytes queued", o.queue.len(), o.queueBytes)
		}
		if c.ephemeral && len(o.flights) > int(l.MaxInflight) {
			k.t.Errorf("%d in flight", len(o.flights))
		}
	}
	for _, h := range c.holds {
		if len(h.held) > l.QueueMessages {
			k.t.Errorf("%d messages held", len(h.held))
		}
	}
	if in := c.in; in != nil {
		if len(in.aliases) > int(l.TopicAliasMaximum) {
			k.t.Errorf("%d aliases", len(in.aliases))
		}
		if c.opts.version == packet.V5 && in.atLeastOnce+len(in.open) > int(l.ReceiveMaximum) {
			k.t.Errorf("%d and %d messages in flight from the client", in.atLeastOnce, len(in.open))
		}
	}
	if c.ephemeral && len(c.filters) > l.MaxSubscriptions {
		k.t.Errorf("%d subscriptions", len(c.filters))
	}
}

// TestSeedsCoverDepth: the seeds of the fuzz test reach beyond CONNECT.
func TestSeedsCoverDepth(t *testing.T) {
	srv, stub := newMachine(t, nil)
	k := newClient(t, srv, stub, packet.V5).connect(nil)
	raw := sub(1, filter("a", 2)).AppendTo(nil, packet.V5)
	raw = pub("a", "x", 2, 1).AppendTo(raw, packet.V5)
	for len(raw) > 0 {
		k.piece(&raw, 1)
	}
	if want := []string{"interest a=5", "retained a", "receive 1 a"}; !slices.Equal(stub.asked, want) {
		t.Errorf("asked %q, want %q", stub.asked, want)
	}
}
