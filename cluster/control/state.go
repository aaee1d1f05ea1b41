package control

import (
	"slices"
	"sort"
	"strings"
)

// State is what the control group has agreed on, as far as this node has
// applied it. It is immutable: readers share it and never change it.
type State struct {
	// ClusterID is empty until the cluster is founded.
	ClusterID string
	// Partitions is the number of partitions, fixed when the cluster is born.
	Partitions uint32
	// Replicas is how many replicas each partition is to have.
	Replicas uint32
	// FoundedAt is the founder's clock at founding, in unix nanoseconds.
	FoundedAt int64
	// Members are sorted by name.
	Members []*Member
	// Placements are in order of partition: Placements[p].Partition == p.
	Placements []*Placement
	// Settings are the cluster-wide settings.
	Settings map[string]string
	// Applied is the log index of the last op in this state.
	Applied uint64

	lastNumber uint32 // the highest node number ever given
}

// Member is one node of the cluster.
type Member struct {
	Name string
	// Number stands for the name in gateway ids. It starts at 1 and is never
	// given to another name.
	Number uint32
	// Disk is the node's disk incarnation.
	Disk uint64
	// ServerID is the raft server id of its replica of the control group.
	ServerID string
	Zone     string
	Version  string
	// Addresses are what the node advertises, for people; nodes find each other
	// by discovery.
	Addresses Addresses
	// Incarnation is the last one given; 0: none yet.
	Incarnation uint64
	// Closed is the highest closed incarnation. Incarnation is live if it is above.
	Closed uint64
	// CloseReason says why Closed was closed.
	CloseReason string
	// StartedIndex is the log index at which Incarnation was given.
	StartedIndex uint64

	start        uint64   // the start counter that Incarnation was given for
	retiredDisks []uint64 // sorted: disks this name had before
}

// Addresses are host:port pairs that a node advertises.
type Addresses struct {
	MQTT, Peer, HTTP string
}

// Placement says where the replicas of a partition are.
type Placement struct {
	Partition uint32
	Version   uint64
	Replicas  []Replica // sorted by node
	// Preferred is the node that should lead the partition.
	Preferred string
	// Leaving is the node whose replica goes when all others vote; "": none.
	Leaving string
}

// Replica is one replica of a partition.
type Replica struct {
	Node     string
	ServerID string
}

// incarnationBits is how many bits of a gateway id hold the incarnation.
const incarnationBits = 40

// GatewayID makes the id of a gateway from its node's number and its
// incarnation.
func GatewayID(number uint32, incarnation uint64) uint64 {
	return uint64(number)<<incarnationBits | incarnation
}

// SplitGateway takes a gateway id apart.
func SplitGateway(id uint64) (number uint32, incarnation uint64) {
	return uint32(id >> incarnationBits), id & (1<<incarnationBits - 1)
}

// Live is the id of the member's live gateway; 0: it has none.
func (m *Member) Live() uint64 {
	if m.Incarnation <= m.Closed {
		return 0
	}
	return GatewayID(m.Number, m.Incarnation)
}

// Member returns the member with this name, or nil.
func (s *State) Member(name string) *Member {
	i, ok := sort.Find(len(s.Members), func(i int) int { return strings.Compare(name, s.Members[i].Name) })
	if !ok {
		return nil
	}
	return s.Members[i]
}

// MemberByNumber returns the member with this node number, or nil.
func (s *State) MemberByNumber(number uint32) *Member {
	for _, m := range s.Members {
		if m.Number == number {
			return m
		}
	}
	return nil
}

// Closed reports whether this gateway was ended for ever. When it is true the
// lease of that incarnation is over: see the package's words on leases. It is
// false for a gateway that this state does not know yet.
func (s *State) Closed(gateway uint64) bool {
	number, incarnation := SplitGateway(gateway)
	if m := s.MemberByNumber(number); m != nil {
		return incarnation <= m.Closed
	}
	// A number that was given and has no member belongs to a removed one.
	return number != 0 && number <= s.lastNumber
}

// LiveGateways lists the live gateways, in order of their members' names.
func (s *State) LiveGateways() []uint64 {
	var ids []uint64
	for _, m := range s.Members {
		if id := m.Live(); id != 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// Placement returns where partition p is, or nil if there is no such partition.
func (s *State) Placement(p uint32) *Placement {
	if int(p) >= len(s.Placements) {
		return nil
	}
	return s.Placements[p]
}

// Replica returns the partition's replica on this node.
func (p *Placement) Replica(node string) (Replica, bool) {
	i := slices.IndexFunc(p.Replicas, func(r Replica) bool { return r.Node == node })
	if i < 0 {
		return Replica{}, false
	}
	return p.Replicas[i], true
}

// Has reports whether the node has a replica.
func (p *Placement) Has(node string) bool {
	_, ok := p.Replica(node)
	return ok
}
