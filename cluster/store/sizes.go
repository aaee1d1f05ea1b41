package store

// sizeChunk is the resolution in which the bytes of a log are remembered. The
// error of logSizes.total is below one chunk, or one entry if that is larger.
const sizeChunk = 64 << 10

// logSizes knows how many bytes a log holds after entries are removed from
// either end, without a number per entry. Guarded by the group's mu.
type logSizes struct {
	chunks []sizeOf // ascending, contiguous
	total  int64
}

// sizeOf is a run of entries [first..last] with their bytes.
type sizeOf struct {
	first, last uint64
	bytes       int64
}

func (s *logSizes) add(index uint64, bytes int) {
	s.total += int64(bytes)
	if n := len(s.chunks); n > 0 && s.chunks[n-1].bytes+int64(bytes) <= sizeChunk {
		s.chunks[n-1].last = index
		s.chunks[n-1].bytes += int64(bytes)
		return
	}
	s.chunks = append(s.chunks, sizeOf{first: index, last: index, bytes: int64(bytes)})
}

// keep shrinks chunk i to its entries [first..last], in proportion.
func (s *logSizes) keep(i int, first, last uint64) {
	c := &s.chunks[i]
	left := c.bytes * int64(last-first+1) / int64(c.last-c.first+1)
	s.total -= c.bytes - left
	*c = sizeOf{first: first, last: last, bytes: left}
}

// dropUpTo forgets the entries up to max.
func (s *logSizes) dropUpTo(max uint64) {
	i := 0
	for ; i < len(s.chunks) && s.chunks[i].last <= max; i++ {
		s.total -= s.chunks[i].bytes
	}
	s.chunks = append(s.chunks[:0], s.chunks[i:]...)
	if len(s.chunks) > 0 && s.chunks[0].first <= max {
		s.keep(0, max+1, s.chunks[0].last)
	}
}

// dropFrom forgets the entries from min on.
func (s *logSizes) dropFrom(min uint64) {
	n := len(s.chunks)
	for ; n > 0 && s.chunks[n-1].first >= min; n-- {
		s.total -= s.chunks[n-1].bytes
	}
	s.chunks = s.chunks[:n]
	if n > 0 && s.chunks[n-1].last >= min {
		s.keep(n-1, s.chunks[n-1].first, min-1)
	}
}
