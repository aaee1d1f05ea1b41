package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proto/ctlpb"
)

// ops wraps bodies for the log.
func opStart(node string, disk, start uint64) *ctlpb.Op {
	return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_Start{Start: &ctlpb.StartIncarnation{
		Node: node, Disk: disk, Start: start, ServerId: fmt.Sprintf("%s#%d", node, disk),
	}}}
}

func opClose(node string, incarnation, term uint64) *ctlpb.Op {
	return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_Close{Close: &ctlpb.CloseIncarnation{
		Node: node, Incarnation: incarnation, Reason: "test", Term: term,
	}}}
}

func opFound(n int) *ctlpb.Op {
	f := &ctlpb.Found{ClusterId: "c1", Partitions: 4, Replicas: 3, FoundedAt: 7}
	for i := range n {
		name := string(rune('a' + i))
		f.Members = append(f.Members, &ctlpb.FoundingMember{Name: name, Disk: uint64(i + 1), ServerId: name + "#1"})
	}
	f.Placements = spread(4, 3, f.Members)
	return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_Found{Found: f}}
}

// script is a machine that ops are applied to, in term 1.
type script struct {
	t     *testing.T
	m     *machine
	index uint64
	fatal error
}

func newScript(t *testing.T) *script {
	s := &script{t: t}
	s.m = &machine{state: &State{}, publish: func(*State) {}, fatal: func(err error) { s.fatal = err }}
	return s
}

func (s *script) do(op *ctlpb.Op) result {
	s.t.Helper()
	data, err := op.MarshalVT()
	if err != nil {
		s.t.Fatal(err)
	}
	s.index++
	return s.m.Apply(&raft.Log{Index: s.index, Term: 1, Data: data}).(result)
}

func (s *script) want(op *ctlpb.Op, code ctlpb.Code) result {
	s.t.Helper()
	r := s.do(op)
	if r.code != code {
		s.t.Fatalf("%v: %v (%s), want %v", op, r.code, r.detail, code)
	}
	return r
}

func TestIncarnations(t *testing.T) {
	s := newScript(t)
	s.want(opStart("a", 1, 1), ctlpb.Code_NOT_READY)
	s.want(opFound(3), ctlpb.Code_OK)
	s.want(opFound(2), ctlpb.Code_FOUNDED)
	if n := len(s.m.state.Members); n != 3 {
		t.Fatalf("%d members", n)
	}
	s.want(opStart("x", 1, 1), ctlpb.Code_NOT_MEMBER)
	first := s.want(opStart("a", 1, 1), ctlpb.Code_OK).gateway
	if first != GatewayID(1, 1) {
		t.Fatalf("gateway %x", first)
	}
	started := s.m.state.Member("a").StartedIndex
	if again := s.want(opStart("a", 1, 1), ctlpb.Code_OK).gateway; again != first || s.m.state.Member("a").StartedIndex != started {
		t.Fatalf("the same request brought %x", again)
	}
	// The same disk again: the last incarnation is closed in the same entry.
	second := s.want(opStart("a", 1, 2), ctlpb.Code_OK).gateway
	if st := s.m.state; !st.Closed(first) || st.Closed(second) || st.Member("a").Live() != second {
		t.Fatalf("member %+v", st.Member("a"))
	}
	s.want(opStart("a", 1, 1), ctlpb.Code_RETIRED) // arrives late
	// Another disk: only after the last incarnation was closed.
	s.want(opStart("a", 9, 1), ctlpb.Code_NAME_IN_USE)
	s.want(opClose("a", 2, 2), ctlpb.Code_CONFLICT) // decided in another term
	s.want(opClose("a", 3, 1), ctlpb.Code_CONFLICT) // there is none yet
	s.want(opClose("a", 2, 1), ctlpb.Code_OK)
	s.want(opClose("a", 2, 5), ctlpb.Code_OK) // closed already
	s.want(opStart("a", 1, 2), ctlpb.Code_CLOSED)
	third := s.want(opStart("a", 9, 1), ctlpb.Code_OK).gateway
	if third != GatewayID(1, 3) {
		t.Fatalf("gateway %x", third)
	}
	s.want(opStart("a", 1, 3), ctlpb.Code_RETIRED) // the old disk
}

func TestRemovedMember(t *testing.T) {
	s := newScript(t)
	s.want(opFound(4), ctlpb.Code_OK)
	g := s.want(opStart("d", 4, 1), ctlpb.Code_OK).gateway
	remove := &ctlpb.Op{Format: 1, Body: &ctlpb.Op_RemoveMember{RemoveMember: &ctlpb.RemoveMember{Node: "d"}}}
	s.want(remove, ctlpb.Code_CONFLICT) // live
	s.want(opClose("d", 1, 1), ctlpb.Code_OK)
	s.want(remove, ctlpb.Code_CONFLICT) // has replicas
	for p, pl := range s.m.state.Placements {
		if _, ok := pl.Replica("d"); ok {
			next := *pl
			next.Replicas, next.Preferred = []Replica{{"a", "a#1"}, {"b", "b#1"}}, "a"
			s.want(&ctlpb.Op{Format: 1, Body: &ctlpb.Op_SetPlacement{SetPlacement: &ctlpb.SetPlacement{
				Base: pl.Version, Placement: next.pb(),
			}}}, ctlpb.Code_OK)
			if v := s.m.state.Placement(uint32(p)).Version; v != 2 {
				t.Fatalf("version %d", v)
			}
		}
	}
	s.want(remove, ctlpb.Code_OK)
	if st := s.m.state; st.Member("d") != nil || !st.Closed(g) || !st.Closed(GatewayID(4, 99)) || st.Closed(GatewayID(5, 1)) {
		t.Fatal("a removed member's gateways are closed for ever, others are not")
	}
}

func TestPlacementOps(t *testing.T) {
	s := newScript(t)
	s.want(opFound(3), ctlpb.Code_OK)
	set := func(old, new string) *ctlpb.Op {
		return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_SetReplica{SetReplica: &ctlpb.SetReplica{
			Partition: 1, Node: "b", OldServerId: old, NewServerId: new,
		}}}
	}
	before := s.m.state
	s.want(set("b#7", "b#8"), ctlpb.Code_CONFLICT)
	s.want(set("b#1", "b#2"), ctlpb.Code_OK)
	s.want(set("b#1", "b#2"), ctlpb.Code_OK) // a second time
	s.want(set("b#1", "b#3"), ctlpb.Code_CONFLICT)
	if r, _ := s.m.state.Placement(1).Replica("b"); r.ServerID != "b#2" || s.m.state.Placement(1).Version != 2 {
		t.Fatalf("placement %+v", s.m.state.Placement(1))
	}
	if r, _ := before.Placement(1).Replica("b"); r.ServerID != "b#1" {
		t.Fatal("a state that was handed out has changed")
	}
	p := Placement{Partition: 2, Replicas: []Replica{{"c", "c#1"}, {"a", "a#1"}}, Preferred: "c"}
	op := func(base uint64) *ctlpb.Op {
		return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_SetPlacement{SetPlacement: &ctlpb.SetPlacement{Base: base, Placement: p.pb()}}}
	}
	s.want(op(3), ctlpb.Code_CONFLICT)
	s.want(op(1), ctlpb.Code_OK)
	s.want(op(1), ctlpb.Code_OK) // a second time
	if got := s.m.state.Placement(2); got.Version != 2 || got.Replicas[0].Node != "a" {
		t.Fatalf("placement %+v", got)
	}
}

// A node stops when it meets what it does not know, and applies nothing after.
func TestUnknownOpStops(t *testing.T) {
	for name, data := range map[string][]byte{
		"unknown body":   {0x08, 0x01, 0xa2, 0x06, 0x00}, // field 100
		"unknown format": {0x08, 0x02, 0x4a, 0x00},
		"garbage":        {0xff},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			s.want(opFound(3), ctlpb.Code_OK)
			s.m.Apply(&raft.Log{Index: 9, Term: 1, Data: data})
			if s.fatal == nil || name != "garbage" && !errors.Is(s.fatal, ErrUnknownOp) {
				t.Fatalf("fatal: %v", s.fatal)
			}
			before := s.m.state
			s.do(opStart("a", 1, 1))
			if s.m.state != before {
				t.Fatal("went on")
			}
			if _, err := s.m.Snapshot(); err == nil {
				t.Fatal("made a snapshot of what it guessed")
			}
		})
	}
	if _, err := decodeState([]byte{0x08, 0x63}); !errors.Is(err, ErrUnknownOp) {
		t.Fatalf("snapshot of another format: %v", err)
	}
}

// sink is a snapshot in memory.
type sink struct{ bytes.Buffer }

func (*sink) ID() string    { return "test" }
func (*sink) Cancel() error { return nil }
func (*sink) Close() error  { return nil }

// Two replicas with the same log are byte-equal, and a snapshot at any point
// changes nothing.
func TestRandomDeterminism(t *testing.T) {
	for seed := int64(1); seed <= 50; seed++ {
		r := rand.New(rand.NewSource(seed))
		a, b := newScript(t), newScript(t)
		op := opFound(1 + r.Intn(5))
		for range 300 {
			ra, rb := a.do(op), b.do(op)
			if ra != rb {
				t.Fatalf("seed %d: %v brought %+v and %+v", seed, op, ra, rb)
			}
			if r.Intn(10) == 0 { // b goes on from its snapshot
				snap, err := b.m.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				var s sink
				if err := snap.Persist(&s); err != nil {
					t.Fatal(err)
				}
				b.m = &machine{state: &State{}, publish: func(*State) {}, fatal: b.m.fatal}
				if err := b.m.Restore(io.NopCloser(&s.Buffer)); err != nil {
					t.Fatal(err)
				}
			}
			ea, erra := encodeState(a.m.state)
			eb, errb := encodeState(b.m.state)
			if erra != nil || errb != nil || !bytes.Equal(ea, eb) {
				t.Fatalf("seed %d: after %v the replicas differ\n%x\n%x", seed, op, ea, eb)
			}
			a.invariants(seed)
			op = randomOp(r, a.m.state)
		}
		if a.fatal != nil || b.fatal != nil {
			t.Fatalf("seed %d: fatal: %v %v", seed, a.fatal, b.fatal)
		}
	}
}

// invariants of every state.
func (s *script) invariants(seed int64) {
	s.t.Helper()
	numbers := make(map[uint32]bool)
	for i, m := range s.m.state.Members {
		switch {
		case m.Closed > m.Incarnation || m.Incarnation > m.Closed+1:
			s.t.Fatalf("seed %d: member %+v", seed, m)
		case numbers[m.Number] || m.Number == 0:
			s.t.Fatalf("seed %d: node number %d is given twice", seed, m.Number)
		case i > 0 && s.m.state.Members[i-1].Name >= m.Name:
			s.t.Fatalf("seed %d: members are not sorted", seed)
		}
		numbers[m.Number] = true
	}
}

// randomOp is one that might be asked for, and often makes sense.
func randomOp(r *rand.Rand, s *State) *ctlpb.Op {
	node := string(rune('a' + r.Intn(6)))
	m := s.Member(node)
	if m == nil {
		m = &Member{Name: node}
	}
	switch r.Intn(8) {
	case 0, 1:
		return opStart(node, m.Disk+uint64(r.Intn(20)/19), m.start+uint64(r.Intn(3)))
	case 2:
		return opClose(node, m.Incarnation+uint64(r.Intn(10)/9), 1+uint64(r.Intn(10)/9))
	case 3:
		return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_SetReplica{SetReplica: &ctlpb.SetReplica{
			Partition: uint32(r.Intn(5)), Node: node, OldServerId: node + "#1", NewServerId: node + "#2",
		}}}
	case 4:
		p := Placement{Partition: uint32(r.Intn(5)), Version: uint64(1 + r.Intn(3)), Preferred: node}
		for _, m := range s.Members {
			if r.Intn(2) == 0 {
				p.Replicas = append(p.Replicas, Replica{m.Name, m.ServerID})
			}
		}
		return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_SetPlacement{SetPlacement: &ctlpb.SetPlacement{Base: p.Version, Placement: p.pb()}}}
	case 5:
		return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_SetSetting{SetSetting: &ctlpb.SetSetting{
			Key: string(rune('k' + r.Intn(4))), Value: []string{"", "x", "y"}[r.Intn(3)],
		}}}
	case 6:
		if r.Intn(10) == 0 {
			return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_RemoveMember{RemoveMember: &ctlpb.RemoveMember{Node: node}}}
		}
		return opFound(2)
	default:
		return &ctlpb.Op{Format: 1, Body: &ctlpb.Op_Nudge{Nudge: &ctlpb.Nudge{}}}
	}
}

func TestSpread(t *testing.T) {
	member := func(name, zone string) *ctlpb.FoundingMember {
		return &ctlpb.FoundingMember{Name: name, Zone: zone, ServerId: name}
	}
	five := []*ctlpb.FoundingMember{member("a", "1"), member("b", "1"), member("c", "2"), member("d", "2"), member("e", "3")}
	holds, leads := make(map[string]int), make(map[string]int)
	for _, p := range spread(16, 3, five) {
		zones := make(map[string]bool)
		preferred := false
		for _, r := range p.Replicas {
			holds[r.Node]++
			preferred = preferred || r.Node == p.Preferred
			for _, m := range five {
				if m.Name == r.Node {
					zones[m.Zone] = true
				}
			}
		}
		if len(p.Replicas) != 3 || len(zones) != 3 || !preferred {
			t.Fatalf("placement %v", p)
		}
		leads[p.Preferred]++
	}
	// e is alone in its zone, so it holds all; the others share evenly.
	if holds["e"] != 16 || holds["a"] != 8 || holds["b"] != 8 || holds["c"] != 8 || holds["d"] != 8 {
		t.Errorf("replicas: %v", holds)
	}
	for _, m := range five {
		if n := leads[m.Name]; n < 2 || n > 4 {
			t.Errorf("leaders: %v", leads)
		}
	}
	for n := 1; n <= 3; n++ {
		for _, p := range spread(16, 3, five[:n]) {
			if len(p.Replicas) != n {
				t.Fatalf("%d nodes: %v", n, p)
			}
		}
	}
}
