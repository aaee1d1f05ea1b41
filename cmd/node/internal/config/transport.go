package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The types of listeners.
const (
	TypeTCP  = "tcp"
	TypeTLS  = "tls"
	TypeWS   = "ws"
	TypeWSS  = "wss"
	TypeUnix = "unix"
)

// ClientCert says whether a client must show a certificate of an authority in ClientCA.
type ClientCert string

// Whether a client must show a certificate.
const (
	CertRequired ClientCert = "required"
	CertOptional ClientCert = "optional" // but one that it shows must be good
)

// TLSVersion is the lowest version of TLS that is spoken.
type TLSVersion string

// The versions of TLS.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// Transport is what a listener needs beside its address. Of a Listener only what its
// type uses is set.
type Transport struct {
	Cert, Key  string // PEM files
	ClientCA   string // PEM file; empty: clients are not asked for certificates
	ClientCert ClientCert
	TLSMin     TLSVersion
	WSPath     string
	WSOrigins  []string       // empty: any
	Proxies    []netip.Prefix // sources that speak the PROXY protocol
}

// settingUse says which types of listeners a setting is for.
type settingUse struct {
	setting[Transport]
	types []string
}

func transportUses() []settingUse {
	secure, web, ip := []string{TypeTLS, TypeWSS}, []string{TypeWS, TypeWSS}, []string{TypeTCP, TypeTLS, TypeWS, TypeWSS}
	file := func(string) bool { return true } // an empty one takes away what is set for all
	return []settingUse{
		{text("cert", "FILE", "certificate of tls and wss listeners, with those of intermediate authorities behind it (PEM; needs key)",
			"the name of a file", file, func(t *Transport) *string { return &t.Cert }), secure},
		{text("key", "FILE", "key of cert (PEM)", "the name of a file", file, func(t *Transport) *string { return &t.Key }), secure},
		{text("client-ca", "FILE", "authorities of clients' certificates (PEM; empty: clients are not asked for any)",
			"the name of a file", file, func(t *Transport) *string { return &t.ClientCA }), secure},
		{oneOf("client-cert", "whether clients must show a certificate of client-ca",
			[]ClientCert{CertRequired, CertOptional}, func(t *Transport) *ClientCert { return &t.ClientCert }), secure},
		{oneOf("tls-min-version", "lowest version of TLS that is spoken",
			[]TLSVersion{TLS12, TLS13}, func(t *Transport) *TLSVersion { return &t.TLSMin }), secure},
		{text("ws-path", "PATH", "path of the URL of ws and wss listeners", "a path that begins with /",
			func(s string) bool { return strings.HasPrefix(s, "/") && !strings.ContainsAny(s, "?# ") },
			func(t *Transport) *string { return &t.WSPath }), web},
		{list("ws-origins", "URL,…", "origins of web pages that may connect to ws and wss listeners (none: any)",
			"origins such as https://plant.example, several separated by commas", parseOrigin,
			func(t *Transport) *[]string { return &t.WSOrigins }), web},
		{list("proxy-protocol", "CIDR,…", "networks of proxies: connections from there must begin with a PROXY header, version 1 or 2",
			"networks such as 10.0.0.0/8 or addresses, several separated by commas", parseNetwork,
			func(t *Transport) *[]netip.Prefix { return &t.Proxies }), ip},
	}
}

func transportSettings() []setting[Transport] {
	var all []setting[Transport]
	for _, u := range transportUses() {
		all = append(all, u.setting)
	}
	return all
}

// list is a setting with several values.
func list[T, V any](name, kind, usage, allowed string, parse func(string) (V, error), field func(*T) *[]V) setting[T] {
	return setting[T]{
		name: name, kind: kind, usage: usage, allowed: allowed,
		get: func(t *T) string {
			var words []string
			for _, v := range *field(t) {
				words = append(words, fmt.Sprint(v))
			}
			return strings.Join(words, ",")
		},
		set: func(t *T, s string) error {
			var values []V
			for word := range strings.SplitSeq(s, ",") {
				if word = strings.TrimSpace(word); word == "" {
					continue
				}
				v, err := parse(word)
				if err != nil {
					return errNotAllowed
				}
				values = append(values, v)
			}
			*field(t) = values
			return nil
		},
	}
}

func parseOrigin(s string) (string, error) {
	scheme, host, ok := strings.Cut(s, "://")
	if !ok || scheme == "" || host == "" || strings.ContainsAny(host, "/?# ") {
		return "", errNotAllowed
	}
	return s, nil
}

// parseNetwork reads a network, or an address, which stands for itself.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().Prefix(a.Unmap().BitLen())
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// validSocket: longer paths do not fit into a socket's address everywhere.
func validSocket(s string) bool { return s != "" && len(s) <= 100 && !strings.Contains(s, "\x00") }

// checkTransport leaves of a listener's settings what its type uses, and checks them.
func (l *loader) checkTransport(name string, s *listenerSettings) error {
	all := s.transport
	s.transport = Transport{}
	var errs []error
	if s.kind != TypeUnix {
		s.transport.Proxies = all.Proxies
	}
	if s.kind == TypeWS || s.kind == TypeWSS {
		s.transport.WSPath, s.transport.WSOrigins = all.WSPath, all.WSOrigins
	}
	if s.kind == TypeTLS || s.kind == TypeWSS {
		s.transport.Cert, s.transport.Key, s.transport.TLSMin = all.Cert, all.Key, all.TLSMin
		s.transport.ClientCA, s.transport.ClientCert = all.ClientCA, all.ClientCert
		if all.Cert == "" || all.Key == "" {
			errs = append(errs, l.fault(name, s.addr, "a listener with a certificate and its key (cert, key)"))
		}
	}
	return errors.Join(errs...)
}

// misplaced are settings of one element that its type does not use.
func (ly listenerYAML) misplaced(kind string) error {
	var errs []error
	for _, u := range transportUses() {
		v, ok := ly.values[u.name]
		if ok && !slices.Contains(u.types, kind) {
			errs = append(errs, &Error{Setting: ly.name + "." + u.name, Value: v.value, Source: v.source,
				Allowed: "it on listeners of type " + strings.Join(u.types, ", ") + " only"})
		}
	}
	return errors.Join(errs...)
}

// checkAddr checks the address of one element, which depends on its type.
func (ly listenerYAML) checkAddr(kind string) error {
	v, ok := ly.values["addr"]
	valid, allowed := validAddr, addrAllowed
	if kind == TypeUnix {
		valid, allowed = validSocket, "the path of a socket, of at most 100 bytes"
	}
	switch {
	case !ok:
		return &Error{Setting: ly.name + ".addr", Source: ly.source, Allowed: allowed}
	case !valid(v.value):
		return &Error{Setting: ly.name + ".addr", Value: v.value, Source: v.source, Allowed: allowed}
	}
	return nil
}
