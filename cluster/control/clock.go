package control

import (
	"sync/atomic"
	"time"
)

// clock reads boottime for LeaseValid, which is asked for every acknowledgement:
// CLOCK_BOOTTIME costs a system call, time.Now does not.
type clock struct {
	read func() time.Duration
	last atomic.Pointer[reading]
}

// reading is boottime, read just after at.
type reading struct {
	at   time.Time // monotonic and wall clock
	boot time.Duration
}

// fresh is for how long boottime is reckoned from the last reading.
const fresh = time.Millisecond

// now is boottime, or a little more. Between readings it goes by monotonic time,
// which stands still while the machine is suspended; the wall clock does not, so
// that the two disagree shows a suspension at once.
func (c *clock) now() time.Duration {
	now := time.Now()
	if r := c.last.Load(); r != nil {
		passed := now.Sub(r.at)
		if steady(passed, time.Duration(now.UnixNano()-r.at.UnixNano())) {
			return r.boot + passed
		}
	}
	boot := c.read()
	c.last.Store(&reading{at: now, boot: boot})
	return boot
}

// steady reports whether so little time has passed, by the monotonic clock and
// by the wall clock, that boottime can be reckoned.
func steady(passed, wall time.Duration) bool {
	return passed >= 0 && passed < fresh && (wall-passed).Abs() < fresh
}
