package control

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// RaftLogger lets a raft group log by slog. Raft's own levels are a developer's:
// its infos become debug, its warnings (elections, lost contact) infos, its
// errors (an RPC that failed and will be tried again) warnings.
func RaftLogger(l *slog.Logger) hclog.Logger { return raftLogger{l: l} }

type raftLogger struct {
	l    *slog.Logger
	name string
	args []any
}

// slogLevel is the level that an entry of raft's gets.
func slogLevel(level hclog.Level) slog.Level {
	switch {
	case level <= hclog.Trace:
		return slog.LevelDebug - 4
	case level <= hclog.Info:
		return slog.LevelDebug
	case level == hclog.Warn:
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

func (r raftLogger) Log(level hclog.Level, msg string, args ...any) {
	to := slogLevel(level)
	if !r.l.Enabled(context.Background(), to) {
		return
	}
	args = slices.Clone(args)
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok { // a format and its values, formatted late
			args[i] = fmt.Sprintf(f[0].(string), f[1:]...)
		}
	}
	r.l.Log(context.Background(), to, "raft: "+msg, args...)
}

func (r raftLogger) on(level hclog.Level) bool {
	return r.l.Enabled(context.Background(), slogLevel(level))
}

func (r raftLogger) Trace(msg string, args ...any) { r.Log(hclog.Trace, msg, args...) }
func (r raftLogger) Debug(msg string, args ...any) { r.Log(hclog.Debug, msg, args...) }
func (r raftLogger) Info(msg string, args ...any)  { r.Log(hclog.Info, msg, args...) }
func (r raftLogger) Warn(msg string, args ...any)  { r.Log(hclog.Warn, msg, args...) }
func (r raftLogger) Error(msg string, args ...any) { r.Log(hclog.Error, msg, args...) }

func (r raftLogger) IsTrace() bool { return r.on(hclog.Trace) }
func (r raftLogger) IsDebug() bool { return r.on(hclog.Debug) }
func (r raftLogger) IsInfo() bool  { return r.on(hclog.Info) }
func (r raftLogger) IsWarn() bool  { return r.on(hclog.Warn) }
func (r raftLogger) IsError() bool { return r.on(hclog.Error) }

func (r raftLogger) ImpliedArgs() []any { return r.args }

func (r raftLogger) With(args ...any) hclog.Logger {
	return raftLogger{l: r.l.With(args...), name: r.name, args: append(r.args[:len(r.args):len(r.args)], args...)}
}

func (r raftLogger) Name() string { return r.name }

func (r raftLogger) Named(name string) hclog.Logger {
	if r.name != "" {
		name = r.name + "." + name
	}
	return r.ResetNamed(name)
}

func (r raftLogger) ResetNamed(name string) hclog.Logger {
	r.name = name
	return r
}

// SetLevel does nothing: the slog handler decides.
func (r raftLogger) SetLevel(hclog.Level) {}

func (r raftLogger) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Warn} {
		if r.on(l) {
			return l
		}
	}
	return hclog.Error
}

func (r raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(r.l.Handler(), slog.LevelDebug)
}

func (r raftLogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return r.StandardLogger(o).Writer()
}
