// Testreport reads the output of `go test -json`, prints what matters for
// people, and fails if a test failed, or was skipped without being named, with
// its reason, in the file of skips that is its argument.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout)
	if err != nil && !errors.Is(err, errTests) {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// errTests is what run returns after it has told what is wrong with the tests.
var errTests = errors.New("tests failed")

// event is a line of `go test -json` (go doc test2json) or `go build -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Output     string
}

type report struct {
	out                      io.Writer
	allowed                  map[string]string   // "package Test" → reason
	output                   map[string][]string // of tests under way
	passed, failed, skipped  int
	packages, failedPackages int
	unnamed                  []string
}

func run(args []string, in io.Reader, out io.Writer) error {
	r := &report{out: out, allowed: map[string]string{}, output: map[string][]string{}}
	if len(args) > 0 {
		if err := r.readAllowed(args[0]); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(out, lines.Text()) // what make or go says besides
			continue
		}
		r.event(e)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return r.end()
}

// readAllowed reads lines of package, test and reason; # starts a comment.
func (r *report) readAllowed(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || strings.HasPrefix(f[0], "#"):
		case len(f) < 3:
			return fmt.Errorf("%s: %q: want package, test and reason", file, strings.TrimSpace(line))
		default:
			r.allowed[f[0]+" "+f[1]] = strings.Join(f[2:], " ")
		}
	}
	return nil
}

func (r *report) event(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if e.Test == "" {
			if line := strings.TrimSpace(e.Output); line != "PASS" && line != "FAIL" {
				fmt.Fprint(r.out, e.Output)
			}
			return
		}
		r.output[key] = append(r.output[key], e.Output)
	case "pass", "fail", "skip":
		r.result(e, key)
		delete(r.output, key)
	}
}

func (r *report) result(e event, key string) {
	if e.Test == "" {
		if e.Action != "skip" { // skip: no test files
			r.packages++
		}
		if e.Action == "fail" {
			r.failedPackages++
		}
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		r.show(key)
	case "skip":
		r.skipped++
		if reason, ok := r.allowed[key]; ok {
			fmt.Fprintf(r.out, "skipped as agreed: %s: %s\n", key, reason)
			return
		}
		r.unnamed = append(r.unnamed, key)
		r.show(key)
	}
}

func (r *report) show(key string) {
	for _, line := range r.output[key] {
		fmt.Fprint(r.out, line)
	}
}

// end prints the closing line: go test's own counts.
func (r *report) end() error {
	var wrong []string
	if r.packages == 0 {
		wrong = append(wrong, "no package was tested")
	}
	if r.failed+r.failedPackages > 0 {
		wrong = append(wrong, fmt.Sprintf("%d tests failed in %d packages", r.failed, r.failedPackages))
	}
	for _, key := range r.unnamed {
		wrong = append(wrong, key+" was skipped and is not named in the file of skips")
	}
	for _, w := range wrong {
		fmt.Fprintln(r.out, w)
	}
	verdict, err := "ok", error(nil)
	if len(wrong) > 0 {
		verdict, err = "FAIL", errTests
	}
	fmt.Fprintf(r.out, "%s: %d passed, %d failed, %d skipped in %d packages\n", verdict, r.passed, r.failed, r.skipped, r.packages)
	return err
}
