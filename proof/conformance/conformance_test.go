package conformance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// brokers, if given, are addresses of any broker's nodes to run the tables against.
var brokers = flag.String("brokers", "", "addresses of the nodes of a running broker, separated by commas, instead of our own")

// only, if given, is a part of the names of the scenarios to run, and repeat how often.
var (
	only   = flag.String("only", "", "run scenarios with this in their name only")
	repeat = flag.Int("repeat", 1, "how often to run each scenario")
)

// patience is far above what a healthy cluster needs on a loaded machine.
const patience = 60 * time.Second

// table is one file.
type table struct {
	name      string
	settings  []string // lines that begin with #!
	scenarios []Scenario
}

func tables(t *testing.T, pattern string) []table {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatal("no tables: ", err)
	}
	slices.Sort(files)
	var all []table
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		list, err := Parse(strings.NewReader(string(text)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		short, _ := filepath.Rel("testdata", strings.TrimSuffix(name, ".txt"))
		tab := table{name: short, scenarios: list}
		for line := range strings.Lines(string(text)) {
			if s, ok := strings.CutPrefix(line, "#! "); ok {
				tab.settings = append(tab.settings, strings.TrimSpace(s))
			}
		}
		all = append(all, tab)
	}
	return all
}

// TestOneNode runs all tables against one node.
func TestOneNode(t *testing.T) { runAll(t, 1) }

// TestThreeNodes runs all tables against a cluster, with the clients of a scenario on
// different nodes.
func TestThreeNodes(t *testing.T) { runAll(t, 3) }

func runAll(t *testing.T, nodes int) {
	var b Broker
	if *brokers == "" {
		b = start(t, nodes)
	} else {
		for _, addr := range strings.Split(*brokers, ",") {
			b.Nodes = append(b.Nodes, map[string]string{"": addr})
		}
	}
	run(t, b, tables(t, "*.txt"))
}

// TestSettings runs each table that needs settings of its own.
func TestSettings(t *testing.T) {
	if *brokers != "" {
		t.Skip("needs settings")
	}
	for _, tab := range tables(t, "settings/*.txt") {
		run(t, start(t, 1, tab.settings...), []table{tab})
	}
}

func run(t *testing.T, b Broker, all []table) {
	b.Patience = patience
	var scenarios []Scenario
	var origin []string // table of each result
	for _, tab := range all {
		for _, s := range tab.scenarios {
			if *brokers != "" && s.Listener != "" || !strings.Contains(s.Name, *only) {
				continue
			}
			for range *repeat {
				scenarios = append(scenarios, s)
				for range s.Versions {
					origin = append(origin, tab.name)
				}
			}
		}
	}
	passed, failed := 0, 0
	for i, r := range Run(t.Context(), b, scenarios) {
		t.Run(origin[i]+"/"+r.Name(), func(t *testing.T) {
			if r.Err != nil {
				failed++
				t.Errorf("testdata/%s.txt, %v", origin[i], r.Err)
				return
			}
			passed++
		})
	}
	fmt.Printf("conformance, nodes %d: %d passed, %d failed\n", len(b.Nodes), passed, failed)
}
