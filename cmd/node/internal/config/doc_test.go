package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const configDoc = "../../../../docs/configuration.md"

const configHead = `# Configuration

The settings of ` + "`flotilla serve`" + `. Each can be a flag (` + "`--mqtt-addr`" + `), an environment variable
(` + "`FLOTILLA_MQTT_ADDR`" + `) or a key of the YAML file that ` + "`--config` or `FLOTILLA_CONFIG`" + ` names
(` + "`mqtt-addr:`" + `). Flags win over variables, variables over the file. Unknown flags and keys are errors;
unknown ` + "`FLOTILLA_*`" + ` variables are logged.

| setting | default | allowed | what it does |
|---|---|---|---|
`

const configListeners = `
## Listeners

The file may list listeners, each with limits of its own; what one does not set is as above. With a list
there is a listener at ` + "`mqtt-addr`" + ` only if that is set, too.

    listeners:
      - addr: 127.0.0.1:1883
      - addr: 0.0.0.0:1884
        allow-anonymous: true
        max-packet-size: 64KiB
        max-connections: 10000
      - {type: tls, addr: 0.0.0.0:8883, cert: tls.crt, key: tls.key, client-ca: devices.pem, cert-username: cn}
      - {type: wss, addr: 0.0.0.0:8084, cert: tls.crt, key: tls.key, ws-origins: [https://plant.example]}
      - {type: tls, addr: 0.0.0.0:8884, cert: tls.crt, key: tls.key, proxy-protocol: [10.0.0.0/8]}
      - {type: unix, addr: /run/flotilla/mqtt.sock}

| key | default | allowed | what it does |
|---|---|---|---|
`

// TestLimitsAreDocumented: docs/mqtt.md says what happens beyond each limit of clients.
func TestLimitsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/mqtt.md")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"sys-interval"}
	for _, s := range limitSettings() {
		names = append(names, s.name)
	}
	for _, s := range sessionSettings() {
		names = append(names, s.name)
	}
	for _, name := range names {
		if !strings.Contains(string(text), name) {
			t.Errorf("docs/mqtt.md does not mention %s", name)
		}
	}
}

// TestSettingsAreDocumented: docs/configuration.md lists the settings there are. go
// test -update writes it.
func TestSettingsAreDocumented(t *testing.T) {
	want := configHead
	defaults := Default()
	for _, s := range settings() {
		want += settingRow(s.name, s.get(&defaults), s.allowed, s.usage)
	}
	want += configListeners
	for _, s := range listenerSettingList() {
		byDefault := "as above"
		switch s.name {
		case "addr":
			byDefault = "none: it must be given"
		case "type":
			byDefault = "`tcp`"
		}
		want += fmt.Sprintf("| `%s` | %s | %s | %s |\n", s.name, byDefault, cell(s.allowed), cell(s.usage))
	}
	if *update {
		if err := os.WriteFile(configDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(configDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/configuration.md does not list the settings as they are; go test -update writes it")
	}
}

func settingRow(name, byDefault, allowed, usage string) string {
	switch {
	case strings.Contains(usage, "(default:"):
		byDefault = "" // it depends, as the usage says
	case byDefault != "":
		byDefault = "`" + byDefault + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, byDefault, cell(allowed), cell(usage))
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
