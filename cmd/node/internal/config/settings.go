package config

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// setting is one named setting of a T. set parses and stores a value; its
// error is only that the value is not allowed, what is allowed says the rest.
type setting[T any] struct {
	name    string
	kind    string // in the help text: HOST:PORT, SIZE …
	usage   string
	allowed string
	set     func(*T, string) error
	get     func(*T) string
}

// errNotAllowed is what set functions return; Error adds the circumstances.
var errNotAllowed = errors.New("value not allowed")

// settings lists every setting of a node but `config` and `listeners`.
func settings() []setting[Config] {
	list := []setting[Config]{
		text("node", "NAME", "name of this node, unique in the cluster (default: the host name)",
			"1 to 64 letters, digits, '.', '_' or '-'", validName, func(c *Config) *string { return &c.Node }),
		text("data", "DIR", "data folder", "a folder", notEmpty, func(c *Config) *string { return &c.Data }),
		address("mqtt-addr", "where MQTT clients connect", func(c *Config) *string { return &c.MQTTAddr }),
		address("tls-addr", "where MQTT clients connect over TLS (needs cert and key)", func(c *Config) *string { return &c.TLSAddr }),
		address("ws-addr", "where MQTT clients connect over WebSocket", func(c *Config) *string { return &c.WSAddr }),
		address("wss-addr", "where MQTT clients connect over WebSocket and TLS (needs cert and key)", func(c *Config) *string { return &c.WSSAddr }),
		address("peer-addr", "where the other nodes connect", func(c *Config) *string { return &c.PeerAddr }),
		address("gossip-addr", "where nodes find each other (TCP and UDP)", func(c *Config) *string { return &c.GossipAddr }),
		address("http-addr", "health, metrics and status over HTTP", func(c *Config) *string { return &c.HTTPAddr }),
		text("advertise", "HOST", "host under which the other nodes reach this one (default: from --peer-addr)",
			"a host name or an IP address, without a port", validHost, func(c *Config) *string { return &c.Advertise }),
		join(),
		text("zone", "NAME", "where this node is; replicas of a partition are spread over zones",
			"at most 64 letters, digits, '.', '_' or '-'", func(s string) bool { return s == "" || validName(s) }, func(c *Config) *string { return &c.Zone }),
		integer("expect", "how many nodes found the cluster together (default: 1 without --join, otherwise 0: join only)",
			0, 99, func(c *Config) *int { return &c.Expect }),
		integer("partitions", "number of partitions, fixed when the cluster is founded",
			1, 1024, func(c *Config) *int { return &c.Partitions }),
		duration("sys-interval", "how often the node publishes what it counts below $SYS (0: never)",
			0, time.Hour, func(c *Config) *time.Duration { return &c.SysInterval }),
		logLevel(),
		oneOf("log-format", "format of the log", []string{"text", "json"}, func(c *Config) *string { return &c.LogFormat }),
		allowAnonymous(func(c *Config) **bool { return &c.AllowAnonymous }),
		text("password-file", "FILE", "users and their passwords, written by flotilla passwd", "a file", notEmpty,
			func(c *Config) *string { return &c.Auth.PasswordFile }),
		text("acl-file", "FILE", "rules that say who may publish and subscribe to what (default: everybody to everything)", "a file", notEmpty,
			func(c *Config) *string { return &c.Auth.ACLFile }),
		certUsername(func(c *Config) *CertUsername { return &c.CertUsername }),
		integer("password-hashes", "passwords that are checked at once, each with 19 MiB (0: one for every two processors)",
			0, 1024, func(c *Config) *int { return &c.Auth.PasswordHashes }),
		oneOf("refused-publish", "what happens to a message that the rules do not allow, where MQTT cannot say so (before 5.0, and at QoS 0)",
			[]RefusedPublish{RefusedDrop, RefusedClose}, func(c *Config) *RefusedPublish { return &c.Auth.RefusedPublish }),
		size("memory-limit", "memory for messages and connections (0: derived from the machine)",
			0, 1<<50, func(c *Config) *Size { return &c.MemoryLimit }),
		size("disk-reserve", "free disk space below which no more publishes are taken",
			0, 1<<50, func(c *Config) *Size { return &c.DiskReserve }),
	}
	list = append(list, lift(securitySettings(), func(c *Config) *Security { return &c.Security })...)
	list = append(list, lift(transportSettings(), func(c *Config) *Transport { return &c.Transport })...)
	list = append(list, lift(limitSettings(), func(c *Config) *Limits { return &c.Limits })...)
	list = append(list, lift(sessionSettings(), func(c *Config) *Sessions { return &c.Sessions })...)
	return append(list, lift(timingSettings(), func(c *Config) *Timing { return &c.Timing })...)
}

// limitSettings are those that a listener in the YAML file may have of its own.
func limitSettings() []setting[Limits] {
	return []setting[Limits]{
		integer("max-connections", "open client connections per listener (0: no limit)",
			0, 10_000_000, func(l *Limits) *int { return &l.MaxConnections }),
		// The protocol's own limit is 256 MiB - 1 [MQTT 5.0 2.1.4]; a log entry
		// and a snapshot hold a message whole, so far less is sensible.
		size("max-packet-size", "largest MQTT packet",
			1<<10, 64<<20, func(l *Limits) *Size { return &l.MaxPacketSize }),
		integer("receive-maximum", "QoS 1 and 2 messages in flight from one client",
			1, 65535, func(l *Limits) *int { return &l.ReceiveMaximum }),
		integer("topic-alias-maximum", "topic aliases a client may use",
			0, 65535, func(l *Limits) *int { return &l.TopicAliasMaximum }),
		duration("connect-timeout", "time from a connection to its complete CONNECT",
			100*time.Millisecond, 10*time.Minute, func(l *Limits) *time.Duration { return &l.ConnectTimeout }),
		duration("max-keep-alive", "longest keep-alive granted, in whole seconds (0: what the client asks)",
			0, 65535*time.Second, func(l *Limits) *time.Duration { return &l.MaxKeepAlive }),
		integer("max-qos", "highest QoS that clients may publish with", 0, 2, func(l *Limits) *int { return &l.MaxQoS }),
		boolean("retain-available", "let clients publish retained messages, and get them when they subscribe",
			func(l *Limits) *bool { return &l.RetainAvailable }),
		boolean("wildcard-available", "let clients subscribe with wildcards", func(l *Limits) *bool { return &l.WildcardAvailable }),
		boolean("subscription-id-available", "let clients give subscriptions identifiers",
			func(l *Limits) *bool { return &l.SubscriptionIDAvailable }),
		boolean("shared-available", "let clients share subscriptions", func(l *Limits) *bool { return &l.SharedAvailable }),
		integer("max-topic-levels", "levels of a topic name or filter (0: no limit)",
			0, 65535, func(l *Limits) *int { return &l.MaxTopicLevels }),
		boolean("check-payload-format", "refuse messages that are not UTF-8 although they say so",
			func(l *Limits) *bool { return &l.CheckPayloadFormat }),
		text("response-information", "TEXT", "what clients are told that ask where to be answered; %c is the client identifier",
			"UTF-8 text without control characters", validText, func(l *Limits) *string { return &l.ResponseInformation }),
		text("server-reference", "TEXT", "other servers for MQTT 5 clients, told when this one stops or cannot serve them",
			"UTF-8 text without control characters, such as \"n2.example.org n3.example.org:1884\"", validText,
			func(l *Limits) *string { return &l.ServerReference }),
		boolean("server-moved", "refuse all clients and send them to --server-reference for good",
			func(l *Limits) *bool { return &l.ServerMoved }),
	}
}

func sessionSettings() []setting[Sessions] {
	return []setting[Sessions]{
		integer("queue-max-messages", "messages queued for one session",
			1, 100_000_000, func(s *Sessions) *int { return &s.QueueMaxMessages }),
		size("queue-max-bytes", "bytes queued for one session",
			1<<10, 1<<40, func(s *Sessions) *Size { return &s.QueueMaxBytes }),
		oneOf("queue-full", "what happens when a session's queue is full",
			[]QueueFull{DropOldest, DropNewest, Refuse}, func(s *Sessions) *QueueFull { return &s.QueueFull }),
		integer("max-inflight", "QoS 1 and 2 messages in flight to one client",
			1, 65535, func(s *Sessions) *int { return &s.MaxInflight }),
		size("max-inflight-bytes", "bytes in flight to one client",
			1<<10, 1<<40, func(s *Sessions) *Size { return &s.MaxInflightBytes }),
		integer("max-subscriptions", "subscriptions of one session (0: no limit)",
			0, 100_000_000, func(s *Sessions) *int { return &s.MaxSubscriptions }),
		oneOf("overlapping", "what a client with several matching subscriptions gets: one copy at the highest QoS, or one for each",
			[]Overlapping{OneCopy, CopyEach}, func(s *Sessions) *Overlapping { return &s.Overlapping }),
		duration("max-session-expiry", "longest session expiry granted, in whole seconds (0: no cap)",
			0, 0xFFFFFFFE*time.Second, func(s *Sessions) *time.Duration { return &s.MaxExpiry }),
	}
}

func timingSettings() []setting[Timing] {
	const least, most = 20 * time.Millisecond, time.Minute
	return []setting[Timing]{
		duration("heartbeat-timeout", "a follower that hears nothing for this long suspects its leader",
			least, most, func(t *Timing) *time.Duration { return &t.Heartbeat }),
		duration("election-timeout", "an election that is not won in this time starts again",
			least, most, func(t *Timing) *time.Duration { return &t.Election }),
		duration("leader-lease", "a leader that reaches no quorum for this long steps down",
			least, most, func(t *Timing) *time.Duration { return &t.Lease }),
		duration("ownership-time", "a gateway that answers no takeover of its sessions for this long is ended by the cluster",
			100*time.Millisecond, time.Hour, func(t *Timing) *time.Duration { return &t.Ownership }),
		duration("replace-after", "a node that is away for this long loses its replicas to others, where enough nodes remain",
			10*time.Second, 365*24*time.Hour, func(t *Timing) *time.Duration { return &t.ReplaceAfter }),
		duration("drain-time", "the time over which the clients of a drained node are sent to others",
			0, time.Hour, func(t *Timing) *time.Duration { return &t.Drain }),
	}
}

// lift turns settings of a part into settings of the whole.
func lift[T, P any](list []setting[P], part func(*T) *P) []setting[T] {
	out := make([]setting[T], len(list))
	for i, s := range list {
		out[i] = setting[T]{
			name: s.name, kind: s.kind, usage: s.usage, allowed: s.allowed,
			set: func(t *T, v string) error { return s.set(part(t), v) },
			get: func(t *T) string { return s.get(part(t)) },
		}
	}
	return out
}

func text[T any](name, kind, usage, allowed string, valid func(string) bool, field func(*T) *string) setting[T] {
	return setting[T]{
		name: name, kind: kind, usage: usage, allowed: allowed,
		get: func(t *T) string { return *field(t) },
		set: func(t *T, v string) error {
			if !valid(v) {
				return errNotAllowed
			}
			*field(t) = v
			return nil
		},
	}
}

func address[T any](name, usage string, field func(*T) *string) setting[T] {
	return text(name, "HOST:PORT", usage, addrAllowed, validAddr, field)
}

const addrAllowed = "HOST:PORT with a port of 0 to 65535, such as localhost:1883 or 0.0.0.0:1883"

func integer[T any](name, usage string, least, most int, field func(*T) *int) setting[T] {
	return setting[T]{
		name: name, kind: "N", usage: usage, allowed: fmt.Sprintf("a number from %d to %d", least, most),
		get: func(t *T) string { return strconv.Itoa(*field(t)) },
		set: func(t *T, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < least || n > most {
				return errNotAllowed
			}
			*field(t) = n
			return nil
		},
	}
}

func boolean[T any](name, usage string, field func(*T) *bool) setting[T] {
	return setting[T]{
		name: name, kind: "true|false", usage: usage, allowed: "true or false",
		get: func(t *T) string { return strconv.FormatBool(*field(t)) },
		set: func(t *T, v string) error {
			if v != "true" && v != "false" {
				return errNotAllowed
			}
			*field(t) = v == "true"
			return nil
		},
	}
}

func size[T any](name, usage string, least, most Size, field func(*T) *Size) setting[T] {
	return setting[T]{
		name: name, kind: "SIZE", usage: usage,
		allowed: fmt.Sprintf("a size from %v to %v, such as 512KiB, 16MiB or 1000000", least, most),
		get:     func(t *T) string { return field(t).String() },
		set: func(t *T, v string) error {
			n, err := ParseSize(v)
			if err != nil || n < least || n > most {
				return errNotAllowed
			}
			*field(t) = n
			return nil
		},
	}
}

func duration[T any](name, usage string, least, most time.Duration, field func(*T) *time.Duration) setting[T] {
	return setting[T]{
		name: name, kind: "DURATION", usage: usage,
		allowed: fmt.Sprintf("a duration from %v to %v, such as 250ms, 10s or 1h30m", least, most),
		get:     func(t *T) string { return field(t).String() },
		set: func(t *T, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil || d < least || d > most {
				return errNotAllowed
			}
			*field(t) = d
			return nil
		},
	}
}

func oneOf[T any, S ~string](name, usage string, values []S, field func(*T) *S) setting[T] {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = string(v)
	}
	return setting[T]{
		name: name, kind: strings.Join(words, "|"), usage: usage, allowed: "one of " + strings.Join(words, ", "),
		get: func(t *T) string { return string(*field(t)) },
		set: func(t *T, v string) error {
			for _, allowed := range values {
				if v == string(allowed) {
					*field(t) = allowed
					return nil
				}
			}
			return errNotAllowed
		},
	}
}

func join() setting[Config] {
	return setting[Config]{
		name: "join", kind: "HOST:PORT,…", usage: "gossip addresses of other nodes; a DNS name stands for all its addresses, and is looked up until the node is in",
		allowed: "HOST:PORT, HOST (with the port of --gossip-addr) or an SRV name such as _gossip._tcp.example.org, several separated by commas",
		get:     func(c *Config) string { return strings.Join(c.Join, ",") },
		set: func(c *Config, v string) error {
			var list []string
			for item := range strings.SplitSeq(v, ",") {
				item = strings.TrimSpace(item)
				if item == "" {
					continue
				}
				if !validJoin(item) {
					return errNotAllowed
				}
				list = append(list, item)
			}
			c.Join = list
			return nil
		},
	}
}

func logLevel() setting[Config] {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	return setting[Config]{
		name: "log-level", kind: "debug|info|warn|error", usage: "least severe level that is logged",
		allowed: "one of debug, info, warn, error",
		get:     func(c *Config) string { return strings.ToLower(c.LogLevel.String()) },
		set: func(c *Config, v string) error {
			level, ok := levels[v]
			if !ok {
				return errNotAllowed
			}
			c.LogLevel = level
			return nil
		},
	}
}

func certUsername[T any](field func(*T) *CertUsername) setting[T] {
	return oneOf("cert-username", "what of a verified client certificate is the user name, in the place of one with a password",
		[]CertUsername{CertOff, CertCN, CertSubject}, field)
}

func allowAnonymous[T any](field func(*T) **bool) setting[T] {
	return setting[T]{
		name: "allow-anonymous", kind: "true|false", usage: "let clients in without a password (default: on loopback listeners, if neither --password-file nor --cert-username names them)",
		allowed: "true or false",
		get: func(t *T) string {
			if p := *field(t); p != nil {
				return strconv.FormatBool(*p)
			}
			return ""
		},
		set: func(t *T, v string) error {
			if v != "true" && v != "false" {
				return errNotAllowed
			}
			allow := v == "true"
			*field(t) = &allow
			return nil
		},
	}
}
