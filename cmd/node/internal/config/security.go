package config

import "strings"

// Security is who may speak to this node beside MQTT clients: the other nodes.
type Security struct {
	PeerCert, PeerKey, PeerCA string // PEM files; empty: the traffic between nodes is plain
	GossipKeyFile             string // empty: gossip is plain
}

// PeerTLS reports whether the traffic between nodes is encrypted.
func (s *Security) PeerTLS() bool { return s.PeerCert != "" }

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
	}
}

// security checks that certificates come with keys and authorities.
func (l *loader) security() error {
	s := &l.cfg.Security
	return l.together("peer-cert", s.PeerCert, "peer-key", s.PeerKey, "peer-ca", s.PeerCA)
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
