package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// Options configure Files.
type Options struct {
	// PasswordFile holds the users; "": nobody is known, so every client is anonymous.
	PasswordFile string
	// RulesFile says who may publish and subscribe to what; "": everybody to everything.
	RulesFile string
	// Hashes is how many password hashes are computed at once; 0: one for every two
	// processors, so that messages go on. A hash of the kind that `flotilla passwd` writes
	// takes 19 MiB while it is computed.
	Hashes int
}

// maxWaiting bounds the log-ins that wait for a hash: more than can be served while a
// client waits for its CONNACK would be computed for nobody.
const maxWaiting = 1024

// Files is the Authenticator of a password file and a rules file.
type Files struct {
	opts     Options
	gate     *gate
	throttle *throttle
	metrics  Metrics
	key      [sha256.Size]byte // for user.proved

	loading sync.Mutex // one Reload at a time
	users   atomic.Pointer[passwords]
	rules   atomic.Pointer[rules]
}

var _ Authenticator = (*Files)(nil)

// Metrics counts what Files does.
type Metrics struct {
	// Refused counts log-ins that failed, by reason.
	Refused [refusals]atomic.Uint64
	// Hashes counts the password hashes that were computed, and HashesSaved those that
	// were not, since the same password had fitted before.
	Hashes, HashesSaved atomic.Uint64
	// PasswordReloads and RuleReloads count the times that a file was read anew, and the
	// times that this failed and what was known stayed in force.
	PasswordReloads, RuleReloads Reloads
}

// Reloads counts readings of one file.
type Reloads struct{ Done, Failed atomic.Uint64 }

// Refusal says why a log-in failed.
type Refusal byte

// The reasons of Metrics.Refused.
const (
	RefusedCredentials Refusal = iota // the user is not known, or the password is wrong
	RefusedThrottled                  // too many failures of this source with this user
	RefusedBusy                       // too many log-ins wait for their hash
	RefusedTimeout                    // the time of a log-in was over before its turn came
	RefusedMalformed                  // data that the authentication method does not know
	refusals
)

// String returns the value of a "reason" label.
func (r Refusal) String() string {
	return [...]string{"credentials", "throttled", "busy", "timeout", "malformed"}[r]
}

// Refusals lists all reasons, for export.
func Refusals() []Refusal {
	return []Refusal{RefusedCredentials, RefusedThrottled, RefusedBusy, RefusedTimeout, RefusedMalformed}
}

// Open reads the files. Lines that cannot be used are of type *LineError.
func Open(o Options) (*Files, error) {
	if o.Hashes <= 0 {
		o.Hashes = max(runtime.GOMAXPROCS(0)/2, 1)
	}
	f := &Files{opts: o, gate: newGate(o.Hashes, maxWaiting), throttle: newThrottle()}
	copy(f.key[:], random(len(f.key)))
	return f, f.Reload()
}

// Metrics returns what Files counts in.
func (f *Files) Metrics() *Metrics { return &f.metrics }

// Waiting is the number of log-ins that wait for their hash.
func (f *Files) Waiting() int { return int(f.gate.waiting.Load()) }

// Reload reads the files again. Of a file that cannot be read or has a bad line, what
// was known stays in force whole; the other one counts all the same. Afterwards the
// gateway must look at its connections again.
func (f *Files) Reload() error {
	f.loading.Lock()
	defer f.loading.Unlock()
	var errs []error
	if f.opts.PasswordFile != "" {
		p, err := readPasswords(f.opts.PasswordFile)
		if err = f.metrics.PasswordReloads.count("password file", err); err == nil {
			f.users.Store(p.inherit(f.users.Load()))
		}
		errs = append(errs, err)
	}
	if f.opts.RulesFile != "" {
		r, err := readRules(f.opts.RulesFile)
		if err = f.metrics.RuleReloads.count("rules file", err); err == nil {
			f.rules.Store(r)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *Reloads) count(what string, err error) error {
	if err != nil {
		r.Failed.Add(1)
		return fmt.Errorf("%s: %w", what, err)
	}
	r.Done.Add(1)
	return nil
}

// inherit keeps the users whose line is the same, with what they have proved.
func (p *passwords) inherit(old *passwords) *passwords {
	if old == nil {
		return p
	}
	for name, u := range p.users {
		if o := old.users[name]; o != nil && o.line == u.line {
			u.proved.Store(o.proved.Load())
		}
	}
	return p
}

// Authenticate implements Authenticator.
func (f *Files) Authenticate(ctx context.Context, c *Client, password []byte) packet.ReasonCode {
	p := f.users.Load()
	if p == nil {
		c.Username = "" // nobody can prove a name, so none counts
		return packet.Success
	}
	key := f.throttle.key(c.Remote, c.Username)
	if code := f.slowDown(ctx, key); code != packet.Success {
		return code
	}
	u, h := p.find(c.Username)
	if u != nil && f.provedBefore(u, password) {
		f.metrics.HashesSaved.Add(1)
	} else {
		fits := false
		if err := f.gate.do(ctx, func() { fits = h.verify(password) }); err != nil {
			return f.noTurn(err)
		}
		f.metrics.Hashes.Add(1)
		if !fits || u == nil {
			f.throttle.failed(key)
			f.metrics.Refused[RefusedCredentials].Add(1)
			return packet.BadUserNameOrPassword
		}
		u.proved.Store(new(f.digest(password)))
	}
	f.throttle.succeeded(key)
	c.Grant = u.line
	return packet.Success
}

// noTurn is the answer to a log-in whose hash was not computed.
func (f *Files) noTurn(err error) packet.ReasonCode {
	if errors.Is(err, errBusy) {
		f.metrics.Refused[RefusedBusy].Add(1)
	} else {
		f.metrics.Refused[RefusedTimeout].Add(1)
	}
	return packet.ServerBusy
}

func (f *Files) digest(password []byte) (d [sha256.Size]byte) {
	mac := hmac.New(sha256.New, f.key[:])
	mac.Write(password)
	copy(d[:], mac.Sum(nil))
	return d
}

func (f *Files) provedBefore(u *user, password []byte) bool {
	before := u.proved.Load()
	now := f.digest(password)
	return before != nil && hmac.Equal(before[:], now[:])
}

// slowDown waits as long as earlier failures ask for.
func (f *Files) slowDown(ctx context.Context, key uint64) packet.ReasonCode {
	longest := longestDelay
	if deadline, ok := ctx.Deadline(); ok {
		longest = time.Until(deadline)
	}
	wait, ok := f.throttle.attempt(key, longest)
	if !ok {
		f.metrics.Refused[RefusedThrottled].Add(1)
		return packet.ConnectionRateExceeded
	}
	if wait <= 0 {
		return packet.Success
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return packet.Success
	case <-ctx.Done():
		return f.noTurn(ctx.Err())
	}
}

// Begin implements Authenticator. SCRAM-SHA-256 is there if the password file has a
// line for it.
func (f *Files) Begin(_ *Client, method string) Exchange {
	p := f.users.Load()
	if method != MethodScram || p == nil || len(p.scrams) == 0 {
		return nil
	}
	return f.newScram(p)
}

// Valid implements Authenticator: a user must have the line in the password file that
// let it in.
func (f *Files) Valid(c *Client) bool {
	if c.Certified || c.Username == "" {
		return true
	}
	p := f.users.Load()
	if p == nil {
		return false
	}
	u := p.users[c.Username]
	return u != nil && c.Grant == u.line
}

// MayPublish implements Authenticator.
func (f *Files) MayPublish(c *Client, name string) bool {
	v := f.view(c)
	return v == nil || decide(v.publish, name)
}

// MaySubscribe implements Authenticator.
func (f *Files) MaySubscribe(c *Client, filter string) bool {
	v := f.view(c)
	return v == nil || decide(v.subscribe, filter)
}

// view returns what the rules in force say of a client; nil: there are none.
func (f *Files) view(c *Client) *view {
	r := f.rules.Load()
	if r == nil {
		return nil
	}
	if c.view == nil || c.view.of != r {
		c.view = r.view(c)
	}
	return c.view
}
