package topic

import "cmp"

// maxUnindexed is the number of subscribers of one filter up to which a linear
// search is good enough.
const maxUnindexed = 16

// subscribers holds the entries of one filter. Matching only walks the list; the
// index makes changes cheap where a filter has many subscribers.
// Invariant: the list is not empty while a node refers to it; index is nil, or
// index[list[i].key] == i for all i.
type subscribers[K cmp.Ordered, V any] struct {
	filter string
	list   []entry[K, V]
	index  map[K]int
}

type entry[K cmp.Ordered, V any] struct {
	key K
	v   V
}

// at returns the position of a key in the list, or -1.
func (s *subscribers[K, V]) at(key K) int {
	if s.index != nil {
		if i, ok := s.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range s.list {
		if s.list[i].key == key {
			return i
		}
	}
	return -1
}

func (s *subscribers[K, V]) get(key K) (v V, ok bool) {
	if i := s.at(key); i >= 0 {
		return s.list[i].v, true
	}
	return v, false
}

func (s *subscribers[K, V]) set(key K, v V) (old V, existed bool) {
	if i := s.at(key); i >= 0 {
		old, s.list[i].v = s.list[i].v, v
		return old, true
	}
	if s.list == nil {
		s.list = make([]entry[K, V], 0, 1) // most filters have one subscriber
	}
	s.list = append(s.list, entry[K, V]{key, v})
	switch {
	case s.index != nil:
		s.index[key] = len(s.list) - 1
	case len(s.list) > maxUnindexed:
		s.index = make(map[K]int, 2*maxUnindexed)
		for i := range s.list {
			s.index[s.list[i].key] = i
		}
	}
	return old, false
}

// remove puts the last entry in the place of the removed one.
func (s *subscribers[K, V]) remove(key K) (old V, existed bool) {
	i := s.at(key)
	if i < 0 {
		return old, false
	}
	last := len(s.list) - 1
	old = s.list[i].v
	if s.index != nil {
		s.index[s.list[last].key] = i
		delete(s.index, key)
	}
	s.list[i] = s.list[last]
	s.list[last] = entry[K, V]{} // lets go of what the value refers to
	s.list = s.list[:last]
	if last <= maxUnindexed/2 {
		s.index = nil
	}
	if cap(s.list) > 64 && last < cap(s.list)/4 {
		s.list = append(make([]entry[K, V], 0, 2*last), s.list...)
	}
	return old, true
}

func (s *subscribers[K, V]) each(fn func(string, K, V)) {
	if s == nil {
		return
	}
	for i := range s.list {
		fn(s.filter, s.list[i].key, s.list[i].v)
	}
}
