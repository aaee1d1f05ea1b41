// Package mqtt terminates MQTT: listeners, connections, and the sessions that
// live no longer than their connection. What outlives a connection is asked of
// a Cluster.
package mqtt

import "github.com/flotilla-mqtt/flotilla/mqtt/flow"

// Cluster is what a gateway needs of the cluster behind it. No method blocks
// for the network or the disk: results come by the done functions, each called
// exactly once, from any goroutine, possibly before the method returns; done
// functions must not block and must not call back into the Cluster while
// holding a lock that a Gateway method takes.
//
// An error flow.ErrUnavailable from any of them means the connection must close.
type Cluster interface {
	// Connect makes the connection the owner of its session. When done is
	// called the old connection, wherever it was, has been closed and has
	// nothing left on its way (design: takeover), and the ownership is durable.
	Connect(c flow.Connect, done func(flow.Session, error))

	// Disconnect ends the ownership; its effects (will, expiry) are the
	// partition's. done is called when it is durable, or with an error when the
	// ownership had passed on already. The gateway calls it exactly once for
	// every Connect that succeeded, after everything else the connection asked
	// has been answered.
	Disconnect(clientID string, epoch uint64, d flow.Disconnect, done func(error))

	// Publish routes a message of QoS 0 or 1 to every subscriber in the
	// cluster, and stores it if retained. done(matched, err): for QoS 1 when
	// everything that PUBACK promises is durable; matched is false if nobody
	// wanted it (0x10); flow.ErrQuota where a destination had no room. For QoS 0
	// done may be nil; if not, it is called once the message has been handed on, a
	// retained one when it is stored, too.
	// m.ID is set by the cluster.
	Publish(m *flow.Message, done func(matched bool, err error))

	// Receive stores a QoS 2 message under its packet id [MQTT-4.3.3-8];
	// done(nil) allows PUBREC. A packet id that is already held stores nothing
	// and succeeds. matched is false if nobody wants the message now.
	Receive(clientID string, epoch uint64, packetID uint16, m *flow.Message, done func(matched bool, err error))

	// Release hands the stored message on to its subscribers and frees the
	// packet id; done(nil) allows PUBCOMP; flow.ErrUnknownPacketID is PUBCOMP
	// with 0x92.
	Release(clientID string, epoch uint64, packetID uint16, done func(error))

	// Subscribe adds subscriptions of a session that is not ephemeral,
	// durably, and enqueues the retained messages they ask for. done allows
	// SUBACK: from then on every message published anywhere is routed to them.
	Subscribe(clientID string, epoch uint64, subs []flow.Subscription, done func([]flow.Subscribed, error))

	// Unsubscribe removes subscriptions of a session that is not ephemeral;
	// existed tells for each filter whether there was one.
	Unsubscribe(clientID string, epoch uint64, filters []string, done func(existed []bool, err error))

	// Ack reports acknowledgements of deliveries of a session that is not
	// ephemeral. done (may be nil) is called when they are durable: a PUBREL
	// may be sent only then. Acks without done are batched lazily.
	Ack(clientID string, epoch uint64, acks []flow.Ack, done func(error))

	// JoinGroup makes a connection of an ephemeral session a member of the group of a
	// shared subscription, or says how its membership has changed. done allows SUBACK:
	// from then on every message published anywhere reaches the group. What the group
	// assigns to the connection comes by Deliver. Calls for one group take effect in
	// their order, JoinGroup, LeaveGroup and Taken alike.
	JoinGroup(clientID string, epoch uint64, m flow.Membership, done func(existed bool, err error))

	// LeaveGroup ends the membership; everything assigned to it goes to other members
	// unless Taken has said otherwise before. It must be called before Disconnect. done
	// may be nil.
	LeaveGroup(clientID, filter string, done func(existed bool, err error))

	// Taken tells a group of messages that must go to nobody else.
	Taken(clientID, filter string, items []uint64)

	// SetInterest tells the cluster that this gateway's own interest in a
	// filter has changed: the union over its local subscriptions. Changes are
	// applied in call order. done (may be nil) is called when every member
	// routes by it, so that SUBACK may be sent.
	SetInterest(changes []InterestChange, done func(error))

	// Retained reads the retained messages that match the filters, as of a
	// moment after the call, from all partitions: what was acknowledged before
	// the call is seen. Messages come in an order that is stable per topic.
	// done is called once; incomplete tells how many partitions did not answer
	// in time.
	Retained(filters []string, done func(msgs []*flow.Message, incomplete int, err error))

	// Available reports whether the node may serve clients: it has joined,
	// its lease is valid, every member knows it.
	Available() bool
}

// InterestChange and Interest are the cluster's view of local subscriptions.
type (
	InterestChange = flow.InterestChange
	Interest       = flow.Interest
)

// Interest bits, see package flow.
const (
	WantQoS0       = flow.WantQoS0
	WantDowngraded = flow.WantDowngraded
	WantReliable   = flow.WantReliable
)

// Gateway is what the cluster calls on the gateway of its node. Its methods
// never block: a slow socket is the gateway's own problem. Nor do they call the
// cluster, so that it may hold locks; what follows from them comes from another
// goroutine.
type Gateway interface {
	// Deliver hands steps of outgoing flows to the connection that owns the
	// session with this epoch, in order of Seq. It is ignored if that
	// connection is gone. Deliveries may come before Connect's done has returned.
	Deliver(clientID string, epoch uint64, ds []flow.Delivery)

	// Route hands a message to every local subscriber. reliable: it came by a
	// lane or is for ephemeral sessions at their full QoS; it is "taken" when Route
	// returns. Otherwise it is delivered at QoS 0 only: a message of QoS 0 to all
	// subscribers; a message of QoS 1 or 2 to sessions whose effective QoS is 0.
	// A message comes to a gateway by one of the two ways: reliable if any filter
	// that matches it has WantReliable (then it also serves those whose effective
	// QoS is 0), otherwise unreliable. A persistent session's copy at QoS 1 or 2
	// comes from its partition, by Deliver.
	Route(m *flow.Message, reliable bool)

	// Close ends the connection of the session if its epoch is at most epoch
	// (takeover: DISCONNECT 0x8E) and calls done when the connection completes
	// nothing any more and everything it had on its way is settled. Then its
	// Disconnect has been called; done does not wait for the answer. A Connect that
	// is not answered yet holds nothing up: if its epoch turns out to be at most
	// epoch, its connection ends without a CONNACK.
	Close(clientID string, epoch uint64, done func())

	// CloseAll ends all connections at once: the node lost its standing. Their
	// Disconnects fail with flow.ErrUnavailable. done is called when none is left
	// and the gateway's interest is empty.
	CloseAll(done func())
}
