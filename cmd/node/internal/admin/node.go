// Package admin is what operators and their programs see of a node over HTTP:
// /healthz, /readyz, /metrics (Prometheus) and /api/v1/status (JSON), and the
// client side of the latter for `flotilla status`.
package admin

// Node is what this package asks of a running node. Its methods are called
// from many goroutines and must not wait for the network or the disk: a node
// in trouble must still be able to say so.
type Node interface {
	// Ready reports whether clients may be sent to this node. missing says
	// what it lacks, if anything ("no valid lease"); degraded says what is
	// wrong elsewhere and does not keep this node from serving ("partition 7
	// has no leader").
	Ready() (ok bool, missing, degraded []string)
	// Status is the view of /api/v1/status.
	Status() Status
	// Metrics are this node's own numbers at this moment.
	Metrics() Metrics
}

// StatusVersion is the version of Status. It grows when a field changes its
// meaning or goes; new fields do not change it.
const StatusVersion = 1

// Status is the cluster as one node sees it.
type Status struct {
	Version     int         `json:"version"` // StatusVersion
	Node        string      `json:"node"`
	Build       string      `json:"build"`      // version of the binary
	ClusterID   string      `json:"cluster_id"` // empty before the node has joined
	Ready       bool        `json:"ready"`
	Missing     []string    `json:"missing,omitempty"`  // why it is not ready
	Degraded    []string    `json:"degraded,omitempty"` // what is wrong elsewhere
	UptimeMS    int64       `json:"uptime_ms"`
	Connections int         `json:"connections"` // open client connections of this node
	Members     []Member    `json:"members"`
	Partitions  []Partition `json:"partitions"`
}

// Member is one node of the cluster.
type Member struct {
	Name        string `json:"name"`
	Addr        string `json:"addr"`  // where the other nodes reach it
	State       string `json:"state"` // alive, suspect, dead, joining, leaving
	Incarnation uint64 `json:"incarnation"`
	Control     bool   `json:"control_leader"` // leads the control group
	Partitions  int    `json:"partitions"`     // replicas it holds
	Leads       int    `json:"leads"`          // partitions it leads
}

// Partition is one partition's replicas. Numbers of the state machine are
// those of this node's replica, and zero where it holds none.
type Partition struct {
	ID            uint32    `json:"id"`
	Leader        string    `json:"leader"` // node name; empty: none known
	Term          uint64    `json:"term"`
	Replicas      []Replica `json:"replicas"`
	Local         bool      `json:"local"` // this node holds a replica
	Sessions      int       `json:"sessions"`
	Connected     int       `json:"connected"` // sessions with a connection, on any node
	Subscriptions int       `json:"subscriptions"`
	Queued        int       `json:"queued_messages"`
	QueuedBytes   int64     `json:"queued_bytes"`
	Inflight      int       `json:"inflight_messages"`
	Retained      int       `json:"retained_messages"`
	Outbox        int       `json:"outbox_messages"`
	Bytes         int64     `json:"bytes"`  // memory held by messages
	Budget        int64     `json:"budget"` // beyond which PUBLISH is refused
}

// Replica is one node's copy of a partition.
type Replica struct {
	Node    string `json:"node"`
	Voter   bool   `json:"voter"`
	Applied uint64 `json:"applied"` // last applied log index, as far as this node knows
	Lag     uint64 `json:"lag"`     // entries behind the leader's commit index, as far as this node knows
	State   string `json:"state"`   // leader, follower, learner, catching-up, set-aside, unreachable
}

// Metrics are a node's counters since its start, and its gauges, read at
// scrape time. Nil maps and nil histograms are simply absent.
type Metrics struct {
	Connections         int               // gauge
	ConnectionsAccepted uint64            // sockets accepted
	ConnectionsRefused  map[string]uint64 // by reason: malformed, timeout, not_ready, too_many …
	ConnectionsClosed   map[string]uint64 // by reason: disconnect, lost, keep_alive, takeover, protocol_error …

	ReceivedMessages [3]uint64 // PUBLISH packets from clients, by QoS
	SentMessages     [3]uint64 // PUBLISH packets to clients, by QoS
	ReceivedBytes    uint64
	SentBytes        uint64
	AckedMessages    [3]uint64       // PUBACK or PUBCOMP sent to publishers, by QoS (index 0 unused)
	Dropped          map[Drop]uint64 // messages that a rule or a limit let go
	Refused          map[string]uint64
	BadPackets       map[string]uint64 // by reason code name: malformed_packet, protocol_error …

	LaneItems   map[string]uint64 // items sent by kind of destination: partition, gateway
	LaneRewinds uint64            // times a lane went back to its oldest unanswered item
	LaneBytes   int64             // gauge: bytes waiting in lanes

	LeaderChanges    uint64 // changes of leader seen in partitions held here
	LeaseExpired     uint64 // times the node lost its lease
	SetAside         uint64 // replicas set aside for data that cannot be trusted
	StoreErrors      map[string]uint64
	PeerRefused      map[string]uint64 // frames refused from peers, by reason: version, server_id …
	SnapshotsTaken   uint64
	SnapshotsSent    uint64
	DiskFree         int64 // gauge: bytes free where the data is; -1: unknown
	ReadOnly         bool  // gauge: the disk is below its reserve
	ClockOffset      map[string]float64
	Fsync            *Histogram // seconds of one fsync of the store
	CommitLatency    *Histogram // seconds from proposing an entry to its commit, leaders only
	BatchOps         *Histogram // ops per log entry
	ProposalsPending int        // gauge
}

// Drop names why messages were dropped, and whose they were.
type Drop struct {
	Reason string // queue_full, expired, too_large, session_expired, slow_subscriber …
	Class  string // connected, offline, ephemeral
}

// Histogram is a cumulative histogram as Prometheus wants it.
type Histogram struct {
	Count   uint64
	Sum     float64
	Buckets map[float64]uint64 // upper bound → observations at or below it
}
