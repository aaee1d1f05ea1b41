// Package disk judges how fast a disk makes data durable.
package disk

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Verdict says what a disk is good for.
type Verdict string

// The verdicts, by the 99th percentile of the time of a durable write.
const (
	Good Verdict = "good" // up to 10 ms
	Fair Verdict = "fair" // up to 50 ms: acknowledgements are felt to be slow
	Slow Verdict = "slow" // up to 150 ms: leaders may lose their leaderships under load
	// TooSlow is all above: a leader must make its heartbeats' entries durable in less
	// than the leader lease (320 ms by default).
	TooSlow Verdict = "too slow"
)

// Result is how long durable writes took.
type Result struct {
	Samples int           `json:"samples"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	Max     time.Duration `json:"max_ns"`
	Verdict Verdict       `json:"verdict"`
	Meaning string        `json:"meaning"` // the verdict in words
}

// Judge makes a Result of times, which it sorts; none: the zero value.
func Judge(times []time.Duration) Result {
	if len(times) == 0 {
		return Result{}
	}
	slices.Sort(times)
	r := Result{
		Samples: len(times), P50: times[(len(times)-1)/2], P99: times[(len(times)*99+99)/100-1], Max: times[len(times)-1],
	}
	switch {
	case r.P99 <= 10*time.Millisecond:
		r.Verdict, r.Meaning = Good, "fit for any load"
	case r.P99 <= 50*time.Millisecond:
		r.Verdict, r.Meaning = Fair, "every acknowledgement waits for it; a faster disk is felt at once"
	case r.P99 <= 150*time.Millisecond:
		r.Verdict, r.Meaning = Slow, "leaderships may move under load; raise leader-lease and heartbeat-timeout, or take another disk"
	default:
		r.Verdict, r.Meaning = TooSlow, "leaders will lose their leaderships; take another disk"
	}
	return r
}

// Bad reports whether something should be done.
func (r Result) Bad() bool { return r.Verdict == Slow || r.Verdict == TooSlow }

// String is the result in one line.
func (r Result) String() string {
	return fmt.Sprintf("%d durable writes: p50 %v, p99 %v, longest %v: %s, %s",
		r.Samples, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond), r.Max.Round(time.Microsecond), r.Verdict, r.Meaning)
}

const (
	writes    = 200
	writeSize = 4 << 10
	// patience bounds a check: a disk that takes longer is judged by what it has done.
	patience = 10 * time.Second
)

// Check writes to a file in the folder, which it removes, and waits for each write to be
// durable.
func Check(ctx context.Context, dir string) (r Result, err error) {
	f, err := os.CreateTemp(dir, "check-disk-*")
	if err != nil {
		return r, err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
		if e := os.Remove(f.Name()); err == nil {
			err = e
		}
	}()
	block := make([]byte, writeSize)
	var times []time.Duration
	for began := time.Now(); len(times) < writes && time.Since(began) < patience; {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return r, err
		}
		if err := f.Sync(); err != nil {
			return r, err
		}
		times = append(times, time.Since(start))
	}
	return Judge(times), nil
}

// Window keeps the times of the last durable writes.
type Window struct {
	mu    sync.Mutex
	times [1024]time.Duration // mu; a ring
	next  int                 // mu
	n     int                 // mu; how many of times are set
}

// Add notes one.
func (w *Window) Add(d time.Duration) {
	w.mu.Lock()
	w.times[w.next] = d
	w.next = (w.next + 1) % len(w.times)
	w.n = min(w.n+1, len(w.times))
	w.mu.Unlock()
}

// Judge judges them.
func (w *Window) Judge() Result {
	w.mu.Lock()
	times := slices.Clone(w.times[:w.n])
	w.mu.Unlock()
	return Judge(times)
}
