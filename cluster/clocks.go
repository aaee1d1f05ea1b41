package cluster

import (
	"slices"
	"sync"
	"time"
)

// clocks compares the members' wall clocks, by their beacons. A partition's time
// steps only at an election, and then to the median, so that one wrong clock
// expires nothing (design §6).
type clocks struct {
	wall func() time.Time

	mu      sync.Mutex
	offsets map[string]time.Duration // of other nodes: theirs minus ours
	wake    chan struct{}            // a beacon is due at once
}

func newClocks(wall func() time.Time) *clocks {
	return &clocks{wall: wall, offsets: make(map[string]time.Duration), wake: make(chan struct{}, 1)}
}

// heard takes a node's clock, in Unix milliseconds.
func (c *clocks) heard(node string, wall int64) {
	offset := time.UnixMilli(wall).Sub(c.wall())
	c.mu.Lock()
	c.offsets[node] = offset
	c.mu.Unlock()
}

// due asks for a beacon soon.
func (c *clocks) due() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// median is the median of all clocks, in Unix milliseconds. Of an even number
// it is the lower one: a clock that is ahead does harm, one behind waits.
func (c *clocks) median() int64 {
	now := c.wall()
	c.mu.Lock()
	offsets := []time.Duration{0}
	for _, o := range c.offsets {
		offsets = append(offsets, o)
	}
	c.mu.Unlock()
	slices.Sort(offsets)
	return now.Add(offsets[(len(offsets)-1)/2]).UnixMilli()
}

// snapshot is the offset of every other node's clock from ours.
func (c *clocks) snapshot() map[string]time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]time.Duration, len(c.offsets))
	for k, v := range c.offsets {
		m[k] = v
	}
	return m
}
