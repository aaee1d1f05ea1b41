package mtls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files are the PEM files of an Identity: a certificate with those between it and its
// authority, its key, and the authorities that the other side's certificate may be of.
type Files struct{ Cert, Key, CA string }

// List is the names of the files.
func (f Files) List() []string { return []string{f.Cert, f.Key, f.CA} }

// Identity is a certificate and the authorities trusted, read from files.
type Identity struct {
	files Files
	check func(leaf *x509.Certificate, m *material) error // of what was read; may be nil

	mu  sync.Mutex // one Reload at a time
	raw [3][]byte  // mu; what the files said
	now atomic.Pointer[material]
}

// material is what an Identity holds at one time. It is immutable.
type material struct {
	cert tls.Certificate // with its Leaf
	pool *x509.CertPool
}

var errNoAuthority = errors.New("no certificate in it")

// Load reads the files.
func Load(files Files) (*Identity, error) { return load(files, nil) }

func load(files Files, check func(*x509.Certificate, *material) error) (*Identity, error) {
	i := &Identity{files: files, check: check}
	_, err := i.Reload()
	return i, err
}

// Reload reads the files again. If anything is wrong with them all stays as it was.
// changed tells whether they say something new.
func (i *Identity) Reload() (changed bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var raw [3][]byte
	for k, name := range i.files.List() {
		if raw[k], err = os.ReadFile(name); err != nil {
			return false, err
		}
	}
	cert, err := tls.X509KeyPair(raw[0], raw[1])
	if err != nil {
		return false, fmt.Errorf("%s with %s: %w", i.files.Cert, i.files.Key, err)
	}
	m := &material{cert: cert, pool: x509.NewCertPool()}
	if !m.pool.AppendCertsFromPEM(raw[2]) {
		return false, fmt.Errorf("%s: %w", i.files.CA, errNoAuthority)
	}
	if i.check != nil {
		if err := i.check(cert.Leaf, m); err != nil {
			return false, fmt.Errorf("%s: %w", i.files.Cert, err)
		}
	}
	for k := range raw {
		changed = changed || !bytes.Equal(raw[k], i.raw[k])
	}
	i.raw = raw
	i.now.Store(m)
	return changed, nil
}

// NotAfter is when the certificate expires.
func (i *Identity) NotAfter() time.Time { return i.now.Load().cert.Leaf.NotAfter }

// ServerConfig demands of clients a certificate of an authority in the CA file.
func (i *Identity) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := i.now.Load()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
				Certificates: []tls.Certificate{m.cert}, ClientCAs: m.pool, ClientAuth: tls.RequireAndVerifyClientCert,
			}, nil
		},
	}
}

// ClientConfig shows the certificate to servers of an authority in the CA file.
func (i *Identity) ClientConfig() *tls.Config {
	m := i.now.Load()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.cert}, RootCAs: m.pool}
}
