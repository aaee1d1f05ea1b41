package control

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestRaftLogger(t *testing.T) {
	var out bytes.Buffer
	l := RaftLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	l.Info("entering follower state")
	l.With("group", 3).Warn("heartbeat timeout", "servers", hclog.Fmt("%d of %d", 2, 3))
	l.Named("snapshot").Error("failed", "error", "disk")
	got := out.String()
	if strings.Contains(got, "entering") {
		t.Error("raft's infos are for developers")
	}
	for _, want := range []string{
		`level=INFO msg="raft: heartbeat timeout" group=3 servers="2 of 3"`,
		`level=WARN msg="raft: failed" error=disk`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %q:\n%s", want, got)
		}
	}
	if l.IsDebug() || !l.IsWarn() || l.GetLevel() != hclog.Warn || l.Named("x").Named("y").Name() != "x.y" {
		t.Errorf("levels or names are wrong: %v", l.GetLevel())
	}
}
