package test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// TestManifestsRun starts the nodes of each variant of deploy/k8s as processes,
// told what the manifests tell pods: the settings file, variables, Secrets. Only
// addresses, and the folders of files, are those of this machine.
func TestManifestsRun(t *testing.T) {
	for _, folder := range []string{".", "overlays/single", "overlays/production"} {
		t.Run(folder, func(t *testing.T) {
			m := kustomized(t, folder)
			root := t.TempDir()
			secrets(t, m, filepath.Join(root, "etc/flotilla"))
			pods := start(t, m, root)
			for _, p := range pods {
				p.untilReady(t)
			}
			last := pods[len(pods)-1]
			if addr, ok := last.addrs["tls-addr"]; ok {
				handshake(t, filepath.Join(root, "etc/flotilla"), addr)
			}
			args := []string{"bench", "--addr", pods[0].addrs["mqtt-addr"] + "," + last.addrs["mqtt-addr"], "--qos", "2", "--count", "20"}
			_, anonymous := m.settings(t)["allow-anonymous"]
			if !anonymous {
				args = append(args, "--username", "alice", "--password-file", filepath.Join(root, "etc/flotilla/users/password"))
			}
			if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil {
				t.Errorf("bench: %v\n%s", err, out)
			}
			if !anonymous {
				if out, err := exec.Command(binary, args[:len(args)-4]...).CombinedOutput(); err == nil {
					t.Errorf("everybody is let in\n%s", out)
				}
			}
		})
	}
}

// pod is a process told what a pod is told.
type pod struct {
	name  string
	addrs map[string]string // by setting
	out   *bytes.Buffer     // read only after ended is closed
	ended chan struct{}
}

func start(t *testing.T, m *manifests, root string) []*pod {
	t.Helper()
	s, _ := m.set(t)
	var pods []*pod
	var join []string
	for i := range *s.Spec.Replicas {
		p := &pod{name: fmt.Sprintf("%s-%d", s.Name, i), addrs: map[string]string{}, out: &bytes.Buffer{}, ended: make(chan struct{})}
		for name := range m.settings(t) {
			if strings.HasSuffix(name, "-addr") {
				p.addrs[name] = freeAddr(t)
			}
		}
		join = append(join, p.addrs["gossip-addr"])
		pods = append(pods, p)
	}
	for _, p := range pods {
		settings := m.settings(t)
		for name, value := range settings {
			if file, ok := value.(string); ok && strings.HasPrefix(file, "/etc/") {
				settings[name] = root + file
			}
		}
		for name, addr := range p.addrs {
			settings[name] = addr
		}
		settings["node"], settings["data"], settings["advertise"], settings["join"] = p.name, filepath.Join(root, p.name), "127.0.0.1", strings.Join(join, ",")
		settings["admin-addr"] = "127.0.0.1:0" // all pods are on one machine here
		data, err := yaml.Marshal(settings)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(root, p.name+".yaml")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		p.run(t, file)
	}
	return pods
}

func (p *pod) run(t *testing.T, config string) {
	t.Helper()
	cmd := exec.Command(binary, "serve", "--config", config, "--admin-addr", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var err error // owned by the goroutine until ended is closed
	go func() {
		defer close(p.ended)
		err = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended, which err tells
		<-p.ended
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, p.out)
		}
	})
}

// untilReady asks as kubelet does.
func (p *pod) untilReady(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addrs["http-addr"]+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-p.ended:
			t.Fatalf("%s ended by itself", p.name)
		case <-ctx.Done():
			t.Fatalf("%s was never ready", p.name)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// secrets writes what the Secrets hold: users and gossip keys as docs/kubernetes.md
// makes them, certificates as cert-manager does.
func secrets(t *testing.T, m *manifests, dir string) {
	t.Helper()
	for _, folder := range []string{"users", "gossip", "tls", "peer"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "users/password"), []byte("secret\n"))
	passwd := exec.Command(binary, "passwd", filepath.Join(dir, "users/passwords"), "alice")
	passwd.Stdin = strings.NewReader("secret\n")
	if out, err := passwd.CombinedOutput(); err != nil {
		t.Fatalf("passwd: %v\n%s", err, out)
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "gossip/keys"), []byte(base64.StdEncoding.EncodeToString(key)+"\n"))
	for _, c := range m.certificates {
		folder, ok := strings.CutPrefix(c.Spec.SecretName, "flotilla-")
		if !ok || c.Spec.IsCA {
			continue
		}
		template := &x509.Certificate{DNSNames: c.Spec.DNSNames, KeyUsage: x509.KeyUsageDigitalSignature}
		for _, use := range c.Spec.Usages {
			switch use {
			case "server auth":
				template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
			case "client auth":
				template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
			}
		}
		issue(t, filepath.Join(dir, folder), template)
	}
}

// issue writes a certificate with its key and a new authority.
func issue(t *testing.T, dir string, template *x509.Certificate) {
	t.Helper()
	authority := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var keys [2]*ecdsa.PrivateKey
	for i, c := range []*x509.Certificate{authority, template} {
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(int64(i+1)), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	for file, c := range map[string]*x509.Certificate{"ca.crt": authority, "tls.crt": template} {
		key := keys[0]
		if c == template {
			key = keys[1]
		}
		der, err := x509.CreateCertificate(rand.Reader, c, authority, key.Public(), keys[0])
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// handshake: clients find the certificate of the Service's name.
func handshake(t *testing.T, dir, addr string) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(dir, "tls/ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Minute}, Config: &tls.Config{RootCAs: roots, ServerName: "flotilla.flotilla.svc"}}
	conn, err := dialer.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	conn.Close()
}
