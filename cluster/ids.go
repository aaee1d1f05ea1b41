// Package cluster makes one broker of many nodes: it replicates the state
// machines of package fsm through Raft and carries messages between gateways
// and partitions on exactly-once lanes. See ARCHITECTURE.md for the map.
package cluster

import (
	"fmt"

	"github.com/flotilla-mqtt/flotilla/fsm"
)

// A lane's end is a partition, numbered below 2^32, or a gateway incarnation:
// node number << 40 | incarnation. Node numbers start at 1, so the two ranges
// never meet.
const gatewayShift = 40

// isPartition reports whether a lane's end is a partition.
func isPartition(end uint64) bool { return end < 1<<32 }

// nodeNumber is the number of the node that a gateway id belongs to.
func nodeNumber(gateway uint64) uint32 { return uint32(gateway >> gatewayShift) }

// endName writes a lane's end for logs.
func endName(end uint64) string {
	if isPartition(end) {
		return fmt.Sprintf("partition %d", end)
	}
	return fmt.Sprintf("gateway %d.%d", nodeNumber(end), end&(1<<gatewayShift-1))
}

// partitionOf is the partition that a client id, a topic or a group belongs to.
func partitionOf(key string, partitions uint32) uint32 { return fsm.PartitionOf(key, partitions) }
