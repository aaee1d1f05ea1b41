// Package proof has the rules of the house as tests: who may import whom, and how long a file
// may be. The proofs are in its sub-packages.
package proof

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/flotilla-mqtt/flotilla/"

// rule is what holds for the imports of some packages.
type rule struct {
	who     []string
	ours    []string // what they may import of ours; nil: nothing
	never   []string // what they must not reach
	tests   bool     // holds for their tests too
	because string
	instead string // what to do
}

// rules say what each package may import of ours, and what it must never reach, not even by way of
// others (for the standard library: must not import itself). A path that ends in /... stands for a
// folder and all below it; the first rule that names a package counts. ARCHITECTURE.md has the map.
var rules = []rule{
	{
		who: []string{"fsm"}, ours: []string{"proto/logpb", "mqtt/topic", "proof/mutant"},
		never: []string{"time", "net/...", "os/...", "math/rand/...", "crypto/rand", "sync/...", "log/...", "runtime/...", "unsafe",
			"github.com/hashicorp/...", "google.golang.org/grpc/..."},
		because: "replicas must come to the same bytes from the same log, so apply has no clock, no chance, no lock and no I/O",
		instead: "let the leader put it into the entry (proto/logpb), or return an effect that cluster carries out",
	},
	{
		who: []string{"mqtt"}, ours: []string{"mqtt/packet", "mqtt/topic", "mqtt/flow", "mqtt/auth", "mqtt/websocket", "proof/mutant"},
		never:   []string{"github.com/hashicorp/raft/...", "google.golang.org/grpc/...", module + "fsm", module + "cluster/..."},
		because: "the gateway speaks MQTT and knows no consensus; its tests run without a cluster",
		instead: "declare what it needs in mqtt/cluster.go, and satisfy that in cluster",
	},
	{
		who: []string{"mqtt/auth"}, ours: []string{"mqtt/packet", "mqtt/topic"},
		never:   []string{"github.com/hashicorp/...", "google.golang.org/grpc/..."},
		because: "who may do what is decided without knowing connections or a cluster",
		instead: "add it to the Authenticator interface, and let mqtt call it",
	},
	{
		who:     []string{"mqtt/packet", "mqtt/topic", "mqtt/flow", "mqtt/websocket"},
		never:   []string{"github.com/hashicorp/...", "google.golang.org/grpc/..."},
		because: "codec, topics, frames and the vocabulary of flows are used from all sides",
		instead: "give it what it needs as an argument",
	},
	{
		who:     []string{"cluster"},
		ours:    []string{"fsm", "proto/...", "mqtt/packet", "mqtt/topic", "mqtt/flow", "cluster/...", "proof/mutant"},
		never:   []string{module + "mqtt"},
		because: "a node of the cluster does not know who serves its clients",
		instead: "put the words that both need into mqtt/flow; cmd/node joins them",
	},
	{
		who: []string{"cluster/control"}, ours: []string{"proto/ctlpb", "cluster/discovery", "proof/mutant"},
		because: "the control group decides who is a member, whatever the members do",
		instead: "have cluster hand it over in control.Options",
	},
	{
		who: []string{"cluster/transport/..."}, ours: []string{"proto/peerpb", "cluster/transport", "proof/mutant"},
		because: "it carries frames and does not know what they mean",
		instead: "have cluster register a handler",
	},
	{
		who: []string{"cluster/store", "cluster/discovery"}, ours: []string{"proof/mutant"},
		because: "disks and gossip serve cluster and call nothing of it",
		instead: "have cluster hand it over in Options",
	},
	{
		who:     []string{"proto/..."},
		because: "it is generated, and everybody uses it",
		instead: "put code into the package that uses the messages",
	},
	{
		who:  []string{"proof/conformance", "proof/check", "proof/client", "proof/history", "proof/workload", "proof/simnet", "proof/toy"},
		ours: []string{"proof/check", "proof/client", "proof/history", "proof/workload", "proof/simnet", "proof/toy"}, tests: true,
		because: "a judge that shares code with the judged shares its mistakes",
		instead: "write it once more, from the standard",
	},
	{
		who:     []string{"proof/mutant"},
		because: "planted bugs are asked for everywhere, and must be nothing but constants that are false",
		instead: "do what the bug does where it is, in a file mutants.go",
	},
	{
		who:     []string{"proof/pki"},
		because: "tests on all sides need certificates",
		instead: "give it what it needs as an argument",
	},
	{
		who: []string{"proof/chaos"}, ours: []string{"proof/check", "proof/client", "proof/history", "proof/workload"},
		because: "it judges the shipped binary by what clients see",
		instead: "ask the binary, as a user would",
	},
	{who: []string{"proof", "proof/sim", "proof/e2e", "cmd/..."}, ours: []string{"..."}, because: "they join the parts"},
}

// listed is what go list says of a package.
type listed struct {
	ImportPath                               string
	Imports, TestImports, XTestImports, Deps []string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func covers(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		folder, below := strings.CutSuffix(p, "...")
		folder = strings.TrimSuffix(folder, "/")
		return name == folder || below && (folder == "" || strings.HasPrefix(name, folder+"/"))
	})
}

// TestImports holds every package to its rule.
func TestImports(t *testing.T) {
	used := make([]bool, len(rules))
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		i := slices.IndexFunc(rules, func(r rule) bool { return covers(r.who, name) })
		if i < 0 {
			t.Errorf("%s has no rule: decide what it may import, and say so in proof/house_test.go and in the map in ARCHITECTURE.md", name)
			continue
		}
		used[i] = true
		r := rules[i]
		direct := slices.Clone(p.Imports)
		if r.tests {
			direct = slices.Concat(direct, p.TestImports, p.XTestImports)
		}
		slices.Sort(direct)
		for _, d := range slices.Compact(direct) {
			if ours, ok := strings.CutPrefix(d, module); ok && ours != name && !covers(r.ours, ours) {
				t.Errorf("%s must not import %s: %s. Instead, %s.", name, ours, r.because, r.instead)
			}
			if covers(r.never, d) {
				t.Errorf("%s must not import %s: %s. Instead, %s.", name, d, r.because, r.instead)
			}
		}
		for _, d := range p.Deps {
			// All that is not ours reaches most of the standard library.
			if strings.Contains(d, ".") && !slices.Contains(direct, d) && covers(r.never, d) {
				t.Errorf("%s must not reach %s, as it does by way of what it imports: %s. Instead, %s.", name, d, r.because, r.instead)
			}
		}
	}
	for i, r := range rules {
		if !used[i] {
			t.Errorf("the rule for %v is about no package: correct it", r.who)
		}
	}
}

// maxLines is how long a file may be that people read.
const maxLines = 500

// TestFileLength keeps files readable.
func TestFileLength(t *testing.T) {
	read := 0
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "data"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		lines, generated, err := count(file)
		read++
		if lines > maxLines && !generated {
			t.Errorf("%s has %d lines, more than %d: split it by what its parts are about", strings.TrimPrefix(file, "../"), lines, maxLines)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if read < 100 {
		t.Errorf("found %d files only: is this the root of the module?", read)
	}
}

func count(file string) (lines int, generated bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		lines++
		generated = generated || strings.HasPrefix(s.Text(), "// Code generated ") // as the go command has it
	}
	return lines, generated, s.Err()
}
