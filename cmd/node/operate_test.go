package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
)

// Each family lists its orders, and each order its flags.
func TestOrdersExplainThemselves(t *testing.T) {
	for family, orders := range map[string][]string{
		"cluster": {"members", "transfer"}, "sessions": {"list", "show", "kick", "delete"}, "retained": {"list", "clear"},
	} {
		out, err := runProgram(t, startFake, family, "--help")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range orders {
			if !strings.Contains(out, "\n  "+o+" ") {
				t.Errorf("%s --help does not list %s:\n%s", family, o, out)
			}
			text, err := runProgram(t, startFake, family, o, "--help")
			if err != nil || !strings.Contains(text, "Usage: flotilla "+family+" "+o) || !strings.Contains(text, "--admin-addr") {
				t.Errorf("%s %s --help: %v\n%s", family, o, err, text)
			}
		}
	}
}

func TestOrdersRefuseWhatMakesNoSense(t *testing.T) {
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"sessions"}, "needs an order"},
		{[]string{"sessions", "shwo"}, "shwo"},
		{[]string{"sessions", "show"}, "sessions show CLIENT"},
		{[]string{"sessions", "list", "all"}, "sessions list"},
		{[]string{"retained", "list", "a", "b"}, "retained list [FILTER]"},
		{[]string{"cluster", "transfer", "x", "n1"}, "no number"},
		{[]string{"log-level", "debug", "info"}, "log-level"},
		{[]string{"cluster", "members", "--admin-cert=c"}, "go together"},
		{[]string{"cluster", "members", "--admin-cert=c", "--admin-key=k", "--admin-ca=a"}, "admin-cert"},
		{[]string{"check-disk", "--data=" + filepath.Join(t.TempDir(), "none")}, "data"},
	} {
		if _, err := runProgram(t, startFake, tc.args...); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q: %v", tc.args, err)
		}
	}
	_, err := runProgram(t, startFake, "cluster", "members", "--admin-addr=unix:"+filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "--admin-addr") {
		t.Errorf("where nobody answers: %v", err)
	}
}

// A list is asked for page by page, up to its limit.
func TestPages(t *testing.T) {
	for _, tc := range []struct{ total, limit, want int }{
		{0, 0, 0}, {5, 0, 5}, {2*admin.MaxPage + 5, 0, 2*admin.MaxPage + 5}, {2*admin.MaxPage + 5, admin.MaxPage + 3, admin.MaxPage + 3}, {5, 7, 5},
	} {
		got, err := pages(tc.limit, func(last *int, size int) ([]int, bool, error) {
			next := 0
			if last != nil {
				next = *last + 1
			}
			var page []int
			for ; len(page) < size && next < tc.total; next++ {
				page = append(page, next)
			}
			return page, next < tc.total, nil
		})
		if err != nil || got == nil || len(got) != tc.want {
			t.Errorf("%+v: %d, %v", tc, len(got), err)
		}
		for i, k := range got {
			if k != i {
				t.Fatalf("%+v: element %d is %d", tc, i, k)
			}
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{"a b/é": "a b/é", "": `""`, "x\x1b[2J": `"x\x1b[2J"`, "a\u200bb": `"a\u200bb"`} {
		if got := printable(in); got != want {
			t.Errorf("%q is printed as %s", in, got)
		}
	}
}

// A socket is only for its user; one that is left of a killed process is taken over, one
// that is in use is not.
func TestListenAdmin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if _, err := listenAdmin("unix:" + path); err == nil {
		t.Error("a socket in use was taken over")
	}
	left.Close()
	l, err := listenAdmin("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := os.WriteFile(path+"2", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAdmin("unix:" + path + "2"); err == nil {
		t.Error("a file was taken over")
	}
}

// Errors of the cluster reach operators with a fitting status.
func TestAnswered(t *testing.T) {
	for _, s := range statuses {
		var e *admin.Error
		if err := answered(errors.Join(errors.New("x"), s.err)); !errors.As(err, &e) || e.Status != s.status || s.status < http.StatusBadRequest {
			t.Errorf("%v: %v", s.err, err)
		}
	}
	if err := answered(context.Canceled); !errors.Is(err, context.Canceled) || answered(nil) != nil {
		t.Errorf("got %v", err)
	}
}
