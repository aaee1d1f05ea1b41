package config

import "errors"

// listenerSettings are those of an element of `listeners:`, but for its limits.
type listenerSettings struct {
	addr, kind     string
	allowAnonymous *bool
	certUsername   CertUsername
	transport      Transport
	limits         Limits
}

func listenerSettingList() []setting[listenerSettings] {
	list := []setting[listenerSettings]{
		text("addr", "ADDR", "where clients connect", "HOST:PORT; of type unix: the path of a socket",
			func(string) bool { return true }, // checkAddr knows the type
			func(s *listenerSettings) *string { return &s.addr }),
		oneOf("type", "transport: plain, TLS, WebSocket, WebSocket over TLS, Unix socket",
			[]string{TypeTCP, TypeTLS, TypeWS, TypeWSS, TypeUnix}, func(s *listenerSettings) *string { return &s.kind }),
		allowAnonymous(func(s *listenerSettings) **bool { return &s.allowAnonymous }),
		certUsername(func(s *listenerSettings) *CertUsername { return &s.certUsername }),
	}
	list = append(list, lift(transportSettings(), func(s *listenerSettings) *Transport { return &s.transport })...)
	return append(list, lift(limitSettings(), func(s *listenerSettings) *Limits { return &s.limits })...)
}

func listenerKeys() []string {
	var keys []string
	for _, s := range listenerSettingList() {
		keys = append(keys, s.name)
	}
	return keys
}

// listeners builds the list of listeners. The one of mqtt-addr is left out
// when the file lists listeners and nobody set mqtt-addr.
func (l *loader) listeners() error {
	var errs []error
	add := func(name string, s listenerSettings) {
		li, err := l.listener(name, s)
		errs = append(errs, err)
		l.cfg.Listeners = append(l.cfg.Listeners, li)
	}
	usual := func(kind, addr string) listenerSettings {
		return listenerSettings{kind: kind, addr: addr, allowAnonymous: l.cfg.AllowAnonymous,
			certUsername: l.cfg.CertUsername, transport: l.cfg.Transport, limits: l.cfg.Limits}
	}
	if _, given := l.given("mqtt-addr"); given || len(l.lists) == 0 {
		add("mqtt-addr", usual(TypeTCP, l.cfg.MQTTAddr))
	}
	for _, more := range [][3]string{
		{"tls-addr", TypeTLS, l.cfg.TLSAddr}, {"ws-addr", TypeWS, l.cfg.WSAddr}, {"wss-addr", TypeWSS, l.cfg.WSSAddr},
	} {
		if more[2] != "" {
			add(more[0], usual(more[1], more[2]))
		}
	}
	for _, ly := range l.lists {
		s := usual(TypeTCP, "")
		if err := ly.apply(&s); err != nil {
			errs = append(errs, err)
			continue
		}
		l.values[ly.name] = sourced{s.addr, ly.source}
		add(ly.name, s)
		errs = append(errs, l.wholeSeconds(ly.name, s.limits.MaxKeepAlive))
	}
	return errors.Join(errs...)
}

// apply parses the values of one element.
func (ly listenerYAML) apply(s *listenerSettings) error {
	var errs []error
	for _, known := range listenerSettingList() {
		v, ok := ly.values[known.name]
		if !ok {
			continue
		}
		if err := known.set(s, v.value); err != nil {
			errs = append(errs, &Error{Setting: ly.name + "." + known.name, Value: v.value, Source: v.source, Allowed: known.allowed})
		}
	}
	return errors.Join(append(errs, ly.checkAddr(s.kind), ly.misplaced(s.kind))...)
}

// listener decides who may log in. A listener nobody could log in to is an
// error: it would look like a broker that is up and refuse everybody.
func (l *loader) listener(name string, s listenerSettings) (Listener, error) {
	err := l.checkTransport(name, &s)
	named := s.transport.ClientCA != "" && s.certUsername != CertOff
	allow := (s.kind == TypeUnix || Loopback(s.addr)) && l.cfg.Auth.PasswordFile == "" && !named
	if s.allowAnonymous != nil {
		allow = *s.allowAnonymous
	}
	li := Listener{Name: name, Type: s.kind, Addr: s.addr, AllowAnonymous: allow, CertUsername: s.certUsername, Transport: s.transport, Limits: s.limits}
	if !allow && !named && l.cfg.Auth.PasswordFile == "" {
		return li, errors.Join(err, l.fault(name, s.addr,
			"a listener that somebody can log in to: give users passwords (--password-file)"+
				" or names by certificate (--client-ca, --cert-username); or --allow-anonymous=true lets everybody in who can reach it (the default on loopback addresses only)"))
	}
	return li, err
}
