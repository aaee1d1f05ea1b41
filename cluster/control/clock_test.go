package control

import (
	"testing"
	"time"
)

// now follows boottime, and does not read it every time.
func TestClock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		epoch, reads := time.Now(), 0
		var slept time.Duration
		c := clock{read: func() time.Duration { reads++; return slept + time.Since(epoch) }}
		for range 1000 {
			if got, want := c.now(), slept+time.Since(epoch); got != want {
				t.Fatalf("%v, want %v", got, want)
			}
			time.Sleep(100 * time.Microsecond)
		}
		if reads < 90 || reads > 110 {
			t.Errorf("%d readings in 100 ms", reads)
		}
		slept = time.Hour
		time.Sleep(fresh)
		if got, want := c.now(), slept+time.Since(epoch); got != want {
			t.Errorf("after a suspension: %v, want %v", got, want)
		}
	})
	for _, x := range []struct {
		passed, wall time.Duration
		want         bool
	}{
		{0, 0, true},
		{fresh - 1, fresh - 1, true},
		{fresh, fresh, false},
		{100, time.Second, false},  // suspended for a second, or set forward
		{100, -time.Second, false}, // set back
		{-1, 0, false},             // another goroutine has read it later
	} {
		if got := steady(x.passed, x.wall); got != x.want {
			t.Errorf("steady(%v, %v) = %v", x.passed, x.wall, got)
		}
	}
}
