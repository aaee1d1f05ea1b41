package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster/control"
)

const (
	balanceInterval = time.Second
	// drainPrefix begins the cluster-wide settings that take nodes out of use. The value
	// is drained, or removed for a node that is to be forgotten when it has gone.
	drainPrefix = "drain/"
	drained     = "drained"
	removed     = "removed"
)

// balance moves replicas and leaders to where they should be. The node that leads the
// control group does it for all.
func (n *Node) balance(ctx context.Context) {
	tick := time.NewTicker(balanceInterval)
	defer tick.Stop()
	away := make(map[string]time.Time) // since when nodes have had no gateway, as far as this leader saw
	inUse := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// With its gateway a node has applied what was decided before it started.
		if !inUse && n.ingress() != nil {
			inUse = n.endDrain(ctx)
		}
		if _, leads := n.control.Leader(); !leads {
			clear(away)
			continue
		}
		live := n.liveGateways()
		for _, node := range n.memberNodes() {
			if live[node] != 0 {
				delete(away, node)
			} else if away[node].IsZero() {
				away[node] = time.Now()
			}
		}
		if err := n.balanceStep(ctx, away); err != nil {
			n.log.Debug("balance: not done yet", "error", err)
		}
	}
}

func (n *Node) balanceStep(ctx context.Context, away map[string]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	s := n.control.State()
	if pl, why := s.NextMove(n.fleet(s, away)); pl != nil {
		n.log.Info("balance: "+why, "partition", pl.Partition, "replicas", nodesOf(pl), "leaves", pl.Leaving, "preferred", pl.Preferred)
		return n.control.UpdatePlacement(ctx, *pl)
	}
	for _, m := range s.Members {
		if s.Settings[drainPrefix+m.Name] != removed || m.Live() != 0 || holds(s, m.Name) > 0 {
			continue
		}
		if err := n.control.RemoveMember(ctx, m.Name); err != nil {
			return err
		}
		n.log.Info("balance: node removed from the cluster", "node", m.Name)
		return n.control.SetSetting(ctx, drainPrefix+m.Name, "")
	}
	return nil
}

// fleet says which nodes may be used, and which lose what they have.
func (n *Node) fleet(s *control.State, away map[string]time.Time) control.Fleet {
	f := control.Fleet{Usable: make(map[string]bool), Leaving: make(map[string]bool), Lost: make(map[string]bool)}
	for _, m := range s.Members {
		since := away[m.Name]
		f.Lost[m.Name] = !since.IsZero() && time.Since(since) > n.o.ReplaceAfter
		f.Leaving[m.Name] = s.Settings[drainPrefix+m.Name] != ""
		f.Usable[m.Name] = m.Live() != 0 && (m.Name == n.name || n.positions.healthy(m.Name))
	}
	return f
}

func nodesOf(pl *control.Placement) string {
	var nodes []string
	for _, r := range pl.Replicas {
		nodes = append(nodes, r.Node)
	}
	return strings.Join(nodes, ",")
}

// holds counts the replicas placed on a node.
func holds(s *control.State, node string) (k int) {
	for _, pl := range s.Placements {
		if pl.Has(node) {
			k++
		}
	}
	return k
}

// Errors of what operators ask.
var (
	ErrNoMember = errors.New("there is no such member")
	ErrLastNode = errors.New("it is the last node in use: its data has nowhere to go")
	ErrAlive    = errors.New("the node is alive: drain it and stop it first")
)

// Drain takes a node out of use, until it starts again: its leaderships and replicas move
// to others, and then its clients are sent away. forget: when it has stopped it is a member
// no more. Drain returns when that is decided; DrainOf tells how far it is.
func (n *Node) Drain(ctx context.Context, node string, forget bool) error {
	if forget {
		return n.setDrain(ctx, node, removed)
	}
	return n.setDrain(ctx, node, drained)
}

// Undrain takes a node into use again.
func (n *Node) Undrain(ctx context.Context, node string) error { return n.setDrain(ctx, node, "") }

// RemoveNode forgets a node that will not return, once others hold what it held. Its
// name may join again, with an empty disk or the old one.
func (n *Node) RemoveNode(ctx context.Context, node string) error {
	m := n.control.State().Member(node)
	if m != nil && m.Live() != 0 {
		return fmt.Errorf("node %s: %w", node, ErrAlive)
	}
	return n.setDrain(ctx, node, removed)
}

func (n *Node) setDrain(ctx context.Context, node, value string) error {
	s := n.control.State()
	if s.Member(node) == nil {
		return fmt.Errorf("node %s: %w", node, ErrNoMember)
	}
	others := 0
	for _, m := range s.Members {
		if m.Name != node && m.Live() != 0 && s.Settings[drainPrefix+m.Name] == "" {
			others++
		}
	}
	if value != "" && others == 0 {
		return fmt.Errorf("node %s: %w", node, ErrLastNode)
	}
	return n.control.SetSetting(ctx, drainPrefix+node, value)
}

// Drain is how far a node is out of use.
type Drain struct {
	Member   bool `json:"member"`
	Draining bool `json:"draining"`
	Alive    bool `json:"alive"`
	Replicas int  `json:"replicas"` // it still holds
}

// DrainOf tells how far a node is out of use.
func (n *Node) DrainOf(node string) Drain {
	s := n.control.State()
	m := s.Member(node)
	return Drain{
		Member: m != nil, Draining: s.Settings[drainPrefix+node] != "", Alive: m != nil && m.Live() != 0, Replicas: holds(s, node),
	}
}

// endDrain takes this node into use again: it has started, so it is wanted.
func (n *Node) endDrain(ctx context.Context) bool {
	if !n.DrainOf(n.name).Draining {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	err := n.Undrain(ctx, n.name)
	if err != nil {
		n.log.Warn("this node is still drained", "error", err)
	}
	return err == nil
}

// checkDrained tells the gateway when this node is empty and its clients should go, and
// where to.
func (n *Node) checkDrained() {
	d := n.DrainOf(n.name)
	empty := n.opened.Load() && d.Draining && d.Replicas == 0
	if empty == n.empty.Swap(empty) {
		return
	}
	var elsewhere []string
	s := n.control.State()
	for _, m := range s.Members {
		if m.Name != n.name && m.Live() != 0 && m.Addresses.MQTT != "" && s.Settings[drainPrefix+m.Name] == "" {
			elsewhere = append(elsewhere, m.Addresses.MQTT)
		}
	}
	if empty {
		n.log.Info("this node is drained: its clients are sent to other nodes")
	}
	n.o.OnDrained(empty, strings.Join(elsewhere, " "))
}

// PlannedMove is one move that balance would make.
type PlannedMove struct {
	Partition uint32   `json:"partition"`
	Replicas  []string `json:"replicas"`
	Leaving   string   `json:"leaving,omitempty"`
	Preferred string   `json:"preferred"`
	Why       string   `json:"why"`
}

// PlannedMoves lists what balance would do from here on if nothing else happened.
func (n *Node) PlannedMoves() []PlannedMove {
	s := *n.control.State()
	s.Placements = append([]*control.Placement(nil), s.Placements...)
	for i, pl := range s.Placements { // what is on its way will have happened
		s.Placements[i] = pl.Completed()
	}
	f := n.fleet(&s, nil)
	var moves []PlannedMove
	for range 4 * len(s.Placements) {
		pl, why := s.NextMove(f)
		if pl == nil {
			break
		}
		moves = append(moves, PlannedMove{pl.Partition, strings.Split(nodesOf(pl), ","), pl.Leaving, pl.Preferred, why})
		s.Placements[pl.Partition] = pl.Completed()
	}
	return moves
}
