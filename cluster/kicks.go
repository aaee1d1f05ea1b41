package cluster

import (
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

const kickInterval = 500 * time.Millisecond // until an unanswered Kick is sent again

// kicks closes the connections that lost their sessions to connections of this
// gateway (takeover). One is over when its gateway says that it is closed and
// settled, or when the cluster has ended that gateway.
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
		w = &kicking{}
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

// kicked ends a wait: the gateway has closed the connection.
func (k *kicks) kicked(m *peerpb.Kicked) {
	key := kick{m.Gateway, connection{m.ClientId, m.Epoch}}
	k.mu.Lock()
	w := k.open[key]
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

// onKick closes a connection for another gateway.
func (n *Node) onKick(from string, m *peerpb.Kick) {
	n.closeHere(kick{m.Gateway, connection{m.ClientId, m.Epoch}}, func() {
		n.send(from, &peerpb.Frame{Body: &peerpb.Frame_Kicked{Kicked: &peerpb.Kicked{
			Gateway: m.Gateway, ClientId: m.ClientId, Epoch: m.Epoch,
		}}})
	})
}
