// Chaos runs the shipped binary as three real processes, each with a network namespace and a
// disk of its own, under clients that speak raw packets, and breaks everything that can be
// broken from outside: processes, network, disks, clocks, memory and processors. What the
// clients saw is judged by proof/check. `make chaos` runs it.
//
// A run is a row of rounds. In each, new clients work while faults of the table (rows*.go) are
// injected one after the other; then everything is mended, the clients come to rest, and the
// history of the round is checked. A fault is injected only when the cluster has its full
// strength, since two lost disks of three are beyond what it promises.
//
// It needs Linux. As root it has all faults; what the machine or the user cannot do is reported
// as skipped, never as passed. Whatever it makes carries its pid and is removed at the end;
// what a killed run left behind is removed by the next (sweep.go).
package main
