package mqtt

import (
	"sync/atomic"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// This file is the part that shared subscriptions have in an ephemeral session: the
// group is in the cluster, and what it assigns to the session lives here until the
// client has it. What the client does not take goes back when the connection leaves the
// group. A stored session's part is in its partition; here it only subscribes.

// membership is a shared subscription of an ephemeral session. conn.mu owns it.
type membership struct {
	filter string
	sub    flow.Subscription // as it was asked for last
	stamp  uint64            // what comes with another one is not ours
	taken  []uint64          // items that the group may forget, and does not know of
}

// shareOf is a message's place in a group.
type shareOf struct {
	in   *membership // nil: it comes from no group
	item uint64
}

func isShared(filter string) bool {
	return len(filter) > len(topic.SharePrefix) && filter[:len(topic.SharePrefix)] == topic.SharePrefix
}

// splitShared takes the shared subscriptions out of a list.
func splitShared(subs []flow.Subscription) (local, shared []flow.Subscription) {
	for _, s := range subs {
		if isShared(s.Filter) {
			shared = append(shared, s)
		} else {
			local = append(local, s)
		}
	}
	return local, shared
}

// awaitAll calls done when the returned function was called n times, with the first
// error there was.
func awaitAll(n int, done func(error)) func(error) {
	var left atomic.Int32
	var failed atomic.Pointer[error]
	left.Store(int32(n))
	return func(err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
		if left.Add(-1) > 0 {
			return
		}
		if p := failed.Load(); p != nil {
			done(*p)
			return
		}
		done(nil)
	}
}

// join makes the connection a member of a group, or changes its options. What it has
// of the group it keeps. Called with mu held.
func (c *conn) join(sub flow.Subscription) flow.Membership {
	if c.groups == nil {
		c.groups = map[string]*membership{}
	}
	in := c.groups[sub.Filter]
	if in == nil {
		in = &membership{filter: sub.Filter}
		c.groups[sub.Filter] = in
	}
	in.stamp, in.sub = c.srv.nextStamp.Add(1), sub
	return flow.Membership{
		Filter: sub.Filter, Stamp: in.stamp, Window: c.opts.window, QoS: sub.QoS,
		RetainAsPublished: sub.RetainAsPublished, ID: sub.ID, Kept: c.itemsOf(in),
	}
}

// itemsOf lists what the client has not taken of a group.
func (c *conn) itemsOf(in *membership) (items []uint64) {
	items = append(items, in.taken...) // the group does not know yet
	if c.flows == nil {
		return items
	}
	for i := range c.flows.shared.len() {
		if s := c.flows.shared.at(i).share; s.in == in {
			items = append(items, s.item)
		}
	}
	for _, s := range c.flows.shares {
		if s.in == in {
			items = append(items, s.item)
		}
	}
	return items
}

// takeShared takes a message that a group has assigned. It waits for the window apart
// from other messages: the group keeps to the window, so no limit of the queue applies.
func (c *conn) takeShared(d delivery) {
	in := c.groups[d.Group]
	if c.phase != phaseOpen || in == nil || in.stamp != d.Stamp {
		return // the group takes it back
	}
	x := message{
		m: d.Message, deadline: d.deadline, ids: d.SubscriptionIDs, qos: d.QoS, retain: d.Retained,
		share: shareOf{in, d.Item},
	}
	o := c.outflow()
	o.shared.push(x)
	c.countShared(&x, 1)
	c.fillWindow()
}

func (c *conn) countShared(x *message, n int64) {
	c.srv.metrics.QueuedMessages.Add(n)
	c.srv.metrics.QueuedBytes.Add(n * int64(x.size()))
}

// startShared starts the flow of the first message of groups that waits.
func (c *conn) startShared() {
	x := c.flows.shared.pop()
	c.countShared(&x, -1)
	c.startFlow(x, nil)
}

// keepShare notes which group's message a flow has; shareTaken that the group need
// not care for it any more: the client has it, or nobody is to get it.
func (o *outflow) keepShare(id uint16, s shareOf) {
	if o.shares == nil {
		o.shares = map[uint16]shareOf{}
	}
	o.shares[id] = s
}

func (c *conn) shareTaken(s shareOf) {
	if s.in == nil || c.groups[s.in.filter] != s.in {
		return // of no group, or of one that the client has left
	}
	s.in.taken = append(s.in.taken, s.item)
	c.ackSoon(len(s.in.taken))
}

// flightTaken is shareTaken for a flow.
func (c *conn) flightTaken(id uint16) {
	if s, ok := c.flows.shares[id]; ok {
		delete(c.flows.shares, id)
		c.shareTaken(s)
	}
}

// taken is what a group is to be told of.
type taken struct {
	filter string
	items  []uint64
}

// takenSoFar queues what the groups are to be told. Called with mu held.
func (c *conn) takenSoFar() {
	for _, in := range c.groups {
		if len(in.taken) > 0 {
			t := taken{in.filter, in.taken}
			in.taken = nil
			c.tell(func() { c.srv.cluster.Taken(c.client.ID, t.filter, t.items) })
		}
	}
}

// tell queues a call of the cluster that concerns a group. The calls are made in the
// order in which their reasons came about, by whoever calls tellGroups first. Called
// with mu held.
func (c *conn) tell(call func()) {
	c.tells = append(c.tells, call)
	c.asked++
}

// tellGroups makes the queued calls, unless somebody is at it.
func (c *conn) tellGroups() {
	c.mu.Lock()
	if c.telling || len(c.tells) == 0 {
		c.mu.Unlock()
		return
	}
	c.telling = true
	for len(c.tells) > 0 {
		batch := c.tells
		c.tells = nil
		c.mu.Unlock()
		for _, call := range batch {
			call()
		}
		c.mu.Lock()
		c.asked -= len(batch)
	}
	c.telling = false
	c.mu.Unlock()
	c.settle() // if it was closing
}

// leave ends a membership: what waits goes back to the group, what the client may have
// stays with it. ended: the session ends too, and the client will not acknowledge any
// more; then a QoS 1 message goes back, and one of QoS 2, which nobody else may get
// now, is lost [MQTT-4.8.2-5]. Otherwise flows are completed [MQTT-3.10.4-3]. Called
// with mu held; the caller tells the group.
func (c *conn) leave(in *membership, ended bool) taken {
	if o := c.flows; o != nil {
		for range o.shared.len() {
			if x := o.shared.pop(); x.share.in == in {
				c.countShared(&x, -1)
			} else {
				o.shared.push(x)
			}
		}
		for id, s := range o.shares {
			if s.in != in {
				continue
			}
			delete(o.shares, id)
			if ended && o.flights[id] == awaitsPuback {
				continue
			}
			in.taken = append(in.taken, s.item)
			if ended {
				c.srv.metrics.Dropped[DropEnded].Add(1)
			}
		}
	}
	delete(c.groups, in.filter)
	return taken{in.filter, in.taken}
}

// leaveAll ends all memberships, with the session. Called with mu held.
func (c *conn) leaveAll() (list []taken) {
	for _, in := range c.groups {
		list = append(list, c.leave(in, true))
	}
	return list
}

// leaveShared ends the memberships among the filters of an UNSUBSCRIBE. false: there
// are none; otherwise UNSUBACK comes when the groups know.
func (u *unsubscribing) leaveShared() bool {
	c := u.c
	var left []taken
	c.mu.Lock()
	for i, f := range u.filters {
		if in := c.groups[f]; in != nil && c.phase != phaseClosing {
			left = append(left, c.leave(in, false))
			u.existed[i] = true
		}
	}
	if len(left) > 0 {
		c.asked++
		done := awaitAll(len(left), u.left)
		for _, t := range left {
			c.tell(func() { c.leaveGroup(t, func(_ bool, err error) { done(err) }) })
		}
	}
	c.mu.Unlock()
	c.tellGroups()
	return len(left) > 0
}

// left: the groups know, or the cluster cannot tell them.
func (u *unsubscribing) left(err error) {
	c := u.c
	c.mu.Lock()
	c.asked--
	c.mu.Unlock()
	if err != nil {
		c.end(refusal(err))
	} else {
		u.finish()
	}
	c.settle()
}

func (c *conn) leaveGroup(t taken, done func(bool, error)) {
	if len(t.items) > 0 {
		c.srv.cluster.Taken(c.client.ID, t.filter, t.items)
	}
	c.srv.cluster.LeaveGroup(c.client.ID, t.filter, done)
}
