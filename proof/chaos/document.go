//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

const (
	beginMarker = "<!-- make chaos: begin -->"
	endMarker   = "<!-- make chaos: end -->"
)

// document writes the results into the report.
func document(o options, c *cluster, r *result, began time.Time) error {
	text, err := os.ReadFile(o.report)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	version, err := output("", o.binary, "version")
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The last run: %s, seed %d, %s, %s; %d processors for nodes and clients together, %s.\n\n", o.length, o.seed,
		strings.TrimSpace(version), began.UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOARCH)
	r.totals(&b)
	fmt.Fprintln(&b)
	r.table(&b, o.rows, c.skipped)
	fmt.Fprint(&b, "\nHow long clients wait. *Of the node*: from the fault to the first acknowledgement on the new connection, with "+
		"reconnecting and resuming on another node; a client of a paused node gives it up after 1 s without an answer. "+
		"*Of other nodes*: the longest wait for an acknowledgement.\n\n")
	r.waits(&b)
	if len(r.findings) > 0 {
		fmt.Fprintf(&b, "\n**%d violations**: see the table.\n", len(r.findings))
	}
	return os.WriteFile(o.report, []byte(between(string(text), beginMarker, endMarker, b.String())), 0o644)
}
