package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/flotilla-mqtt/flotilla/proof/pki"
)

// secured makes files for TLS listeners and returns flags for them. The certificate ends
// after a time.
func secured(t *testing.T, ca *pki.Authority, dir, name string, lasts time.Duration) (flags []string) {
	t.Helper()
	file := func(name string) string { return filepath.Join(dir, name) }
	ca.WriteCA(file("ca.pem"))
	pki.Write(t, ca.Issue(name, time.Now().Add(lasts)), file("cert.pem"), file("key.pem"))
	return []string{"--cert", file("cert.pem"), "--key", file("key.pem")}
}

// TestPahoTransports: over every transport, messages go both ways. While connections are
// open the certificate and the authorities of clients are replaced.
func TestPahoTransports(t *testing.T) {
	t.Parallel()
	dir, ca, devices := t.TempDir(), pki.New(t, "ca"), pki.New(t, "devices")
	flags := secured(t, ca, dir, "first", time.Hour)
	clientCA, socket, config := filepath.Join(dir, "clients.pem"), filepath.Join(dir, "s"), filepath.Join(dir, "node.yaml")
	devices.WriteCA(clientCA)
	yaml := fmt.Sprintf("listeners:\n  - {type: unix, addr: %q}\n", socket)
	if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	c := StartCluster(t, 1, append(flags, "--config", config, "--client-ca", clientCA)...)
	n := c.Nodes[0]
	device := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{devices.Issue("device-7", time.Now().Add(time.Hour))}}
	dial := func(url string) (mqtt.Client, error) {
		o := mqtt.NewClientOptions().SetClientID(url).SetProtocolVersion(4).AddBroker(url).SetTLSConfig(device).
			SetAutoReconnect(false).SetConnectTimeout(patience)
		k := mqtt.NewClient(o)
		token := k.Connect()
		if !token.WaitTimeout(patience) {
			t.Fatalf("%s: no answer", url)
		}
		return k, token.Error()
	}
	urls := []string{"tcp://" + n.MQTT, "ssl://" + n.TLS, "ws://" + n.WS + "/mqtt", "wss://" + n.WSS + "/mqtt", "unix://" + socket}
	var clients []mqtt.Client
	var boxes []*bag
	for _, url := range urls {
		k, err := dial(url)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		box := newBag()
		finished(t, "subscribe", k.Subscribe("all", 1, func(_ mqtt.Client, m mqtt.Message) { box.put(string(m.Payload())) }))
		clients, boxes = append(clients, k), append(boxes, box)
	}
	round := func(name string) {
		t.Helper()
		for i, k := range clients {
			finished(t, "publish", k.Publish("all", 1, false, fmt.Sprint(name, i)))
		}
		for i, box := range boxes {
			want := func(got []string) bool {
				return len(slices.DeleteFunc(got, func(s string) bool { return !strings.HasPrefix(s, name) })) == len(urls)
			}
			if got := box.await(t, want); !clients[i].IsConnectionOpen() {
				t.Errorf("%s: the connection ended after %v", urls[i], got)
			}
		}
	}
	round("before")
	if _, err := tls.Dial("tcp", n.TLS, &tls.Config{RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}

	// New files, while all are connected: the devices' authority is no longer trusted.
	expiry := `flotilla_certificate_expiry_timestamp_seconds{use="tls-addr"}`
	old := n.counted(expiry)
	secured(t, ca, dir, "second", 48*time.Hour)
	others := pki.New(t, "others")
	others.WriteCA(clientCA)
	for n.counted(expiry) == old {
		time.Sleep(50 * time.Millisecond) // polling
	}
	if _, err := dial("ssl://" + n.TLS); err == nil {
		t.Error("a client of the old authority got in")
	}
	round("after")
	device.Certificates = []tls.Certificate{others.Issue("device-8", time.Now().Add(time.Hour))}
	if k, err := dial("wss://" + n.WSS + "/mqtt"); err != nil {
		t.Error(err)
	} else {
		k.Disconnect(0)
		clients = slices.Delete(clients, 3, 4) // it had the same client identifier
		boxes = slices.Delete(boxes, 3, 4)
		urls = slices.Delete(urls, 3, 4)
	}

	// Files that are no good, at once by SIGHUP: what was there stays.
	failed := n.counted("flotilla_reloads_failed_total")
	if err := os.WriteFile(clientCA, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.signal(syscall.SIGHUP)
	for n.counted("flotilla_reloads_failed_total") == failed {
		time.Sleep(50 * time.Millisecond) // polling
	}
	if k, err := dial("wss://" + n.WSS + "/mqtt"); err != nil {
		t.Error(err)
	} else {
		k.Disconnect(0)
	}
	round("at last")

	// A socket that a killed process left behind is replaced.
	n.Kill9()
	if info, err := os.Stat(socket); err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Fatalf("the socket is gone: %v", err)
	}
	pki.Write(t, ca.Issue("third", time.Now().Add(time.Hour)), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	others.WriteCA(clientCA)
	c.Repair()
	if k, err := dial("unix://" + socket); err != nil {
		t.Error(err)
	} else {
		k.Disconnect(0)
	}
}

// TestMosquittoTransports: Mosquitto's clients over TLS, with a certificate that is their
// user name, and over a Unix socket.
func TestMosquittoTransports(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir, ca := t.TempDir(), pki.New(t, "ca")
	flags := secured(t, ca, dir, "server", time.Hour)
	file := func(name string) string { return filepath.Join(dir, name) }
	pki.Write(t, ca.Issue("device-7", time.Now().Add(time.Hour)), file("device.pem"), file("device.key"))
	yaml := fmt.Sprintf("listeners:\n  - {type: unix, addr: %q}\n", file("s"))
	rules := "allow user device-7 both devices/%u/#\nallow anonymous subscribe devices/#\n"
	for name, text := range map[string]string{"node.yaml": yaml, "rules": rules} {
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := StartCluster(t, 1, append(flags, "--config", file("node.yaml"), "--client-ca", file("ca.pem"), "--cert-username", "cn",
		"--acl-file", file("rules"), "--allow-anonymous")...)
	host, port, err := net.SplitHostPort(c.Nodes[0].TLS)
	if err != nil {
		t.Fatal(err)
	}
	secure := []string{"-h", host, "-p", port, "--cafile", file("ca.pem"), "--cert", file("device.pem"), "--key", file("device.key")}
	run := func(tool string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := run("mosquitto_pub", append(secure, "-V", "5", "-q", "1", "-r", "-t", "devices/device-7/state", "-m", "up")...); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run("mosquitto_pub", append(secure, "-V", "5", "-q", "1", "-r", "-t", "devices/device-8/state", "-m", "up")...); err == nil && !strings.Contains(out, "uthori") {
		t.Errorf("a device published for another: %s", out)
	}
	if out, err := run("mosquitto_sub", "--unix", file("s"), "-t", "devices/+/state", "-v", "-C", "1"); err != nil || out != "devices/device-7/state up" {
		t.Errorf("%v: %q", err, out)
	}
	if out, err := run("mosquitto_pub", "-h", host, "-p", port, "--cafile", file("ca.pem"), "-t", "devices/x", "-m", "x"); err == nil {
		t.Errorf("a client without a certificate got in: %s", out)
	}
}

// TestMQTTjs: MQTT.js over TCP, WebSocket and their secure forms, with all versions, on one
// node and across three.
func TestMQTTjs(t *testing.T) {
	t.Parallel()
	js := installMQTTjs(t)
	dir, ca := t.TempDir(), pki.New(t, "ca")
	c := StartCluster(t, 3, secured(t, ca, dir, "server", time.Hour)...)
	a, b := c.Nodes[0], c.Nodes[1]
	for _, urls := range [][]string{
		{"mqtt://" + a.MQTT}, {"ws://" + a.WS + "/mqtt", "ws://" + b.WS + "/mqtt"}, {"mqtts://" + a.TLS, "mqtts://" + b.TLS},
		{"wss://" + a.WSS + "/mqtt", "mqtt://" + b.MQTT},
	} {
		for _, version := range []string{"3", "4", "5"} {
			t.Run(fmt.Sprint(strings.SplitN(urls[0], ":", 2)[0], version), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, "node", append([]string{"client.js", version}, urls...)...)
				cmd.Dir = js
				cmd.Env = append(os.Environ(), "CA_FILE="+filepath.Join(dir, "ca.pem"))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
	}
}

// installMQTTjs installs the versions that the lock file names, with their checksums, in a
// folder of its own.
func installMQTTjs(t *testing.T) (dir string) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/mqttjs")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("MQTT.js cannot be installed: %v: %s", err, out)
	}
	return dir
}
