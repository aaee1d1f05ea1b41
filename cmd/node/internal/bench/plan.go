package bench

import "fmt"

// role is one client: where it connects, and its part in the scenario.
type role struct {
	id    string // client id, unique to the run
	addr  string
	topic string // what a publisher publishes to, or the filter of a subscriber
	from  []int  // subscriber: its publishers
	to    int    // publisher: how many subscribers each message has
}

// plan lays out the clients of a scenario so that messages cross nodes.
func (o *Options) plan(run string) (pubs, subs []role) {
	pubs, subs = make([]role, o.Publishers), make([]role, o.Subscribers)
	for s := range subs {
		filter := fmt.Sprintf("bench/%s/%d/+", run, s)
		if o.Scenario == FanOut {
			filter = fmt.Sprintf("bench/%s/all/+", run)
		}
		subs[s] = role{id: fmt.Sprintf("bench-%s-s%d", run, s), addr: o.subAddr(s), topic: filter}
	}
	for p := range pubs {
		group := p % o.Subscribers
		pubs[p] = role{id: fmt.Sprintf("bench-%s-p%d", run, p), addr: o.pubAddr(p, group)}
		if o.Scenario == FanOut {
			pubs[p].topic, pubs[p].to = fmt.Sprintf("bench/%s/all/%d", run, p), o.Subscribers
			for s := range subs {
				subs[s].from = append(subs[s].from, p)
			}
			continue
		}
		pubs[p].topic, pubs[p].to = fmt.Sprintf("bench/%s/%d/%d", run, group, p), 1
		subs[group].from = append(subs[group].from, p)
	}
	return pubs, subs
}

// subAddr: in a fan-out the first node is left to the publishers.
func (o *Options) subAddr(s int) string {
	n := len(o.Addrs)
	switch {
	case len(o.SubAddrs) > 0:
		return o.SubAddrs[s%len(o.SubAddrs)]
	case o.Scenario == FanOut && n > 1:
		return o.Addrs[1+s%(n-1)]
	}
	return o.Addrs[s%n]
}

// pubAddr gives the publishers of a subscriber the other nodes in turn.
func (o *Options) pubAddr(p, group int) string {
	n := len(o.Addrs)
	switch {
	case len(o.PubAddrs) > 0:
		return o.PubAddrs[p%len(o.PubAddrs)]
	case o.Scenario == FanOut || n == 1:
		return o.Addrs[0]
	}
	return o.Addrs[(group+1+(p/o.Subscribers)%(n-1))%n]
}

// crossed is the share of publisher-subscriber pairs on different nodes.
func crossed(pubs, subs []role) float64 {
	all, cross := 0, 0
	for _, s := range subs {
		for _, p := range s.from {
			all++
			if pubs[p].addr != s.addr {
				cross++
			}
		}
	}
	if all == 0 {
		return 0
	}
	return float64(cross) / float64(all)
}
