package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	if r := Judge(nil); r != (Result{}) || r.Bad() {
		t.Errorf("of nothing: %v", r)
	}
	for _, tc := range []struct {
		worst   time.Duration // of 2 in 100
		verdict Verdict
		bad     bool
	}{
		{10 * time.Millisecond, Good, false}, {50 * time.Millisecond, Fair, false},
		{150 * time.Millisecond, Slow, true}, {time.Second, TooSlow, true},
	} {
		var times []time.Duration
		for range 98 {
			times = append(times, time.Millisecond)
		}
		times = append(times, tc.worst, tc.worst)
		r := Judge(times)
		if r.Samples != 100 || r.P50 != time.Millisecond || r.P99 != tc.worst || r.Max != tc.worst || r.Verdict != tc.verdict || r.Bad() != tc.bad {
			t.Errorf("%v", r)
		}
	}
	if r := Judge([]time.Duration{3}); r.P50 != 3 || r.P99 != 3 {
		t.Errorf("of one: %v", r)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	r, err := Check(t.Context(), dir)
	if err != nil || r.Samples == 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 || r.Verdict == "" {
		t.Errorf("%v %v", r, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := Check(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Check(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A window forgets what is old.
func TestWindow(t *testing.T) {
	var w Window
	w.Add(time.Hour)
	if r := w.Judge(); r.Max != time.Hour || r.Samples != 1 {
		t.Errorf("%v", r)
	}
	for range len(w.times) {
		w.Add(time.Millisecond)
	}
	if r := w.Judge(); r.Max != time.Millisecond || r.Samples != len(w.times) {
		t.Errorf("%v", r)
	}
}
