package admin

import (
	"context"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/disk"
)

// Operator is what the admin API asks of a running node, beside what everybody may ask.
// Its methods wait for other nodes, until ctx ends. An *Error among their errors says
// with which status they are answered.
type Operator interface {
	Node
	// Sessions lists sessions of the whole cluster in order of their client ids.
	Sessions(ctx context.Context, q SessionQuery) (SessionPage, error)
	Session(ctx context.Context, clientID string) (*SessionDetail, error)
	// Kick ends the connection of a session, DeleteSession the session.
	Kick(ctx context.Context, clientID string) error
	DeleteSession(ctx context.Context, clientID string) error
	// Retained lists retained messages that match a filter in order of their topics.
	Retained(ctx context.Context, filter, after string, limit int) (RetainedPage, error)
	// ClearRetained removes them and tells how many.
	ClearRetained(ctx context.Context, filter string) (int, error)
	// Transfer hands the leadership of a partition to a node.
	Transfer(ctx context.Context, partition uint32, node string) error
	// Drain takes a node out of use until it starts again; forget: when it has stopped
	// it is no member any more. Undrain takes it into use again. DrainOf tells how far it is.
	Drain(ctx context.Context, node string, forget bool) error
	Undrain(ctx context.Context, node string) error
	DrainOf(node string) Drain
	// Remove forgets a node that is gone for good.
	Remove(ctx context.Context, node string) error
	// Moves lists what is to move until replicas and leaders are spread evenly.
	Moves() []Move
	// CheckDisk measures how fast the node's data folder is.
	CheckDisk(ctx context.Context) (DiskCheck, error)
}

// Error is a failure with the HTTP status that fits it.
type Error struct {
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// SessionQuery says which sessions are wanted.
type SessionQuery struct {
	After     string // only greater client ids
	FromStart bool   // After is not meant
	Prefix    string // of client ids
	State     string // "", connected or offline
	Limit     int    // 1 to MaxPage
}

// MaxPage is the largest page of a list; DefaultPage is the usual one.
const (
	MaxPage     = 1000
	DefaultPage = 100
)

// SessionPage is a part of a list of sessions.
type SessionPage struct {
	Sessions []Session `json:"sessions"`
	More     bool      `json:"more"` // go on with after=, the last client id
}

// Session is one session. Times are in milliseconds.
type Session struct {
	ClientID      string  `json:"client_id"`
	Username      string  `json:"username,omitempty"`
	Protocol      string  `json:"protocol"` // 3.1, 3.1.1 or 5.0
	Connected     bool    `json:"connected"`
	Node          string  `json:"node,omitempty"` // of its connection
	Partition     uint32  `json:"partition"`
	Ephemeral     bool    `json:"ephemeral"`            // it ends with its connection
	ExpirySeconds *uint32 `json:"expiry_s"`             // null: never
	ExpiresInMS   int64   `json:"expires_in_ms"`        // 0: it is connected, or never expires
	Subscriptions int     `json:"subscriptions"`        // of an ephemeral one: 0 in lists, since they live on its node
	Queued        int     `json:"queued_messages"`      // as above
	QueuedBytes   int64   `json:"queued_bytes"`         // as above
	Inflight      int     `json:"inflight_messages"`    // QoS 1 and 2, to the client; as above
	Inbound       int     `json:"inbound_messages"`     // QoS 2 messages of the client whose flow is not complete
	Dropped       uint64  `json:"dropped_messages"`     // for limits
	Will          bool    `json:"will"`                 // there is one to be published
	Epoch         uint64  `json:"epoch"`                // of its last connection
	Gateway       uint64  `json:"gateway_id,omitempty"` // of its connection
}

// SessionDetail is one session with its subscriptions and its connection.
type SessionDetail struct {
	Session
	Remote    string         `json:"remote,omitempty"` // where the client is
	Listener  string         `json:"listener,omitempty"`
	KeepAlive uint32         `json:"keep_alive_s"`
	List      []Subscription `json:"subscription_list"`
}

// Subscription is one of a session.
type Subscription struct {
	Filter            string `json:"filter"`
	QoS               uint32 `json:"qos"`
	NoLocal           bool   `json:"no_local"`
	RetainAsPublished bool   `json:"retain_as_published"`
	RetainHandling    uint32 `json:"retain_handling"`
	ID                uint32 `json:"id,omitempty"`
}

// RetainedPage is a part of a list of retained messages.
type RetainedPage struct {
	Retained []Retained `json:"retained"`
	More     bool       `json:"more"` // go on with after=, the last topic
}

// Retained is one retained message.
type Retained struct {
	Topic       string `json:"topic"`
	QoS         uint32 `json:"qos"`
	Bytes       uint32 `json:"bytes"`         // of its payload
	ExpiresInMS int64  `json:"expires_in_ms"` // 0: never
	Publisher   string `json:"publisher,omitempty"`
}

// Cleared says how many retained messages were removed.
type Cleared struct {
	Cleared int `json:"cleared"`
}

// TransferRequest asks for the leadership of a partition to be handed over.
type TransferRequest struct {
	Partition uint32 `json:"partition"`
	Node      string `json:"node"`
}

// DrainRequest asks for a node to be taken out of use.
type DrainRequest struct {
	Node   string `json:"node"`
	Forget bool   `json:"forget,omitempty"`
}

// Drain is how far a node is out of use.
type Drain struct {
	Member   bool `json:"member"`
	Draining bool `json:"draining"`
	Alive    bool `json:"alive"`
	Replicas int  `json:"replicas"` // that it still holds
}

// Move is one change of where a partition's replicas are, or who should lead it.
type Move struct {
	Partition uint32   `json:"partition"`
	Replicas  []string `json:"replicas"`
	Leaving   string   `json:"leaving,omitempty"`
	Preferred string   `json:"preferred"`
	Why       string   `json:"why"`
}

// LogLevel is the least severe level that a node logs.
type LogLevel struct {
	Level string `json:"level"` // debug, info, warn or error
}

// DiskCheck is how fast the data folder of a node is.
type DiskCheck struct {
	Node    string      `json:"node"`
	Now     disk.Result `json:"now"`     // measured for this answer
	Running disk.Result `json:"running"` // the node's own last durable writes; no samples: none yet
}

// Problem is the body of every answer that is not a success.
type Problem struct {
	Error string `json:"error"`
}
