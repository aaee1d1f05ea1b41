// Package certs reads the certificate of a listener and the authorities of its clients,
// and replaces them while it runs. Connections that are open stay as they are.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options say where the certificates are and what is asked of clients.
type Options struct {
	Cert, Key string // PEM files
	ClientCA  string // PEM file; empty: clients are not asked for certificates
	// Optional lets clients in that show no certificate. One that is shown must be good.
	Optional bool
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13.
	MinVersion uint16
}

// Source is what was read last. Its methods are for any goroutine.
type Source struct {
	o       Options
	reading sync.Mutex // held by Reload, so that the last to read is the last to store
	current atomic.Pointer[loaded]
}

// loaded is one state of the files.
type loaded struct {
	config   *tls.Config
	raw      [][]byte // what was in the files
	notAfter time.Time
}

// Load reads the files.
func Load(o Options) (*Source, error) {
	s := &Source{o: o}
	_, err := s.Reload()
	return s, err
}

// Files are those that are read.
func (s *Source) Files() []string {
	files := []string{s.o.Cert, s.o.Key}
	if s.o.ClientCA != "" {
		files = append(files, s.o.ClientCA)
	}
	return files
}

// NotAfter is when the certificate ends, or one of those above it in its file if that
// ends earlier.
func (s *Source) NotAfter() time.Time { return s.current.Load().notAfter }

// Config is for handshakes now and after each Reload. Sessions are resumed across
// reloads; crypto/tls then verifies the client's certificate against the new authorities.
func (s *Source) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         s.o.MinVersion,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.Load().config, nil },
	}
}

// Reload reads the files again; changed: there is something new in them. On an error
// what was read before stays in use.
func (s *Source) Reload() (changed bool, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	l := &loaded{}
	for _, file := range s.Files() {
		data, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		l.raw = append(l.raw, data)
	}
	if old := s.current.Load(); old != nil && slices.EqualFunc(old.raw, l.raw, bytes.Equal) {
		return false, nil
	}
	cert, err := tls.X509KeyPair(l.raw[0], l.raw[1])
	if err != nil {
		return false, fmt.Errorf("%s, %s: %w", s.o.Cert, s.o.Key, err)
	}
	if l.notAfter, err = end(cert.Certificate); err != nil {
		return false, fmt.Errorf("%s: %w", s.o.Cert, err)
	}
	l.config = &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: s.o.MinVersion, CipherSuites: suites(),
		// Packets are sent whole: a record for each is best.
		DynamicRecordSizingDisabled: true,
	}
	if s.o.ClientCA != "" {
		if l.config.ClientCAs, err = authorities(l.raw[2]); err != nil {
			return false, fmt.Errorf("%s: %w", s.o.ClientCA, err)
		}
		l.config.ClientAuth = tls.RequireAndVerifyClientCert
		if s.o.Optional {
			l.config.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	s.current.Store(l)
	return true, nil
}

// suites are those of TLS 1.2 with forward secrecy and authenticated encryption. Those of
// TLS 1.3 are all like that.
func suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// end is when the first of a chain of certificates ends.
func end(chain [][]byte) (earliest time.Time, err error) {
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return earliest, err
		}
		if earliest.IsZero() || c.NotAfter.Before(earliest) {
			earliest = c.NotAfter
		}
	}
	return earliest, nil
}

// ErrNoCertificate is a file of authorities without any.
var ErrNoCertificate = errors.New("no certificate in PEM form in it")

// authorities reads certificates one by one: x509.CertPool passes over those that are no
// good, and then refuses clients without a hint.
func authorities(data []byte) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(c)
		found = true
	}
	if !found {
		return nil, ErrNoCertificate
	}
	return pool, nil
}
