package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

func mustRules(t testing.TB, text string) *rules {
	t.Helper()
	r, err := parseRules("acl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// certified is a TLS connection with a verified certificate.
func certified(cn string) *tls.ConnectionState {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: cn, Organization: []string{"Example"}}}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
}

func TestRules(t *testing.T) {
	file := `
# who may do what
deny  client "bad one"            both       #
allow user alice                  publish    plant/%u/#
allow user alice                  subscribe  plant/+/state
allow anyone                      subscribe  public/#
deny  anonymous                   subscribe  open/secret/#
allow anonymous                   both       open/#
allow user alice client press*    publish    press/cmd
allow user dev-*                  both       dev/%u/%c/#
allow user "dev-*"                publish    star
allow cn press7                   publish    by/cn
allow subject "CN=press7,O=Example" publish by/subject
allow user bob                    subscribe  $SYS/#
deny  user bob                    both       secret/+
allow user bob                    both       #
allow user pct                    publish    100%%/%u
`
	r := mustRules(t, file)
	client := func(user, id string) *Client { return &Client{Username: user, ID: id} }
	press7 := &Client{ID: "x", TLS: certified("press7")}
	unverified := &Client{ID: "x", TLS: &tls.ConnectionState{PeerCertificates: press7.TLS.PeerCertificates}}
	for _, c := range []struct {
		who                *Client
		topic              string
		publish, subscribe bool
	}{
		{client("alice", "1"), "plant/alice/x", true, false},
		{client("alice", "1"), "plant/alice", true, false},
		{client("alice", "1"), "plant/bob/x", false, false},
		{client("alice", "1"), "plant/#", false, false},
		{client("alice", "1"), "plant/+/state", false, true},
		{client("alice", "1"), "plant/7/state", false, true},
		{client("alice", "1"), "plant/+/+", false, false},
		{client("alice", "1"), "#", false, false},
		{client("alice", "1"), "public/#", false, true},
		{client("alice", "1"), "public", false, true},
		{client("alice", "1"), "public/a/+", false, true},
		{client("alice", "1"), "publication", false, false},
		{client("alice", "bad one"), "plant/alice/x", false, false},
		{client("alice", "bad one"), "public/x", false, false},
		{client("alice", "press9"), "press/cmd", true, false},
		{client("alice", "1"), "press/cmd", false, false},
		{client("bob", "press9"), "press/cmd", true, true},
		{client("", "1"), "open/x", true, true},
		{client("", "1"), "open/secret/x", true, false},
		{client("", "1"), "open/#", true, false}, // reaches into what is denied
		{client("", "1"), "open/+", true, false}, // open/secret itself is denied with open/secret/#
		{client("alice", "1"), "open/x", false, false},
		{client("dev-1", "c"), "dev/dev-1/c/x", true, true},
		{client("dev-1", "c"), "dev/dev-2/c/x", false, false},
		{client("dev-1", "c"), "star", false, false},
		{client("dev-*", "c"), "star", true, false},
		{press7, "by/cn", true, false},
		{press7, "by/subject", true, false},
		{unverified, "by/cn", false, false},
		{unverified, "by/subject", false, false},
		{client("press7", "press7"), "by/cn", false, false},
		{client("bob", "1"), "secret/x", false, false},
		{client("bob", "1"), "secret/x/y", true, true},
		{client("bob", "1"), "secret/#", false, false},
		{client("bob", "1"), "#", false, false}, // reaches into secret/+
		{client("bob", "1"), "other/#", true, true},
		{client("bob", "1"), "$SYS/broker", false, true},
		{client("bob", "1"), "$other/x", false, false}, // '#' does not mean it [MQTT-4.7.2-1]
		{client("pct", "1"), "100%/pct", true, false},
		{client("nobody", "1"), "x", false, false},
	} {
		v := r.view(c.who)
		name := fmt.Sprintf("%s/%s %s", c.who.Username, c.who.ID, c.topic)
		if got := decide(v.publish, c.topic); got != c.publish && !strings.ContainsAny(c.topic, "+#") {
			t.Errorf("%s: publish %v", name, got)
		}
		if got := decide(v.subscribe, c.topic); got != c.subscribe {
			t.Errorf("%s: subscribe %v", name, got)
		}
	}
}

// TestDocumentedRules: the example in docs/security.md is one.
func TestDocumentedRules(t *testing.T) {
	data, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(data), "    # what        who")
	text, _, end := strings.Cut(text, "\n\n")
	if !ok || !end {
		t.Fatal("the example is gone")
	}
	r := mustRules(t, "#"+text)
	if len(r.list) < 8 {
		t.Errorf("only %d rules", len(r.list))
	}
}

// TestChosenNamesWidenNothing: clients choose their client identifiers, and whoever makes
// accounts their user names. None may get more by it than its own.
func TestChosenNamesWidenNothing(t *testing.T) {
	r := mustRules(t, "deny anyone both deny/%c/#\nallow anyone both id/%c/#\nallow anyone both user/%u\nallow anyone both %c/top\nallow anyone both pre-%c/x\nallow anyone both deny/#\n")
	for _, id := range []string{"+", "#", "a/b", "/", "a/#", "+/+", "a+", "$SYS", "$share", ""} {
		v := r.view(&Client{ID: id, Username: id})
		for _, other := range []string{"id/victim/x", "id/a/b/x", "id/a/b", "user/victim", "victim/top", "pre-victim/x", "$SYS/top",
			"id/#", "id/+/x", "user/#", "user/+", "+/top", "#", "deny/victim/x", "deny/x", "deny/#", "deny/a/b/c"} {
			if strings.HasPrefix(id, "$") && strings.HasPrefix(other, "deny/") {
				continue // an ordinary name there
			}
			if decide(v.subscribe, other) || decide(v.publish, other) {
				t.Errorf("client %q may use %q", id, other)
			}
		}
	}
	v := r.view(&Client{ID: "a", Username: "%c"})
	if !decide(v.publish, "id/a/x") || !decide(v.publish, "user/%c") || decide(v.publish, "user/a") || decide(v.publish, "deny/a/x") || !decide(v.publish, "deny/b/x") {
		t.Error("ordinary names do not get their own")
	}
}

func TestBadRules(t *testing.T) {
	for _, line := range []string{
		"permit anyone publish x", "allow", "allow anyone", "allow anyone publish", "allow anyone read x", "allow everyone publish x",
		"allow user", "allow user alice", "allow user alice publish", "allow user \"\" publish x", "allow user a*b publish x",
		"allow user alice publish a b", "allow user alice publish a/#/b", "allow user alice publish a+", "allow user alice publish %x",
		"allow user alice publish a%", "allow user alice publish $share/g/a", `allow user "alice publish a`, `allow user "a"b publish a`,
		"allow anonymous user alice publish x", "allow user alice anyone publish x", "Allow anyone publish x", "allow anyone publish #%u",
		"allow anyone publish \"\"", "allow \"anyone\" publish x", "allow anyone publish \xff",
	} {
		_, err := parseRules("acl", []byte("# one\n\nallow anyone both x\n"+line))
		var le *LineError
		if !errors.As(err, &le) || le.Line != 4 || !strings.HasPrefix(err.Error(), "acl:4: ") {
			t.Errorf("%s: %v", line, err)
		}
	}
	_, err := parseRules("acl", []byte("x\nallow anyone both x\ny\n"))
	if err == nil || !strings.Contains(err.Error(), "acl:1:") || !strings.Contains(err.Error(), "acl:3:") {
		t.Errorf("not all bad lines are told: %v", err)
	}
}

// names are all topic names of up to three levels of a few words.
func names() (out []string) {
	level := []string{"a", "b", "", "$x"}
	for _, a := range level {
		if a != "" {
			out = append(out, a)
		}
		for _, b := range level {
			out = append(out, a+"/"+b)
			for _, c := range level {
				out = append(out, a+"/"+b+"/"+c)
			}
		}
	}
	return out
}

func randomFilter(r *rand.Rand) string {
	var levels []string
	for n := r.IntN(3) + 1; len(levels) < n; {
		l := []string{"a", "b", "", "$x", "+", "+", "#"}[r.IntN(7)]
		levels = append(levels, l)
		if l == "#" {
			break
		}
	}
	if f := strings.Join(levels, "/"); f != "" {
		return f
	}
	return "a"
}

// TestCoversAndTouches compares with what the filters match. covers must never say yes
// too much, touches never no.
func TestCoversAndTouches(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	all := append(names(), "") // the empty level is the parent of "/#"
	yes := 0
	for range 20_000 {
		a, b := randomFilter(r), randomFilter(r)
		inAll, inAny := true, false
		for _, n := range all {
			ma, mb := topic.Match(a, n), topic.Match(b, n)
			inAll = inAll && (ma || !mb)
			inAny = inAny || ma && mb
		}
		if covers(a, b) {
			if yes++; !inAll {
				t.Fatalf("%q is said to cover %q", a, b)
			}
		}
		if inAny && !touches(a, b) {
			t.Fatalf("%q is said not to touch %q", a, b)
		}
		// Beyond that, touches says yes only for a leading wildcard and '$'.
		if !inAny && touches(a, b) && !(wild(a) && b[0] == '$') {
			t.Fatalf("%q is said to touch %q", a, b)
		}
		if !covers(a, a) || !touches(a, a) {
			t.Fatalf("%q does not cover or touch itself", a)
		}
	}
	if yes < 100 {
		t.Errorf("only %d pairs covered each other", yes)
	}
}

// TestDecideLeaksNothing: whatever the rules, a subscription that is allowed matches no
// name that the client may not read.
func TestDecideLeaksNothing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	all := names()
	allowed := 0
	for range 5000 {
		var list []verdict
		for range r.IntN(4) + 1 {
			list = append(list, verdict{r.IntN(3) > 0, randomFilter(r)})
		}
		f := randomFilter(r)
		if !decide(list, f) {
			continue
		}
		allowed++
		for _, n := range all {
			if topic.Match(f, n) && !decide(list, n) {
				t.Fatalf("rules %+v allow %q, which matches %q, which they do not", list, f, n)
			}
		}
	}
	if allowed < 100 {
		t.Errorf("only %d filters were allowed", allowed)
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte("allow user \"a \\\" b\" client c* publish a/%u/#\ndeny anonymous both +/%c\n"), "u", "c", "a/u/x")
	f.Add([]byte("allow cn x subject \"CN=x\" subscribe %%\n# c\n"), "", "+", "#")
	f.Fuzz(func(t *testing.T, data []byte, user, id, filter string) {
		r, err := parseRules("acl", data)
		if err != nil {
			var le *LineError
			if !errors.As(err, &le) || le.Line < 1 {
				t.Fatalf("error without line: %v", err)
			}
			return
		}
		if topic.ValidFilter(filter) != nil {
			return
		}
		v := r.view(&Client{ID: id, Username: user})
		decide(v.publish, filter)
		decide(v.subscribe, filter)
		for _, x := range append(v.publish, v.subscribe...) {
			if topic.ValidFilter(x.filter) != nil && topic.ValidName(user) == nil && topic.ValidName(id) == nil {
				t.Fatalf("%q becomes %q", data, x.filter)
			}
		}
	})
}
