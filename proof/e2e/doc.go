// Package e2e holds the end-to-end tests: the real binary, which they build, as processes
// on this machine, with real sockets and real signals. A longer random workload:
//
//	go test ./proof/e2e -run TestWorkload -timeout 2h -args -length 1h
//
// The ends of all nodes' logs are printed when a test fails.
package e2e
