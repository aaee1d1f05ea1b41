package certs

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/pki"
)

// files are what a Source reads, in a folder of its own.
type files struct {
	t   *testing.T
	dir string
	ca  *pki.Authority
}

func newFiles(t *testing.T) *files {
	return &files{t: t, dir: t.TempDir(), ca: pki.New(t, "ca")}
}

func (f *files) path(name string) string { return filepath.Join(f.dir, name) }

// issue writes a new certificate and key.
func (f *files) issue(name string, until time.Time) {
	pki.Write(f.t, f.ca.Issue(name, until), f.path("cert"), f.path("key"))
}

func (f *files) options() Options {
	return Options{Cert: f.path("cert"), Key: f.path("key"), MinVersion: tls.VersionTLS12}
}

func (f *files) load(o Options) *Source {
	f.t.Helper()
	s, err := Load(o)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// connect makes a handshake, in which a byte goes each way, and returns what the client
// saw, or the server's error.
func connect(t *testing.T, server *tls.Config, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			served <- err
			return
		}
		defer nc.Close()
		tc := tls.Server(nc, server)
		if err = tc.Handshake(); err == nil {
			_, err = io.CopyN(tc, tc, 1)
		}
		served <- err
	}()
	client.ServerName = "localhost"
	tc, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err != nil {
		<-served
		return tls.ConnectionState{}, err
	}
	defer tc.Close()
	_, _ = tc.Write([]byte{1})
	_, _ = tc.Read(make([]byte, 1)) // so that the client has the session ticket
	return tc.ConnectionState(), <-served
}

func TestVersionsAndSuites(t *testing.T) {
	f := newFiles(t)
	f.issue("server", time.Now().Add(time.Hour))
	modern := f.options()
	modern.MinVersion = tls.VersionTLS13
	for _, tt := range []struct {
		name     string
		o        Options
		min, max uint16
		suites   []uint16
		ok       bool
	}{
		{"1.3", f.options(), tls.VersionTLS13, tls.VersionTLS13, nil, true},
		{"1.2", f.options(), tls.VersionTLS12, tls.VersionTLS12, nil, true},
		{"1.1", f.options(), tls.VersionTLS10, tls.VersionTLS11, nil, false},
		{"1.2 where 1.3 is the lowest", modern, tls.VersionTLS12, tls.VersionTLS12, nil, false},
		{"1.3 where it is the lowest", modern, tls.VersionTLS12, tls.VersionTLS13, nil, true},
		{"ChaCha20", f.options(), tls.VersionTLS12, tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}, true},
		{"CBC", f.options(), tls.VersionTLS12, tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state, err := connect(t, f.load(tt.o).Config(), &tls.Config{RootCAs: f.ca.Pool(), MinVersion: tt.min, MaxVersion: tt.max, CipherSuites: tt.suites})
			if (err == nil) != tt.ok || err == nil && state.Version != tt.max {
				t.Errorf("version %s, error %v", tls.VersionName(state.Version), err)
			}
		})
	}
}

// TestReload: new files are used for new handshakes; files that are no good change nothing.
func TestReload(t *testing.T) {
	f := newFiles(t)
	soon, later := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(48*time.Hour).Truncate(time.Second)
	f.issue("first", soon)
	s := f.load(f.options())
	config := s.Config()
	who := func() string {
		t.Helper()
		state, err := connect(t, config, &tls.Config{RootCAs: f.ca.Pool()})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].Subject.CommonName
	}
	reload := func(change, ok bool) {
		t.Helper()
		if changed, err := s.Reload(); changed != change || (err == nil) != ok {
			t.Errorf("changed: %v, error %v", changed, err)
		}
	}
	if got := who(); got != "first" || !s.NotAfter().Equal(soon) {
		t.Errorf("%s until %v", got, s.NotAfter())
	}
	reload(false, true)
	f.issue("second", later)
	reload(true, true)
	if got := who(); got != "second" || !s.NotAfter().Equal(later) {
		t.Errorf("%s until %v", got, s.NotAfter())
	}

	key, err := os.ReadFile(f.path("key"))
	if err != nil {
		t.Fatal(err)
	}
	f.issue("third", later)
	bad := map[string]func(){
		"key of another certificate": func() { overwrite(t, f.path("key"), key) },
		"cut off":                    func() { overwrite(t, f.path("cert"), []byte("-----BEGIN CERTIFICATE-----\nMII")) },
		"gone":                       func() { _ = os.Remove(f.path("cert")) },
	}
	for _, name := range []string{"key of another certificate", "cut off", "gone"} {
		bad[name]()
		reload(false, false)
		if got := who(); got != "second" || !s.NotAfter().Equal(later) {
			t.Errorf("%s: %s until %v", name, got, s.NotAfter())
		}
	}
	f.issue("fourth", soon)
	reload(true, true)
	if got := who(); got != "fourth" {
		t.Errorf("%s", got)
	}
}

func overwrite(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAuthoritiesReload: whom the new list does not have gets in no more, by an old
// session neither.
func TestAuthoritiesReload(t *testing.T) {
	f := newFiles(t)
	f.issue("server", time.Now().Add(time.Hour))
	old, other := pki.New(t, "old"), pki.New(t, "new")
	old.WriteCA(f.path("ca"))
	o := f.options()
	o.ClientCA = f.path("ca")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		old.WriteCA(f.path("ca"))
		s := f.load(o)
		config := s.Config()
		client := func(a *pki.Authority) *tls.Config {
			return &tls.Config{RootCAs: f.ca.Pool(), MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1),
				Certificates: []tls.Certificate{a.Issue("device", time.Now().Add(time.Hour))}}
		}
		ours, theirs := client(old), client(other)
		for _, resumed := range []bool{false, true} {
			if state, err := connect(t, config, ours); err != nil || state.DidResume != resumed {
				t.Fatalf("resumed: %v, error %v", state.DidResume, err)
			}
		}
		if _, err := connect(t, config, theirs); err == nil {
			t.Error("a stranger got in")
		}
		other.WriteCA(f.path("ca"))
		if changed, err := s.Reload(); !changed || err != nil {
			t.Fatal(changed, err)
		}
		if _, err := connect(t, config, ours); err == nil {
			t.Errorf("%s: a client of the old authority got in", tls.VersionName(version))
		}
		if _, err := connect(t, config, theirs); err != nil {
			t.Error(err)
		}
		overwrite(t, f.path("ca"), []byte("no certificate\n"))
		if _, err := s.Reload(); !errors.Is(err, ErrNoCertificate) {
			t.Error(err)
		}
	}
}

func TestOptional(t *testing.T) {
	f := newFiles(t)
	f.issue("server", time.Now().Add(time.Hour))
	f.ca.WriteCA(f.path("ca"))
	for _, optional := range []bool{false, true} {
		o := f.options()
		o.ClientCA, o.Optional = f.path("ca"), optional
		if _, err := connect(t, f.load(o).Config(), &tls.Config{RootCAs: f.ca.Pool()}); (err == nil) != optional {
			t.Errorf("optional: %v, error %v", optional, err)
		}
	}
}

func TestLoadSaysWhichFile(t *testing.T) {
	f := newFiles(t)
	if _, err := Load(f.options()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
