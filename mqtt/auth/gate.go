package auth

import (
	"context"
	"errors"
	"sync/atomic"
)

// gate bounds the hashes that are computed at once, for their memory and time, and
// those that wait for it.
type gate struct {
	slots   chan struct{}
	waiting atomic.Int64
	most    int64
}

// errBusy: too many wait already.
var errBusy = errors.New("too many log-ins wait")

func newGate(atOnce, waiting int) *gate {
	return &gate{slots: make(chan struct{}, atOnce), most: int64(waiting)}
}

// do runs fn when there is room, or fails with errBusy or the error of ctx.
func (g *gate) do(ctx context.Context, fn func()) error {
	select {
	case g.slots <- struct{}{}:
	default:
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	defer func() { <-g.slots }()
	if err := ctx.Err(); err != nil {
		return err // whoever asked has gone: the time is others'
	}
	fn()
	return nil
}

func (g *gate) wait(ctx context.Context) error {
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.most {
		return errBusy
	}
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
