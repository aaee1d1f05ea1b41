package config

import "errors"

// listenerSettings are those of an element of `listeners:`, but for its limits.
type listenerSettings struct {
	addr, kind     string
	allowAnonymous *bool
	certUsername   CertUsername
	limits         Limits
}

func listenerSettingList() []setting[listenerSettings] {
	list := []setting[listenerSettings]{
		address("addr", "where clients connect", func(s *listenerSettings) *string { return &s.addr }),
		oneOf("type", "protocol", []string{"tcp"}, func(s *listenerSettings) *string { return &s.kind }),
		allowAnonymous(func(s *listenerSettings) **bool { return &s.allowAnonymous }),
		certUsername(func(s *listenerSettings) *CertUsername { return &s.certUsername }),
	}
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
	if _, given := l.given("mqtt-addr"); given || len(l.lists) == 0 {
		li, err := l.listener("mqtt-addr", listenerSettings{addr: l.cfg.MQTTAddr, kind: "tcp", allowAnonymous: l.cfg.AllowAnonymous, certUsername: l.cfg.CertUsername, limits: l.cfg.Limits})
		errs = append(errs, err)
		l.cfg.Listeners = append(l.cfg.Listeners, li)
	}
	for _, ly := range l.lists {
		s := listenerSettings{kind: "tcp", allowAnonymous: l.cfg.AllowAnonymous, certUsername: l.cfg.CertUsername, limits: l.cfg.Limits}
		if err := ly.apply(&s); err != nil {
			errs = append(errs, err)
			continue
		}
		l.values[ly.name] = sourced{s.addr, ly.source}
		li, err := l.listener(ly.name, s)
		errs = append(errs, err, l.wholeSeconds(ly.name, s.limits.MaxKeepAlive))
		l.cfg.Listeners = append(l.cfg.Listeners, li)
	}
	return errors.Join(errs...)
}

// apply parses the values of one element.
func (ly listenerYAML) apply(s *listenerSettings) error {
	var errs []error
	if _, ok := ly.values["addr"]; !ok {
		errs = append(errs, &Error{Setting: ly.name + ".addr", Source: ly.source, Allowed: "HOST:PORT"})
	}
	for _, known := range listenerSettingList() {
		v, ok := ly.values[known.name]
		if !ok {
			continue
		}
		if err := known.set(s, v.value); err != nil {
			errs = append(errs, &Error{Setting: ly.name + "." + known.name, Value: v.value, Source: v.source, Allowed: known.allowed})
		}
	}
	return errors.Join(errs...)
}

// listener decides who may log in. A listener nobody could log in to is an
// error: it would look like a broker that is up and refuse everybody.
func (l *loader) listener(name string, s listenerSettings) (Listener, error) {
	allow := Loopback(s.addr) && l.cfg.Auth.PasswordFile == ""
	if s.allowAnonymous != nil {
		allow = *s.allowAnonymous
	}
	li := Listener{Name: name, Type: s.kind, Addr: s.addr, AllowAnonymous: allow, CertUsername: s.certUsername, Limits: s.limits}
	if !allow && l.cfg.Auth.PasswordFile == "" {
		return li, l.fault(name, s.addr,
			"a listener that somebody can log in to: give users passwords (--password-file);"+
				" or --allow-anonymous=true lets everybody in who can reach it (the default on loopback addresses only)")
	}
	return li, nil
}
