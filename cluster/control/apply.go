package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// result is what applying an op brought.
type result struct {
	code    ctlpb.Code
	detail  string
	gateway uint64 // of StartIncarnation
}

// apply returns the state after the op. It changes nothing in s; what did not
// change is shared. An op that is refused still counts as applied.
func (s *State) apply(index, term uint64, op *ctlpb.Op) (*State, result, error) {
	if op.GetNudge() != nil {
		return s, result{}, nil
	}
	n := *s
	n.Applied = index
	if s.ClusterID == "" && op.GetFound() == nil {
		return &n, result{code: ctlpb.Code_NOT_READY, detail: "not founded"}, nil
	}
	var r result
	switch b := op.Body.(type) {
	case *ctlpb.Op_Found:
		r = n.found(b.Found)
	case *ctlpb.Op_Start:
		r = n.start(index, b.Start)
	case *ctlpb.Op_Close:
		r = n.close(term, b.Close)
	case *ctlpb.Op_SetReplica:
		r = n.setReplica(b.SetReplica)
	case *ctlpb.Op_SetPlacement:
		r = n.setPlacement(b.SetPlacement)
	case *ctlpb.Op_SetSetting:
		n.Settings = maps.Clone(n.Settings)
		if b.SetSetting.Value == "" {
			delete(n.Settings, b.SetSetting.Key)
		} else {
			n.Settings[b.SetSetting.Key] = b.SetSetting.Value
		}
	case *ctlpb.Op_AddMember:
		n.addMember(b.AddMember)
	case *ctlpb.Op_RemoveMember:
		r = n.removeMember(b.RemoveMember)
	default:
		return nil, r, fmt.Errorf("%w (log entry %d: %T)", ErrUnknownOp, index, op.Body)
	}
	return &n, r, nil
}

func (s *State) found(f *ctlpb.Found) result {
	if s.ClusterID != "" {
		return result{code: ctlpb.Code_FOUNDED, detail: s.ClusterID}
	}
	s.ClusterID, s.Partitions, s.Replicas, s.FoundedAt = f.ClusterId, f.Partitions, f.Replicas, f.FoundedAt
	for i, m := range f.Members {
		s.Members = append(s.Members, &Member{
			Name: m.Name, Number: uint32(i + 1), Disk: m.Disk, ServerID: m.ServerId,
			Zone: m.Zone, Version: m.Version, Addresses: addressesOf(m.Addresses),
		})
	}
	s.lastNumber = uint32(len(f.Members))
	for _, p := range f.Placements {
		pl := placementOf(p)
		pl.Version = 1
		s.Placements = append(s.Placements, pl)
	}
	s.Settings = make(map[string]string, len(f.Settings))
	for _, kv := range f.Settings {
		s.Settings[kv.Key] = kv.Value
	}
	return result{}
}

// change replaces the member by a copy that edit has changed.
func (s *State) change(name string, edit func(*Member)) {
	s.Members = slices.Clone(s.Members)
	i := slices.IndexFunc(s.Members, func(m *Member) bool { return m.Name == name })
	m := *s.Members[i]
	edit(&m)
	s.Members[i] = &m
}

func (s *State) start(index uint64, r *ctlpb.StartIncarnation) result {
	m := s.Member(r.Node)
	switch {
	case m == nil:
		return result{code: ctlpb.Code_NOT_MEMBER, detail: r.Node}
	case slices.Contains(m.retiredDisks, r.Disk):
		return result{code: ctlpb.Code_RETIRED, detail: "disk"}
	case m.Disk != r.Disk && m.Live() != 0:
		// The old process may live on; its lease is not ours to cut short.
		return result{code: ctlpb.Code_NAME_IN_USE, detail: r.Node}
	case m.Disk == r.Disk && r.Start < m.start:
		return result{code: ctlpb.Code_RETIRED, detail: "start"}
	case m.Disk == r.Disk && r.Start == m.start && m.start != 0:
		if m.Live() == 0 {
			return result{code: ctlpb.Code_CLOSED}
		}
		return result{gateway: m.Live()} // asked a second time
	}
	var gateway uint64
	s.change(r.Node, func(m *Member) {
		if m.Live() != 0 {
			m.Closed, m.CloseReason = m.Incarnation, "restarted"
		}
		if m.Disk != r.Disk {
			m.retiredDisks = append(slices.Clone(m.retiredDisks), m.Disk)
			slices.Sort(m.retiredDisks)
			m.Disk = r.Disk
		}
		m.Incarnation++
		m.start, m.StartedIndex = r.Start, index
		m.ServerID, m.Zone, m.Version, m.Addresses = r.ServerId, r.Zone, r.Version, addressesOf(r.Addresses)
		gateway = m.Live()
	})
	return result{gateway: gateway}
}

func (s *State) close(term uint64, r *ctlpb.CloseIncarnation) result {
	m := s.Member(r.Node)
	switch {
	case m == nil:
		return result{code: ctlpb.Code_NOT_MEMBER, detail: r.Node}
	case r.Incarnation > m.Incarnation:
		return result{code: ctlpb.Code_CONFLICT, detail: "no such incarnation yet"}
	case r.Incarnation <= m.Closed:
		return result{}
	case r.Term != term:
		// The decision is of an earlier leadership. Leaders in between may have
		// granted leases.
		return result{code: ctlpb.Code_CONFLICT, detail: "decided in another term"}
	}
	s.change(r.Node, func(m *Member) { m.Closed, m.CloseReason = r.Incarnation, r.Reason })
	return result{}
}

func (s *State) setReplica(r *ctlpb.SetReplica) result {
	p := s.Placement(r.Partition)
	if p == nil {
		return result{code: ctlpb.Code_CONFLICT, detail: "no such partition"}
	}
	old, ok := p.Replica(r.Node)
	switch {
	case !ok:
		return result{code: ctlpb.Code_CONFLICT, detail: "no replica on this node"}
	case old.ServerID == r.NewServerId:
		return result{}
	case old.ServerID != r.OldServerId:
		return result{code: ctlpb.Code_CONFLICT, detail: "the replica has another server id"}
	}
	next := *p
	next.Version++
	next.Replicas = slices.Clone(p.Replicas)
	i := slices.Index(next.Replicas, old)
	next.Replicas[i].ServerID = r.NewServerId
	s.place(&next)
	return result{}
}

func (s *State) setPlacement(r *ctlpb.SetPlacement) result {
	next := placementOf(r.Placement)
	p := s.Placement(next.Partition)
	switch {
	case p == nil:
		return result{code: ctlpb.Code_CONFLICT, detail: "no such partition"}
	case len(next.Replicas) == 0:
		return result{code: ctlpb.Code_REFUSED, detail: "a partition needs a replica"}
	case next.Preferred != "" && !next.Has(next.Preferred):
		return result{code: ctlpb.Code_REFUSED, detail: "the preferred leader has no replica"}
	case next.Leaving != "" && (!next.Has(next.Leaving) || len(next.Replicas) == 1):
		return result{code: ctlpb.Code_REFUSED, detail: "the replica that leaves is not there, or is the last"}
	case p.Version == r.Base+1 && p.Preferred == next.Preferred && p.Leaving == next.Leaving && slices.Equal(p.Replicas, next.Replicas):
		return result{} // asked a second time
	case p.Version != r.Base:
		return result{code: ctlpb.Code_CONFLICT, detail: "the placement has changed"}
	}
	for _, rep := range next.Replicas {
		if s.Member(rep.Node) == nil {
			return result{code: ctlpb.Code_NOT_MEMBER, detail: rep.Node}
		}
	}
	next.Version = p.Version + 1
	s.place(next)
	return result{}
}

func (s *State) place(p *Placement) {
	s.Placements = slices.Clone(s.Placements)
	s.Placements[p.Partition] = p
}

// addMember gives a new node its number, which no other name ever had.
func (s *State) addMember(r *ctlpb.AddMember) {
	if s.Member(r.Name) != nil {
		return
	}
	s.lastNumber++
	s.Members = append(slices.Clone(s.Members), &Member{Name: r.Name, Number: s.lastNumber, Disk: r.Disk, ServerID: r.ServerId})
	slices.SortFunc(s.Members, func(a, b *Member) int { return cmp.Compare(a.Name, b.Name) })
}

func (s *State) removeMember(r *ctlpb.RemoveMember) result {
	m := s.Member(r.Node)
	if m == nil {
		return result{}
	}
	if m.Live() != 0 {
		return result{code: ctlpb.Code_CONFLICT, detail: "the member is live"}
	}
	for _, p := range s.Placements {
		if _, ok := p.Replica(r.Node); ok {
			return result{code: ctlpb.Code_CONFLICT, detail: "the member has replicas"}
		}
	}
	s.Members = slices.DeleteFunc(slices.Clone(s.Members), func(m *Member) bool { return m.Name == r.Node })
	return result{}
}

// spread places the partitions at founding: each on
// min(replicas, nodes) of them, in different zones as far as there are, with
// replicas and preferred leaders spread evenly.
func spread(partitions, replicas uint32, members []*ctlpb.FoundingMember) []*ctlpb.Placement {
	holds := make([]int, len(members)) // replicas on each node
	leads := make([]int, len(members)) // leaders on each node
	var ps []*ctlpb.Placement
	for p := range partitions {
		var chosen []int
		for range min(int(replicas), len(members)) {
			chosen = append(chosen, pick(members, chosen, holds))
		}
		slices.Sort(chosen)
		lead := slices.MinFunc(chosen, func(a, b int) int { return cmp.Compare(leads[a], leads[b]) })
		leads[lead]++
		pl := &ctlpb.Placement{Partition: p, Version: 1, Preferred: members[lead].Name}
		for _, i := range chosen {
			holds[i]++
			pl.Replicas = append(pl.Replicas, &ctlpb.Replica{Node: members[i].Name, ServerId: members[i].ServerId})
		}
		ps = append(ps, pl)
	}
	return ps
}

// pick returns the member for the next replica: of a zone with none of chosen if
// there is one, and then the one that holds least.
func pick(members []*ctlpb.FoundingMember, chosen, holds []int) int {
	best, bestCost := -1, [2]int{}
	for i, m := range members {
		if slices.Contains(chosen, i) {
			continue
		}
		same := 0
		for _, c := range chosen {
			if members[c].Zone == m.Zone {
				same++
			}
		}
		if cost := [2]int{same, holds[i]}; best < 0 || slices.Compare(cost[:], bestCost[:]) < 0 {
			best, bestCost = i, cost
		}
	}
	return best
}
