package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

const (
	// startSpace is the free disk space without which a node does not open its data:
	// replaying the logs writes as much as four memtables of the log store. With less
	// the start would fail half way, and whoever restarts us would do so for ever.
	startSpace = 64 << 20
	// spaceInterval is how often a node that waits for space looks again.
	spaceInterval = time.Second
)

// awaitSpace waits until the disk of dir has room for a start; tell is given the reason
// meanwhile, and "" in the end. It returns an error only when ctx ends.
func awaitSpace(ctx context.Context, dir string, free func(string) (uint64, error), tell func(string), log *slog.Logger) error {
	tick := time.NewTicker(spaceInterval)
	defer tick.Stop()
	for waiting := false; ; waiting = true {
		n, err := free(dir)
		if err != nil || n >= startSpace { // a file system that cannot tell is not full
			tell("")
			return nil
		}
		if !waiting {
			log.Error("the disk is too full to start: free some space, the node waits for it", "data", dir, "free", n, "needed", startSpace)
		}
		tell(fmt.Sprintf("the disk of the data folder has %d bytes free, a start needs %d: free some space", n, startSpace))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
