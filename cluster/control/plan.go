package control

import (
	"cmp"
	"maps"
	"slices"
)

// Fleet is what a plan reckons with beside the state.
type Fleet struct {
	// Usable nodes may hold replicas and lead: they live, are well, and are not drained.
	Usable map[string]bool
	// Leaving nodes must lose their replicas: they are drained. Lost ones were away too
	// long: they lose a replica only to a node that takes its place, since two replicas
	// bear no more than three of which one is away. A node that is none of these keeps
	// what it has and gets nothing.
	Leaving, Lost map[string]bool
}

// NextMove returns the next change of a placement that brings the cluster nearer to
// where it should be, and why; nil: there is none, or one is on its way. One replica
// moves at a time, so that clients do not feel it: first those that must go, then those
// that are missing, then those that balance; leaders at last.
func (s *State) NextMove(f Fleet) (*Placement, string) {
	for _, p := range s.Placements {
		if p.Leaving != "" || slices.ContainsFunc(p.Replicas, func(r Replica) bool { return r.ServerID == "" }) {
			return nil, "" // on its way
		}
	}
	v := s.view(f)
	for _, step := range []func() (*Placement, string){v.evacuate, v.fill, v.thin, v.level, v.lead} {
		if p, why := step(); p != nil {
			return p, why
		}
	}
	return nil, ""
}

// Completed is the placement when the move that it stands for is done.
func (p *Placement) Completed() *Placement {
	next := *p
	next.Leaving, next.Replicas = "", nil
	for _, r := range p.Replicas {
		if r.Node == p.Leaving {
			continue
		}
		if r.ServerID == "" {
			r.ServerID = r.Node // stands for the one it will have
		}
		next.Replicas = append(next.Replicas, r)
	}
	return &next
}

// view counts what is where.
type view struct {
	s      *State
	f      Fleet
	usable []string       // sorted
	holds  map[string]int // replicas on each node
	leads  map[string]int // partitions that prefer the node
	zones  map[string]string
	want   int // replicas of each partition
}

func (s *State) view(f Fleet) *view {
	v := &view{s: s, f: f, usable: slices.Sorted(maps.Keys(f.Usable)), holds: map[string]int{}, leads: map[string]int{}, zones: map[string]string{}}
	v.usable = slices.DeleteFunc(v.usable, func(n string) bool { return !f.Usable[n] || f.Leaving[n] || f.Lost[n] })
	for _, m := range s.Members {
		v.zones[m.Name] = m.Zone
	}
	for _, p := range s.Placements {
		for _, r := range p.Replicas {
			v.holds[r.Node]++
		}
		v.leads[p.Preferred]++
	}
	v.want = min(int(s.Replicas), len(v.usable))
	return v
}

// target is the node that should get another replica of p: in a zone with few others,
// then with little to hold; "": none can.
func (v *view) target(p *Placement, without string) string {
	best, bestCost := "", []int(nil)
	for _, n := range v.usable {
		if p.Has(n) {
			continue
		}
		if cost := []int{v.sameZone(p, n, without), v.holds[n]}; best == "" || slices.Compare(cost, bestCost) < 0 {
			best, bestCost = n, cost
		}
	}
	return best
}

// sameZone counts the replicas of p in n's zone, but for that of one node.
func (v *view) sameZone(p *Placement, n, without string) (same int) {
	for _, r := range p.Replicas {
		if r.Node != without && r.Node != n && v.zones[r.Node] == v.zones[n] {
			same++
		}
	}
	return same
}

// changed is p with a replica more and one that leaves; either may be "".
func (v *view) changed(p *Placement, added, leaving string) *Placement {
	next := *p
	next.Replicas, next.Leaving = slices.Clone(p.Replicas), leaving
	if added != "" {
		next.Replicas = append(next.Replicas, Replica{Node: added})
		slices.SortFunc(next.Replicas, func(a, b Replica) int { return cmp.Compare(a.Node, b.Node) })
	}
	if leaving != "" && next.Preferred == leaving {
		next.Preferred = v.fewestLeads(&next)
		if next.Preferred == "" {
			next.Preferred = added // it has to lead: there is nobody else
		}
	}
	return &next
}

// fewestLeads is the replica that should lead p: one that is there and usable, or "".
func (v *view) fewestLeads(p *Placement) (best string) {
	for _, r := range p.Replicas {
		if r.ServerID == "" || r.Node == p.Leaving || !slices.Contains(v.usable, r.Node) {
			continue
		}
		if best == "" || v.leads[r.Node] < v.leads[best] {
			best = r.Node
		}
	}
	return best
}

// evacuate takes replicas from nodes that leave or are lost. Leaderships went before, and
// the last replica is never taken away.
func (v *view) evacuate() (*Placement, string) {
	for _, p := range v.s.Placements {
		if v.f.Leaving[p.Preferred] || v.f.Lost[p.Preferred] {
			next := v.changed(p, "", "")
			if next.Preferred = v.fewestLeads(p); next.Preferred != "" {
				return next, "its preferred leader leaves"
			}
		}
	}
	for _, p := range v.s.Placements {
		for _, r := range p.Replicas {
			leaves := v.f.Leaving[r.Node]
			if !leaves && !v.f.Lost[r.Node] {
				continue
			}
			added := v.target(p, r.Node)
			if added != "" || leaves && len(p.Replicas) > 1 && len(p.Replicas) > v.want {
				return v.changed(p, added, r.Node), "a node leaves"
			}
		}
	}
	return nil, ""
}

// fill adds replicas that are missing. Two where there was one would bear no failure
// more than one does, and stop at either node's: a second one waits for a third.
func (v *view) fill() (*Placement, string) {
	for _, p := range v.s.Placements {
		if n := len(p.Replicas); n < v.want && !(n == 1 && v.want == 2) {
			if added := v.target(p, ""); added != "" {
				return v.changed(p, added, ""), "replicas are missing"
			}
		}
	}
	return nil, ""
}

// thin removes replicas beyond what is wanted, from the node that holds most.
func (v *view) thin() (*Placement, string) {
	for _, p := range v.s.Placements {
		if len(p.Replicas) <= int(v.s.Replicas) {
			continue
		}
		most := slices.MaxFunc(p.Replicas, func(a, b Replica) int { return cmp.Compare(v.holds[a.Node], v.holds[b.Node]) })
		return v.changed(p, "", most.Node), "there are more replicas than wanted"
	}
	return nil, ""
}

// level moves a replica from a node that holds two more than another to that one,
// without bringing replicas of a partition nearer together.
func (v *view) level() (best *Placement, why string) {
	gain := 1
	for _, p := range v.s.Placements {
		for _, r := range p.Replicas {
			if !slices.Contains(v.usable, r.Node) {
				continue
			}
			for _, n := range v.usable {
				closer := v.sameZone(p, n, r.Node) - v.sameZone(p, r.Node, r.Node)
				if p.Has(n) || closer > 0 {
					continue
				}
				g := v.holds[r.Node] - v.holds[n]
				if closer < 0 {
					g = max(g, 1) + 1000 // another zone is worth more than a level load
				}
				if g > gain {
					gain, best, why = g, v.changed(p, n, r.Node), "replicas are spread more evenly"
				}
			}
		}
	}
	return best, why
}

// lead changes whom a partition prefers as leader, where leaders are not spread evenly.
func (v *view) lead() (best *Placement, why string) {
	gain := 1
	for _, p := range v.s.Placements {
		if !slices.Contains(v.usable, p.Preferred) && v.s.Member(p.Preferred) != nil {
			continue // it is away for a while
		}
		for _, r := range p.Replicas {
			if !slices.Contains(v.usable, r.Node) || r.Node == p.Preferred {
				continue
			}
			g := v.leads[p.Preferred] - v.leads[r.Node]
			if p.Preferred == "" {
				g = 1000 - v.leads[r.Node]
			}
			if g > gain {
				gain, best, why = g, v.changed(p, "", ""), "leaders are spread more evenly"
				best.Preferred = r.Node
			}
		}
	}
	return best, why
}
