package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// victim is the node that dies in the middle of a flow.
type victim string

const (
	publisherGateway  victim = "publisher's gateway"
	subscriberGateway victim = "subscriber's gateway"
	publisherLeader   victim = "leader of the publisher's partition"
	subscriberLeader  victim = "leader of the subscriber's partition"
)

// cast is who stands where: the dying node has the role of the victim and no other.
type cast struct {
	*scene
	dies                     *Node
	publisherAt, receiverAt  *Node
	publisher, receiver      string // client ids
	publisherRef, receiverRe []*Node
	kill                     func()
}

func castFor(t *testing.T, c *Cluster, name string, who victim) *cast {
	s := begin(t, c)
	r := &cast{scene: s}
	r.dies = c.Leader() // so that it leads something, as two of the victims must
	others := c.Others(r.dies)
	r.publisherAt, r.receiverAt = others[0], others[1]
	switch who {
	case publisherGateway:
		r.publisherAt, r.publisherRef = r.dies, others
	case subscriberGateway:
		r.receiverAt, r.receiverRe = r.dies, others
	}
	leads := func(want bool) func(*Node) bool { return func(n *Node) bool { return (n == r.dies) == want } }
	r.publisher = c.ClientID("p"+name, leads(who == publisherLeader))
	r.receiver = c.ClientID("r"+name, leads(who == subscriberLeader))
	seed := rand.Uint64()
	t.Logf("seed %d, dies %s, publisher %s at %s, subscriber %s at %s", seed, r.dies.Name, r.publisher, r.publisherAt.Name,
		r.receiver, r.receiverAt.Name)
	rng := rand.New(rand.NewPCG(seed, 0))
	r.kill = func() {
		// So that it dies at another instant of the step each time.
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		r.dies.Kill9()
	}
	return r
}

// at calls kill at one step.
type at struct {
	step int
	kill func()
}

func (a at) reached(step int) {
	if a.step == step {
		a.kill()
	}
}

// publish runs a publisher's flow of one message, killing at a step: 0 PUBLISH sent, 1
// PUBACK or PUBREC received, 2 PUBREL sent, 3 PUBCOMP received.
func (p *stepper) publish(m client.Packet, id uint16, k at) {
	p.s.t.Helper()
	m.ID = id
	p.send(func() error { return p.conn.Publish(m) }, nil)
	k.reached(0)
	again := func() error { dup := m; dup.Dup = true; return p.conn.Publish(dup) }
	if m.QoS == 1 {
		p.await(client.PUBACK, id, again)
		k.reached(1)
		return
	}
	p.await(client.PUBREC, id, again)
	k.reached(1)
	release := func() error { return p.conn.Ack(client.PUBREL, id, 0) }
	p.send(release, release)
	k.reached(2)
	p.await(client.PUBCOMP, id, release)
	k.reached(3)
}

// send sends a packet; if the connection has broken it resumes, and sends the packet again
// if there is an again.
func (p *stepper) send(first, again func() error) {
	p.s.t.Helper()
	err := first()
	for err != nil {
		p.resume(err)
		if again == nil {
			again = first
		}
		err = again()
	}
}

// await waits for an answer, resuming and sending again as often as it takes.
func (p *stepper) await(packet byte, id uint16, again func() error) {
	p.s.t.Helper()
	for {
		answer, err := p.conn.Await(p.s.ctx, packet, id)
		if err == nil {
			if answer.Code >= 0x80 && packet != client.PUBCOMP {
				p.s.t.Fatalf("%s: %s says %#x", p.opts.ClientID, client.TypeName(packet), answer.Code)
			}
			return
		}
		for err != nil {
			p.resume(err)
			err = again()
		}
	}
}

// receive runs a subscriber's flows until the message last is complete, killing at a step
// of the first message: 0 PUBLISH received, 1 PUBACK or PUBREC sent, 2 PUBREL received, 3
// PUBCOMP sent. It returns what the application got.
func (p *stepper) receive(last string, k at) []string {
	p.s.t.Helper()
	var got []string
	held := map[uint16]bool{}    // QoS 2 ids between PUBLISH and PUBREL
	names := map[uint16]string{} // what they stood for last: a PUBREL may come again
	done := map[int]bool{}
	reached := func(step int) {
		if !done[step] {
			done[step] = true
			k.reached(step)
		}
	}
	for {
		m, err := p.conn.Next(p.s.ctx)
		if err != nil {
			p.resume(err)
			continue
		}
		var reply error
		switch m.Type {
		case client.PUBLISH:
			id := client.MessageID(m.Payload)
			if m.QoS < 2 || !held[m.ID] {
				got = append(got, id)
			}
			reached(0)
			answer := byte(client.PUBACK)
			if m.QoS == 2 {
				held[m.ID], names[m.ID] = true, id
				answer = client.PUBREC
			}
			reply = p.conn.Ack(answer, m.ID, 0)
			reached(1)
			if m.QoS == 1 && id == last && reply == nil {
				return got
			}
		case client.PUBREL:
			reached(2)
			delete(held, m.ID)
			reply = p.conn.Ack(client.PUBCOMP, m.ID, 0)
			reached(3)
			if names[m.ID] == last && reply == nil {
				return got
			}
		case client.DISCONNECT:
			p.s.t.Logf("%s was disconnected: %#x", p.opts.ClientID, m.Code)
		default:
			p.s.t.Fatalf("unexpected %s", client.TypeName(m.Type))
		}
		if reply != nil {
			p.resume(reply)
		}
	}
}

var publisherSteps = map[byte][]string{1: {"PUBLISH sent", "PUBACK received"},
	2: {"PUBLISH sent", "PUBREC received", "PUBREL sent", "PUBCOMP received"}}
var receiverSteps = map[byte][]string{1: {"PUBLISH received", "PUBACK sent"},
	2: {"PUBLISH received", "PUBREC sent", "PUBREL received", "PUBCOMP sent"}}

// each runs a case for every QoS, victim and step, each victim with a cluster of its own.
func each(t *testing.T, victims []victim, steps map[byte][]string, run func(t *testing.T, c *Cluster, qos byte, who victim, step int, name string)) {
	t.Parallel()
	for v, who := range victims {
		t.Run(string(who), func(t *testing.T) {
			t.Parallel()
			c := StartCluster(t, 3)
			for qos := byte(1); qos <= 2; qos++ {
				for step, label := range steps[qos] {
					t.Run(fmt.Sprintf("QoS %d/%s", qos, label), func(t *testing.T) {
						run(t, c, qos, who, step, fmt.Sprintf("q%d-%d-%d", qos, v, step))
					})
				}
			}
		})
	}
}

// TestPublisherFlow kills each node that matters at each step of a publisher's flow.
func TestPublisherFlow(t *testing.T) {
	victims := []victim{publisherGateway, subscriberGateway, publisherLeader, subscriberLeader}
	each(t, victims, publisherSteps, func(t *testing.T, c *Cluster, qos byte, who victim, step int, name string) {
		r := castFor(t, c, name, who)
		sub := r.connect(r.receiver, nil, append([]*Node{r.receiverAt}, r.receiverRe...)...)
		sub.subscribe(name, 2)
		receiver, first := r.life(r.receiverAt), sub.Conn()
		p := r.step(r.publisher, r.publisherAt, r.publisherRef...)
		p.publish(message(name, qos, name+".1"), 1, at{step, r.kill})
		p.publish(message(name, qos, name+".2"), 2, at{-1, nil})
		got := sub.await(name + ".2")
		// QoS 1 is repeated where a connection broke; on the way to the subscriber only its node's death may break it.
		broke := sub.Conn() != first
		if broke && who != subscriberGateway && !r.ended(receiver) {
			t.Error("the subscriber's connection broke")
		}
		if qos == 1 && (p.broke > 0 || broke) {
			got = slices.Compact(got)
		}
		if want := []string{name + ".1", name + ".2"}; !slices.Equal(got, want) {
			t.Errorf("delivered %v", got)
		}
		if who == publisherGateway && p.broke == 0 {
			t.Error("the publisher's connection survived its node")
		}
		r.verdict()
	})
}

// TestReceiverFlow kills each node that matters at each step of a subscriber's flow.
func TestReceiverFlow(t *testing.T) {
	victims := []victim{subscriberGateway, subscriberLeader, publisherGateway}
	each(t, victims, receiverSteps, func(t *testing.T, c *Cluster, qos byte, who victim, step int, name string) {
		r := castFor(t, c, name, who)
		sub := r.step(r.receiver, r.receiverAt, r.receiverRe...)
		if _, err := sub.conn.Subscribe(r.ctx, 1, history.Filter{Filter: name, QoS: qos}); err != nil {
			t.Fatal(err)
		}
		pub := r.connect(r.publisher, nil, append([]*Node{r.publisherAt}, r.publisherRef...)...)
		first := pub.Publish(message(name, qos, name+".1"))
		got := sub.receive(name+".1", at{step, r.kill})
		second := pub.Publish(message(name, qos, name+".2"))
		got = append(got, sub.receive(name+".2", at{-1, nil})...)
		for _, token := range []*client.Token{first, second} {
			r.taken("message", token)
		}
		// At QoS 1 the loss of a PUBACK, or of the publisher's, repeats a message.
		if qos == 1 {
			slices.Sort(got)
			got = slices.Compact(got)
		}
		if want := []string{name + ".1", name + ".2"}; !slices.Equal(got, want) {
			t.Errorf("delivered %v", got)
		}
		r.verdict()
	})
}
