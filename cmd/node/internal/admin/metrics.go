package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// registry holds the metrics of one node. Everything is read at scrape time,
// so that counting costs the paths of messages an atomic add at most.
func registry(node func() Node, build string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{node: node, build: build},
	)
	return r
}

// collector turns Metrics and Status into Prometheus metrics.
type collector struct {
	node  func() Node
	build string
}

// Describe sends nothing: which labels there are depends on what has happened,
// so the collector is "unchecked" in the sense of the library.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch}
	e.gauge("build_info", "1; the label tells the version of the binary.", 1, "version", c.build)
	n := c.node()
	e.gauge("ready", "1 if clients may be sent to this node.", flag(readiness(n).Ready))
	if n == nil {
		return
	}
	m := n.Metrics()
	e.clients(&m)
	e.messages(&m)
	e.cluster(&m)
	e.partitions(n.Status())
}

func (e emitter) clients(m *Metrics) {
	e.gauge("connections", "Open client connections.", float64(m.Connections))
	e.counter("connections_accepted_total", "Sockets accepted from clients.", m.ConnectionsAccepted)
	e.counters("connections_refused_total", "Connections that were refused, by reason.", "reason", m.ConnectionsRefused)
	e.counters("connections_closed_total", "Connections that ended, by reason.", "reason", m.ConnectionsClosed)
	e.counter("received_bytes_total", "Bytes received from clients.", m.ReceivedBytes)
	e.counter("sent_bytes_total", "Bytes sent to clients.", m.SentBytes)
	e.counters("bad_packets_total", "Packets from clients that broke the protocol, by reason code.", "reason", m.BadPackets)
}

func (e emitter) messages(m *Metrics) {
	for qos := range 3 {
		label := strconv.Itoa(qos)
		e.counter("messages_received_total", "PUBLISH packets from clients.", m.ReceivedMessages[qos], "qos", label)
		e.counter("messages_sent_total", "PUBLISH packets to clients.", m.SentMessages[qos], "qos", label)
		if qos > 0 {
			e.counter("messages_acknowledged_total", "Messages acknowledged to their publishers.", m.AckedMessages[qos], "qos", label)
		}
	}
	for d, n := range m.Dropped {
		e.counter("messages_dropped_total", "Messages that MQTT or a limit let go, by reason and class of session.", n, "reason", d.Reason, "class", d.Class)
	}
	e.counters("messages_refused_total", "PUBLISH packets refused with a reason code, by reason.", "reason", m.Refused)
	e.counters("lane_items_total", "Items sent on lanes, by kind of destination.", "destination", m.LaneItems)
	e.counter("lane_rewinds_total", "Times a lane went back to its oldest unanswered item.", m.LaneRewinds)
	e.gauge("lane_bytes", "Bytes waiting in lanes.", float64(m.LaneBytes))
}

func (e emitter) cluster(m *Metrics) {
	e.counter("leader_changes_total", "Changes of leader in partitions held here.", m.LeaderChanges)
	e.counter("lease_expirations_total", "Times the node lost its lease.", m.LeaseExpired)
	e.counter("replicas_set_aside_total", "Replicas set aside because their data cannot be trusted.", m.SetAside)
	e.counters("store_errors_total", "Errors of the store, by kind.", "kind", m.StoreErrors)
	e.counters("peer_frames_refused_total", "Frames refused from other nodes, by reason.", "reason", m.PeerRefused)
	e.counter("snapshots_taken_total", "Snapshots taken.", m.SnapshotsTaken)
	e.counter("snapshots_sent_total", "Snapshots sent to other nodes.", m.SnapshotsSent)
	if m.DiskFree >= 0 {
		e.gauge("disk_free_bytes", "Bytes free where the data is.", float64(m.DiskFree))
	}
	e.gauge("disk_below_reserve", "1 if publishes are refused for lack of disk space.", flag(m.ReadOnly))
	for member, offset := range m.ClockOffset {
		e.gauge("clock_offset_seconds", "How far another member's clock is ahead of this one.", offset, "member", member)
	}
	e.gauge("proposals_pending", "Ops waiting to be proposed or committed.", float64(m.ProposalsPending))
	e.histogram("fsync_duration_seconds", "Time of one fsync of the store.", m.Fsync)
	e.histogram("commit_duration_seconds", "Time from proposing an entry to its commit.", m.CommitLatency)
	e.histogram("entry_ops", "Ops per log entry.", m.BatchOps)
}

func (e emitter) partitions(s Status) {
	e.gauge("members", "Members of the cluster.", float64(len(s.Members)))
	for _, m := range s.Members {
		e.gauge("member_alive", "1 for each member that is alive.", flag(m.State == "alive"), "member", m.Name)
	}
	for _, p := range s.Partitions {
		id := strconv.FormatUint(uint64(p.ID), 10)
		e.gauge("partition_has_leader", "1 if the partition has a leader as far as this node knows.", flag(p.Leader != ""), "partition", id)
		e.gauge("partition_leader", "1 if this node leads the partition.", flag(p.Leader == s.Node), "partition", id)
		if !p.Local {
			continue
		}
		for _, r := range p.Replicas {
			if r.Node == s.Node {
				e.gauge("partition_applied_index", "Last log index applied by the replica held here.", float64(r.Applied), "partition", id)
				e.gauge("partition_lag_entries", "Log entries the replica held here is behind.", float64(r.Lag), "partition", id)
			}
		}
		e.gauge("sessions", "Sessions kept in the partition.", float64(p.Sessions), "partition", id)
		e.gauge("sessions_connected", "Sessions of the partition that have a connection.", float64(p.Connected), "partition", id)
		e.gauge("subscriptions", "Subscriptions kept in the partition.", float64(p.Subscriptions), "partition", id)
		e.gauge("queued_messages", "Messages queued in the partition.", float64(p.Queued), "partition", id)
		e.gauge("queued_bytes", "Bytes queued in the partition.", float64(p.QueuedBytes), "partition", id)
		e.gauge("inflight_messages", "Messages of the partition in flight to clients.", float64(p.Inflight), "partition", id)
		e.gauge("retained_messages", "Retained messages of the partition.", float64(p.Retained), "partition", id)
		e.gauge("outbox_messages", "Messages waiting in the partition's outbox.", float64(p.Outbox), "partition", id)
		e.gauge("partition_bytes", "Memory held by the messages of the partition.", float64(p.Bytes), "partition", id)
		e.gauge("partition_budget_bytes", "Memory beyond which the partition refuses publishes.", float64(p.Budget), "partition", id)
	}
}

// emitter sends metrics, all under the name flotilla_.
type emitter struct{ ch chan<- prometheus.Metric }

func (e emitter) gauge(name, help string, v float64, labels ...string) {
	e.send(name, help, prometheus.GaugeValue, v, labels)
}

func (e emitter) counter(name, help string, v uint64, labels ...string) {
	e.send(name, help, prometheus.CounterValue, float64(v), labels)
}

func (e emitter) counters(name, help, label string, values map[string]uint64) {
	for value, n := range values {
		e.counter(name, help, n, label, value)
	}
}

// send takes labels as pairs of name and value.
func (e emitter) send(name, help string, kind prometheus.ValueType, v float64, labels []string) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	e.ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("flotilla_"+name, help, names, nil), kind, v, values...)
}

func (e emitter) histogram(name, help string, h *Histogram) {
	if h != nil {
		e.ch <- prometheus.MustNewConstHistogram(prometheus.NewDesc("flotilla_"+name, help, nil, nil), h.Count, h.Sum, h.Buckets)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
