package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key, a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func (a *authority) sign(template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := a.cert, a.key
	if signer == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

// write makes cert.pem and key.pem for the names and ca.pem of the authorities trusted.
func (a *authority) write(dir string, names []string, trusts ...*authority) {
	a.t.Helper()
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key, cert := a.sign(template)
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	var ca []byte
	for _, t := range trusts {
		ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.cert.Raw})...)
	}
	replace(a.t, filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}))
	replace(a.t, filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	replace(a.t, filepath.Join(dir, "ca.pem"), ca)
}

// replace writes a file at once.
func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func gossipKeys(keys ...byte) []byte {
	var b bytes.Buffer
	for _, k := range keys {
		fmt.Fprintln(&b, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{k}, 32)))
	}
	return b.Bytes()
}

// secureFlags are those of a node with the files of dir.
func secureFlags(dir string) []string {
	return []string{
		"--peer-cert", filepath.Join(dir, "cert.pem"), "--peer-key", filepath.Join(dir, "key.pem"),
		"--peer-ca", filepath.Join(dir, "ca.pem"), "--gossip-key-file", filepath.Join(dir, "gossip.keys"),
	}
}

// log is what the node has logged so far.
func (n *Node) log() string {
	b, err := os.ReadFile(n.logFile())
	if err != nil {
		n.c.t.Fatal(err)
	}
	return string(b)
}

// waitLog waits until the log has a line with all the words, count times.
func (n *Node) waitLog(count int, words ...string) {
	n.c.t.Helper()
	for end := time.Now().Add(patience); ; {
		found := 0
	lines:
		for line := range strings.SplitSeq(n.log(), "\n") {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			found++
		}
		if found >= count {
			return
		}
		if time.Now().After(end) {
			n.c.t.Fatalf("%s logged %d of %d lines with %q", n.Name, found, count, words)
		}
		time.Sleep(20 * time.Millisecond) // polling
	}
}

// TestSecureCluster: three nodes with mutual TLS and encrypted gossip serve, through a
// change of the authority, all certificates and the gossip key. Strangers get nowhere,
// and the nodes say which check failed.
func TestSecureCluster(t *testing.T) {
	t.Parallel()
	older, newer := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	names := []string{"n1", "n2", "n3"} // one certificate may name several nodes
	older.write(dir, names, older)
	replace(t, filepath.Join(dir, "gossip.keys"), gossipKeys(1))
	c := StartCluster(t, 3, secureFlags(dir)...)
	s := begin(t, c)
	sub := s.connect("sub", nil, c.Nodes[:2]...)
	sub.subscribe("t/#", 2)
	pub := s.connect("pub", nil, c.Nodes[1], c.Nodes[0])
	exchange := func(what string) {
		t.Helper()
		for i := range 50 {
			pub.say("t/x", byte(1+i%2), fmt.Sprint(what, i))
		}
		sub.await(what + "49")
	}
	exchange("first")

	for i, step := range []struct {
		by     *authority
		trusts []*authority
		keys   []byte
	}{
		{older, []*authority{older, newer}, gossipKeys(1, 2)},
		{newer, []*authority{older, newer}, gossipKeys(2, 1)},
		{newer, []*authority{newer}, gossipKeys(2)},
	} {
		step.by.write(dir, names, step.trusts...)
		replace(t, filepath.Join(dir, "gossip.keys"), step.keys)
		for _, n := range c.Nodes {
			if i == 1 {
				n.signal(syscall.SIGHUP) // the other times they notice by themselves
			}
			n.waitLog(i+1, "peer certificate replaced")
			n.waitLog(i+1, "gossip keys replaced")
		}
		exchange(fmt.Sprint("step", i, "-"))
	}
	// A node that starts now meets the others with the new files only.
	c.Nodes[2].Kill9()
	c.Nodes[2].Start()
	exchange("restarted")
	if k := c.counted(`flotilla_reloads_failed_total`); k != 0 {
		t.Errorf("%v reloads failed", k)
	}

	for _, n := range c.Nodes { // which ask each other
		var list []operated
		if n.orderJSON(&list, "sessions", "list"); !slices.Equal(clientIDs(list), []string{"pub", "sub"}) {
			t.Errorf("%s lists %q", n.Name, clientIDs(list))
		}
	}

	// Strangers: with a certificate of the old authority, without TLS, with the old gossip
	// key.
	for _, tc := range []struct {
		reason string
		prep   func(dir string)
		plain  bool
	}{
		{"certificate_authority", func(d string) { older.write(d, names, older, newer) }, false},
		{"not_encrypted", nil, true},
		{"gossip_key", func(d string) {
			newer.write(d, names, newer)
			replace(t, filepath.Join(d, "gossip.keys"), gossipKeys(1))
		}, false},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			d := t.TempDir()
			flags := secureFlags(d)
			replace(t, filepath.Join(d, "gossip.keys"), gossipKeys(2))
			if tc.plain {
				flags = []string{"--gossip-key-file", filepath.Join(d, "gossip.keys")}
			} else {
				tc.prep(d)
			}
			c.stranger(t, c.Nodes[2], flags, func() {
				c.Nodes[0].waitLog(1, "check="+tc.reason)
				if c.Nodes[0].counted(fmt.Sprintf("flotilla_peers_refused_total{reason=%q}", tc.reason)) == 0 {
					t.Error("logged and not counted")
				}
			})
		})
	}
	exchange("last")
	s.verdict()
}

// stranger runs a process in the place of a node, with an empty disk and flags of its own,
// until seen returns.
func (c *Cluster) stranger(t *testing.T, n *Node, flags []string, seen func()) {
	t.Helper()
	n.Kill9()
	dir, own := n.dir, c.flags
	n.dir, c.flags = filepath.Join(t.TempDir(), n.Name), flags
	n.start()
	seen()
	if err := n.get(t.Context(), "/readyz", nil); err == nil {
		t.Error("the stranger is ready")
	}
	n.kill()
	n.dir, c.flags = dir, own
	n.Start()
}
