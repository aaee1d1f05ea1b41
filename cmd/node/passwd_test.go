package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

func passwd(t *testing.T, stdin string, args ...string) error {
	t.Helper()
	p := &program{stdin: strings.NewReader(stdin), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	return p.run(t.Context(), append([]string{"passwd"}, args...))
}

// logins tries users and passwords of a file.
func logins(t *testing.T, file string, want map[[2]string]bool) {
	t.Helper()
	f, err := auth.Open(auth.Options{PasswordFile: file})
	if err != nil {
		t.Fatal(err)
	}
	for who, ok := range want {
		c := &auth.Client{Username: who[0]}
		if code := f.Authenticate(t.Context(), c, []byte(who[1])); (code == packet.Success) != ok {
			t.Errorf("%q with %q: %v", who[0], who[1], code)
		}
	}
}

func TestPasswd(t *testing.T) {
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "users"), filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("from a file\r\nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stdin string
		args  []string
	}{
		{"one\n", []string{file, "alice"}},
		{"no newline", []string{file, "bob"}},
		{"", []string{"--from", secret, file, "carol"}},
		{"scram\n", []string{"--scram", "--iterations=4096", file, "dave"}},
		{"two\n", []string{file, "alice"}},
		{"", []string{"--delete", file, "bob"}},
	} {
		if err := passwd(t, c.stdin, c.args...); err != nil {
			t.Fatalf("%q: %v", c.args, err)
		}
	}
	logins(t, file, map[[2]string]bool{
		{"alice", "two"}: true, {"alice", "one"}: false, {"bob", "no newline"}: false,
		{"carol", "from a file"}: true, {"dave", "scram"}: true,
	})
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(file)
	if err != nil || bytes.Contains(data, []byte("two")) || !strings.HasPrefix(string(data), "alice:$argon2id$") || !bytes.Contains(data, []byte("\ndave:SCRAM-SHA-256$4096:")) {
		t.Errorf("the file is %q, %v", data, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestPasswdRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	for name, c := range map[string]struct {
		stdin string
		args  []string
		is    error
	}{
		"no arguments":       {"x", nil, nil},
		"no user":            {"x", []string{file}, nil},
		"empty password":     {"\n", []string{file, "a"}, nil},
		"colon":              {"x", []string{file, "a:b"}, nil},
		"few iterations":     {"x", []string{"--scram", "--iterations=1", file, "a"}, nil},
		"too long":           {strings.Repeat("x", 65536), []string{file, "a"}, nil},
		"nobody to delete":   {"", []string{"--delete", file, "a"}, os.ErrNotExist},
		"no file with it":    {"", []string{"--from", filepath.Join(dir, "none"), file, "a"}, os.ErrNotExist},
		"no folder for file": {"x", []string{filepath.Join(dir, "none", "users"), "a"}, os.ErrNotExist},
	} {
		if err := passwd(t, c.stdin, c.args...); err == nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	if err := os.WriteFile(file, []byte("mallory:plain\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var le *auth.LineError
	if err := passwd(t, "x", file, "alice"); !errors.As(err, &le) || le.Line != 1 {
		t.Errorf("what else is bad in the file is not told: %v", err)
	}
	if err := passwd(t, "", "--delete", file, "bob"); !errors.Is(err, auth.ErrNoUser) {
		t.Errorf("unknown user: %v", err)
	}
}

// TestPasswdKeepsLinks: what the broker reads by a link is replaced where it is.
func TestPasswdKeepsLinks(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := passwd(t, "x", real, "alice"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	if err := passwd(t, "y", link, "bob"); err != nil {
		t.Fatal(err)
	}
	logins(t, real, map[[2]string]bool{{"alice", "x"}: true, {"bob", "y"}: true})
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
}

// TestMosquittoPasswords: a file of mosquitto_passwd is read, and goes on being one.
func TestMosquittoPasswords(t *testing.T) {
	tool, err := exec.LookPath("mosquitto_passwd")
	if err != nil {
		t.Skip("mosquitto_passwd is not installed")
	}
	file := filepath.Join(t.TempDir(), "users")
	for _, args := range [][]string{{"-c", "-b", file, "alice", "secret"}, {"-b", file, "bob", "p w:$"}} {
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := passwd(t, "ours", file, "carol"); err != nil {
		t.Fatal(err)
	}
	logins(t, file, map[[2]string]bool{{"alice", "secret"}: true, {"alice", "Secret"}: false, {"bob", "p w:$"}: true, {"carol", "ours"}: true})
}
