package fsm

import (
	"cmp"
	"maps"
	"slices"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
)

// PartitionOf maps a client id or a topic name to its partition: the 64-bit FNV-1a
// hash of its bytes, with its bits mixed by the finalizer of MurmurHash3 (FNV's low
// bits alone are uneven for short keys), modulo the number of partitions. It is
// part of the format of what is persisted and must never change.
func PartitionOf(key string, partitions uint32) uint32 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return uint32(h % uint64(max(partitions, 1)))
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	if mutant.RangesOverMap {
		return slices.Collect(maps.Keys(m))
	}
	return slices.Sorted(maps.Keys(m))
}
