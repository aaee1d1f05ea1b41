package cluster

import (
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proof/mutant"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// This file is the part of mqtt.Cluster that routes messages of QoS 0 and 1.

// messageID draws the id of a message that enters the cluster here.
func (g *ingress) messageID() flow.MessageID {
	return flow.MessageID{Source: g.id, Seq: g.nextMsg.Add(1)}
}

// Publish routes a message of QoS 0 or 1.
func (n *Node) Publish(m *flow.Message, done func(bool, error)) {
	if done == nil {
		done = func(bool, error) {}
	}
	g := n.ingress()
	if g == nil {
		done(false, flow.ErrUnavailable)
		return
	}
	m.ID = g.messageID()
	if m.QoS == flow.AtMostOnce {
		var buf [8]target
		targets := n.routes.match(m.Topic, buf[:0])
		if n.leaseValid() {
			g.publishUnreliable(m, targets, done)
		} else {
			n.metrics.RouteUnleased.Add(1) // at most once; nobody waits for it
			done(len(targets) > 0, nil)
		}
		return
	}
	if mutant.AckBeforeCommit {
		done(true, nil)
		done = func(bool, error) {}
	}
	if g.passable() {
		g.publishReliable(m, done)
		return
	}
	g.gate(func(err error) {
		if err != nil {
			done(false, err)
			return
		}
		g.publishReliable(m, done)
	})
}

// publishUnreliable hands a message to the gateways, and groups, that want it, without
// an answer. Only a retained one is committed, at its retained partition.
func (g *ingress) publishUnreliable(m *flow.Message, targets []target, done func(bool, error)) {
	var encoded []byte
	for _, t := range targets {
		switch {
		case isPartition(t.end):
			if t.want&flow.WantShared != 0 {
				g.routeShared(uint32(t.end), m)
			}
		case t.want&flow.WantQoS0 != 0:
			encoded = g.n.routeTo(t.end, m, encoded)
		}
	}
	matched := len(targets) > 0
	if !m.Retain {
		done(matched, nil)
		return
	}
	op := &logpb.Publish{Message: messageToLog(m), Store: true}
	g.parts[partitionOf(m.Topic, uint32(len(g.parts)))].ask(&logpb.Op{Body: &logpb.Op_Publish{Publish: op}},
		func(code uint32, _ []byte, err error) {
			g.n.countRefused(code, nil, err)
			done(matched, nil)
		})
}

// routeTo hands a message to a gateway on the unreliable path. encoded is its
// encoded form, made at the first need and returned.
func (n *Node) routeTo(end uint64, m *flow.Message, encoded []byte) []byte {
	node := n.gatewayNode(end)
	switch node {
	case "":
		n.metrics.RouteDropped.Add(1)
	case n.name:
		n.gateway.Route(m, false)
	default:
		if encoded == nil {
			encoded, _ = messageToLog(m).MarshalVT()
		}
		var own uint64
		if g := n.ingress(); g != nil {
			own = g.id
		}
		n.pump.routeTo(node, own, encoded)
	}
	return encoded
}

// countRefused counts a retained message of QoS 0 that its partition refused.
func (n *Node) countRefused(code uint32, _ []byte, err error) {
	if err != nil || code != fsm.CodeOK {
		n.metrics.RetainedRefused.Add(1)
	}
}

// publishing waits for all destinations of one message.
type publishing struct {
	left    atomic.Int32
	refused atomic.Bool
	ended   atomic.Bool
	finish  func(refused, ended bool)
}

func (w *publishing) taken(code uint32, _ []byte, err error) {
	switch {
	case err != nil:
		w.ended.Store(true)
	case code != fsm.CodeOK:
		w.refused.Store(true)
	}
	w.one()
}

func (w *publishing) one() {
	if w.left.Add(-1) == 0 {
		w.finish(w.refused.Load(), w.ended.Load())
	}
}

// publishReliable puts a message of QoS 1 on the lane of every destination that
// wants it (design §3).
func (g *ingress) publishReliable(m *flow.Message, done func(bool, error)) {
	n := g.n
	var buf [8]target
	targets := n.routes.match(m.Topic, buf[:0])
	matched := len(targets) > 0
	w := &publishing{finish: func(refused, ended bool) {
		switch {
		case ended && g.hasEnded():
			done(false, flow.ErrUnavailable)
		case refused:
			g.gate(func(err error) {
				if err == nil {
					err = flow.ErrQuota
				}
				done(true, err)
			})
		default:
			g.gate(func(err error) { done(matched, err) })
		}
	}}
	w.left.Store(1)
	retainedAt := uint64(1) << 32 // nowhere
	if m.Retain {
		retainedAt = uint64(partitionOf(m.Topic, uint32(len(g.parts))))
	}
	msg := messageToLog(m)
	var deliver, encoded []byte
	deliverOp := func() []byte {
		if deliver == nil {
			deliver = encodeOp(&logpb.Op{Body: &logpb.Op_Publish{Publish: &logpb.Publish{Message: msg, Deliver: true}}})
		}
		return deliver
	}
	stored := false
	for _, t := range targets {
		switch {
		case isPartition(t.end):
			op := deliverOp
			if t.end == retainedAt {
				stored = true
				op = func() []byte {
					return encodeOp(&logpb.Op{Body: &logpb.Op_Publish{Publish: &logpb.Publish{Message: msg, Deliver: true, Store: true}}})
				}
			}
			w.left.Add(1)
			g.parts[t.end].lane.put(0, op(), w.taken)
		case t.want&flow.WantReliable != 0 && t.end == g.id:
			n.gateway.Route(m, true)
		case t.want&flow.WantReliable != 0:
			w.left.Add(1)
			// A gateway that has ended has nobody left to deliver to.
			g.gatewayLane(t.end).put(0, deliverOp(), func(uint32, []byte, error) { w.one() })
		case t.want&flow.WantDowngraded != 0:
			encoded = n.routeTo(t.end, m, encoded)
		}
	}
	if m.Retain && !stored {
		w.left.Add(1)
		op := &logpb.Publish{Message: msg, Store: true}
		g.parts[retainedAt].ask(&logpb.Op{Body: &logpb.Op_Publish{Publish: op}}, w.taken)
	}
	w.one()
}
