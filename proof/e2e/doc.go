// Package e2e holds the end-to-end tests: the real binary, as processes on this machine,
// with real sockets and real signals. They are behind the build tag e2e:
//
//	go test -tags e2e ./proof/e2e
//
// The flag -log keeps every node's log in a folder; otherwise logs of failed tests are
// printed.
package e2e
