package fsm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLastFirst: the first keys of a random order, sorted.
func TestLastFirst(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 5))
		for range 200 {
			var keys []string
			for i := range rng.IntN(50) {
				keys = append(keys, fmt.Sprintf("%03d", i))
			}
			limit := rng.IntN(20)
			var h lastFirst[string]
			for _, i := range rng.Perm(len(keys)) {
				h.add(keys[i], keys[i], limit)
			}
			if got, want := h.sorted(), keys[:min(limit, len(keys))]; !slices.Equal(got, want) {
				t.Fatalf("seed %d: first %d of %d: %v", seed, limit, len(keys), got)
			}
		}
	})
}
