package topic

import (
	"slices"
	"strings"
)

const (
	// maxFew is the number of children up to which a sorted slice is smaller and
	// faster than a map.
	maxFew = 8
	// minWide is the number of children at which a map becomes a slice again. The
	// gap keeps a node at the limit from changing its form with every operation.
	minWide = 4
)

// edge is a child of a node under the level that leads to it.
type edge[N any] struct {
	level string
	node  *N
}

// kids holds the children of a node by level. Most nodes of a real topic space
// have none or one, a few have a hundred thousand; so the form depends on the number.
// Invariant: either wide is nil, or few is.
type kids[N any] struct {
	few  []edge[N]     // sorted by level
	wide map[string]*N // more than maxFew children, or not yet back at minWide
}

func compareEdge[N any](e edge[N], level string) int { return strings.Compare(e.level, level) }

// get returns the child of a level, or nil.
func (k *kids[N]) get(level string) *N {
	if k.wide != nil {
		return k.wide[level]
	}
	for i := range k.few {
		if k.few[i].level == level {
			return k.few[i].node
		}
	}
	return nil
}

// add puts a child under a level that has none. The level is copied: it is a part
// of a longer string which the node may outlive.
func (k *kids[N]) add(level string, n *N) {
	level = strings.Clone(level)
	if k.wide == nil && len(k.few) == maxFew {
		k.wide = make(map[string]*N, 2*maxFew)
		for _, e := range k.few {
			k.wide[e.level] = e.node
		}
		k.few = nil
	}
	if k.wide != nil {
		k.wide[level] = n
		return
	}
	i, _ := slices.BinarySearchFunc(k.few, level, compareEdge[N])
	if k.few == nil {
		k.few = make([]edge[N], 0, 1) // most nodes never have a second child
	}
	k.few = slices.Insert(k.few, i, edge[N]{level, n})
}

// remove takes away the child of a level.
func (k *kids[N]) remove(level string) {
	if k.wide == nil {
		if i, ok := slices.BinarySearchFunc(k.few, level, compareEdge[N]); ok {
			k.few = slices.Delete(k.few, i, i+1)
		}
		return
	}
	delete(k.wide, level)
	if len(k.wide) <= minWide {
		k.few, k.wide = k.sorted(), nil
	}
}

func (k *kids[N]) len() int { return len(k.few) + len(k.wide) }

// sorted returns the children in byte order of their levels, so that visits do not
// depend on Go's map order. It allocates only for a wide node.
func (k *kids[N]) sorted() []edge[N] {
	if k.wide == nil {
		return k.few
	}
	edges := make([]edge[N], 0, len(k.wide))
	for level, n := range k.wide {
		edges = append(edges, edge[N]{level, n})
	}
	slices.SortFunc(edges, func(a, b edge[N]) int { return strings.Compare(a.level, b.level) })
	return edges
}
