package cluster

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// newRaftLogger sends what Raft logs to slog: its infos are details to an
// operator, its warnings and errors mostly speak of peers that are away.
func newRaftLogger(log *slog.Logger) hclog.Logger {
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return hclog.NewNullLogger()
	}
	return hclog.New(&hclog.LoggerOptions{
		Name: "raft", Level: hclog.Info, Output: io.Discard,
		Exclude: func(_ hclog.Level, msg string, args ...any) bool {
			log.Debug("raft: "+msg, args...)
			return true
		},
	})
}
