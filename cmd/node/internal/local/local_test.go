package local

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

func TestPlanGivesEachNodeItsOwn(t *testing.T) {
	specs := Plan(3, "d", DefaultPorts())
	seen := map[string]bool{}
	for _, s := range specs {
		for _, v := range []string{s.Name, s.MQTTAddr, s.HTTPAddr, s.PeerAddr, s.GossipAddr, s.AdminAddr, s.Data, s.Config, s.Log} {
			if seen[v] {
				t.Errorf("%s is used twice", v)
			}
			seen[v] = true
		}
	}
	if specs[0].MQTTAddr != "127.0.0.1:1883" || specs[2].MQTTAddr != "127.0.0.1:1885" {
		t.Errorf("MQTT at %s … %s", specs[0].MQTTAddr, specs[2].MQTTAddr)
	}
}

// TestConfigFilesAreValid reads the written files as `serve` would.
func TestConfigFilesAreValid(t *testing.T) {
	dir := t.TempDir()
	specs := Plan(3, dir, DefaultPorts())
	for _, s := range specs {
		if _, err := s.writeConfig(specs, []Setting{{"log-level", "debug"}}); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load([]string{"--config", s.Config}, nil, os.Hostname, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Node != s.Name || cfg.MQTTAddr != s.MQTTAddr || cfg.Expect != 3 || cfg.LogLevel.String() != "DEBUG" || !filepath.IsAbs(cfg.Data) {
			t.Errorf("%+v", cfg)
		}
		if len(cfg.Join) != 2 || slices.Contains(cfg.Join, s.GossipAddr) {
			t.Errorf("%s joins %v", s.Name, cfg.Join)
		}
	}
}

func TestWithout(t *testing.T) {
	got := without([]string{"FLOTILLA_NODE=x", "FLOTILLA_NODES=y", "PATH=z"}, []Setting{{"node", "n1"}})
	if !slices.Equal(got, []string{"FLOTILLA_NODES=y", "PATH=z"}) {
		t.Errorf("got %q", got)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte(strings.Repeat("filler\n", 10000)+"one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(file, 2); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q", got)
	}
	if got := tail(file+".none", 2); len(got) != 1 {
		t.Errorf("a missing log: %q", got)
	}
}
