// Package control is the control group: one Raft group, replicated to every
// node, that holds what the whole cluster must agree on and that changes
// rarely: the cluster's id, its members and their live incarnations, where the
// replicas of each partition are, and cluster-wide settings. It also grants the
// node leases, and it founds the cluster.
//
// # Leases
//
// Every node renews one lease at the control group's leader, four times per
// LeaseTTL. Four rules make "closed in State" imply "its lease is over":
//
//  1. The holder counts its lease from the moment before it asked, on a clock
//     that goes on while the machine is suspended.
//  2. The leader answers only when a quorum of voters, itself included, has
//     read its own current term as the leader's after that moment. Terms never
//     go back and a voter raises its term before it votes, so no newer leader
//     was elected before the moment the lease is counted from. The sender's own
//     reading travels in its request; others are asked with Confirm.
//     (raft.VerifyLeader would not do: it also counts answers to heartbeats
//     that were sent before it was called, so a leader that was paused may
//     verify itself with an answer from before the pause.)
//  3. A leader closes an incarnation, or lets it be closed, only when 1.1
//     LeaseTTL have passed since it last granted that incarnation a lease and
//     since it became leader; its predecessor's grants are over then. From the
//     moment it decides to close it grants no more.
//  4. A leader grants nothing before it has applied everything that earlier
//     leaders committed, so a close that is decided is known to all later leaders.
//
// The exceptions are those in which the holder cannot be running, or says so
// itself: a start on the same disk (the data folder's lock proves that the old
// process is gone), and an end that the holder asks for after it has dropped
// its lease.
//
// # Founding
//
// With Expect N, nodes without a cluster look for each other. When a node sees N
// names, its own among them and the first, it is the founder: it makes a
// durable plan (cluster id, members with their disks, placement), asks each of
// them to promise, and bootstraps the Raft group when all have. A promise is
// durable before it is answered and excludes every other plan, so that one set
// of disks never makes two clusters. Only the founder of a plan may bootstrap
// it, and it gives up a plan only before that, durably: then it tells those who
// promised, and a later attempt of the same founder replaces the earlier.
//
// A founder whose disk is lost before founding is finished leaves the others
// bound to it; nobody can know that the old disk does not come back. Nothing has
// been stored in such a cluster: remove the data folders and start again. The
// log says so.
package control
