package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
)

// A node on a full disk waits, says why, and goes on once there is room.
func TestStartWaitsForDiskSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := []uint64{0, startSpace - 1, startSpace}
		var told []bool
		err := awaitSpace(t.Context(), "data", func(string) (uint64, error) {
			n := free[0]
			free = free[1:]
			return n, nil
		}, func(why string) { told = append(told, why != "") }, slog.New(slog.DiscardHandler))
		if err != nil || !slices.Equal(told, []bool{true, true, false}) {
			t.Errorf("%v, told %v", err, told)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := awaitSpace(ctx, "data", func(string) (uint64, error) { return 0, nil }, func(string) {}, slog.New(slog.DiscardHandler))
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
