package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/cluster/transport/mtls"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// authority signs certificates for node names.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key, a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
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

// files writes a certificate for the name, and the authorities that its node trusts.
func (a *authority) files(dir, name string, trusts ...*authority) mtls.Files {
	a.t.Helper()
	key, cert := a.sign(&x509.Certificate{
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	f := mtls.Files{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	var ca []byte
	for _, t := range trusts {
		ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.cert.Raw})...)
	}
	for name, b := range map[string][]byte{
		f.Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		f.Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), f.CA: ca,
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return f
}

func secured(t *testing.T, name string, f mtls.Files) *mtls.Credentials {
	t.Helper()
	c, err := mtls.New(name, f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// node-2 reaches node-1 only with a certificate of its authority that is valid and
// names it, and node-1 counts which check failed. A node would not start with another's
// certificate, so its credentials are made under that name here. Package mtls tests what
// an expired one comes to.
func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	for _, tc := range []struct {
		what     string
		by       *authority
		certName string
		plain    bool
		refused  string // by node-1; "": the link comes up
	}{
		{what: "good", by: ours, certName: "node-2"},
		{what: "another authority", by: theirs, certName: "node-2", refused: "certificate_authority"},
		{what: "another name", by: ours, certName: "node-3", refused: "certificate_name"},
		{what: "no TLS", by: ours, plain: true, refused: "not_encrypted"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			n1 := secured(t, "node-1", ours.files(t.TempDir(), "node-1", ours))
			c, a, b, recs := pair(t, func(name string, o *transport.Options) {
				o.Logger = nil
				if name == "node-1" {
					o.Credentials = n1
				} else if !tc.plain {
					o.Credentials = secured(t, tc.certName, tc.by.files(t.TempDir(), tc.certName, ours, theirs))
				}
			})
			defer c.close()
			b.tr.Connect("node-1")
			if tc.refused == "" {
				a.tr.Connect("node-2")
				eventually(t, 20*time.Second, "links", func() bool {
					there, _ := recs["node-1"].link("node-2")
					back, _ := recs["node-2"].link("node-1")
					return there && back
				})
				eventually(t, 20*time.Second, "a frame", func() bool {
					a.tr.Send("node-2", frame(1))
					return b.tr.Stats().FramesReceived > 0
				})
				return
			}
			eventually(t, 20*time.Second, "refusals for "+tc.refused, func() bool { return n1.Refused()[tc.refused] >= 3 })
			if _, n := recs["node-2"].link("node-1"); n != 0 {
				t.Error("the link came up")
			}
		})
	}
}

// A unary call is answered to a node that its certificate names, and to no other.
func TestCallsAreChecked(t *testing.T) {
	ours := newAuthority(t)
	var addr string // of node-1
	start := func(name, certName string) *transport.Transport {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if name == "node-1" {
			addr = l.Addr().String()
		}
		tr, err := transport.New(transport.Options{
			Hello:       func() *peerpb.Hello { return &peerpb.Hello{Node: name} },
			Listener:    l,
			Resolve:     func(string) (string, bool) { return addr, true },
			Credentials: secured(t, certName, ours.files(t.TempDir(), certName, ours)),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tr.Close)
		return tr
	}
	server := start("node-1", "node-1")
	peerpb.RegisterAdminServer(server.Registrar(), peerpb.UnimplementedAdminServer{})
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for certName, want := range map[string]codes.Code{"node-2": codes.Unimplemented, "node-3": codes.PermissionDenied} {
		conn, err := start("node-2", certName).Conn("node-1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := peerpb.NewAdminClient(conn).Kick(t.Context(), &peerpb.ConnectionRequest{}); status.Code(err) != want {
			t.Errorf("with a certificate for %s: %v", certName, err)
		}
	}
}

// Authorities, certificates and keys of all nodes are replaced, one node after the
// other, while a group commits: nothing is lost, nobody is refused.
func TestRotationUnderTraffic(t *testing.T) {
	defer noLeaks(t)()
	older, newer := newAuthority(t), newAuthority(t)
	c := newCluster(t, 3)
	dirs, creds := map[string]string{}, map[string]*mtls.Credentials{}
	for _, name := range c.names {
		dirs[name] = t.TempDir()
		creds[name] = secured(t, name, older.files(dirs[name], name, older))
	}
	c.opts = func(o *transport.Options) { o.Credentials = creds[o.Hello().Node] }
	for _, name := range c.names {
		c.startNode(name)
	}
	defer c.close()
	c.startGroup(1)
	n := 0
	traffic := func() {
		for range 20 {
			n++
			c.apply(1, fmt.Sprint(n))
		}
	}
	traffic()
	for _, step := range []struct {
		by     *authority
		trusts []*authority
	}{
		{older, []*authority{older, newer}},
		{newer, []*authority{older, newer}},
		{newer, []*authority{newer}},
	} {
		for _, name := range c.names {
			step.by.files(dirs[name], name, step.trusts...)
			if changed, err := creds[name].Reload(); err != nil || !changed {
				t.Fatal(changed, err)
			}
			traffic()
		}
	}
	c.sameLogs(1, fmt.Sprint(n))
	for name, cr := range creds {
		for reason, n := range cr.Refused() {
			if n > 0 {
				t.Errorf("%s refused %d for %s", name, n, reason)
			}
		}
	}
}
