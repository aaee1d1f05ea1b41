// Package transport carries everything that travels between two nodes: the
// RPCs of all Raft groups, the ordered stream of frames (lanes, pushes,
// interest) and unary calls. It is one gRPC server and, per peer, at most three
// lasting client connections, each with a TCP connection of its own:
//
//   - urgent: votes, heartbeats, TimeoutNow;
//   - entries: AppendEntries with log entries or a commit index;
//   - flow: the frame stream, and unary calls.
//
// A snapshot opens a fourth connection for as long as it takes. So bulk data
// never delays what keeps leaders alive.
//
// # Liveness
//
// A reset connection is noticed at once. A peer that is silently gone (a
// partition, a stopped process) is noticed after Options.Silence (2 s): the far
// end of each stream sends a sign of life when it has nothing else to say,
// whatever its raft or its OnFrame are busy with. A link that fails drops its
// connection altogether, because a stream opened on a black-holed connection
// would hang like the one before.
//
// # Idle groups
//
// Raft sends a heartbeat per group and follower every HeartbeatTimeout/10 to /5.
// With Options.HeartbeatTimeout set, those to one peer leave together every
// HeartbeatTimeout/5, in one message, and are answered in one; groups whose timeout is
// a multiple share the departures of the others.
//
// # Heartbeats go through raft's main loop
//
// hashicorp/raft offers SetHeartbeatHandler so that a transport may handle
// heartbeats on its own goroutine. We decline: that path changes term and state
// concurrently with the main loop, and a node that has just become leader may
// then write an entry under another leader's term (hashicorp/raft #695). The
// price: a follower whose main loop is busy (an fsync in StoreLogs, a snapshot
// being installed) answers late. It does not depose its leader by that, since
// it cannot run its election timer either and every append refreshes its
// contact; but a leader that hears from no quorum for LeaderLeaseTimeout steps
// down. So the lease timeout must be above the worst usual fsync.
//
// # Raft's back-off
//
// After failures raft waits up to 10 s before it tries a follower again, and
// nothing but a success resets that. So a log-carrying AppendEntries to a peer
// whose link is down, or that does not run the group yet, does not fail: it
// waits for the link (Options.Hold at most) and goes out the moment it is back.
// The wait ends early when the group's transport is closed, when the peer is
// disconnected, or when a higher term is seen. Close a group's RaftTransport
// before raft.Shutdown, which otherwise waits for such a call.
package transport
