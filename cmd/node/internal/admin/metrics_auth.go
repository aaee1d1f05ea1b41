package admin

// AuthMetrics are those of log-ins, and of the files that say who may do what.
type AuthMetrics struct {
	Refused             map[string]uint64 // log-ins by reason
	Hashes, HashesSaved uint64
	Waiting             int64             // gauge
	Reloads, BadReloads map[string]uint64 // by file
}

func (e emitter) auth(m *AuthMetrics) {
	e.counters("logins_refused_total", "Log-ins with a password or an authentication method that failed, by reason: credentials, throttled (after failures), busy and timeout (too many at once), malformed.", "reason", m.Refused)
	e.counter("password_hashes_total", "Password hashes computed for log-ins.", m.Hashes)
	e.counter("password_hashes_saved_total", "Log-ins whose password had fitted before, so that no hash was computed.", m.HashesSaved)
	e.gauge("password_hashes_waiting", "Log-ins that wait for their hash to be computed.", float64(m.Waiting))
	e.counters("auth_reloads_total", "Times the password file or the rules were read.", "file", m.Reloads)
	e.counters("auth_reloads_failed_total", "Times the password file or the rules could not be used, so that the old ones stayed in force.", "file", m.BadReloads)
}
