package store

import "github.com/hashicorp/raft"

// logCache holds the newest entries of one group, contiguous up to the last
// index, bounded in bytes. Its owner guards it with the group's mu.
//
// It keeps copies of the raft.Log structs, but the payloads are the caller's
// slices: Raft never changes an entry that it has handed to a LogStore.
type logCache struct {
	limit int
	bytes int
	ring  []raft.Log // ring[head] is the oldest
	head  int
	n     int
}

func (c *logCache) at(i int) *raft.Log { return &c.ring[(c.head+i)%len(c.ring)] }

// get copies entry index into l and reports whether it is held.
func (c *logCache) get(index uint64, l *raft.Log) bool {
	if c.n == 0 {
		return false
	}
	first := c.at(0).Index
	if index < first || index >= first+uint64(c.n) {
		return false
	}
	*l = *c.at(int(index - first))
	return true
}

// add appends l, evicting the oldest entries beyond the limit.
func (c *logCache) add(l *raft.Log) {
	size := entrySize(l)
	if c.n > 0 && c.at(c.n-1).Index+1 != l.Index {
		c.clear()
	}
	for c.n > 0 && c.bytes+size > c.limit {
		c.dropOldest()
	}
	if size > c.limit {
		return
	}
	if c.n == len(c.ring) {
		c.grow()
	}
	c.ring[(c.head+c.n)%len(c.ring)] = *l
	c.n++
	c.bytes += size
}

func (c *logCache) grow() {
	ring := make([]raft.Log, max(16, 2*len(c.ring)))
	for i := range c.n {
		ring[i] = *c.at(i)
	}
	c.ring, c.head = ring, 0
}

func (c *logCache) dropOldest() {
	l := c.at(0)
	c.bytes -= entrySize(l)
	*l = raft.Log{} // lets go of the payload
	c.head = (c.head + 1) % len(c.ring)
	c.n--
}

// dropUpTo forgets the entries up to max.
func (c *logCache) dropUpTo(max uint64) {
	for c.n > 0 && c.at(0).Index <= max {
		c.dropOldest()
	}
}

// dropFrom forgets the entries from min on.
func (c *logCache) dropFrom(min uint64) {
	for c.n > 0 && c.at(c.n-1).Index >= min {
		l := c.at(c.n - 1)
		c.bytes -= entrySize(l)
		*l = raft.Log{}
		c.n--
	}
}

func (c *logCache) clear() {
	clear(c.ring)
	c.head, c.n, c.bytes = 0, 0, 0
}
