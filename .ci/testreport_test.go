package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	passed  = `{"Action":"pass","Package":"p","Test":"A"}` + "\n"
	skipped = `{"Action":"output","Package":"p","Test":"B","Output":"no broker here\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"B"}` + "\n"
	failed  = `{"Action":"output","Package":"p","Test":"C","Output":"wrong\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"C"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
	good    = `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}` + "\n" + `{"Action":"pass","Package":"p"}` + "\n"
	none    = `{"Action":"skip","Package":"q"}` + "\n"
	broken  = `{"ImportPath":"p","Action":"build-output","Output":"undefined: x\n"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
)

func TestReport(t *testing.T) {
	skips := filepath.Join(t.TempDir(), "skips")
	if err := os.WriteFile(skips, []byte("# package test reason\np B needs a broker\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, in string
		args     []string
		ok       bool
		says     string
	}{
		{"all well", passed + good + none, nil, true, "ok: 1 passed, 0 failed, 0 skipped in 1 packages"},
		{"a failure", passed + failed, nil, false, "wrong"},
		{"an unnamed skip", passed + skipped + good, nil, false, "no broker here"},
		{"a named skip", passed + skipped + good, []string{skips}, true, "needs a broker"},
		{"a build failure", broken, nil, false, "undefined: x"},
		{"nothing", "", nil, false, "FAIL: 0 passed"},
		{"other output", "make: hello\n" + good, nil, true, "make: hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			err := run(tt.args, strings.NewReader(tt.in), &out)
			if (err == nil) != tt.ok || !strings.Contains(out.String(), tt.says) {
				t.Errorf("%v\n%s", err, out.String())
			}
		})
	}
}
