package conformance

import (
	"context"
	"errors"
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

func tables(t *testing.T) map[string][]Scenario {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no tables: ", err)
	}
	all := map[string][]Scenario{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		list, err := Parse(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".txt")] = list
	}
	return all
}

// TestOneNode runs all tables against one node.
func TestOneNode(t *testing.T) { runTables(t, 1) }

// TestThreeNodes runs all tables against a cluster, with the clients of a scenario on
// different nodes.
func TestThreeNodes(t *testing.T) { runTables(t, 3) }

func runTables(t *testing.T, nodes int) {
	var b Broker
	if *brokers == "" {
		b = start(t, nodes)
	} else {
		for _, addr := range strings.Split(*brokers, ",") {
			b.Nodes = append(b.Nodes, map[string]string{"": addr})
		}
	}
	b.Patience = patience
	all := tables(t)
	var scenarios []Scenario
	var table []string // of each result
	for _, name := range sortedKeys(all) {
		for _, s := range all[name] {
			if *brokers != "" && s.Listener != "" {
				continue // needs settings
			}
			if !strings.Contains(s.Name, *only) {
				continue
			}
			for range *repeat {
				scenarios = append(scenarios, s)
				for range s.Versions {
					table = append(table, name)
				}
			}
		}
	}
	passed, failed := 0, 0
	for i, r := range Run(context.Background(), b, scenarios) {
		t.Run(table[i]+"/"+r.Name(), func(t *testing.T) {
			if r.Err != nil {
				failed++
				t.Errorf("testdata/%s.txt, %v", table[i], r.Err)
				return
			}
			passed++
		})
	}
	fmt.Printf("conformance, nodes %d: %d passed, %d failed\n", len(b.Nodes), passed, failed)
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
