package topic

import "cmp"

// Tree maps (filter, key) to a value and finds all entries whose filter matches a
// topic name: a subscription trie with one node per level. K identifies a
// subscriber and must not be a NaN. The zero value is an empty tree.
//
// A Tree is for one goroutine at a time; several may read it while nobody writes.
// It must not be changed from within a visiting function. Filters must be valid and
// are stored as they are given: strip the prefix of a shared subscription first.
//
// Nodes without entries and children are pruned, so the memory follows the content. It
// also follows the number of levels, and so does the depth of recursion: whoever takes
// filters from strangers limits [Levels].
type Tree[K cmp.Ordered, V any] struct {
	root node[K, V]
	size int
}

// node is one level of one or more filters. Both parts are nil when empty, which
// keeps a leaf at two words.
type node[K cmp.Ordered, V any] struct {
	next *branches[K, V]
	subs *subscribers[K, V]
}

// branches is what follows a level. The wildcards stand apart, since matching asks
// for them at every level.
type branches[K cmp.Ordered, V any] struct {
	plus, hash *node[K, V]
	kids       kids[node[K, V]]
}

func (b *branches[K, V]) get(level string) *node[K, V] {
	switch level {
	case "+":
		return b.plus
	case "#":
		return b.hash
	}
	return b.kids.get(level)
}

func (b *branches[K, V]) add(level string, n *node[K, V]) {
	switch level {
	case "+":
		b.plus = n
	case "#":
		b.hash = n
	default:
		b.kids.add(level, n)
	}
}

func (b *branches[K, V]) remove(level string) {
	switch level {
	case "+":
		b.plus = nil
	case "#":
		b.hash = nil
	default:
		b.kids.remove(level)
	}
}

func (b *branches[K, V]) empty() bool { return b.plus == nil && b.hash == nil && b.kids.len() == 0 }

// Set stores v under (filter, key) and returns what was there before. The tree
// keeps the filter string if it is new.
func (t *Tree[K, V]) Set(filter string, key K, v V) (old V, existed bool) {
	n := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = cut(rest)
		if n.next == nil {
			n.next = &branches[K, V]{}
		}
		child := n.next.get(level)
		if child == nil {
			child = &node[K, V]{}
			n.next.add(level, child)
		}
		n = child
	}
	if n.subs == nil {
		n.subs = &subscribers[K, V]{filter: filter}
	}
	old, existed = n.subs.set(key, v)
	if !existed {
		t.size++
	}
	return old, existed
}

// Get returns the value under (filter, key).
func (t *Tree[K, V]) Get(filter string, key K) (v V, ok bool) {
	if n := t.find(filter); n != nil && n.subs != nil {
		return n.subs.get(key)
	}
	return v, false
}

// find returns the node of a filter, or nil.
func (t *Tree[K, V]) find(filter string) *node[K, V] {
	n := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = cut(rest)
		if n.next == nil {
			return nil
		}
		if n = n.next.get(level); n == nil {
			return nil
		}
	}
	return n
}

// Delete removes the entry under (filter, key) and returns what was there.
func (t *Tree[K, V]) Delete(filter string, key K) (old V, existed bool) {
	old, existed = t.root.remove(filter, key)
	if existed {
		t.size--
	}
	return old, existed
}

func (n *node[K, V]) remove(filter string, key K) (old V, existed bool) {
	if n.next == nil {
		return old, false
	}
	level, rest, more := cut(filter)
	child := n.next.get(level)
	switch {
	case child == nil:
		return old, false
	case more:
		old, existed = child.remove(rest, key)
	case child.subs != nil:
		old, existed = child.subs.remove(key)
		if len(child.subs.list) == 0 {
			child.subs = nil
		}
	}
	if child.next == nil && child.subs == nil {
		n.next.remove(level)
		if n.next.empty() {
			n.next = nil
		}
	}
	return old, existed
}

// Match calls fn for every entry whose filter matches a valid topic name, and
// allocates nothing. The order is the same for trees with the same history, but is
// not determined by the content alone: sort where replicas must agree.
func (t *Tree[K, V]) Match(name string, fn func(filter string, key K, v V)) {
	next := t.root.next
	if next == nil {
		return
	}
	if name != "" && name[0] == '$' { // hidden from leading wildcards [MQTT-4.7.2-1]
		level, rest, more := cut(name)
		if child := next.kids.get(level); child != nil {
			child.match(rest, more, fn)
		}
		return
	}
	t.root.match(name, true, fn)
}

// match visits what matches the levels of rest, below n. more is false when no
// level is left.
func (n *node[K, V]) match(rest string, more bool, fn func(string, K, V)) {
	if n.next != nil && n.next.hash != nil {
		n.next.hash.subs.each(fn) // also without a further level: '#' includes its parent
	}
	if !more {
		n.subs.each(fn)
		return
	}
	if n.next == nil {
		return
	}
	level, rest, more := cut(rest)
	if n.next.plus != nil {
		n.next.plus.match(rest, more, fn)
	}
	if child := n.next.kids.get(level); child != nil {
		child.match(rest, more, fn)
	}
}

// Len is the number of entries: of (filter, key) pairs.
func (t *Tree[K, V]) Len() int { return t.size }

// Filters calls fn for each distinct filter with the number of its entries, which is
// at least 1. The order depends on the content alone.
func (t *Tree[K, V]) Filters(fn func(filter string, n int)) { t.root.filters(fn) }

func (n *node[K, V]) filters(fn func(string, int)) {
	if n.subs != nil {
		fn(n.subs.filter, len(n.subs.list))
	}
	if n.next == nil {
		return
	}
	if n.next.hash != nil {
		n.next.hash.filters(fn)
	}
	if n.next.plus != nil {
		n.next.plus.filters(fn)
	}
	for _, e := range n.next.kids.sorted() {
		e.node.filters(fn)
	}
}
