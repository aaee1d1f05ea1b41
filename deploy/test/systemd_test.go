package test

import (
	"os"
	"slices"
	"strings"
	"testing"

	sigsyaml "sigs.k8s.io/yaml"
)

// TestUnit: the unit runs what the binary knows, and gives a stop its time.
func TestUnit(t *testing.T) {
	data, err := os.ReadFile("../systemd/flotilla.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			unit[key] = append(unit[key], value)
		}
	}
	run := strings.Fields(unit["ExecStart"][0])
	known := flags(t, "serve")
	if run[0] != "/usr/local/bin/flotilla" || run[1] != "serve" {
		t.Errorf("runs %q", run)
	}
	for name := range given(run) {
		if _, ok := known[name]; !ok {
			t.Errorf("serve has no flag --%s", name)
		}
	}
	if given(run)["data"] != "/var/lib/"+unit["StateDirectory"][0] {
		t.Errorf("data is at %s, and systemd makes %s", given(run)["data"], unit["StateDirectory"])
	}
	if s := seconds(t, unit["TimeoutStopSec"][0]); s < stopTime(t)+5 {
		t.Errorf("%d s for a stop that may take %d s", s, stopTime(t))
	}
	for key, want := range map[string]string{
		"User": "flotilla", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": "", "PrivateDevices": "yes",
		"MemoryDenyWriteExecute": "yes", "SystemCallFilter": "@system-service", "RestrictNamespaces": "yes",
	} {
		if !slices.Contains(unit[key], want) {
			t.Errorf("%s is %q, want %q", key, unit[key], want)
		}
	}
}

// TestSettingsFile: the example is of known settings, those in comments too.
func TestSettingsFile(t *testing.T) {
	data, err := os.ReadFile("../systemd/flotilla.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "# ") { // a sentence; a setting has no space
			file.WriteString(strings.TrimPrefix(line, "#"))
		}
	}
	settings := map[string]any{}
	if err := sigsyaml.UnmarshalStrict([]byte(file.String()), &settings); err != nil {
		t.Fatal(err)
	}
	known := flags(t, "serve")
	for name := range settings {
		if _, ok := known[name]; !ok {
			t.Errorf("there is no setting %s", name)
		}
	}
	if len(settings) < 6 {
		t.Errorf("found %v only", settings)
	}
}
