package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const kickInterval = 500 * time.Millisecond // until an unanswered Kick is sent again

// kicks closes the connections that lost their sessions to connections of this
// gateway (takeover). One is over when its gateway says that it is closed and
// settled, or when the cluster has ended that gateway.
//
// A gateway that we do not reach may serve its clients all the same, as long as it
// has its lease. So after Options.OwnershipTime without any answer we ask the
// control group to end it: no lease is granted to it any more, and it is closed
// when its last one is over for sure (package control, rule 3), that is when it
// acknowledges nothing any more, whether it knows or not. Then, and only then, does
// the takeover go on: by the same gatewayClosed as for a node that died. What the
// old gateway had on lanes is refused from then on, since partitions close it before
// they take what follows from its end.
//
// It need not hear of this to be safe, nor do clocks have to agree: no time but the
// lease's counts. The price is that all its clients must connect elsewhere; but a
// live gateway that does not hear us acknowledges no interest of ours either, so
// that no SUBACK of ours would go out while it lives. Its next incarnation takes no
// clients before it hears all members: it does not know their interest (Node.ready).
//
// An answer need not say that the connection is closed: it may have to wait for a
// partition without a leader, and for that no gateway must go. Two gateways that do
// not hear each other do not both go: who is being ended cannot end another.
type kicks struct {
	n *Node

	mu   sync.Mutex
	open map[kick]*kicking
}

type kick struct {
	gateway uint64
	connection
}

type kicking struct {
	done   []func()
	sentAt time.Time
	heard  time.Time // when it began, or its gateway last answered
	ending bool      // the control group is being asked to end the gateway
}

func newKicks(n *Node) *kicks { return &kicks{n: n, open: make(map[kick]*kicking)} }

// closeAll closes the connections of the previous owners of a session and then
// calls done.
func (k *kicks) closeAll(clientID string, previous []*logpb.Owner, done func()) {
	left := len(previous) + 1
	var mu sync.Mutex
	one := func() {
		mu.Lock()
		left--
		last := left == 0
		mu.Unlock()
		if last {
			done()
		}
	}
	for _, o := range previous {
		k.close(kick{o.Gateway, connection{clientID, o.Epoch}}, one)
	}
	one()
}

func (k *kicks) close(key kick, done func()) {
	n := k.n
	switch {
	case n.gatewayClosed(key.gateway):
		done()
		return
	case n.gatewayNode(key.gateway) == n.name:
		n.closeHere(key, done)
		return
	}
	k.mu.Lock()
	w := k.open[key]
	if w == nil {
		w = &kicking{heard: time.Now()}
		k.open[key] = w
	}
	w.done = append(w.done, done)
	k.mu.Unlock()
	k.retry("")
}

// closeHere closes a connection of this node's gateway. One of an earlier
// incarnation is closed already: a new one begins without connections.
func (n *Node) closeHere(key kick, done func()) {
	g := n.ingressOf(key.gateway)
	if g == nil {
		done()
		return
	}
	g.part(key.client).fence(key.client, key.epoch)
	n.gateway.Close(key.client, key.epoch, done)
}

// retry sends what is due: to a node whose link came up, or everywhere by the
// clock; and ends what is waited for in vain.
func (k *kicks) retry(node string) {
	now := time.Now()
	var over []func()
	k.mu.Lock()
	for key, w := range k.open {
		if k.n.gatewayClosed(key.gateway) {
			over = append(over, w.done...)
			delete(k.open, key)
			continue
		}
		to := k.n.gatewayNode(key.gateway)
		if to != "" && (to == node || now.Sub(w.sentAt) >= kickInterval) {
			w.sentAt = now
			k.n.send(to, &peerpb.Frame{Body: &peerpb.Frame_Kick{Kick: &peerpb.Kick{
				Gateway: key.gateway, ClientId: key.client, Epoch: key.epoch,
			}}})
		}
	}
	k.mu.Unlock()
	for _, done := range over {
		done()
	}
}

// endSilent has gateways ended that have answered nothing for the ownership time.
// Called by the node's maintain.
func (k *kicks) endSilent(now time.Time) {
	silent := make(map[uint64]string) // a client whose takeover waits, by gateway
	k.mu.Lock()
	for key, w := range k.open {
		if !w.ending && now.Sub(w.heard) >= k.n.o.OwnershipTime {
			w.ending = true
			silent[key.gateway] = key.client
		}
	}
	k.mu.Unlock()
	for gateway, client := range silent {
		k.n.goes(func(ctx context.Context) { k.endGateway(ctx, gateway, client) })
	}
}

// endGateway asks the control group to end a gateway. If that fails the takeovers
// wait for another ownership time, or for an answer after all.
func (k *kicks) endGateway(ctx context.Context, gateway uint64, client string) {
	n := k.n
	n.log.Warn("a gateway answers no takeover; the cluster is asked to end it",
		"gateway", endName(gateway), "for", n.o.OwnershipTime, "client", client)
	n.metrics.SilentGateways.Add(1)
	ctx, cancel := context.WithTimeout(ctx, n.o.OwnershipTime)
	defer cancel()
	err := n.control.EndIncarnation(ctx, gateway, "answers no takeover")
	if err == nil {
		k.retry("")
		return
	}
	n.log.Warn("the silent gateway was not ended", "gateway", endName(gateway), "error", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, w := range k.open {
		if key.gateway == gateway {
			w.ending, w.heard = false, time.Now()
		}
	}
}

// kicked takes a gateway's answer: it is closing the connection, or has closed it
// and nothing is on its way any more, which ends the wait.
func (k *kicks) kicked(m *peerpb.Kicked) {
	key := kick{m.Gateway, connection{m.ClientId, m.Epoch}}
	k.mu.Lock()
	w := k.open[key]
	if w != nil && m.Pending {
		w.heard = time.Now()
		k.mu.Unlock()
		return
	}
	delete(k.open, key)
	k.mu.Unlock()
	if w != nil {
		for _, done := range w.done {
			done()
		}
	}
}

// fail ends all waits: the incarnation is over, its answers go nowhere.
func (k *kicks) fail() {
	k.mu.Lock()
	open := k.open
	k.open = make(map[kick]*kicking)
	k.mu.Unlock()
	for _, w := range open {
		for _, done := range w.done {
			done()
		}
	}
}

// onKick closes a connection for another gateway, and says at once that it heard.
func (n *Node) onKick(from string, m *peerpb.Kick) {
	answer := func(pending bool) {
		n.send(from, &peerpb.Frame{Body: &peerpb.Frame_Kicked{Kicked: &peerpb.Kicked{
			Gateway: m.Gateway, ClientId: m.ClientId, Epoch: m.Epoch, Pending: pending,
		}}})
	}
	answer(true)
	n.closeHere(kick{m.Gateway, connection{m.ClientId, m.Epoch}}, func() { answer(false) })
}
