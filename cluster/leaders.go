package cluster

import "sync"

// leaders is what this node believes about who leads each partition. It is a
// hint: a wrong one is put right by whoever is asked.
type leaders struct {
	mu    sync.RWMutex
	nodes []leading // by partition
}

type leading struct {
	term uint64
	node string
}

func newLeaders(partitions uint32) *leaders { return &leaders{nodes: make([]leading, partitions)} }

// node is where to ask; "": not known.
func (l *leaders) node(partition uint32) string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.nodes[partition].node
}

// set takes a leader's announcement; false: it is out of date.
func (l *leaders) set(partition uint32, term uint64, node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term < l.nodes[partition].term {
		return false
	}
	l.nodes[partition] = leading{term, node}
	return true
}

// hint takes somebody's belief, which has no term.
func (l *leaders) hint(partition uint32, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[partition].node = node
}

// moved takes a node's word that it does not lead, and whom it takes for the
// leader.
func (l *leaders) moved(partition uint32, from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes[partition].node == from {
		if to == from {
			to = ""
		}
		l.nodes[partition].node = to
	}
}
