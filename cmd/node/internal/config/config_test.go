package config

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func hostname() (string, error) { return "host-1", nil }

// load reads settings with the YAML text, if any, in a file.
func load(t *testing.T, yaml string, args, env []string) (*Config, error) {
	t.Helper()
	if yaml != "" {
		file := filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config", file}, args...)
	}
	return Load(args, env, hostname, &bytes.Buffer{})
}

func mustLoad(t *testing.T, yaml string, args, env []string) *Config {
	t.Helper()
	c, err := load(t, yaml, args, env)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaultsAreOneNodeOnLoopback(t *testing.T) {
	c := mustLoad(t, "", nil, []string{"PATH=/bin", "FLOTILLA_SERVICE_HOST=10.0.0.1", "FLOTILLA_PORT_1883_TCP=x"})
	if c.Node != "host-1" || c.Data != "./data" || c.Expect != 1 || c.Partitions != 16 || len(c.Join) != 0 {
		t.Errorf("unexpected defaults: %+v", c)
	}
	want := Listener{Name: "mqtt-addr", Type: "tcp", Addr: "localhost:1883", AllowAnonymous: true, CertUsername: CertOff, Limits: Default().Limits}
	if len(c.Listeners) != 1 || !reflect.DeepEqual(c.Listeners[0], want) {
		t.Errorf("listeners %+v, want %+v", c.Listeners, want)
	}
	if len(c.UnknownEnv) != 0 {
		t.Errorf("variables of the orchestrator were taken for settings: %q", c.UnknownEnv)
	}
}

func TestPrecedence(t *testing.T) {
	file := "mqtt-addr: localhost:1\npeer-addr: localhost:2\nhttp-addr: localhost:3\n"
	env := []string{"FLOTILLA_MQTT_ADDR=localhost:4", "FLOTILLA_PEER_ADDR=localhost:5"}
	c := mustLoad(t, file, []string{"--mqtt-addr", "localhost:6"}, env)
	if c.MQTTAddr != "localhost:6" || c.PeerAddr != "localhost:5" || c.HTTPAddr != "localhost:3" {
		t.Errorf("got %s (want the flag's 6), %s (the variable's 5), %s (the file's 3)", c.MQTTAddr, c.PeerAddr, c.HTTPAddr)
	}
}

func TestConfigFileFromEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte("node: from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, "", nil, []string{"FLOTILLA_CONFIG=" + file})
	if c.Node != "from-file" {
		t.Errorf("node is %q", c.Node)
	}
	_, err := load(t, "", nil, []string{"FLOTILLA_CONFIG=" + file + ".none"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestSameNamesEverywhere sets every setting by flag, variable and file and
// expects the same outcome.
func TestSameNamesEverywhere(t *testing.T) {
	values := map[string]string{
		"node": "n7", "data": "/d", "mqtt-addr": "127.0.0.1:10", "peer-addr": "127.0.0.1:11",
		"gossip-addr": "127.0.0.1:12", "http-addr": "127.0.0.1:13", "peer-cert": "/pc", "peer-key": "/pk", "peer-ca": "/pa", "gossip-key-file": "/gk",
		"admin-addr": "unix:/s", "admin-cert": "/ac", "admin-key": "/ak", "admin-ca": "/aa", "advertise": "h7", "join": "a:1,b,_g._tcp.c,[fd00::1]:2",
		"expect": "3", "partitions": "4", "log-level": "debug", "log-format": "json", "allow-anonymous": "true",
		"memory-limit": "2GiB", "disk-reserve": "1GiB", "max-connections": "77", "max-packet-size": "2MiB",
		"receive-maximum": "9", "topic-alias-maximum": "8", "connect-timeout": "3s", "max-keep-alive": "1m0s",
		"queue-max-messages": "5", "queue-max-bytes": "6KiB", "queue-full": "refuse", "max-inflight": "7",
		"max-inflight-bytes": "1MiB", "max-subscriptions": "12", "max-session-expiry": "1h0m0s",
		"heartbeat-timeout": "300ms",
		"tls-addr":          "127.0.0.1:14", "ws-addr": "127.0.0.1:15", "wss-addr": "127.0.0.1:16", "cert": "c", "key": "k", "client-ca": "a",
		"client-cert": "optional", "tls-min-version": "1.3", "ws-path": "/x", "ws-origins": "https://a,https://b",
		"proxy-protocol": "10.0.0.0/8,192.0.2.7/32", "election-timeout": "400ms", "leader-lease": "200ms", "ownership-time": "6s",
		"zone": "z1", "replace-after": "1h0m0s", "drain-time": "3s",
		"password-file": "/p", "acl-file": "/a", "cert-username": "cn", "password-hashes": "2", "refused-publish": "close",
		"max-qos": "1", "retain-available": "false", "wildcard-available": "false", "subscription-id-available": "false",
		"shared-available": "false", "max-topic-levels": "9", "check-payload-format": "true", "response-information": "r/%c",
		"server-reference": "other.example.org", "server-moved": "true", "overlapping": "copy-each", "sys-interval": "7s",
	}
	var args, env []string
	var file strings.Builder
	for name, v := range values {
		args = append(args, "--"+name+"="+v)
		env = append(env, EnvName(name)+"="+v)
		file.WriteString(name + ": " + v + "\n")
	}
	sources := map[string]*Config{
		"flags": mustLoad(t, "", args, nil), "environment": mustLoad(t, "", nil, env), "file": mustLoad(t, file.String(), nil, nil),
	}
	for _, s := range settings() {
		want, ok := values[s.name]
		if !ok {
			t.Errorf("setting %s is not tested", s.name)
		}
		for source, c := range sources {
			if got := s.get(c); got != want {
				t.Errorf("%s by %s is %q, want %q", s.name, source, got, want)
			}
		}
	}
}

func TestContractNames(t *testing.T) {
	names := []string{"config"}
	for _, s := range settings() {
		names = append(names, s.name)
	}
	for _, want := range []string{"node", "data", "mqtt-addr", "peer-addr", "gossip-addr", "http-addr", "advertise",
		"join", "expect", "partitions", "log-level", "log-format", "config", "allow-anonymous", "password-file", "acl-file"} {
		if !slices.Contains(names, want) {
			t.Errorf("the setting %s is gone: its name is a contract", want)
		}
	}
}

func TestErrorsNameSettingValueSourceAndAllowed(t *testing.T) {
	tests := []struct {
		name         string
		yaml         string
		args, env    []string
		setting      string
		value        string
		source       string // how it starts or ends
		allowedWords string
	}{
		{"flag", "", []string{"--mqtt-addr", "1883"}, nil, "mqtt-addr", "1883", "--mqtt-addr", "HOST:PORT"},
		{"variable", "", nil, []string{"FLOTILLA_MAX_PACKET_SIZE=5XB"}, "max-packet-size", "5XB", "FLOTILLA_MAX_PACKET_SIZE", "1KiB to 64MiB"},
		{"file", "node: n1\nlog-level: loud\n", nil, nil, "log-level", "loud", "node.yaml:2", "debug, info"},
		{"too large", "", []string{"--receive-maximum=65536"}, nil, "receive-maximum", "65536", "--receive-maximum", "1 to 65535"},
		{"too small", "", []string{"--partitions=0"}, nil, "partitions", "0", "--partitions", "1 to 1024"},
		{"port", "", []string{"--http-addr=localhost:65536"}, nil, "http-addr", "localhost:65536", "--http-addr", "port"},
		{"join at no port", "join: [a:1, 'b:0']\n", nil, nil, "join", "a:1,b:0", "node.yaml:1", "HOST:PORT"},
		{"SRV name with a port", "", []string{"--join=_gossip._tcp.b:1"}, nil, "join", "_gossip._tcp.b:1", "--join", "_gossip._tcp"},
		{"name", "", []string{"--node=a#b"}, nil, "node", "a#b", "--node", "letters"},
		{"advertise with port", "", []string{"--advertise=h:1"}, nil, "advertise", "h:1", "--advertise", "without a port"},
		{"certificate without key", "", []string{"--peer-cert=c", "--peer-ca=a"}, nil, "peer-ca", "a", "--peer-ca", "peer-key with it"},
		{"admin API for all", "", []string{"--admin-addr=0.0.0.0:7403"}, nil, "admin-addr", "0.0.0.0:7403", "--admin-addr", "admin-cert"},
		{"admin socket without a name", "", []string{"--admin-addr=unix:"}, nil, "admin-addr", "unix:", "--admin-addr", "unix:PATH"},
		{"bool", "", nil, []string{"FLOTILLA_ALLOW_ANONYMOUS=yes"}, "allow-anonymous", "yes", "FLOTILLA_ALLOW_ANONYMOUS", "true or false"},
		{"duration", "", []string{"--connect-timeout=10"}, nil, "connect-timeout", "10", "--connect-timeout", "duration"},
		{"fraction of a second", "", []string{"--max-keep-alive=1500ms"}, nil, "max-keep-alive", "1.5s", "--max-keep-alive", "whole seconds"},
		{"lease above heartbeat", "", []string{"--leader-lease=900ms"}, nil, "leader-lease", "900ms", "--leader-lease", "at most heartbeat-timeout (800ms)"},
		{"a default that no longer fits", "", []string{"--heartbeat-timeout=2s", "--election-timeout=2s"}, nil, "ownership-time", "8s", "the default", "at least 16s"},
		{"nobody founds", "", []string{"--expect=0"}, nil, "expect", "0", "--expect", "at least 1"},
		{"same address twice", "", []string{"--http-addr=localhost:7400"}, nil, "http-addr", "localhost:7400", "--http-addr", "peer-addr"},
		{"nobody can log in", "", []string{"--mqtt-addr=0.0.0.0:1883"}, nil, "mqtt-addr", "0.0.0.0:1883", "--mqtt-addr", "--allow-anonymous=true"},
		{"nobody can log in on loopback", "", []string{"--allow-anonymous=false"}, nil, "mqtt-addr", "localhost:1883", "the default", "--allow-anonymous=true"},
		{"key twice", "node: a\nnode: b\n", nil, nil, "node", "b", "node.yaml:2", "once"},
		{"listener without addr", "listeners:\n  - type: tcp\n", nil, nil, "listeners[0].addr", "", "node.yaml:2", "HOST:PORT"},
		{"listener type", "listeners:\n  - {addr: 'localhost:1', type: udp}\n", nil, nil, "listeners[0].type", "udp", "node.yaml:2", "tcp"},
		{"listener nobody can log in to", "listeners:\n  - addr: ':1883'\n", nil, nil, "listeners[0]", ":1883", "node.yaml:2", "--allow-anonymous"},
		{"listener's address", "listeners:\n  - {addr: '1883'}\n", nil, nil, "listeners[0].addr", "1883", "node.yaml:2", "HOST:PORT"},
		{"socket's address", "listeners:\n  - {type: unix, addr: ''}\n", nil, nil, "listeners[0].addr", "", "node.yaml:2", "path"},
		{"TLS without certificate", "", []string{"--tls-addr=localhost:8883", "--key=k"}, nil, "tls-addr", "localhost:8883", "--tls-addr", "cert"},
		{"listener without certificate", "listeners:\n  - {type: wss, addr: 'localhost:1'}\n", nil, nil, "listeners[0]", "localhost:1", "node.yaml:2", "cert"},
		{"certificate of a plain listener", "listeners:\n  - {addr: 'localhost:1', cert: c}\n", nil, nil, "listeners[0].cert", "c", "node.yaml:2", "tls, wss only"},
		{"proxy of a socket", "listeners:\n  - {type: unix, addr: s, proxy-protocol: 127.0.0.1}\n", nil, nil, "listeners[0].proxy-protocol", "127.0.0.1", "node.yaml:2", "wss only"},
		{"network", "", []string{"--proxy-protocol=10.0.0.0/33"}, nil, "proxy-protocol", "10.0.0.0/33", "--proxy-protocol", "10.0.0.0/8"},
		{"path of WebSockets", "", []string{"--ws-path=mqtt"}, nil, "ws-path", "mqtt", "--ws-path", "begins with /"},
		{"origin", "ws-origins: [https://a/b]\n", nil, nil, "ws-origins", "https://a/b", "node.yaml:1", "https://plant.example"},
		{"version of TLS", "", []string{"--tls-min-version=1.1"}, nil, "tls-min-version", "1.1", "--tls-min-version", "1.2, 1.3"},
		{"one address for two listeners", "", []string{"--ws-addr=localhost:1883"}, nil, "ws-addr", "localhost:1883", "--ws-addr", "mqtt-addr"},
		{"listeners not a list", "listeners: 5\n", nil, nil, "listeners", "5", "node.yaml:1", "list"},
		{"value is a mapping", "node: {a: b}\n", nil, nil, "node", "!!map", "node.yaml:1", "plain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.yaml, tt.args, tt.env)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an *Error", err)
			}
			if e.Setting != tt.setting || e.Value != tt.value || !strings.HasSuffix(e.Source, tt.source) || !strings.Contains(e.Allowed, tt.allowedWords) {
				t.Errorf("got %+v, want setting %s, value %q, source %s, allowed %q", e, tt.setting, tt.value, tt.source, tt.allowedWords)
			}
			for _, part := range []string{tt.setting, tt.value, tt.source, tt.allowedWords} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the message does not say %q: %v", part, err)
				}
			}
		})
	}
}

func TestUnknownKeysAreErrors(t *testing.T) {
	for _, yaml := range []string{"mqtt-adr: localhost:1\n", "listeners:\n  - {addr: 'localhost:1', colour: red}\n"} {
		_, err := load(t, yaml, nil, nil)
		var e *UnknownKeyError
		if !errors.As(err, &e) || !strings.Contains(e.Error(), "addr") {
			t.Errorf("%q: got %v, want an *UnknownKeyError that lists what is known", yaml, err)
		}
	}
	c := mustLoad(t, "", nil, []string{"FLOTILLA_MQTT_ADR=localhost:1"})
	if !slices.Equal(c.UnknownEnv, []string{"FLOTILLA_MQTT_ADR"}) {
		t.Errorf("unknown variables: %q", c.UnknownEnv)
	}
}

func TestListenersHaveLimitsOfTheirOwn(t *testing.T) {
	const file = `
max-packet-size: 2MiB
listeners:
  - addr: 127.0.0.1:1883
  - addr: 0.0.0.0:1884
    allow-anonymous: true
    max-packet-size: 64KiB
    max-connections: 10
`
	c := mustLoad(t, file, nil, nil)
	if len(c.Listeners) != 2 {
		t.Fatalf("listeners %+v: the default one must give way to the list", c.Listeners)
	}
	a, b := c.Listeners[0], c.Listeners[1]
	if a.Limits.MaxPacketSize != 2<<20 || !a.AllowAnonymous || a.Name != "listeners[0]" {
		t.Errorf("first listener %+v", a)
	}
	if b.Limits.MaxPacketSize != 64<<10 || b.Limits.MaxConnections != 10 || !b.AllowAnonymous || b.Limits.ReceiveMaximum != 1024 {
		t.Errorf("second listener %+v", b)
	}
	c = mustLoad(t, file, []string{"--mqtt-addr=localhost:9"}, nil)
	if len(c.Listeners) != 3 || c.Listeners[0].Addr != "localhost:9" {
		t.Errorf("with --mqtt-addr as well: %+v", c.Listeners)
	}
}

// TestListenersOfAllTypes: each has of the transport's settings what it uses, its own or
// those for all.
func TestListenersOfAllTypes(t *testing.T) {
	const file = `
cert: c
key: k
client-ca: a
proxy-protocol: [10.0.0.0/8]
listeners:
  - addr: 127.0.0.1:1
  - {type: tls, addr: '127.0.0.1:2', key: k2, client-ca: '', tls-min-version: 1.3}
  - {type: ws, addr: '127.0.0.1:3', ws-path: /other, proxy-protocol: '::1'}
  - {type: wss, addr: '0.0.0.0:4', client-cert: optional, ws-origins: [https://a], cert-username: cn}
  - {type: unix, addr: /run/mqtt.sock}
`
	c := mustLoad(t, file, []string{"--wss-addr=127.0.0.1:5"}, nil)
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	tcp := Transport{Proxies: proxies}
	wss := Transport{Cert: "c", Key: "k", ClientCA: "a", ClientCert: CertRequired, TLSMin: TLS12, WSPath: "/mqtt", Proxies: proxies}
	optional := wss
	optional.ClientCert, optional.WSOrigins = CertOptional, []string{"https://a"}
	want := []Listener{
		{Name: "wss-addr", Type: TypeWSS, Addr: "127.0.0.1:5", Transport: wss},
		{Name: "listeners[0]", Type: TypeTCP, Addr: "127.0.0.1:1", Transport: tcp},
		{Name: "listeners[1]", Type: TypeTLS, Addr: "127.0.0.1:2", Transport: Transport{Cert: "c", Key: "k2", ClientCert: CertRequired, TLSMin: TLS13, Proxies: proxies}},
		{Name: "listeners[2]", Type: TypeWS, Addr: "127.0.0.1:3", Transport: Transport{WSPath: "/other", Proxies: []netip.Prefix{netip.MustParsePrefix("::1/128")}}},
		{Name: "listeners[3]", Type: TypeWSS, Addr: "0.0.0.0:4", Transport: optional}, // those with certificates can log in
		{Name: "listeners[4]", Type: TypeUnix, Addr: "/run/mqtt.sock"},
	}
	for i, got := range c.Listeners {
		if anonymous := i != 4; got.AllowAnonymous != anonymous {
			t.Errorf("listener %d lets anonymous clients in: %v", i, got.AllowAnonymous)
		}
		got.AllowAnonymous, got.CertUsername, got.Limits = false, "", Limits{}
		if i >= len(want) || !reflect.DeepEqual(got, want[i]) {
			t.Errorf("listener %d is %+v", i, got)
		}
	}
	if len(c.Listeners) != len(want) {
		t.Errorf("%d listeners", len(c.Listeners))
	}
}

func TestExpect(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
	}{
		{nil, 1},
		{[]string{"--join=a:1"}, 0},
		{[]string{"--join=a:1", "--expect=3"}, 3},
		{[]string{"--expect=3"}, 3},
	} {
		if c := mustLoad(t, "", tt.args, nil); c.Expect != tt.want {
			t.Errorf("%q: expect %d, want %d", tt.args, c.Expect, tt.want)
		}
	}
}

func TestHelpListsEverySetting(t *testing.T) {
	var out bytes.Buffer
	_, err := Load([]string{"--help"}, nil, hostname, &out)
	if !errors.Is(err, pflag.ErrHelp) {
		t.Fatalf("got %v", err)
	}
	for _, s := range settings() {
		if !strings.Contains(out.String(), "--"+s.name+" ") && !strings.Contains(out.String(), "--"+s.name+"[") {
			t.Errorf("--%s is missing in:\n%s", s.name, out.String())
		}
	}
}

func TestHostNameThatIsNoNodeName(t *testing.T) {
	_, err := Load(nil, nil, func() (string, error) { return "", errors.New("none") }, &bytes.Buffer{})
	if err == nil {
		t.Error("a host without a name was accepted")
	}
	_, err = Load(nil, nil, func() (string, error) { return "bad name", nil }, &bytes.Buffer{})
	var e *Error
	if !errors.As(err, &e) || e.Setting != "node" {
		t.Errorf("got %v", err)
	}
}

func TestAdvertiseHost(t *testing.T) {
	none := func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}, nil
	}
	one := func() ([]net.Addr, error) {
		list, _ := none()
		return append(list, &net.IPNet{IP: net.IPv4(10, 1, 2, 3), Mask: net.CIDRMask(8, 32)}), nil
	}
	for _, tt := range []struct {
		peer, advertise string
		addrs           func() ([]net.Addr, error)
		want            string
		ok              bool
	}{
		{"10.0.0.1:7400", "", none, "10.0.0.1", true},
		{"0.0.0.0:7400", "", one, "10.1.2.3", true},
		{":7400", "", one, "10.1.2.3", true},
		{"[::]:7400", "broker.example", none, "broker.example", true},
		{"[::]:7400", "", none, "", false},
	} {
		c := Config{PeerAddr: tt.peer, Advertise: tt.advertise}
		got, err := c.AdvertiseHost(tt.addrs)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%+v: got %q, %v", tt, got, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Size
		ok   bool
	}{
		{"0", 0, true}, {"512", 512, true}, {"512B", 512, true}, {"16MiB", 16 << 20, true}, {"16 MiB", 16 << 20, true},
		{"1.5KiB", 1536, true}, {"2GB", 2_000_000_000, true}, {"1kB", 1000, true},
		{"", 0, false}, {"MiB", 0, false}, {"-1", 0, false}, {"-1.5KiB", 0, false}, {"16mib", 0, false}, {"NaN", 0, false},
		{"9223372036854775807", 1<<63 - 1, true}, {"9223372036854775807KiB", 0, false}, {"1e30", 0, false},
	} {
		got, err := ParseSize(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseSize(%q) = %d, %v", tt.in, got, err)
		}
		if err == nil {
			if back, err := ParseSize(got.String()); back != got || err != nil {
				t.Errorf("%d prints as %s, which reads as %d, %v", got, got, back, err)
			}
		}
	}
}

func TestDefaultsPassTheirOwnRules(t *testing.T) {
	c := Default()
	for _, s := range settings() {
		if v := s.get(&c); v != "" {
			if err := s.set(&c, v); err != nil && s.name != "expect" {
				t.Errorf("the default of %s, %q, is not allowed: %v", s.name, v, err)
			}
		}
	}
	if c.Timing.Ownership != 8*time.Second {
		t.Errorf("ownership time %v", c.Timing.Ownership)
	}
}

// TestAnonymousByDefault: as soon as clients can have names, those without need leave.
func TestAnonymousByDefault(t *testing.T) {
	certs := []string{"--cert=c", "--key=k", "--client-ca=a"}
	for _, c := range []struct {
		name string
		args []string
		want bool
	}{
		{"nothing set", nil, true},
		{"passwords", []string{"--password-file=f"}, false},
		{"passwords, and leave", []string{"--password-file=f", "--allow-anonymous"}, true},
		{"passwords beyond loopback", []string{"--password-file=f", "--mqtt-addr=0.0.0.0:1883"}, false},
		{"rules only", []string{"--acl-file=f"}, true},
		{"certificates that name nobody", append([]string{"--tls-addr=localhost:8883"}, certs...), true},
		{"certificates that name users", append([]string{"--tls-addr=localhost:8883", "--cert-username=cn"}, certs...), false},
		{"the same beyond loopback", append([]string{"--tls-addr=0.0.0.0:8883", "--cert-username=subject"}, certs...), false},
	} {
		l := mustLoad(t, "", c.args, nil).Listeners
		if got := l[len(l)-1].AllowAnonymous; got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
