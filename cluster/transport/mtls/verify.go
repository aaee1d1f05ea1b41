package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
)

// Reason is the check that a connection failed.
type Reason byte

// The reasons for refusing a connection.
const (
	// NotEncrypted: the other side does not speak TLS.
	NotEncrypted Reason = iota
	// NoCertificate: it shows none.
	NoCertificate
	// WrongAuthority: its certificate is of no authority in the CA file.
	WrongAuthority
	// Expired: its certificate is not valid any more, or not yet.
	Expired
	// WrongName: its certificate does not name the node.
	WrongName
	// BadCertificate: something else is wrong with it, as the use it is for.
	BadCertificate
	// Handshake: no TLS that both sides want, or a broken one.
	Handshake
	// RefusedByPeer: the other side refused us; its log says why.
	RefusedByPeer
	reasons
)

// String is the metric label of the reason.
func (r Reason) String() string {
	return [...]string{"not_encrypted", "no_certificate", "certificate_authority", "certificate_expired",
		"certificate_name", "bad_certificate", "tls_handshake", "refused_by_peer"}[r]
}

// RefusedError says which check failed.
type RefusedError struct {
	Reason Reason
	Err    error
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

var (
	errNoCertificate = errors.New("the other side shows no certificate")
	errNotNamed      = errors.New("the certificate does not name the node")
)

// verify checks a chain of certificates, the leaf first, for a use.
func (m *material) verify(chain []*x509.Certificate, use x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return &RefusedError{NoCertificate, errNoCertificate}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: m.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{use}})
	if err == nil {
		return nil
	}
	reason := BadCertificate
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		reason = Expired
	case errors.As(err, &unknown):
		reason = WrongAuthority
	}
	return &RefusedError{reason, err}
}

// names checks that a certificate names the node.
func names(leaf *x509.Certificate, node string) error {
	if node != "" && (leaf.Subject.CommonName == node || slices.Contains(leaf.DNSNames, node)) {
		return nil
	}
	has := slices.Clone(leaf.DNSNames)
	if cn := leaf.Subject.CommonName; cn != "" {
		has = append(has, "CN="+cn)
	}
	return &RefusedError{WrongName, fmt.Errorf("%w %q, but %s", errNotNamed, node, strings.Join(has, ", "))}
}

// explain finds the check that a failed handshake failed; nil: it was the network.
func explain(err error) *RefusedError {
	var refused *RefusedError
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &record):
		return &RefusedError{NotEncrypted, err}
	case errors.As(err, &op):
		if op.Op == "remote error" { // what crypto/tls makes of an alert
			return &RefusedError{RefusedByPeer, err}
		}
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.ErrClosedPipe), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil
	}
	var network net.Error
	if errors.As(err, &network) {
		return nil
	}
	return &RefusedError{Handshake, err}
}
