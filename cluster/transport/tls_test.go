package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
)

// authority signs certificates for node names.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	key, cert := a.sign(template, nil)
	a.key, a.cert = key, cert
	a.pool.AddCert(cert)
	return a
}

func (a *authority) sign(template *x509.Certificate, by *authority) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
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

// credentials demands a certificate of this authority from both sides.
func (a *authority) credentials(name string) credentials.TransportCredentials {
	key, cert := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		RootCAs:      a.pool, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13,
	})
}

func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	for _, tc := range []struct {
		name, certName string
		by             *authority
		ok             bool
	}{
		{"good", "node-2", ours, true},
		{"another authority", "node-2", theirs, false},
		{"another name", "node-3", ours, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, a, b, recs := pair(t, func(name string, o *transport.Options) {
				o.Logger = nil
				o.Credentials = ours.credentials("node-1")
				if name == "node-2" {
					o.Credentials = tc.by.credentials(tc.certName)
				}
			})
			defer c.close()
			a.tr.Connect("node-2")
			if tc.ok {
				eventually(t, 5*time.Second, "link", func() bool { up, _ := recs["node-1"].link("node-2"); return up })
				eventually(t, 5*time.Second, "a frame", func() bool {
					a.tr.Send("node-2", frame(1))
					return b.tr.Stats().FramesReceived > 0
				})
				return
			}
			// No event says that a link never comes: this is several attempts.
			time.Sleep(time.Second)
			if _, n := recs["node-1"].link("node-2"); n != 0 {
				t.Error("the link came up")
			}
		})
	}
}
