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
	Groups        int       `json:"shared_groups"`            // shared subscriptions whose group is here
	Members       int       `json:"shared_members"`           // of those groups
	GroupQueued   int       `json:"shared_queued_messages"`   // for no member yet
	GroupAssigned int       `json:"shared_assigned_messages"` // to members that have not acknowledged them
	Bytes         int64     `json:"bytes"`                    // memory held by messages
	Budget        int64     `json:"budget"`                   // beyond which PUBLISH is refused
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
// scrape time. docs/metrics.md says what each means.
type Metrics struct {
	Gateway   GatewayMetrics
	Auth      AuthMetrics
	Cluster   ClusterMetrics
	Transport TransportMetrics
	Store     StoreMetrics
	Security  SecurityMetrics
}

// SecurityMetrics are those of certificates and keys.
type SecurityMetrics struct {
	CertificateExpiry map[string]float64 // gauge: Unix seconds, by use
	ReloadsFailed     uint64
}

// GatewayMetrics are those of the part that terminates MQTT.
type GatewayMetrics struct {
	Connections    int64 // gauge
	Sessions       int64 // gauge: connections that own a session
	Subscriptions  int64 // gauge: entries of the local tree
	QueuedMessages int64 // gauge, ephemeral sessions
	QueuedBytes    int64 // gauge, ephemeral sessions

	Accepted, BytesReceived, BytesSent            uint64
	PacketsReceived, PacketsSent                  map[string]uint64 // by packet type
	PublishReceived, PublishSent                  [3]uint64         // by QoS
	Acknowledged                                  [3]uint64         // PUBACK or PUBCOMP sent to publishers; index 0 unused
	Refused, Closed                               map[string]uint64 // connections by reason
	RefusedPublish, RefusedSubscribe              map[string]uint64 // packets by reason
	UnknownAcks, RetainedIncomplete, BackPressure uint64
	RevokedSubscriptions                          uint64
}

// ClusterMetrics are those of partitions, lanes and leases.
type ClusterMetrics struct {
	Dropped            map[Drop]uint64 // messages that a rule or a limit let go, of ephemeral sessions too
	PublishRefused     uint64
	OpsRefused         uint64
	RetainedRefused    uint64
	RetainedIncomplete uint64
	LeaderStarts       uint64
	LeasesLost         uint64
	GatewaysEnded      uint64
	SilentGateways     uint64
	SetAside           uint64
	Snapshots          uint64
	Installed          uint64
	Checkpoints        uint64
	Stalls             uint64
	Diverged           uint64
	Lanes              map[string]Lanes   // gauges, by kind of destination
	ClockOffset        map[string]float64 // gauge: seconds, by member
	DiskFree           int64              // gauge: bytes free where the data is; 0: not known
	DiskLow            bool               // gauge
}

// Lanes is what waits unanswered in lanes.
type Lanes struct {
	Items int
	Bytes int64
}

// TransportMetrics are those of the traffic between nodes.
type TransportMetrics struct {
	FramesSent, FramesReceived, FramesRefused uint64
	BatchesSent, BatchesReceived              uint64
	PeersRefused                              map[string]uint64 // by reason
	LinksUp, LinksDown                        uint64
	RaftSent, RaftBatches, RaftReceived       uint64
	RaftTimeouts, RaftRefused, RaftExpired    uint64
	Snapshots, SnapshotBytes                  uint64
}

// StoreMetrics are those of the data folder.
type StoreMetrics struct {
	SlowWrites, NoSpace uint64
	LastSlow            float64 // gauge: Unix seconds; 0: never
	Pending             float64 // gauge: seconds
	LogBytes            int64   // gauge
	DiskUsed, Memory    uint64  // gauges
	Fsync               *Histogram
	FsyncP50, FsyncP99  float64 // gauges: seconds, of the last writes
	DiskSlow            bool    // gauge
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
