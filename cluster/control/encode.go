package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// encodeState writes the whole state: the same bytes for the same state.
func encodeState(s *State) ([]byte, error) {
	snap := &ctlpb.Snapshot{
		Format: snapshotFormat, ClusterId: s.ClusterID, Partitions: s.Partitions, Replicas: s.Replicas,
		FoundedAt: s.FoundedAt, LastNumber: s.lastNumber, Applied: s.Applied,
	}
	for _, m := range s.Members {
		snap.Members = append(snap.Members, m.pb())
	}
	for _, p := range s.Placements {
		snap.Placements = append(snap.Placements, p.pb())
	}
	for _, k := range slices.Sorted(maps.Keys(s.Settings)) {
		snap.Settings = append(snap.Settings, &ctlpb.Setting{Key: k, Value: s.Settings[k]})
	}
	return snap.MarshalVT()
}

func decodeState(data []byte) (*State, error) {
	snap := new(ctlpb.Snapshot)
	if err := snap.UnmarshalVT(data); err != nil {
		return nil, fmt.Errorf("control: snapshot: %w", err)
	}
	if snap.Format != snapshotFormat {
		return nil, fmt.Errorf("%w (snapshot of format %d)", ErrUnknownOp, snap.Format)
	}
	s := &State{
		ClusterID: snap.ClusterId, Partitions: snap.Partitions, Replicas: snap.Replicas,
		FoundedAt: snap.FoundedAt, lastNumber: snap.LastNumber, Applied: snap.Applied,
	}
	for _, m := range snap.Members {
		s.Members = append(s.Members, memberOf(m))
	}
	for _, p := range snap.Placements {
		s.Placements = append(s.Placements, placementOf(p))
	}
	if s.ClusterID != "" {
		s.Settings = make(map[string]string, len(snap.Settings))
	}
	for _, kv := range snap.Settings {
		s.Settings[kv.Key] = kv.Value
	}
	return s, nil
}

func (m *Member) pb() *ctlpb.Member {
	return &ctlpb.Member{
		Name: m.Name, Number: m.Number, Disk: m.Disk, ServerId: m.ServerID, Zone: m.Zone, Version: m.Version,
		Addresses: m.Addresses.pb(), Incarnation: m.Incarnation, Closed: m.Closed, CloseReason: m.CloseReason,
		StartedIndex: m.StartedIndex, Start: m.start, RetiredDisks: m.retiredDisks,
	}
}

func memberOf(m *ctlpb.Member) *Member {
	return &Member{
		Name: m.Name, Number: m.Number, Disk: m.Disk, ServerID: m.ServerId, Zone: m.Zone, Version: m.Version,
		Addresses: addressesOf(m.Addresses), Incarnation: m.Incarnation, Closed: m.Closed, CloseReason: m.CloseReason,
		StartedIndex: m.StartedIndex, start: m.Start, retiredDisks: m.RetiredDisks,
	}
}

func (a Addresses) pb() *ctlpb.Addresses {
	return &ctlpb.Addresses{Mqtt: a.MQTT, Peer: a.Peer, Http: a.HTTP}
}

func addressesOf(a *ctlpb.Addresses) Addresses {
	return Addresses{MQTT: a.GetMqtt(), Peer: a.GetPeer(), HTTP: a.GetHttp()}
}

func (p *Placement) pb() *ctlpb.Placement {
	q := &ctlpb.Placement{Partition: p.Partition, Version: p.Version, Preferred: p.Preferred, Leaving: p.Leaving}
	for _, r := range p.Replicas {
		q.Replicas = append(q.Replicas, &ctlpb.Replica{Node: r.Node, ServerId: r.ServerID})
	}
	return q
}

func placementOf(p *ctlpb.Placement) *Placement {
	q := &Placement{Partition: p.GetPartition(), Version: p.GetVersion(), Preferred: p.GetPreferred(), Leaving: p.GetLeaving()}
	for _, r := range p.GetReplicas() {
		q.Replicas = append(q.Replicas, Replica{Node: r.Node, ServerID: r.ServerId})
	}
	slices.SortFunc(q.Replicas, func(a, b Replica) int { return cmp.Compare(a.Node, b.Node) })
	return q
}
