// Package store keeps everything a node writes to its data folder: the Raft
// logs and stable values of all groups, their snapshots, the high-water marks
// and the node's identity. Data on disk is not trusted: every value carries a
// CRC32C that is checked on every read.
//
// Layout of the data folder:
//
//	LOCK              held while a process uses the folder
//	node              identity and small durable values, replaced as a whole
//	marks             high-water marks, kept apart from the logs they vouch for
//	log/              one Pebble store for the logs of all partition groups
//	control.bolt      log of the control group (real disks only)
//	snapshots/G/ID/   snapshots of group G: files "state" and "meta"
//	quarantine-N/     damaged Pebble stores that were moved aside
//
// # Order of writes
//
// An append is acknowledged when the log is synced and, after that, the mark
// that says how far the log must reach is synced too. The mark is not written
// beside the log but after it: a power cut between two parallel writes would
// leave a mark without its entry, which nobody could tell from a lost entry,
// and a cluster that lost power as a whole would set all its replicas aside.
// So the mark never says more than the log has held durably. For the same
// reason it is lowered before a tail is truncated, and the index of a snapshot
// is recorded after the snapshot is in place.
//
// # What an opening group may find
//
//   - Entries above the mark that are damaged or missing: the write was torn
//     before it was acknowledged; the tail is cut.
//   - Entries above the mark that are intact: they are kept, and the mark is
//     raised to them before Raft can acknowledge them as already stored.
//   - Anything damaged or missing at or below the mark, an older term or vote
//     than the mark, or a snapshot that is gone while the log starts after it:
//     the replica is set aside (QuarantineError) until SetAside wipes it and
//     draws a new incarnation, under which it joins again as a new server.
package store
