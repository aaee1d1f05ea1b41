package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// binary is the broker, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "flotilla-deploy")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "flotilla")
	build := exec.Command("go", "build", "-o", binary, "./cmd/node")
	build.Dir = "../.."
	code := 1
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir) // the system's own folder for what is temporary
	os.Exit(code)
}

// flags are those that a subcommand of the binary knows, with their defaults.
func flags(t *testing.T, subcommand string) map[string]string {
	t.Helper()
	out, err := exec.Command(binary, subcommand, "--help").Output()
	if err != nil {
		t.Fatalf("flotilla %s --help: %v", subcommand, err)
	}
	known := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name := regexp.MustCompile(`^\s+--([a-z-]+)`).FindStringSubmatch(line)
		if name == nil {
			continue
		}
		known[name[1]] = ""
		if def := regexp.MustCompile(`\(default "?([^")]*)"?\)$`).FindStringSubmatch(strings.TrimSpace(line)); def != nil {
			known[name[1]] = def[1]
		}
	}
	if len(known) < 3 {
		t.Fatalf("flotilla %s --help lists %v only", subcommand, known)
	}
	return known
}

// given are the flags among args.
func given(args []string) map[string]string {
	out := map[string]string{}
	for i, a := range args {
		name, ok := strings.CutPrefix(a, "--")
		if !ok {
			continue
		}
		name, value, whole := strings.Cut(name, "=")
		if !whole && i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
			value = args[i+1]
		}
		out[name] = value
	}
	return out
}

func seconds(t *testing.T, s string) int64 {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		t.Fatalf("%q is no time", s)
	}
	return int64(d.Seconds())
}
