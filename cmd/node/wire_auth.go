package main

import (
	"slices"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/mqtt"
	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
)

// openAuth reads the password file and the rules; with neither, nobody is known and
// everything is allowed.
func (n *node) openAuth() (mqtt.Authenticator, error) {
	a := n.cfg.Auth
	if a.PasswordFile == "" && a.ACLFile == "" {
		return nil, nil
	}
	var err error
	n.auth, err = auth.Open(auth.Options{PasswordFile: a.PasswordFile, RulesFile: a.ACLFile, Hashes: a.PasswordHashes})
	if err != nil {
		return nil, err
	}
	return n.auth, nil
}

// watchAuth reads the files again when they change, once the gateway is there.
func (n *node) watchAuth() {
	if n.auth == nil {
		return
	}
	files := slices.DeleteFunc([]string{n.cfg.Auth.PasswordFile, n.cfg.Auth.ACLFile}, func(f string) bool { return f == "" })
	n.watch.Add(n.reloadAuth, files...)
	n.reloadAuth() // they may have changed before they were watched
}

// reloadAuth takes over what the files say now. A file that is no good changes nothing.
func (n *node) reloadAuth() {
	if err := n.auth.Reload(); err != nil {
		n.log.Error("the old users or rules stay in force", "err", err)
	} else {
		n.log.Info("users and rules are read")
	}
	n.gateway.Recheck()
}

// certNames translates the setting.
func certNames(c config.CertUsername) auth.CertName {
	switch c {
	case config.CertCN:
		return auth.CertCN
	case config.CertSubject:
		return auth.CertSubject
	}
	return auth.CertNone
}

func (n *node) authMetrics() (out admin.AuthMetrics) {
	if n.auth != nil {
		out = authMetrics(n.auth.Metrics())
		out.Waiting = int64(n.auth.Waiting())
	}
	return out
}

func authMetrics(m *auth.Metrics) admin.AuthMetrics {
	out := admin.AuthMetrics{
		Refused: map[string]uint64{}, Reloads: map[string]uint64{}, BadReloads: map[string]uint64{},
		Hashes: m.Hashes.Load(), HashesSaved: m.HashesSaved.Load(),
	}
	for _, r := range auth.Refusals() {
		count(out.Refused, r.String(), m.Refused[r].Load())
	}
	count(out.Reloads, "passwords", m.PasswordReloads.Done.Load())
	count(out.BadReloads, "passwords", m.PasswordReloads.Failed.Load())
	count(out.Reloads, "rules", m.RuleReloads.Done.Load())
	count(out.BadReloads, "rules", m.RuleReloads.Failed.Load())
	return out
}
