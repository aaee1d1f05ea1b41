//go:build linux

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// row is one kind of fault.
type row struct {
	name  string
	needs []need
	// whole: the fault hits all nodes, and the history notes it so.
	whole bool
	// gap names the distribution of waiting times that the fault adds to; "": none.
	gap string
	// inject breaks something, lets it be for a while and mends it. Processes may be left
	// ended: the run starts them again.
	inject func(ctx context.Context, x *injection) error
	// after, if set, looks when all is well again whether the fault was effective.
	after func(ctx context.Context, x *injection)
}

// injection is one fault under way.
type injection struct {
	c         *cluster
	n         *node // the node that suffers
	rng       *rand.Rand
	before    float64 // what a row has measured before the fault
	effective bool    // it was seen to take hold
	note      string  // what is worth knowing of it
	// finding is a promise that was seen broken without a history.
	finding string
}

// hold lets a fault be for a time between two bounds.
func (x *injection) hold(ctx context.Context, low, high time.Duration) {
	pause(ctx, low+time.Duration(x.rng.Int64N(int64(high-low))))
}

// table has all faults.
func table() []row {
	var all []row
	for _, part := range [][]row{processRows, networkRows(), diskRows, machineRows} {
		all = append(all, part...)
	}
	return all
}

// skipped says why a row cannot be injected; "": it can.
func (c *cluster) skipped(r row) string {
	for _, n := range r.needs {
		if why := c.missing[n]; why != "" {
			return string(n) + ": " + why
		}
	}
	return ""
}

// all runs something on all nodes, one after the other.
func (c *cluster) all(do func(n *node) error) error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, do(n))
	}
	return errors.Join(errs...)
}
