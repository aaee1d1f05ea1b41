package fsm

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// group is a shared subscription: a queue of which every message goes to one of the
// members. It belongs to the partition that its filter hashes to; the members' sessions
// are elsewhere (member.go, and the gateways of ephemeral ones). What is assigned to a
// member stays here until its home says that it is taken, or that the member leaves.
//
// A group is changed only through Machine.editGroup: a frozen snapshot may hold it.
type group struct {
	gen      uint64
	filter   string    // with its $share prefix
	members  []*member // in the order in which they joined
	next     int       // index of the member that is asked first
	lastItem uint64
	queue    []groupItem // by number
	bytes    int64       // of queue
	dropped  uint64      // messages, for limits
}

// groupItem is a message with its number in the group: what comes back from a member
// goes to its place by that.
type groupItem struct {
	number uint64
	msg    *message
}

// member is a group's view of one of its members.
type member struct {
	home        uint64 // partition of the stored session, or gateway of an ephemeral one
	client      string
	stamp       uint64 // of its last GroupMember
	gateway     uint64 // of its connection; 0: not connected
	epoch       uint64
	window      uint32
	qos         uint32
	asPublished bool
	id          uint32
	assigned    map[uint64]*message // by number, not known to be taken
	bytes       int64               // of assigned
}

// groupSlot is the fixed place of a group in the machine.
type groupSlot struct {
	g     *group
	inner string // the filter that messages must match
	order uint64 // key in the tree
}

func (g *group) clone(gen uint64) *group {
	c := *g
	c.gen = gen
	c.queue = slices.Clone(g.queue)
	c.members = make([]*member, len(g.members))
	for i, x := range g.members {
		y := *x
		y.assigned = maps.Clone(x.assigned)
		c.members[i] = &y
	}
	return &c
}

// editGroup returns the group for changing, as edit does for sessions.
func (m *Machine) editGroup(sl *groupSlot) *group {
	if sl.g.gen != m.gen {
		sl.g = sl.g.clone(m.gen)
	}
	return sl.g
}

// addGroup makes an empty group. The filter must be that of a shared subscription.
func (m *Machine) addGroup(filter string) *groupSlot {
	filter = strings.Clone(filter)
	_, inner, _, _ := topic.ParseShared(filter) // was checked before
	m.lastOrder++
	sl := &groupSlot{g: &group{gen: m.gen, filter: filter}, inner: inner, order: m.lastOrder}
	m.groups[filter] = sl
	m.groupTree.Set(inner, sl.order, sl)
	m.countInterest(inner, 0, 1)
	m.stats.Groups++
	return sl
}

// removeGroup forgets a group without members, and what waits in it.
func (m *Machine) removeGroup(sl *groupSlot) {
	g := m.editGroup(sl)
	n := uint64(len(g.queue))
	for len(g.queue) > 0 {
		m.forget(m.popGroup(g).msg)
	}
	m.countGroupDrop(g, GroupEnded, n)
	delete(m.groups, g.filter)
	m.groupTree.Delete(sl.inner, sl.order)
	m.countInterest(sl.inner, 0, -1)
	m.stats.Groups--
}

func (g *group) find(home uint64, client string) int {
	return slices.IndexFunc(g.members, func(x *member) bool { return x.home == home && x.client == client })
}

// groupMember takes a home's word on how a member stands.
func (m *Machine) groupMember(home uint64, p *logpb.GroupMember) (existed bool) {
	sl := m.groups[p.Filter]
	if sl == nil {
		sl = m.addGroup(p.Filter)
	}
	g := m.editGroup(sl)
	i := g.find(home, p.ClientId)
	if existed = i >= 0; !existed {
		i = len(g.members)
		g.members = append(g.members, &member{home: home, client: strings.Clone(p.ClientId), assigned: map[uint64]*message{}})
		m.stats.Members++
	}
	x := g.members[i]
	x.set(p)
	m.takeBack(g, x, p.Kept)
	m.assignQueue(g)
	return existed
}

// set takes over all of a GroupMember but who it is and what it keeps.
func (x *member) set(p *logpb.GroupMember) {
	x.stamp, x.gateway, x.epoch, x.window = p.Stamp, p.Gateway, p.Epoch, p.Window
	x.qos, x.asPublished, x.id = p.Qos, p.RetainAsPublished, p.Id
}

// groupLeave ends a membership, and the group with its last one.
func (m *Machine) groupLeave(home uint64, p *logpb.GroupLeave) (existed bool) {
	sl := m.groups[p.Filter]
	if sl == nil || sl.g.find(home, p.ClientId) < 0 {
		return false
	}
	g := m.editGroup(sl)
	m.removeMember(sl, g.find(home, p.ClientId))
	return true
}

func (m *Machine) removeMember(sl *groupSlot, i int) {
	g := sl.g
	m.takeBack(g, g.members[i], nil)
	g.members = slices.Delete(g.members, i, i+1)
	if g.next > i {
		g.next--
	}
	m.stats.Members--
	if len(g.members) == 0 {
		m.removeGroup(sl)
		return
	}
	m.assignQueue(g)
}

// closeMembers ends the memberships of ephemeral sessions whose gateway has ended.
// What was assigned to them at QoS 2 may have reached the client, and nobody else may
// get it then [MQTT-4.8.2-5]. How much that can be is bounded by their windows.
func (m *Machine) closeMembers() {
	gone := func(x *member) bool { return isGateway(x.home) && m.isClosed(x.home) }
	for _, filter := range sortedKeys(m.groups) {
		sl := m.groups[filter]
		for {
			i := slices.IndexFunc(sl.g.members, gone)
			if i < 0 {
				break
			}
			g := m.editGroup(sl)
			x := g.members[i]
			var lost []uint64
			for number, msg := range x.assigned {
				if min(x.qos, msg.pb.Qos) == 2 {
					lost = append(lost, number)
				}
			}
			m.releaseItems(x, lost)
			m.countGroupDrop(g, InDelivery, uint64(len(lost)))
			m.removeMember(sl, i)
			if len(g.members) == 0 {
				break
			}
		}
	}
}

// groupTaken forgets what the group need not care for any more.
func (m *Machine) groupTaken(home uint64, p *logpb.GroupTaken) {
	sl := m.groups[p.Filter]
	if sl == nil || sl.g.find(home, p.ClientId) < 0 {
		return
	}
	g := m.editGroup(sl)
	m.releaseItems(g.members[g.find(home, p.ClientId)], p.Items)
	m.assignQueue(g)
}

// releaseItems takes items away from a member that nobody else will get.
func (m *Machine) releaseItems(x *member, numbers []uint64) {
	for _, number := range numbers {
		msg := x.assigned[number]
		if msg == nil {
			continue
		}
		delete(x.assigned, number)
		x.bytes -= msg.size
		m.stats.GroupAssigned--
		m.forget(msg)
	}
}

// takeBack puts what is assigned to a member, and not kept by it, into the queue
// again, each message in its old place.
func (m *Machine) takeBack(g *group, x *member, kept []uint64) {
	if len(x.assigned) == 0 {
		return
	}
	keeps := make(map[uint64]struct{}, len(kept))
	for _, number := range kept {
		keeps[number] = struct{}{}
	}
	for number, msg := range x.assigned {
		if _, ok := keeps[number]; ok {
			continue
		}
		delete(x.assigned, number)
		x.bytes -= msg.size
		m.stats.GroupAssigned--
		g.queue = append(g.queue, groupItem{number, msg})
		m.countGroupQueued(g, msg, 1)
	}
	slices.SortFunc(g.queue, func(a, b groupItem) int { return cmp.Compare(a.number, b.number) })
}

// countGroupQueued accounts for a message that enters (1) or leaves (-1) the queue.
func (m *Machine) countGroupQueued(g *group, msg *message, n int) {
	g.bytes += int64(n) * msg.size
	m.stats.GroupQueued += n
	m.stats.GroupQueuedBytes += int64(n) * msg.size
}

// popGroup takes the head of the queue. Its message is still kept.
func (m *Machine) popGroup(g *group) groupItem {
	it := g.queue[0]
	g.queue[0] = groupItem{} // the array may live on behind the slice
	if g.queue = g.queue[1:]; len(g.queue) == 0 {
		g.queue = nil
	}
	m.countGroupQueued(g, it.msg, -1)
	return it
}

// matchGroups finds the groups that want a message: m.groupHits, by filter.
func (m *Machine) matchGroups(pb *logpb.Message) bool {
	m.groupHits = m.groupHits[:0]
	if m.groupTree.Len() == 0 {
		return false
	}
	m.groupTree.Match(pb.Topic, m.onGroup)
	slices.SortFunc(m.groupHits, func(a, b *groupSlot) int { return strings.Compare(a.g.filter, b.g.filter) })
	return len(m.groupHits) > 0
}

// offer brings a group a message. It returns false if there is no room and the
// publisher should hear of it.
func (m *Machine) offer(sl *groupSlot, msg *message) bool {
	g := m.editGroup(sl)
	switch {
	case msg.pb.Qos == 0:
		// It goes to whoever is there, and waits for nobody.
		if i := m.pick(g, g.next, true); i >= 0 {
			g.next = i + 1
			m.pushShared(g.members[i], msg)
		}
		return true
	case m.expired(&msg.pb):
		m.countGroupDrop(g, Expired, 1) // [MQTT-3.3.2-5]
		return true
	case !m.makeGroupRoom(g, msg):
		return m.settings.QueueFull != logpb.QueueFull_REFUSE
	}
	g.lastItem++
	m.keep(msg)
	g.queue = append(g.queue, groupItem{g.lastItem, msg})
	m.countGroupQueued(g, msg, 1)
	m.assignQueue(g)
	return true
}

// assignQueue gives messages to members as long as one is connected and has room.
// While none has, they wait here: a member that is away, or slow, would only stand
// in the way of those that come or become free.
func (m *Machine) assignQueue(g *group) {
	for len(g.queue) > 0 {
		if m.expired(&g.queue[0].msg.pb) {
			m.forget(m.popGroup(g).msg)
			m.countGroupDrop(g, Expired, 1)
			continue
		}
		i := m.pick(g, g.next, false)
		if i < 0 {
			return
		}
		g.next = i + 1
		m.assign(g, g.members[i], m.popGroup(g))
	}
}

// pick finds the next member in turn, from an index on: one that is connected and,
// unless for QoS 0, has room. It returns -1 if there is none.
func (m *Machine) pick(g *group, from int, atMostOnce bool) int {
	n := len(g.members)
	for k := range n {
		i := (from + k) % n
		if x := g.members[i]; x.gateway != 0 && (atMostOnce || x.qos == 0 || m.hasWindow(x)) {
			return i
		}
	}
	return -1
}

// hasWindow: what the member has not acknowledged leaves room for one more.
func (m *Machine) hasWindow(x *member) bool {
	window := x.window
	if limit := m.settings.MaxInflight; limit != 0 {
		window = min(window, limit)
	}
	limit := m.settings.MaxInflightBytes
	return uint32(len(x.assigned)) < window &&
		(limit == 0 || len(x.assigned) == 0 || uint64(x.bytes) < limit)
}

// assign gives an item to a member, at the QoS that its subscription was granted
// [MQTT-4.8.2-3]. The item's message is kept already.
func (m *Machine) assign(g *group, x *member, it groupItem) {
	qos := min(x.qos, it.msg.pb.Qos)
	if qos == 0 {
		m.pushShared(x, it.msg)
		m.forget(it.msg)
		return
	}
	x.assigned[it.number] = it.msg
	x.bytes += it.msg.size
	m.stats.GroupAssigned++
	m.post(x.home, &logpb.GroupItem{Body: &logpb.GroupItem_Assigned{Assigned: &logpb.GroupAssigned{
		Filter: g.filter, ClientId: x.client, Stamp: x.stamp, Epoch: x.epoch, Item: it.number, Qos: qos,
		Retained: it.msg.pb.Retain && x.asPublished, SubscriptionId: x.id, Message: &it.msg.pb,
	}}}, it.msg)
}

// pushShared sends a member a message at QoS 0.
func (m *Machine) pushShared(x *member, msg *message) {
	m.effects.Shared = append(m.effects.Shared, x.delivery(&msg.pb))
}

func (x *member) delivery(pb *logpb.Message) Push {
	d := Delivery{Retained: pb.Retain && x.asPublished, Message: pb} // [MQTT-3.3.1-12]
	if x.id != 0 {
		d.SubscriptionIDs = []uint32{x.id}
	}
	return Push{Connection: Connection{x.client, x.gateway, x.epoch}, Items: []Delivery{d}}
}

// makeGroupRoom applies the limits of queues to a group's. It returns false if there
// is no room for the message.
func (m *Machine) makeGroupRoom(g *group, msg *message) bool {
	if m.hasGroupRoom(g, msg) {
		return true
	}
	limit := m.settings.MaxQueueBytes
	alone := limit != 0 && uint64(msg.size) > limit // no use in dropping others for it
	if m.settings.QueueFull == logpb.QueueFull_DROP_OLDEST && !alone {
		var lost uint64
		for len(g.queue) > 0 && !m.hasGroupRoom(g, msg) {
			m.forget(m.popGroup(g).msg)
			lost++
		}
		m.countGroupDrop(g, QueueFull, lost)
	}
	if m.hasGroupRoom(g, msg) {
		return true
	}
	m.countGroupDrop(g, QueueFull, 1)
	return false
}

func (m *Machine) hasGroupRoom(g *group, msg *message) bool {
	n, bytes := m.settings.MaxQueueMessages, m.settings.MaxQueueBytes
	return (n == 0 || uint64(len(g.queue)) < uint64(n)) && (bytes == 0 || uint64(g.bytes+msg.size) <= bytes)
}

// countGroupDrop notes n messages of a group as dropped.
func (m *Machine) countGroupDrop(g *group, reason Reason, n uint64) {
	if n == 0 {
		return
	}
	first := false
	if reason <= TooLarge {
		first = g.dropped == 0
		g.dropped += n
	}
	m.stats.Dropped[SharedGroup][reason] += n
	m.effects.Dropped = append(m.effects.Dropped, Drop{Group: g.filter, Class: SharedGroup, Reason: reason, N: n, First: first})
}

// Shared chooses for a message of QoS 0, which goes past the log, a member of each
// group that wants it. turn moves on which: it is the caller's to count.
func (m *Machine) Shared(pb *logpb.Message, turn int) (pushes []Push) {
	var slots []*groupSlot
	m.groupTree.Match(pb.Topic, func(_ string, _ uint64, sl *groupSlot) { slots = append(slots, sl) })
	for _, sl := range slots {
		if i := m.pick(sl.g, turn%len(sl.g.members), true); i >= 0 {
			pushes = append(pushes, sl.g.members[i].delivery(pb))
		}
	}
	return pushes
}
