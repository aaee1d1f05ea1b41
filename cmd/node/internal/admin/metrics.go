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
	e.gauge("ready", "1 if clients may be sent to this node.", boolean(readiness(n).Ready))
	if n == nil {
		return
	}
	m := n.Metrics()
	e.gateway(&m.Gateway)
	e.auth(&m.Auth)
	e.cluster(&m.Cluster)
	e.transport(&m.Transport)
	e.store(&m.Store)
	e.security(&m.Security)
	e.partitions(n.Status())
}

func (e emitter) gateway(m *GatewayMetrics) {
	e.gauge("connections", "Open client connections.", float64(m.Connections))
	e.gauge("gateway_sessions", "Connections of this node that own a session.", float64(m.Sessions))
	e.gauge("gateway_subscriptions", "Entries of this node's subscription tree.", float64(m.Subscriptions))
	e.gauge("gateway_queued_messages", "Messages queued for ephemeral sessions.", float64(m.QueuedMessages))
	e.gauge("gateway_queued_bytes", "Bytes queued for ephemeral sessions.", float64(m.QueuedBytes))
	e.counter("connections_accepted_total", "Sockets accepted from clients.", m.Accepted)
	e.counters("connections_refused_total", "Connections that ended before they were open: by reason code, too_many, or the step before MQTT that failed (proxy_header, tls_handshake, websocket_request).", "reason", m.Refused)
	e.counters("connections_closed_total", "Open connections that ended, by reason code: success is a DISCONNECT of the client, unspecified_error a broken connection.", "reason", m.Closed)
	e.counter("received_bytes_total", "Bytes received from clients.", m.BytesReceived)
	e.counter("sent_bytes_total", "Bytes sent to clients.", m.BytesSent)
	e.counters("packets_received_total", "Packets from clients, by packet type.", "type", m.PacketsReceived)
	e.counters("packets_sent_total", "Packets to clients, by packet type.", "type", m.PacketsSent)
	for qos := range 3 {
		label := strconv.Itoa(qos)
		e.counter("messages_received_total", "PUBLISH packets from clients.", m.PublishReceived[qos], "qos", label)
		e.counter("messages_sent_total", "PUBLISH packets to clients.", m.PublishSent[qos], "qos", label)
		if qos > 0 {
			e.counter("messages_acknowledged_total", "Messages acknowledged to their publishers.", m.Acknowledged[qos], "qos", label)
		}
	}
	e.counters("messages_refused_total", "PUBLISH packets refused while the connection went on, by reason code.", "reason", m.RefusedPublish)
	e.counters("subscriptions_refused_total", "Subscriptions refused while the connection went on, by reason code.", "reason", m.RefusedSubscribe)
	e.counter("subscriptions_revoked_total", "Subscriptions that sessions lost when they were resumed, since the rules do not allow them any more.", m.RevokedSubscriptions)
	e.counter("unknown_acks_total", "Acknowledgements of clients with a packet identifier that is not in use.", m.UnknownAcks)
	e.counter("subscribes_incomplete_total", "SUBSCRIBEs of ephemeral sessions for which a partition did not tell its retained messages in time.", m.RetainedIncomplete)
	e.counter("back_pressure_total", "Times a socket was not read further because too much of its connection was unanswered.", m.BackPressure)
}

func (e emitter) cluster(m *ClusterMetrics) {
	for d, n := range m.Dropped {
		e.counter("messages_dropped_total", "Messages that MQTT or a limit let go, by reason and class of session.", n, "reason", d.Reason, "class", d.Class)
	}
	e.counter("partition_publishes_refused_total", "Messages refused by partitions led here for lack of memory or disk space.", m.PublishRefused)
	e.counter("partition_ops_refused_total", "Ops of other nodes of a kind that is not known here.", m.OpsRefused)
	e.counter("retained_refused_total", "Retained messages of QoS 0 that their partition refused.", m.RetainedRefused)
	e.counter("retained_reads_incomplete_total", "Partitions not waited for when retained messages were read.", m.RetainedIncomplete)
	e.counter("leader_starts_total", "Times a partition's leadership came to this node.", m.LeaderStarts)
	e.counter("lease_expirations_total", "Times the node lost its lease.", m.LeasesLost)
	e.counter("gateways_ended_total", "Times the cluster ended this node's gateway and its clients had to connect again.", m.GatewaysEnded)
	e.counter("silent_gateways_total", "Times another node's gateway answered no takeover for the ownership time, and the cluster was asked to end it.", m.SilentGateways)
	e.counter("replicas_set_aside_total", "Replicas set aside because their data cannot be trusted.", m.SetAside)
	e.counter("snapshots_taken_total", "Snapshots taken of partitions.", m.Snapshots)
	e.counter("snapshots_installed_total", "Snapshots of partitions taken over from their leaders.", m.Installed)
	e.counter("checkpoints_total", "Digests taken of replicas' states, to be compared with the others'.", m.Checkpoints)
	e.counter("disk_stalls_total", "Times the disk did not answer for too long.", m.Stalls)
	e.counter("replicas_diverged_total", "Replicas, here or elsewhere, whose state differed from the majority's.", m.Diverged)
	for to, l := range m.Lanes {
		e.gauge("lane_items", "Items waiting unanswered in lanes, by kind of destination.", float64(l.Items), "destination", to)
		e.gauge("lane_bytes", "Bytes waiting unanswered in lanes, by kind of destination.", float64(l.Bytes), "destination", to)
	}
	for member, offset := range m.ClockOffset {
		e.gauge("clock_offset_seconds", "How far another member's clock is ahead of this one.", offset, "member", member)
	}
	e.gauge("disk_free_bytes", "Bytes free where the data is; 0 if not known.", float64(m.DiskFree))
	e.gauge("disk_below_reserve", "1 if publishes are refused for lack of disk space.", boolean(m.DiskLow))
}

func (e emitter) transport(m *TransportMetrics) {
	e.counter("peer_frames_sent_total", "Frames sent to other nodes.", m.FramesSent)
	e.counter("peer_frames_received_total", "Frames received from other nodes.", m.FramesReceived)
	e.counter("peer_frames_refused_total", "Frames that a link to another node had no room for.", m.FramesRefused)
	e.counter("peer_batches_sent_total", "Batches of frames sent to other nodes, pings included.", m.BatchesSent)
	e.counter("peer_batches_received_total", "Batches of frames received from other nodes, pings included.", m.BatchesReceived)
	e.counters("peers_refused_total", "Connections, streams and gossip of other nodes refused, by the check that failed.", "reason", m.PeersRefused)
	e.counter("peer_links_up_total", "Links to other nodes that came up.", m.LinksUp)
	e.counter("peer_links_down_total", "Links to other nodes that broke.", m.LinksDown)
	e.counter("raft_requests_sent_total", "Raft requests sent, of all groups.", m.RaftSent)
	e.counter("raft_batches_sent_total", "Messages in which Raft requests were sent.", m.RaftBatches)
	e.counter("raft_requests_received_total", "Raft requests received, of all groups.", m.RaftReceived)
	e.counter("raft_requests_timed_out_total", "Raft requests that got no answer in time.", m.RaftTimeouts)
	e.counter("raft_requests_refused_total", "Raft requests of other nodes that were refused.", m.RaftRefused)
	e.counter("raft_requests_expired_total", "Raft requests of other nodes that were dropped since their sender had given up.", m.RaftExpired)
	e.counter("snapshots_sent_total", "Snapshots sent to other nodes.", m.Snapshots)
	e.counter("snapshot_sent_bytes_total", "Bytes of snapshots sent to other nodes.", m.SnapshotBytes)
}

func (e emitter) store(m *StoreMetrics) {
	e.counter("store_slow_writes_total", "Durable writes that took too long.", m.SlowWrites)
	e.gauge("store_last_slow_write_timestamp_seconds", "When the last durable write that took too long ended; 0: never.", m.LastSlow)
	e.counter("store_no_space_total", "Background work of the store that met a full disk and is tried again.", m.NoSpace)
	e.gauge("store_pending_write_seconds", "Age of the oldest durable write that is still running.", m.Pending)
	e.gauge("store_log_bytes", "Bytes of all groups' logs.", float64(m.LogBytes))
	e.gauge("store_disk_used_bytes", "Bytes of the log store on disk.", float64(m.DiskUsed))
	e.gauge("store_memory_bytes", "Bytes of memory tables and block cache.", float64(m.Memory))
	e.histogram("fsync_duration_seconds", "Time of one durable write of the store.", m.Fsync)
	e.gauge("fsync_recent_p50_seconds", "Median time of the last 1024 durable writes.", m.FsyncP50)
	e.gauge("fsync_recent_p99_seconds", "99th percentile of the time of the last 1024 durable writes.", m.FsyncP99)
	e.gauge("disk_slow", "1 if that is so long that leaderships may be lost; see flotilla check-disk.", boolean(m.DiskSlow))
}

func (e emitter) security(m *SecurityMetrics) {
	for use, at := range m.CertificateExpiry {
		e.gauge("certificate_expiry_timestamp_seconds", "When a certificate of this node expires.", at, "use", use)
	}
	e.counter("reloads_failed_total", "Times certificates or keys were not replaced since their files were no good.", m.ReloadsFailed)
}

func (e emitter) partitions(s Status) {
	e.gauge("members", "Members of the cluster.", float64(len(s.Members)))
	for _, m := range s.Members {
		e.gauge("member_alive", "1 for each member that is alive.", boolean(m.State == "alive"), "member", m.Name)
	}
	for _, p := range s.Partitions {
		id := strconv.FormatUint(uint64(p.ID), 10)
		e.gauge("partition_has_leader", "1 if the partition has a leader as far as this node knows.", boolean(p.Leader != ""), "partition", id)
		e.gauge("partition_leader", "1 if this node leads the partition.", boolean(p.Leader == s.Node), "partition", id)
		if p.Local {
			e.partition(id, &p)
		}
	}
}

// partition tells the numbers of a partition that is held here.
func (e emitter) partition(id string, p *Partition) {
	for _, r := range p.Replicas {
		e.gauge("replica_applied_index", "Last log index applied by a replica, as far as this node knows.", float64(r.Applied), "partition", id, "member", r.Node)
		e.gauge("replica_lag_entries", "Log entries a replica is behind, as far as this node knows.", float64(r.Lag), "partition", id, "member", r.Node)
	}
	e.gauge("sessions", "Sessions kept in the partition.", float64(p.Sessions), "partition", id)
	e.gauge("sessions_connected", "Sessions of the partition that have a connection.", float64(p.Connected), "partition", id)
	e.gauge("subscriptions", "Subscriptions kept in the partition.", float64(p.Subscriptions), "partition", id)
	e.gauge("queued_messages", "Messages queued in the partition.", float64(p.Queued), "partition", id)
	e.gauge("queued_bytes", "Bytes queued in the partition.", float64(p.QueuedBytes), "partition", id)
	e.gauge("inflight_messages", "Messages of the partition in flight to clients.", float64(p.Inflight), "partition", id)
	e.gauge("retained_messages", "Retained messages of the partition.", float64(p.Retained), "partition", id)
	e.gauge("outbox_messages", "Messages waiting in the partition's outbox.", float64(p.Outbox), "partition", id)
	e.gauge("shared_groups", "Shared subscriptions whose group is in the partition.", float64(p.Groups), "partition", id)
	e.gauge("shared_members", "Members of the groups of the partition.", float64(p.Members), "partition", id)
	e.gauge("shared_queued_messages", "Messages that wait in groups of the partition for a member with room.", float64(p.GroupQueued), "partition", id)
	e.gauge("shared_assigned_messages", "Messages that groups of the partition have given to members, which have not acknowledged them.", float64(p.GroupAssigned), "partition", id)
	e.gauge("partition_bytes", "Memory held by the messages of the partition.", float64(p.Bytes), "partition", id)
	e.gauge("partition_budget_bytes", "Memory beyond which the partition refuses publishes.", float64(p.Budget), "partition", id)
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

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
