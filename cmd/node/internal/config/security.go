package config

import (
	"errors"
	"strings"
)

// Security is who may speak to this node beside MQTT clients: the other nodes, and its
// operators.
type Security struct {
	PeerCert, PeerKey, PeerCA string // PEM files; empty: the traffic between nodes is plain
	GossipKeyFile             string // empty: gossip is plain

	AdminAddr                    string // HOST:PORT, or unix:PATH
	AdminCert, AdminKey, AdminCA string // PEM files; empty: plain HTTP, on this machine only
}

// PeerTLS reports whether the traffic between nodes is encrypted.
func (s *Security) PeerTLS() bool { return s.PeerCert != "" }

// AdminTLS reports whether operators need a certificate.
func (s *Security) AdminTLS() bool { return s.AdminCert != "" }

func securitySettings() []setting[Security] {
	file := func(name, usage string, field func(*Security) *string) setting[Security] {
		return text(name, "FILE", usage, "the name of a file", notEmpty, field)
	}
	return []setting[Security]{
		file("peer-cert", "certificate of this node for the other nodes, which must name it (PEM; needs peer-key and peer-ca)",
			func(s *Security) *string { return &s.PeerCert }),
		file("peer-key", "key of peer-cert (PEM)", func(s *Security) *string { return &s.PeerKey }),
		file("peer-ca", "authorities of the nodes' certificates (PEM)", func(s *Security) *string { return &s.PeerCA }),
		file("gossip-key-file", "keys that encrypt gossip, one a line in base64, the primary first",
			func(s *Security) *string { return &s.GossipKeyFile }),
		text("admin-addr", "HOST:PORT|unix:PATH", "the admin API and profiles; beyond this machine only with admin-cert, admin-key and admin-ca",
			"HOST:PORT with a port of 0 to 65535, such as localhost:7403, or unix:PATH", validAdminAddr,
			func(s *Security) *string { return &s.AdminAddr }),
		file("admin-cert", "certificate of the admin API (PEM; needs admin-key and admin-ca)", func(s *Security) *string { return &s.AdminCert }),
		file("admin-key", "key of admin-cert (PEM)", func(s *Security) *string { return &s.AdminKey }),
		file("admin-ca", "authorities of the certificates that operators must show (PEM)", func(s *Security) *string { return &s.AdminCA }),
	}
}

// UnixSocket is the path in an address of the form unix:PATH.
func UnixSocket(addr string) (path string, ok bool) { return strings.CutPrefix(addr, "unix:") }

func validAdminAddr(s string) bool {
	if path, ok := UnixSocket(s); ok {
		return path != ""
	}
	return validAddr(s)
}

// security checks that certificates come with keys and authorities, and that nobody
// beyond this machine reaches the admin API without a certificate.
func (l *loader) security() error {
	s := &l.cfg.Security
	errs := []error{
		l.together("peer-cert", s.PeerCert, "peer-key", s.PeerKey, "peer-ca", s.PeerCA),
		l.together("admin-cert", s.AdminCert, "admin-key", s.AdminKey, "admin-ca", s.AdminCA),
	}
	if _, unix := UnixSocket(s.AdminAddr); !unix && !Loopback(s.AdminAddr) && !s.AdminTLS() {
		errs = append(errs, l.fault("admin-addr", s.AdminAddr,
			"an address of this machine only (localhost:7403, unix:PATH), or admin-cert, admin-key and admin-ca with it:"+
				" who reaches the admin API from elsewhere must show a certificate"))
	}
	return errors.Join(errs...)
}

// together refuses settings of which only some are set.
func (l *loader) together(namesAndValues ...string) error {
	var missing []string
	given := 0
	for i := 0; i < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] == "" {
			missing = append(missing, namesAndValues[i])
		} else {
			given = i
		}
	}
	if len(missing) == 0 || 2*len(missing) == len(namesAndValues) {
		return nil
	}
	return l.fault(namesAndValues[given], namesAndValues[given+1], strings.Join(missing, " and ")+" with it")
}
