package bench

import (
	"math/bits"
	"time"
)

// subBits fixes the resolution of a histogram: each power of two is divided
// into 2^subBits buckets, so that a value is off by less than 1 %.
const subBits = 7

// histogram counts durations in buckets whose width grows with the value, as
// HdrHistogram does. Rows are made when first used: thousands of connections
// may each have one. It belongs to one goroutine.
type histogram struct {
	rows  [64 - subBits + 1]*[1 << subBits]uint64
	count uint64
	max   int64
}

// add counts a duration in nanoseconds; less than nothing counts as nothing.
func (h *histogram) add(ns int64) {
	ns = max(ns, 0)
	h.max = max(h.max, ns)
	h.count++
	row, col := bucket(ns)
	if h.rows[row] == nil {
		h.rows[row] = new([1 << subBits]uint64)
	}
	h.rows[row][col]++
}

// bucket: row 0 holds 0 … 2^subBits-1 exactly; row r>0 the values whose highest
// bit is subBits-1+r, in steps of 2^(r-1)… its columns start at half.
func bucket(ns int64) (row, col int) {
	high := bits.Len64(uint64(ns))
	if high <= subBits {
		return 0, int(ns)
	}
	row = high - subBits
	return row, int(ns>>row) & (1<<subBits - 1)
}

// value is the middle of a bucket.
func value(row, col int) int64 {
	return int64(col)<<row + int64(1)<<row/2
}

func (h *histogram) merge(other *histogram) {
	h.count += other.count
	h.max = max(h.max, other.max)
	for i, row := range other.rows {
		if row == nil {
			continue
		}
		if h.rows[i] == nil {
			h.rows[i] = new([1 << subBits]uint64)
		}
		for k, n := range row {
			h.rows[i][k] += n
		}
	}
}

// quantile is the value that the share q of all values does not exceed.
func (h *histogram) quantile(q float64) int64 {
	if h.count == 0 {
		return 0
	}
	want, seen := uint64(q*float64(h.count)), uint64(0)
	if want >= h.count {
		return h.max
	}
	for i, row := range h.rows {
		if row == nil {
			continue
		}
		for k, n := range row {
			if seen += n; seen > want {
				return min(value(i, k), h.max)
			}
		}
	}
	return h.max
}

// Latency sums up a histogram, in microseconds.
type Latency struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_us"`
	P99   float64 `json:"p99_us"`
	Max   float64 `json:"max_us"`
}

func (h *histogram) latency() Latency {
	us := func(ns int64) float64 { return float64(ns) / float64(time.Microsecond) }
	return Latency{Count: h.count, P50: us(h.quantile(0.5)), P99: us(h.quantile(0.99)), Max: us(h.max)}
}
