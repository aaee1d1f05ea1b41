package auth

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
	"github.com/xdg-go/scram"
)

// cheap is a line whose hash takes no time to speak of.
func cheap(t testing.TB, user, password string) string {
	t.Helper()
	line, err := HashScram(user, []byte(password), minScramRounds)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// folder is a password file and a rules file.
type folder struct {
	t              testing.TB
	users, ruleset string
}

func newFolder(t testing.TB, users []string, rules string) *folder {
	d := &folder{t, filepath.Join(t.TempDir(), "users"), filepath.Join(t.TempDir(), "rules")}
	d.write(d.users, strings.Join(users, "\n"))
	d.write(d.ruleset, rules)
	return d
}

func (d *folder) write(file, text string) {
	d.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *folder) open() *Files {
	d.t.Helper()
	f, err := Open(Options{PasswordFile: d.users, RulesFile: d.ruleset, Hashes: 2})
	if err != nil {
		d.t.Fatal(err)
	}
	return f
}

func from(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 4711} }

func login(ctx context.Context, f *Files, user, password, ip string) (*Client, packet.ReasonCode) {
	c := &Client{ID: "c", Username: user, Remote: from(ip)}
	return c, f.Authenticate(ctx, c, []byte(password))
}

func TestLogin(t *testing.T) {
	d := newFolder(t, []string{cheap(t, "alice", "secret"), strings.Replace(foreign[0].line, "alice", "mosq", 1)}, "allow anyone both #")
	f := d.open()
	ctx := t.Context()
	for _, c := range []struct {
		user, password string
		want           packet.ReasonCode
	}{
		{"alice", "secret", packet.Success}, {"mosq", "secret", packet.Success},
		{"alice", "Secret", packet.BadUserNameOrPassword}, {"alice", "", packet.BadUserNameOrPassword},
		{"bob", "secret", packet.BadUserNameOrPassword}, {"", "secret", packet.BadUserNameOrPassword},
		{"alice", "secret", packet.Success},
	} {
		got, code := login(ctx, f, c.user, c.password, "192.0.2.1")
		if code != c.want {
			t.Errorf("%q with %q: %v, want %v", c.user, c.password, code, c.want)
		}
		if code == packet.Success && (got.Username != c.user || !f.Valid(got)) {
			t.Errorf("%q is let in as %q, valid %v", c.user, got.Username, f.Valid(got))
		}
	}
	m := f.Metrics()
	// Each wrong log-in, of unknown users too, costs a hash; the second right one none.
	if m.Hashes.Load() != 6 || m.HashesSaved.Load() != 1 || m.Refused[RefusedCredentials].Load() != 4 {
		t.Errorf("%d hashes, %d saved, %d refused", m.Hashes.Load(), m.HashesSaved.Load(), m.Refused[RefusedCredentials].Load())
	}
}

// TestNobodyIsKnownWithoutPasswordFile: a name that nobody can check counts for no rule.
func TestNobodyIsKnownWithoutPasswordFile(t *testing.T) {
	d := newFolder(t, nil, "allow user admin both #\nallow anonymous publish x\n")
	f, err := Open(Options{RulesFile: d.ruleset})
	if err != nil {
		t.Fatal(err)
	}
	c, code := login(t.Context(), f, "admin", "x", "192.0.2.1")
	if code != packet.Success || c.Username != "" || f.MayPublish(c, "y") || !f.MayPublish(c, "x") {
		t.Errorf("%v as %q", code, c.Username)
	}
	if f.Begin(c, MethodScram) != nil {
		t.Error("SCRAM without users")
	}
}

func TestOpenRefusesBadFiles(t *testing.T) {
	good := cheap(t, "a", "x")
	for name, c := range map[string][2]string{
		"users": {good + "\nb", "allow anyone both #"},
		"rules": {good, "allow anyone both #\nallow"},
	} {
		d := newFolder(t, []string{c[0]}, c[1])
		_, err := Open(Options{PasswordFile: d.users, RulesFile: d.ruleset})
		var le *LineError
		if !errors.As(err, &le) || le.Line != 2 || filepath.Base(le.File) != name {
			t.Errorf("bad %s: %v", name, err)
		}
	}
	if _, err := Open(Options{PasswordFile: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestReload(t *testing.T) {
	alice, bob, carol := cheap(t, "alice", "1"), cheap(t, "bob", "2"), cheap(t, "carol", "3")
	d := newFolder(t, []string{alice, bob, carol}, "allow anyone publish a")
	f := d.open()
	clients := map[string]*Client{}
	for user, password := range map[string]string{"alice": "1", "bob": "2", "carol": "3"} {
		c, code := login(t.Context(), f, user, password, "192.0.2.1")
		if code != packet.Success {
			t.Fatal(code)
		}
		clients[user] = c
	}
	certified, anonymous := &Client{Username: "x", Certified: true}, &Client{}

	d.write(d.users, alice+"\n"+cheap(t, "bob", "new"))
	d.write(d.ruleset, "allow anyone publish b")
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	if !f.Valid(clients["alice"]) || f.Valid(clients["bob"]) || f.Valid(clients["carol"]) || !f.Valid(certified) || !f.Valid(anonymous) {
		t.Error("those who may stay are not those whose line is the same")
	}
	if f.MayPublish(clients["alice"], "a") || !f.MayPublish(clients["alice"], "b") {
		t.Error("the old rules are in force")
	}
	before := f.Metrics().Hashes.Load()
	if _, code := login(t.Context(), f, "alice", "1", "192.0.2.1"); code != packet.Success || f.Metrics().Hashes.Load() != before {
		t.Error("who kept the line must prove the password anew")
	}
	if _, code := login(t.Context(), f, "bob", "2", "192.0.2.1"); code != packet.BadUserNameOrPassword {
		t.Errorf("an old password: %v", code)
	}

	// What is bad changes nothing; what is good beside it does.
	d.write(d.users, "alice")
	d.write(d.ruleset, "allow anyone publish c")
	var le *LineError
	if err := f.Reload(); !errors.As(err, &le) {
		t.Errorf("bad file: %v", err)
	}
	if !f.Valid(clients["alice"]) || !f.MayPublish(clients["alice"], "c") {
		t.Error("a bad password file has thrown out users, or kept the new rules away")
	}
	if err := os.Remove(d.ruleset); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(); !errors.Is(err, os.ErrNotExist) || !f.MayPublish(clients["alice"], "c") || f.MayPublish(clients["alice"], "d") {
		t.Errorf("missing rules: %v", err)
	}
	m := f.Metrics()
	if m.PasswordReloads.Done.Load() != 2 || m.PasswordReloads.Failed.Load() != 2 || m.RuleReloads.Done.Load() != 3 || m.RuleReloads.Failed.Load() != 1 {
		t.Errorf("counted %+v, %+v", &m.PasswordReloads, &m.RuleReloads)
	}
}

// TestRepeatedFailures: guessing gets slower for one source and one user, and for no
// other; a guess that would wait too long costs no hash.
func TestRepeatedFailures(t *testing.T) {
	line := cheap(t, "alice", "secret")
	d := newFolder(t, []string{line}, "")
	synctest.Test(t, func(t *testing.T) {
		f := d.open()
		attempt := func(user, password, ip string) (time.Duration, packet.ReasonCode) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			_, code := login(ctx, f, user, password, ip)
			return time.Since(began), code
		}
		want := []time.Duration{0, 0, 0, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 8 * time.Second}
		for i, w := range want {
			if took, code := attempt("alice", "guess", "192.0.2.1"); took != w || code != packet.BadUserNameOrPassword {
				t.Errorf("guess %d took %v, want %v (%v)", i, took, w, code)
			}
		}
		for _, other := range [][2]string{{"alice", "192.0.2.2"}, {"bob", "192.0.2.1"}, {"alice", "2001:db8::1"}} {
			if took, _ := attempt(other[0], "guess", other[1]); took != 0 {
				t.Errorf("%s from %s waits %v", other[0], other[1], took)
			}
		}
		// Two at once: the second would wait for 16 s.
		hashes := f.Metrics().Hashes.Load()
		done := make(chan packet.ReasonCode, 1)
		go func() {
			_, code := attempt("alice", "secret", "192.0.2.1")
			done <- code
		}()
		synctest.Wait()
		if took, code := attempt("alice", "guess", "192.0.2.1"); took != 0 || code != packet.ConnectionRateExceeded {
			t.Errorf("second at once: %v after %v", code, took)
		}
		if code := <-done; code != packet.Success || f.Metrics().Hashes.Load() != hashes+1 {
			t.Errorf("the right password is answered with %v", code)
		}
		if took, _ := attempt("alice", "guess", "192.0.2.1"); took != 0 {
			t.Errorf("after the right password a guess waits %v", took)
		}
		for range 5 {
			attempt("alice", "guess", "2001:db8::1")
		}
		if took, _ := attempt("alice", "guess", "2001:db8::ffff"); took == 0 {
			t.Error("another address of the same /64 starts anew")
		}
		time.Sleep(forgetAfter + time.Second)
		if took, _ := attempt("alice", "guess", "2001:db8::1"); took != 0 {
			t.Errorf("failures are remembered for ever: %v", took)
		}
	})
}

func TestThrottleIsBounded(t *testing.T) {
	h := newThrottle()
	for i := range uint64(remembered + 100) {
		h.failed(i)
		h.failed(0) // is never the oldest
	}
	if len(h.m) != remembered || h.order.Len() != remembered {
		t.Errorf("%d and %d remembered", len(h.m), h.order.Len())
	}
	if wait, ok := h.attempt(0, time.Minute); !ok || wait == 0 {
		t.Error("the busiest guesser was forgotten")
	}
}

// slowHash holds everybody up until it is released.
type slowHash struct {
	running, most atomic.Int32
	release       chan struct{}
}

func (s *slowHash) verify([]byte) bool {
	s.most.Store(max(s.most.Load(), s.running.Add(1)))
	<-s.release
	s.running.Add(-1)
	return true
}

// TestHashesAreBounded: so many at once, so many waiting, and nobody waits for longer
// than the connection has time.
func TestHashesAreBounded(t *testing.T) {
	d := newFolder(t, []string{cheap(t, "alice", "x")}, "")
	synctest.Test(t, func(t *testing.T) {
		f := d.open()
		slow := &slowHash{release: make(chan struct{})}
		f.users.Store(&passwords{users: map[string]*user{"alice": {hash: slow}}})
		codes := make(chan packet.ReasonCode, maxWaiting+10)
		start := func(d time.Duration) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				_, code := login(ctx, f, "alice", "x", "192.0.2.1")
				codes <- code
			}()
			synctest.Wait()
		}
		start(time.Hour)
		start(time.Hour)
		for range maxWaiting {
			start(10 * time.Second)
		}
		if f.Waiting() != maxWaiting || slow.running.Load() != 2 {
			t.Fatalf("%d wait, %d run", f.Waiting(), slow.running.Load())
		}
		start(10 * time.Second)
		if code := <-codes; code != packet.ServerBusy || f.metrics.Refused[RefusedBusy].Load() != 1 {
			t.Errorf("one too many: %v", code)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		for range maxWaiting {
			if code := <-codes; code != packet.ServerBusy {
				t.Errorf("who waited too long: %v", code)
			}
		}
		if n := f.metrics.Refused[RefusedTimeout].Load(); n != maxWaiting || f.Waiting() != 0 {
			t.Errorf("%d timed out, %d wait", n, f.Waiting())
		}
		close(slow.release)
		for range 2 {
			if code := <-codes; code != packet.Success {
				t.Errorf("who had a turn: %v", code)
			}
		}
		if slow.most.Load() != 2 {
			t.Errorf("%d hashes at once", slow.most.Load())
		}
	})
}

// exchange runs SCRAM with a client of the library; tamper may change what it sends.
func exchange(t *testing.T, f *Files, user, password, authz string, tamper func(step int, s string) string) (*Client, []packet.ReasonCode) {
	t.Helper()
	sc, err := scram.SHA256.NewClient(user, password, authz)
	if err != nil {
		t.Fatal(err)
	}
	conv := sc.NewConversation()
	c := &Client{ID: "c", Remote: from("192.0.2.9")}
	x := f.Begin(c, MethodScram)
	if x == nil {
		t.Fatal("SCRAM-SHA-256 is not known")
	}
	var codes []packet.ReasonCode
	challenge := ""
	for step := range 3 {
		msg, err := conv.Step(challenge)
		if err != nil {
			t.Fatalf("the client does not take %q: %v", challenge, err)
		}
		if tamper != nil {
			msg = tamper(step, msg)
		}
		reply, code := x.Step(t.Context(), c, []byte(msg))
		codes = append(codes, code)
		if code == packet.Success {
			if _, err := conv.Step(string(reply)); err != nil || !conv.Valid() {
				t.Errorf("the server has not proved itself: %v", err)
			}
		}
		if code != packet.ContinueAuthentication {
			break
		}
		challenge = string(reply)
	}
	return c, codes
}

func TestScram(t *testing.T) {
	plain, err := HashPassword("plain", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	d := newFolder(t, []string{cheap(t, "alice", "secret"), cheap(t, "a,b=c", "ü"), plain}, "")
	f := d.open()
	for _, who := range [][2]string{{"alice", "secret"}, {"a,b=c", "ü"}} {
		c, codes := exchange(t, f, who[0], who[1], "", nil)
		if len(codes) != 2 || codes[1] != packet.Success || c.Username != who[0] || !f.Valid(c) {
			t.Errorf("%s: %v as %q", who[0], codes, c.Username)
		}
	}
	if c, codes := exchange(t, f, "alice", "secret", "alice", nil); codes[len(codes)-1] != packet.Success || c.Username != "alice" {
		t.Errorf("to act as oneself: %v", codes)
	}
	swap := func(at int, old, new string) func(int, string) string {
		return func(step int, s string) string {
			if step == at {
				return strings.Replace(s, old, new, 1)
			}
			return s
		}
	}
	for _, c := range []struct {
		name, user, password, authz string
		tamper                      func(int, string) string
		steps                       int
	}{
		{"wrong password", "alice", "Secret", "", nil, 2},
		{"unknown user", "bob", "secret", "", nil, 2},
		{"user without SCRAM", "plain", "x", "", nil, 2},
		{"to act as another", "alice", "secret", "root", nil, 1},
		{"user name changed", "alice", "secret", "", swap(0, "n=alice", "n=a=2Cb=3Dc"), 2},
		{"nonce changed", "alice", "secret", "", swap(1, "r=", "r=x"), 2},
		{"proof cut", "alice", "secret", "", swap(1, ",p=", ",p=AAAA"), 2},
		{"no proof", "alice", "secret", "", swap(1, ",p=", ",q="), 2},
		{"channel binding", "alice", "secret", "", swap(0, "n,,", "p=tls-unique,,"), 1},
		{"no user name", "alice", "secret", "", swap(0, "n=alice", "n="), 1},
		{"rubbish", "alice", "secret", "", swap(0, "n,", "zz"), 1},
		{"nothing", "alice", "secret", "", func(int, string) string { return "" }, 1},
	} {
		got, codes := exchange(t, f, c.user, c.password, c.authz, c.tamper)
		if len(codes) != c.steps || codes[len(codes)-1] != packet.NotAuthorized || got.Username != "" || got.Grant != nil {
			t.Errorf("%s: %v, user %q", c.name, codes, got.Username)
		}
		f.throttle = newThrottle()
	}
	// A run that has ended goes on no more, even with the right data.
	x := f.Begin(&Client{}, MethodScram)
	c := &Client{}
	for i, want := range []packet.ReasonCode{packet.ContinueAuthentication, packet.NotAuthorized, packet.NotAuthorized} {
		if _, code := x.Step(t.Context(), c, []byte("n,,n=alice,r=abc")); code != want {
			t.Errorf("step %d: %v", i, code)
		}
	}
	for _, m := range []string{"SCRAM-SHA-1", "scram-sha-256", "", "PLAIN"} {
		if f.Begin(c, m) != nil {
			t.Errorf("method %q is known", m)
		}
	}
}

// TestScramFailuresSlowDown: guessing by SCRAM counts as guessing.
func TestScramFailuresSlowDown(t *testing.T) {
	d := newFolder(t, []string{cheap(t, "alice", "secret")}, "")
	synctest.Test(t, func(t *testing.T) {
		f := d.open()
		began := time.Now()
		for range 4 {
			exchange(t, f, "alice", "guess", "", nil)
		}
		if took := time.Since(began); took != 250*time.Millisecond {
			t.Errorf("four guesses took %v", took)
		}
	})
}

func TestCertNames(t *testing.T) {
	s := certified("press7")
	for _, c := range []struct {
		n    CertName
		want string
		ok   bool
	}{{CertNone, "", false}, {CertCN, "press7", true}, {CertSubject, "CN=press7,O=Example", true}} {
		if got, ok := c.n.Of(s); got != c.want || ok != c.ok {
			t.Errorf("%d: %q, %v", c.n, got, ok)
		}
		unverified := *s
		unverified.VerifiedChains = nil
		if got, ok := c.n.Of(&unverified); got != "" || ok {
			t.Errorf("%d: a certificate that nobody verified counts: %q", c.n, got)
		}
		if got, ok := c.n.Of(nil); got != "" || ok {
			t.Errorf("%d: no TLS: %q", c.n, got)
		}
	}
}
