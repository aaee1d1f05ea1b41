// Package config reads the settings of `flotilla serve`: from flags, from
// FLOTILLA_* environment variables and from a YAML file, in that order of
// precedence, under the same names everywhere (--mqtt-addr, FLOTILLA_MQTT_ADDR,
// mqtt-addr:).
//
// To add a setting: a field in Config (or Limits, if listeners may have their
// own), a line in settings.go, and, if it depends on other settings, a rule in
// validate.go.
package config

import (
	"log/slog"
	"time"
)

// QueueFull says what happens to a message for a session whose queue is full.
type QueueFull string

// What happens when a session's queue is full.
const (
	DropOldest QueueFull = "drop-oldest" // the oldest queued message goes
	DropNewest QueueFull = "drop-newest" // the new message goes
	Refuse     QueueFull = "refuse"      // the publisher is refused with 0x97
)

// Overlapping says how often a client with several matching subscriptions gets a message.
type Overlapping string

// What a client with several matching subscriptions gets.
const (
	OneCopy  Overlapping = "one-copy"  // one, at the highest QoS, with all subscription identifiers
	CopyEach Overlapping = "copy-each" // one for each subscription
)

// Config is everything a node is told from outside. It is read-only once Load
// has returned it.
type Config struct {
	Node string // the node's name, unique in the cluster; default: the host name
	Data string // the data folder

	MQTTAddr   string // HOST:PORT of the plain MQTT listener
	TLSAddr    string // of the one over TLS; empty: none
	WSAddr     string // of the one over WebSocket; empty: none
	WSSAddr    string // of the one over both; empty: none
	PeerAddr   string // HOST:PORT for the other nodes (gRPC)
	GossipAddr string // HOST:PORT for finding the other nodes (TCP and UDP)
	HTTPAddr   string // HOST:PORT for health, metrics and status
	Advertise  string // the host under which the other nodes reach this one; empty: see AdvertiseHost

	Join       []string // gossip addresses of other nodes: HOST:PORT, HOST or an SRV name
	Zone       string   // where the node is: replicas are spread over zones
	Expect     int      // how many nodes found the cluster together; 0: this node only joins an existing one
	Partitions int      // number of partitions, fixed when the cluster is founded

	Security Security

	SysInterval time.Duration // how often the topics below $SYS are published; 0: never

	LogLevel  slog.Level
	LogFormat string // text or json

	// AllowAnonymous is nil when it was not set: then loopback listeners allow it if
	// neither a password file nor certificates give names, and all others do not. See Listener.AllowAnonymous for
	// the outcome.
	AllowAnonymous *bool
	CertUsername   CertUsername // for listeners that do not set their own
	Auth           Auth

	Transport Transport // for listeners that do not set their own

	Limits   Limits   // for listeners that do not set their own
	Sessions Sessions // the same on every node of a cluster
	Timing   Timing

	MemoryLimit Size // what the node may use for messages and connections; 0: derived from the machine
	DiskReserve Size // below this much free space the node takes no more publishes

	// Listeners is the complete list: the one of MQTTAddr, if any, and those of
	// the YAML file, with all defaults filled in.
	Listeners []Listener

	// UnknownEnv names FLOTILLA_* variables that are no setting. They are not
	// errors, because an orchestrator adds variables of its own, but worth a
	// line in the log.
	UnknownEnv []string
}

// CertUsername says what of a client's certificate is its user name.
type CertUsername string

// What may be the user name of a client with a certificate.
const (
	CertOff     CertUsername = "off"     // nothing: it logs in in another way
	CertCN      CertUsername = "cn"      // the common name
	CertSubject CertUsername = "subject" // the whole subject
)

// RefusedPublish says what happens to a PUBLISH that the rules do not allow where MQTT has
// no answer for it.
type RefusedPublish string

// What happens then.
const (
	RefusedDrop  RefusedPublish = "drop"  // the message is dropped and counted
	RefusedClose RefusedPublish = "close" // the connection is closed
)

// Auth is who may do what.
type Auth struct {
	PasswordFile   string // empty: nobody has a password
	ACLFile        string // rules; empty: everybody may do everything
	PasswordHashes int    // computed at once; 0: one for every two processors
	RefusedPublish RefusedPublish
}

// Limits bound what one listener accepts.
type Limits struct {
	MaxConnections    int           // open connections; 0: no limit of its own
	MaxPacketSize     Size          // bytes of one MQTT packet, both ways
	ReceiveMaximum    int           // QoS 1 and 2 messages in flight from one client, 1..65535
	TopicAliasMaximum int           // topic aliases a client may use, 0..65535
	ConnectTimeout    time.Duration // from accepting a connection to its complete CONNECT
	MaxKeepAlive      time.Duration // the longest keep-alive granted; 0: whatever the client asks, also none
	MaxQoS            int           // 0..2
	MaxTopicLevels    int           // 0: no limit

	RetainAvailable, WildcardAvailable, SubscriptionIDAvailable, SharedAvailable bool // the capabilities of CONNACK

	CheckPayloadFormat  bool   // refuse what is not UTF-8 although it says so
	ResponseInformation string // %c is the client identifier; empty: none
	ServerReference     string // other servers; empty: none
	ServerMoved         bool   // refuse all clients and name ServerReference
}

// Sessions bound what is kept for one session.
type Sessions struct {
	QueueMaxMessages int
	QueueMaxBytes    Size
	QueueFull        QueueFull
	MaxInflight      int  // QoS 1 and 2 messages in flight to one client, 1..65535
	MaxInflightBytes Size // the same in bytes; one message is always allowed
	MaxSubscriptions int  // 0: no limit
	Overlapping      Overlapping
	MaxExpiry        time.Duration // whole seconds; 0: no cap
}

// Timing is how fast nodes give each other up.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for this long suspects its leader
	Election  time.Duration // a candidate that has not won for this long starts again
	Lease     time.Duration // a leader that reaches no quorum for this long steps down
	// ReplaceAfter is how long a node may be away before others get its replicas, Drain
	// over what time the clients of a drained node are sent away.
	ReplaceAfter, Drain time.Duration
	Ownership           time.Duration // a gateway that answers no takeover for this long is ended by the cluster
}

// Listener is one MQTT listener.
type Listener struct {
	Name           string // "mqtt-addr" or "listeners[0]"
	Type           string // TypeTCP …
	Addr           string // of TypeUnix: a path
	AllowAnonymous bool
	CertUsername   CertUsername
	Transport      Transport
	Limits         Limits
}

// Default is the configuration without any setting, but for the name of the node.
func Default() Config {
	return Config{
		Data:        "./data",
		MQTTAddr:    "localhost:1883",
		PeerAddr:    "localhost:7400",
		GossipAddr:  "localhost:7401",
		HTTPAddr:    "localhost:7402",
		Security:    Security{AdminAddr: "localhost:7403"},
		Partitions:  16,
		SysInterval: 10 * time.Second,
		LogLevel:    slog.LevelInfo,
		LogFormat:   "text",
		Transport:   Transport{ClientCert: CertRequired, TLSMin: TLS12, WSPath: "/mqtt"},

		CertUsername: CertOff,
		Auth:         Auth{RefusedPublish: RefusedDrop},
		Limits: Limits{
			MaxPacketSize:     1 << 20,
			ReceiveMaximum:    1024,
			TopicAliasMaximum: 64,
			MaxQoS:            2,

			RetainAvailable: true, WildcardAvailable: true, SubscriptionIDAvailable: true, SharedAvailable: true,
			ConnectTimeout: 10 * time.Second,
		},
		Sessions: Sessions{
			QueueMaxMessages: 10_000,
			QueueMaxBytes:    16 << 20,
			QueueFull:        DropOldest,
			MaxInflight:      1024,
			MaxInflightBytes: 8 << 20,
			MaxSubscriptions: 10_000,
			Overlapping:      OneCopy,
		},
		Timing: Timing{
			Heartbeat: 800 * time.Millisecond,
			Election:  800 * time.Millisecond,
			Lease:     320 * time.Millisecond,
			Ownership: 8 * time.Second, ReplaceAfter: 15 * time.Minute, Drain: 10 * time.Second,
		},
		DiskReserve: 256 << 20,
	}
}
