package fsm

import "github.com/flotilla-mqtt/flotilla/proto/logpb"

func (w *recordWriter) group(g *group) {
	r := &logpb.GroupState{Filter: g.filter, LastItem: g.lastItem, Next: uint32(g.next), Dropped: g.dropped}
	for _, x := range g.members {
		p := &logpb.GroupMemberState{Home: x.home, Member: &logpb.GroupMember{
			ClientId: x.client, Stamp: x.stamp, Gateway: x.gateway, Epoch: x.epoch, Window: x.window,
			Qos: x.qos, RetainAsPublished: x.asPublished, Id: x.id,
		}}
		for _, number := range sortedKeys(x.assigned) {
			p.Assigned = append(p.Assigned, &logpb.GroupMessage{Item: number, Message: w.number(x.assigned[number])})
		}
		r.Members = append(r.Members, p)
	}
	for _, it := range g.queue {
		r.Queue = append(r.Queue, &logpb.GroupMessage{Item: it.number, Message: w.number(it.msg)})
	}
	w.write(&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Group{Group: r}})
}

// posted returns what an outbox item has for groups and members, with messages by number.
func (w *recordWriter) posted(item *OutboxItem) []*logpb.GroupItem {
	var items []*logpb.GroupItem
	for i, it := range item.Group {
		if a := it.GetAssigned(); a != nil {
			it = &logpb.GroupItem{Body: &logpb.GroupItem_Assigned{Assigned: &logpb.GroupAssigned{
				Filter: a.Filter, ClientId: a.ClientId, Stamp: a.Stamp, Epoch: a.Epoch, Item: a.Item, Qos: a.Qos,
				Retained: a.Retained, SubscriptionId: a.SubscriptionId, MessageNumber: w.number(item.msgs[i]),
			}}}
		}
		items = append(items, it)
	}
	return items
}
