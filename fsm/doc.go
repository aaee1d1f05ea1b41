// Package fsm is the state machine of one partition: sessions with their queues
// and QoS 1 and 2 flows, retained messages, lane marks and the outbox.
//
// Apply is pure: it knows no clock, no randomness and no I/O, and no map order
// leaves it. What has to be done outside is returned as [Effects]; only the
// partition's leader carries them out, and a new leader rebuilds what is still
// to be done from the state ([Machine.Pending], [Machine.Attach]) instead of
// relying on effects that the old one may not have carried out.
//
// A [Machine] belongs to one goroutine at a time. A [Snapshot] may be written by
// another goroutine while the machine goes on.
package fsm
