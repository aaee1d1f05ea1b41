package auth

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// What others have written: mosquitto_passwd 2.0 ($7$), its older form ($6$), the example
// of RFC 7677 in PostgreSQL's form (SCRAM), the reference implementation of argon2.
var foreign = []struct{ line, password string }{
	{"alice:$7$101$eLaD0NE8qDQEjFKb$SYeZNs1MdZTDnUbhtrsQB1udTL1I7DZ/+UoaqolP0gdWbn8ZVEqForJ6qVtBswVOc8Sdfj/5fi4ytZZMNlnmpg==", "secret"},
	{"bob:$7$101$qk54tOLv1dEiibdn$B/mwTdg2uiRkdp/1d7Abmgxc6EuXlALjcrH1Vro3WL2gncizh1bX2C+uhBFtdbYDtmK2zBmZD6R9wZ+pCzvSUg==", "p w"},
	{"carol:$6$c2FsdHNhbHRzYWx0$3aiBbchfIZo+1WYrkPzJjQxZ79F/NmwLQ+wF073kTd+6ANhaic8G/jWF/X4sqSFUKpLNdm1FZjBck6HQ8knM3A==", "secret"},
	{"user:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", "pencil"},
	{"dave:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "password"},
}

func TestHashesOfOthers(t *testing.T) {
	for _, f := range foreign {
		p, err := parsePasswords("f", []byte(f.line))
		if err != nil {
			t.Error(err)
			continue
		}
		name, _, _ := strings.Cut(f.line, ":")
		h := p.users[name].hash
		if !h.verify([]byte(f.password)) {
			t.Errorf("%s: the right password does not fit", name)
		}
		for _, wrong := range []string{"", f.password + " ", strings.ToUpper(f.password), f.password[1:]} {
			if h.verify([]byte(wrong)) {
				t.Errorf("%s: %q fits", name, wrong)
			}
		}
	}
}

func TestOwnHashes(t *testing.T) {
	b, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := HashPassword("a", []byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	scram, err := HashScram("b", []byte("s3cret"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	again, err := HashPassword("a", []byte("s3cret"))
	if err != nil || again == plain {
		t.Errorf("the same password gives the same line twice (%v)", err)
	}
	p, err := parsePasswords("f", []byte(plain+"\r\n\n# a comment: with a colon\n"+scram+"\nc:"+string(b)+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if h := p.users[name].hash; !h.verify([]byte("s3cret")) || h.verify([]byte("S3cret")) || h.verify(nil) {
			t.Errorf("%s: %T does not tell right from wrong", name, h)
		}
	}
	if len(p.scrams) != 1 || len(p.list) != 3 {
		t.Errorf("%d users, %d with SCRAM", len(p.list), len(p.scrams))
	}
	for _, bad := range []string{"", "a:b", "a\nb", "#x", " ", "\xff"} {
		if _, err := HashPassword(bad, []byte("x")); err == nil {
			t.Errorf("user name %q is accepted", bad)
		}
		if _, err := HashScram(bad, []byte("x"), 4096); err == nil {
			t.Errorf("user name %q is accepted with SCRAM", bad)
		}
	}
	if _, err := HashScram("a", []byte("x"), 4095); err == nil {
		t.Error("4095 iterations are accepted")
	}
}

// TestBadPasswordLines: each is refused with its number, and none makes a log-in cost
// more than the bounds.
func TestBadPasswordLines(t *testing.T) {
	const salt, sum = "c2FsdHNhbHRzYWx0", "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	good := foreign[0].line
	for name, line := range map[string]string{
		"no colon": "alice", "no name": ":$7$1$x$x", "no hash": "a:", "plain text": "a:secret", "twice": good,
		"unknown kind":     "a:$1$x$y",
		"argon2 version":   "a:$argon2id$v=16$m=256,t=2,p=1$" + salt + "$" + sum,
		"argon2 memory":    "a:$argon2id$v=19$m=262145,t=2,p=1$" + salt + "$" + sum,
		"argon2 too small": "a:$argon2id$v=19$m=7,t=2,p=1$" + salt + "$" + sum,
		"argon2 time":      "a:$argon2id$v=19$m=256,t=65,p=1$" + salt + "$" + sum,
		"argon2 no time":   "a:$argon2id$v=19$m=256,t=0,p=1$" + salt + "$" + sum,
		"argon2 order":     "a:$argon2id$v=19$t=2,m=256,p=1$" + salt + "$" + sum,
		"argon2 salt":      "a:$argon2id$v=19$m=256,t=2,p=1$c2Fs$" + sum,
		"argon2 sum":       "a:$argon2id$v=19$m=256,t=2,p=1$" + salt + "$c2Fs",
		"argon2 base64":    "a:$argon2id$v=19$m=256,t=2,p=1$" + salt + "$!!!",
		"bcrypt cost":      "a:$2b$17$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
		"bcrypt short":     "a:$2b$04$N9qo8",
		"pbkdf2 rounds":    "a:$7$0$" + salt + "$" + sum + "=",
		"pbkdf2 too many":  "a:$7$10000001$" + salt + "$" + sum + "=",
		"pbkdf2 parts":     "a:$7$101$" + salt,
		"sha512 length":    "a:$6$" + salt + "$" + sum + "=",
		"scram rounds":     strings.Replace(foreign[3].line, "4096", "4095", 1),
		"scram parts":      "a:SCRAM-SHA-256$4096:" + salt,
		"scram key":        strings.Replace(foreign[3].line, "wfPL", "", 1),
		"too long":         "a:$7$" + strings.Repeat("x", maxHashLine),
	} {
		_, err := parsePasswords("users", []byte("# first\n"+good+"\n"+line+"\n"))
		var le *LineError
		if !errors.As(err, &le) || le.Line != 3 || le.File != "users" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnknownUsersCostAsMuch: in the place of an unknown user a line of the file is
// checked, always the same, whose result does not count.
func TestUnknownUsersCostAsMuch(t *testing.T) {
	var text strings.Builder
	for _, f := range foreign {
		text.WriteString(f.line + "\n")
	}
	p, err := parsePasswords("f", []byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	same, err := parsePasswords("f", []byte(text.String())) // as on another node
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "y", "z", "mallory", "root", "admin", ""} {
		u, h := p.find(name)
		if u != nil || h == nil {
			t.Errorf("%q: user %v, hash %v", name, u, h)
		}
		u1, c1 := p.scramOf(name)
		u2, c2 := same.scramOf(name)
		if u1 != nil || u2 != nil || c1.Salt != c2.Salt || c1.Iters != 4096 || len(c1.Salt) != 16 {
			t.Errorf("%q: SCRAM shows that the user is not known: %+v and %+v", name, c1.KeyFactors, c2.KeyFactors)
		}
	}
	if u, c := p.scramOf("alice"); u != nil || c.Salt == "" {
		t.Error("a user without SCRAM can be told from one that is not known")
	}
	if u, h := (&passwords{}).find("x"); u != nil || h == nil || h.verify(nil) {
		t.Error("an empty file lets somebody in, or takes no time")
	}
}

func TestSetLine(t *testing.T) {
	const file = "# users\nalice:1\n\nbob:2\nalice2:3"
	for _, c := range []struct{ user, line, want string }{
		{"bob", "bob:9", "# users\nalice:1\n\nbob:9\nalice2:3\n"},
		{"eve", "eve:9", "# users\nalice:1\n\nbob:2\nalice2:3\neve:9\n"},
		{"alice", "", "# users\n\nbob:2\nalice2:3\n"},
		{"alice2", "", "# users\nalice:1\n\nbob:2\n"},
	} {
		got, err := SetLine([]byte(file), c.user, c.line)
		if err != nil || string(got) != c.want {
			t.Errorf("%s %q: %q, %v", c.user, c.line, got, err)
		}
	}
	if _, err := SetLine([]byte(file), "# users", ""); !errors.Is(err, ErrNoUser) {
		t.Errorf("a comment was taken for a user: %v", err)
	}
	if _, err := SetLine(nil, "x", ""); !errors.Is(err, ErrNoUser) {
		t.Errorf("taking away who is not there: %v", err)
	}
	if got, err := SetLine(nil, "x", "x:1"); err != nil || string(got) != "x:1\n" {
		t.Errorf("new file: %q, %v", got, err)
	}
	if got, err := SetLine([]byte("x:1\nx:2\n"), "x", "x:3"); err != nil || string(got) != "x:3\n" {
		t.Errorf("user with two lines: %q, %v", got, err)
	}
}

func FuzzPasswords(f *testing.F) {
	for _, l := range foreign {
		f.Add([]byte(l.line + "\n# x\n"))
	}
	f.Add([]byte("a:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR\r\nb:SCRAM-SHA-256$4096:$:"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePasswords("f", data)
		if err != nil {
			var le *LineError
			if !errors.As(err, &le) || le.Line < 1 {
				t.Fatalf("error without line: %v", err)
			}
			return
		}
		for name, u := range p.users {
			if checkName(name) != nil || u.hash == nil {
				t.Fatalf("user %q: %+v", name, u)
			}
			out, err := SetLine(data, name, "")
			if err != nil {
				t.Fatalf("user %q cannot be taken away: %v", name, err)
			}
			if q, err := parsePasswords("f", out); err != nil || q.users[name] != nil || len(q.users) != len(p.users)-1 {
				t.Fatalf("user %q taken away: %v", name, err)
			}
		}
	})
}
