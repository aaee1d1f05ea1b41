package topic

// Store maps topic names to values and finds all names that match a filter, as a
// new subscription asks of the retained messages. The zero value is empty.
//
// A Store is for one goroutine at a time; several may read it while nobody writes.
// It must not be changed from within a visiting function. Names must be valid.
type Store[V any] struct {
	root storeNode[V]
	size int
}

type storeNode[V any] struct {
	kids *kids[storeNode[V]] // nil when there are none
	leaf *leaf[V]            // nil when no name ends here
}

type leaf[V any] struct {
	name string
	v    V
}

// Put stores v under a name and returns what was there before. The store keeps the
// name string if it is new.
func (s *Store[V]) Put(name string, v V) (old V, existed bool) {
	n := &s.root
	for rest, more := name, true; more; {
		var level string
		level, rest, more = cut(rest)
		if n.kids == nil {
			n.kids = &kids[storeNode[V]]{}
		}
		child := n.kids.get(level)
		if child == nil {
			child = &storeNode[V]{}
			n.kids.add(level, child)
		}
		n = child
	}
	if n.leaf != nil {
		old, n.leaf.v = n.leaf.v, v
		return old, true
	}
	n.leaf = &leaf[V]{name, v}
	s.size++
	return old, false
}

// Get returns the value under a name.
func (s *Store[V]) Get(name string) (v V, ok bool) {
	n := &s.root
	for rest, more := name, true; more; {
		var level string
		level, rest, more = cut(rest)
		if n.kids == nil {
			return v, false
		}
		if n = n.kids.get(level); n == nil {
			return v, false
		}
	}
	if n.leaf == nil {
		return v, false
	}
	return n.leaf.v, true
}

// Delete removes a name and returns what was there.
func (s *Store[V]) Delete(name string) (old V, existed bool) {
	old, existed = s.root.remove(name)
	if existed {
		s.size--
	}
	return old, existed
}

func (n *storeNode[V]) remove(name string) (old V, existed bool) {
	if n.kids == nil {
		return old, false
	}
	level, rest, more := cut(name)
	child := n.kids.get(level)
	switch {
	case child == nil:
		return old, false
	case more:
		old, existed = child.remove(rest)
	case child.leaf != nil:
		old, existed, child.leaf = child.leaf.v, true, nil
	}
	if child.kids == nil && child.leaf == nil {
		n.kids.remove(level)
		if n.kids.len() == 0 {
			n.kids = nil
		}
	}
	return old, existed
}

// Len is the number of names.
func (s *Store[V]) Len() int { return s.size }

// All calls fn for every name, also those that begin with '$', until fn returns
// false. The order is that of MatchFilter.
func (s *Store[V]) All(fn func(name string, v V) bool) { s.root.all(fn) }

// MatchFilter calls fn for every name that matches a valid filter, until fn returns
// false. The order depends on the content alone: level by level in byte order, a
// name before those below it.
func (s *Store[V]) MatchFilter(filter string, fn func(name string, v V) bool) {
	if hidden(filter, "$") { // leading wildcards do not see '$' topics [MQTT-4.7.2-1]
		s.root.matchWild(filter, true, fn)
		return
	}
	s.root.match(filter, true, fn)
}

// match visits what matches the filter levels of rest below n. It returns false
// when fn wants no more.
func (n *storeNode[V]) match(rest string, more bool, fn func(string, V) bool) bool {
	if !more {
		return n.leaf == nil || fn(n.leaf.name, n.leaf.v)
	}
	if rest == "#" { // includes its parent, which is n
		return n.all(fn)
	}
	if n.kids == nil {
		return true
	}
	level, below, more := cut(rest)
	if level == "+" {
		return n.matchWild(rest, false, fn)
	}
	if child := n.kids.get(level); child != nil {
		return child.match(below, more, fn)
	}
	return true
}

// matchWild is match for a rest that begins with a wildcard, which may have to leave
// out the children that begin with '$'.
func (n *storeNode[V]) matchWild(rest string, hide bool, fn func(string, V) bool) bool {
	if n.kids == nil {
		return true
	}
	level, below, more := cut(rest)
	if level == "#" {
		below, more = "#", true
	}
	for _, e := range n.kids.sorted() {
		if hide && e.level != "" && e.level[0] == '$' {
			continue
		}
		if !e.node.match(below, more, fn) {
			return false
		}
	}
	return true
}

func (n *storeNode[V]) all(fn func(string, V) bool) bool {
	if n.leaf != nil && !fn(n.leaf.name, n.leaf.v) {
		return false
	}
	if n.kids == nil {
		return true
	}
	for _, e := range n.kids.sorted() {
		if !e.node.all(fn) {
			return false
		}
	}
	return true
}
