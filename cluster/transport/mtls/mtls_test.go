package mtls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t}
	key, der := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.key, a.cert = key, cert
	return a
}

// sign makes a certificate for a new key, by its own key if the authority has none yet.
func (a *authority) sign(template *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
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
	return key, der
}

func node(name string) *x509.Certificate {
	return &x509.Certificate{
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// write makes the files of a certificate by a that trusts the authorities.
func (a *authority) write(dir string, template *x509.Certificate, trusts ...*authority) Files {
	a.t.Helper()
	key, der := a.sign(template)
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	var ca []byte
	for _, t := range trusts {
		ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.cert.Raw})...)
	}
	f := Files{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")}
	for name, b := range map[string][]byte{
		f.Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		f.Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), f.CA: ca,
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return f
}

// unchecked are credentials that this side's own check would not let through.
func unchecked(t *testing.T, name string, f Files) *Credentials {
	id, err := Load(f)
	if err != nil {
		t.Fatal(err)
	}
	return &Credentials{Identity: id, node: name, log: slog.New(slog.DiscardHandler), open: map[*conn]struct{}{}, told: map[string]time.Time{}}
}

// logged collects what is logged.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// meet lets a client connect to a server that it takes for want.
func meet(t *testing.T, client, server *Credentials, want string) (cc, sc net.Conn, info Info, clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		nc, ai, err := server.ServerHandshake(raw)
		if serverErr = err; err == nil {
			sc, info = nc, ai.(Info)
			t.Cleanup(func() { nc.Close() })
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	cc, _, clientErr = client.ClientHandshake(t.Context(), want, raw)
	<-done
	return cc, sc, info, clientErr, serverErr
}

func refusedFor(err error) string {
	var e *RefusedError
	if errors.As(err, &e) {
		return e.Reason.String()
	}
	return ""
}

func TestChecks(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	expired := node("n2")
	expired.NotAfter = time.Now().Add(-time.Minute)
	serverOnly := node("n2")
	serverOnly.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	byCN := node("")
	byCN.DNSNames, byCN.Subject.CommonName = nil, "n2"
	for _, tc := range []struct {
		what     string
		by       *authority
		cert     *x509.Certificate
		asServer string // why n1 refuses it as a server; "": it does not
		asClient string
		named    bool // as n2
	}{
		{"good", ours, node("n2"), "", "", true},
		{"common name", ours, byCN, "", "", true},
		{"another authority", theirs, node("n2"), "certificate_authority", "certificate_authority", false},
		{"expired", ours, expired, "certificate_expired", "certificate_expired", false},
		{"another name", ours, node("n3"), "certificate_name", "", false},
		{"not for clients", ours, serverOnly, "", "bad_certificate", false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var log logged
			n1, err := New("n1", ours.write(t.TempDir(), node("n1"), ours), log.logger())
			if err != nil {
				t.Fatal(err)
			}
			n2 := unchecked(t, "n2", tc.by.write(t.TempDir(), tc.cert, ours, theirs))
			if _, _, _, err, _ := meet(t, n1, n2, "n2"); refusedFor(err) != tc.asServer {
				t.Errorf("as a server: %v", err)
			}
			_, _, info, _, err := meet(t, n2, n1, "n1")
			if refusedFor(err) != tc.asClient {
				t.Errorf("as a client: %v", err)
			}
			if tc.asClient == "" {
				if err := info.Names("n2"); (err == nil) != tc.named {
					t.Errorf("names n2: %v", err)
				}
				if info.Names("") == nil {
					t.Error("names nobody")
				}
			}
			for _, reason := range []string{tc.asServer, tc.asClient} {
				if reason == "" {
					continue
				}
				if n1.Refused()[reason] == 0 || !strings.Contains(log.String(), "check="+reason) {
					t.Errorf("%s is not counted or not logged: %v\n%s", reason, n1.Refused(), log.String())
				}
			}
		})
	}
}

// A side without TLS, and one without a certificate, are refused with that reason.
func TestStrangers(t *testing.T) {
	ours := newAuthority(t, "ours")
	n1, err := New("n1", ours.write(t.TempDir(), node("n1"), ours), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	serve := func(talk func(net.Conn)) {
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); talk(b); b.Close() }()
		if _, _, err := n1.ServerHandshake(a); err == nil {
			t.Error("accepted")
		}
		<-done
	}
	serve(func(c net.Conn) { c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) })
	serve(func(c net.Conn) {
		conf := n1.ClientConfig()
		conf.Certificates, conf.ServerName, conf.InsecureSkipVerify = nil, "n1", true
		tc := tls.Client(c, conf)
		if tc.Handshake() == nil {
			tc.Read(make([]byte, 1)) // hears the refusal
		}
	})
	got := n1.Refused()
	if got["not_encrypted"] != 1 || got["no_certificate"] != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestNewRefusesWhatOthersWouldRefuse(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	expired := node("n1")
	expired.NotAfter = time.Now().Add(-time.Minute)
	for want, f := range map[string]Files{
		"certificate_name":      ours.write(t.TempDir(), node("n2"), ours),
		"certificate_authority": ours.write(t.TempDir(), node("n1"), theirs),
		"certificate_expired":   ours.write(t.TempDir(), expired, ours),
	} {
		if _, err := New("n1", f, slog.New(slog.DiscardHandler)); refusedFor(err) != want || !strings.Contains(err.Error(), f.Cert) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := New("n1", Files{"a", "b", "c"}, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Certificates and authorities change under an open connection: from one authority to
// both, to the other. It is closed when its certificate does not verify any more.
func TestRotation(t *testing.T) {
	older, newer := newAuthority(t, "older"), newAuthority(t, "newer")
	d1, d2 := t.TempDir(), t.TempDir()
	n1, err := New("n1", older.write(d1, node("n1"), older), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n2, err := New("n2", older.write(d2, node("n2"), older), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	connect := func() (net.Conn, net.Conn) {
		t.Helper()
		cc, sc, _, err, serr := meet(t, n1, n2, "n2")
		if err != nil || serr != nil {
			t.Fatal(err, serr)
		}
		return cc, sc
	}
	talk := func(a, b net.Conn) error {
		if _, err := a.Write([]byte("x")); err != nil {
			return err
		}
		_, err := b.Read(make([]byte, 1))
		return err
	}
	reload := func(c *Credentials) {
		t.Helper()
		if changed, err := c.Reload(); err != nil || !changed {
			t.Fatal(changed, err)
		}
	}
	a, b := connect()
	older.write(d1, node("n1"), older, newer)
	reload(n1)
	older.write(d2, node("n2"), older, newer)
	reload(n2)
	newer.write(d1, node("n1"), older, newer)
	reload(n1)
	c, d := connect()
	if err := errors.Join(talk(a, b), talk(b, a), talk(c, d)); err != nil {
		t.Errorf("connections did not survive: %v", err)
	}
	newer.write(d2, node("n2"), older, newer)
	reload(n2)
	e, f := connect()
	newer.write(d1, node("n1"), newer)
	reload(n1)
	if err := talk(e, f); err != nil {
		t.Errorf("a connection with new certificates did not survive: %v", err)
	}
	// Those with n2's old certificate are over on n1's side.
	for _, old := range []net.Conn{a, c} {
		if _, err := old.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read of a connection with an old certificate: %v", err)
		}
	}
	// Bad files change nothing.
	if err := os.WriteFile(n1.files.Key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := n1.Reload(); err == nil || changed {
		t.Error("a broken key was taken")
	}
	connect()
}
