package fsm

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestImports keeps apply pure: what the machine does follows from its log alone.
func TestImports(t *testing.T) {
	reasons := map[string]string{
		"time": "time is data in the log", "net": "effects are carried out by the caller", "os": "no I/O in apply",
		"math/rand": "replicas must agree", "crypto/rand": "replicas must agree", "sync": "a machine belongs to one goroutine",
		"log": "effects tell what happened", "runtime": "replicas must agree", "unsafe": "what is kept is copied",
	}
	allowed := map[string]bool{
		"github.com/flotilla-mqtt/flotilla/proto/logpb": true,
		"github.com/flotilla-mqtt/flotilla/mqtt/topic":  true,
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		checked++
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for forbidden, reason := range reasons {
				if path == forbidden || strings.HasPrefix(path, forbidden+"/") {
					t.Errorf("%s imports %s: %s", f.Name(), path, reason)
				}
			}
			if strings.Contains(path, ".") && !allowed[path] {
				t.Errorf("%s imports %s: fsm knows its log and topics, nothing else", f.Name(), path)
			}
		}
	}
	if checked < 10 {
		t.Fatalf("found %d files only", checked)
	}
}
