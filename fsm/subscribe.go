package fsm

import (
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// subRef is a subscription in the tree.
type subRef struct {
	slot *slot
	sub  *logpb.Subscription
}

// subscribe stores subscriptions of a session that is not ephemeral. The filters
// whose retained messages the client wants are held: from now on live messages
// that match them wait for the retained ones (design §3).
func (m *Machine) subscribe(op *logpb.Subscribe) (uint32, []byte) {
	sl, ok := m.fenced(op.ClientId, op.Epoch)
	if !ok || sl.s.ephemeral {
		return CodeFenced, nil
	}
	s := m.edit(sl)
	r := &logpb.SubscribeResult{}
	for _, sub := range op.Subscriptions {
		if isShared(sub.Filter) { // never with retained messages [MQTT 5.0 4.8.2]
			code, existed := m.subscribeShared(sl, sub, r)
			r.Codes, r.Existed = append(r.Codes, code), append(r.Existed, existed)
			continue
		}
		code, existed := m.subscribeOne(sl, sub)
		r.Codes = append(r.Codes, code)
		r.Existed = append(r.Existed, existed)
		wanted := sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed // [MQTT-3.3.1-9], [MQTT-3.3.1-10]
		if code <= 2 && wanted && !slices.Contains(r.Retained, sub.Filter) {
			r.Retained = append(r.Retained, sub.Filter)
		}
	}
	if len(r.Retained) > 0 {
		s.lastHold++
		r.Hold = s.lastHold
		s.holds = append(s.holds, &hold{id: r.Hold, filters: slices.Clone(r.Retained)})
	}
	m.runPosted() // a group of this partition counts in the version
	r.Version = m.nextVersion()
	return CodeOK, encode(r)
}

func (m *Machine) subscribeOne(sl *slot, sub *logpb.Subscription) (code uint32, existed bool) {
	s := sl.s
	if sub.Qos > 2 || topic.ValidFilter(sub.Filter) != nil {
		return CodeFilterInvalid, false
	}
	i, existed := s.findSub(sub.Filter)
	if existed { // replaced, not added [MQTT-3.8.4-3]
		old := s.subs[i]
		s.subs[i] = sub
		m.linkSub(sl, sub)
		m.uncountSub(old) // after the new one counts: the interest stays as it is
		return sub.Qos, true
	}
	if limit := m.settings.MaxSubscriptions; limit != 0 && uint32(len(s.subs)) >= limit {
		return CodeQuota, false
	}
	s.subs = slices.Insert(s.subs, i, sub)
	m.linkSub(sl, sub)
	return sub.Qos, false
}

func (m *Machine) unsubscribe(op *logpb.Unsubscribe) (uint32, []byte) {
	sl, ok := m.fenced(op.ClientId, op.Epoch)
	if !ok || sl.s.ephemeral {
		return CodeFenced, nil
	}
	s := m.edit(sl)
	r := &logpb.UnsubscribeResult{}
	for _, filter := range op.Filters {
		i, existed := s.findSub(filter)
		r.Existed = append(r.Existed, existed)
		if !existed {
			continue
		}
		if isShared(filter) {
			if posted := m.unsubscribeShared(sl, s.subs[i].Filter); posted != nil {
				r.Posted = append(r.Posted, posted)
			}
			s.subs = slices.Delete(s.subs, i, i+1)
			continue
		}
		m.unlinkSub(sl, s.subs[i])
		s.subs = slices.Delete(s.subs, i, i+1)
		for _, h := range slices.Clone(s.holds) {
			h.filters = slices.DeleteFunc(h.filters, func(f string) bool { return f == filter })
			if len(h.filters) == 0 { // nothing to wait for any more
				m.releaseHolds(sl, h)
			}
		}
	}
	m.fill(sl)
	return CodeOK, encode(r)
}

// linkSub makes a subscription count. Those of QoS 0 are in the tree for their
// identifiers and options, but not in the interest: what goes to a client at
// QoS 0 goes there without the partition.
func (m *Machine) linkSub(sl *slot, sub *logpb.Subscription) {
	m.tree.Set(sub.Filter, sl.order, subRef{sl, sub})
	m.stats.Subscriptions++
	if sub.Qos > 0 {
		m.countInterest(sub.Filter, 1, 0)
	}
}

func (m *Machine) unlinkSub(sl *slot, sub *logpb.Subscription) {
	m.tree.Delete(sub.Filter, sl.order)
	m.uncountSub(sub)
}

func (m *Machine) uncountSub(sub *logpb.Subscription) {
	m.stats.Subscriptions--
	if sub.Qos > 0 {
		m.countInterest(sub.Filter, -1, 0)
	}
}

// wants counts the reasons for the interest in one filter.
type wants struct {
	sessions int // subscriptions at QoS 1 or 2
	groups   int
}

func (w wants) change(filter string) InterestChange {
	return InterestChange{Filter: filter, Added: w != wants{}, Groups: w.groups > 0}
}

// countInterest counts subscriptions, or groups, that come (1) or go (-1).
func (m *Machine) countInterest(filter string, sessions, groups int) {
	old := m.interest[filter]
	w := wants{old.sessions + sessions, old.groups + groups}
	if w == (wants{}) {
		delete(m.interest, filter)
	} else {
		m.interest[filter] = w
	}
	if w.change(filter) != old.change(filter) {
		m.touched[filter] = struct{}{}
	}
}

// nextVersion is the interest's version after the entry, as far as it has come: that
// may grow, which does no harm.
func (m *Machine) nextVersion() uint64 {
	if len(m.touched) > 0 {
		return m.version + 1
	}
	return m.version
}

// settleInterest ends the entry's changes of the interest.
func (m *Machine) settleInterest() {
	if len(m.touched) > 0 {
		m.version++
		for filter := range m.touched {
			m.effects.Interest = append(m.effects.Interest, m.interest[filter].change(filter))
		}
		clear(m.touched)
		slices.SortFunc(m.effects.Interest, func(a, b InterestChange) int { return strings.Compare(a.Filter, b.Filter) })
	}
	m.effects.Version = m.version
}

// Interest is the partition's whole interest: the filters for which some persistent
// session subscribes at QoS 1 or 2, or that some group shares, each once, in byte order.
// filters must be called before the next Apply.
func (m *Machine) Interest() (version uint64, filters func(fn func(InterestChange))) {
	return m.version, func(fn func(InterestChange)) {
		for _, filter := range sortedKeys(m.interest) {
			fn(m.interest[filter].change(filter))
		}
	}
}
