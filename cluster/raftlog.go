package cluster

import (
	"context"
	"log/slog"
)

// details sends everything at debug level: what Raft says of sixteen groups is for
// who looks for a fault. What an operator must know the node says itself.
type details struct{ slog.Handler }

func (d details) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d details) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

func (d details) WithAttrs(as []slog.Attr) slog.Handler { return details{d.Handler.WithAttrs(as)} }

func (d details) WithGroup(name string) slog.Handler { return details{d.Handler.WithGroup(name)} }
