//go:build mutants

package mutant

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	onlyFlag   = flag.String("only", "", "names of mutants, with commas between; empty: all")
	seedsFlag  = flag.Int("seeds", 50, "how many seeds of the simulation have to find a mutant at the latest")
	updateFlag = flag.Bool("update", false, "write the table into docs/reliability.md")
)

// detector is a test that may find a mutant.
type detector struct {
	name string
	pkg  string // below the root
	test string
	args []string
}

// The detectors beside the simulation. Each plays its own seeds.
var (
	model    = detector{"model of the state machine", "fsm", "TestModel", []string{"-test.short"}}
	replicas = detector{"two replicas", "fsm", "TestReplicas", []string{"-test.short"}}
	leases   = detector{"random leases", "cluster/control", "TestRandomLeaseSafety", nil}
	deposed  = detector{"deposed leader", "cluster/control", "TestDeposedLeaderGrantsNothing", nil}
	powercut = detector{"power cut of a store", "cluster/store", "TestPowerLossLosesNothingAcknowledged", nil}
	lostTail = detector{"lost tail of a log", "cluster/store", "TestLostTailOfWALIsNoticed", nil}
	votes    = detector{"votes of the unadmitted", "cluster/transport", "TestNotAdmittedDoesNotElect", nil}
)

// row is a mutant and who finds it.
type row struct {
	name, bug string
	also      []detector // beside the simulation
	// kinds are the faults of the simulation that bring it to light.
	kinds string
	// notSim, if it is not empty, says why the simulation cannot find it.
	notSim string
	// quick: CI runs the simulation, which finds it soon.
	quick bool
}

var mutants = []row{
	{name: "ack-before-commit", kinds: "slow", bug: "PUBACK when the message is on its way"},
	{name: "commit-without-fsync", kinds: "power-cut", bug: "log and marks written, not synced", also: []detector{powercut}},
	{name: "dedupe-cleared-at-connect", kinds: "crash", bug: "QoS 2 ids in use forgotten at CONNECT", also: []detector{model}},
	{name: "dedupe-expires", kinds: "slow", bug: "QoS 2 ids of a client that is away swept away", also: []detector{model}},
	{name: "dedupe-on-node", kinds: "crash", bug: "QoS 2 ids in use known to the leader only", also: []detector{model}},
	{name: "deposed-leader-grants", bug: "leases granted without asking a quorum", also: []detector{deposed, leases},
		notSim: "a deposed leader of the control group grants for less than Raft's own lease, and to its own node only"},
	{name: "expired-lease-trusted", kinds: "cut", bug: "a node goes on when its lease has run out", also: []detector{leases}},
	{name: "first-result-forgotten", kinds: "slow", bug: "a repeated op answered without its first result", also: []detector{model}},
	{name: "mark-apart", kinds: "slow", bug: "a lane's mark moved by another entry than the effect", also: []detector{model}},
	{name: "marks-forgotten", bug: "what is known of a gateway goes while it is only paused", also: []detector{model},
		notSim: "nodes refuse what comes of an ended gateway by the control group's word too, so it takes a leader that lags behind both"},
	{name: "new-id-on-redelivery", kinds: "crash", bug: "a new packet id on the next connection", also: []detector{model}},
	{name: "packet-id-outside-apply", kinds: "crash", bug: "packet ids chosen by each replica", also: []detector{model, replicas}},
	{name: "pubrel-before-commit", kinds: "slow", bug: "PUBREL sent before PUBREC is stored"},
	{name: "pubrel-state-lost", kinds: "crash", bug: "open PUBRELs forgotten with the connection", also: []detector{model}},
	{name: "qos2-in-memory", kinds: "slow", bug: "PUBREC for a message in the memory of one node"},
	{name: "ranges-over-map", kinds: "crash", bug: "state written in the order of a map", also: []detector{model, replicas}},
	{name: "reads-clock", kinds: "crash", bug: "apply takes the time from the process", also: []detector{model, replicas}},
	{name: "retained-from-follower", kinds: "crash", bug: "retained messages read from any replica"},
	{name: "short-log-accepted", kinds: "rolled-back", bug: "a log accepted that ends before its mark", also: []detector{lostTail}},
	{name: "snapshot-without-inbound", kinds: "power-cut", bug: "snapshot without QoS 2 ids in use", also: []detector{model}},
	{name: "snapshot-without-marks", kinds: "crash", bug: "snapshot without marks of lanes", also: []detector{model}},
	{name: "suback-early", kinds: "slow", bug: "SUBACK before all nodes know the interest", quick: true},
	{name: "takeover-unfenced", kinds: "slow", bug: "CONNACK before the old connection is closed"},
	{name: "unadmitted-votes", kinds: "wiped", bug: "a wiped replica votes under its old name", also: []detector{votes}},
	{name: "unsuback-early", kinds: "slow", bug: "UNSUBACK before the commit", quick: true},
	{name: "will-dropped-with-node", kinds: "crash", bug: "wills of a dead node's clients dropped", also: []detector{model}},
}

// TestTableIsWhole holds the table against the names that there are.
func TestTableIsWhole(t *testing.T) {
	source, err := os.ReadFile("on.go")
	if err != nil {
		t.Fatal(err)
	}
	var planted, listed []string
	for _, found := range regexp.MustCompile(`chosen == "(.*)"`).FindAllStringSubmatch(string(source), -1) {
		planted = append(planted, found[1])
	}
	for _, m := range mutants {
		listed = append(listed, m.name)
	}
	slices.Sort(planted)
	slices.Sort(listed)
	if !slices.Equal(planted, listed) || len(planted) < 20 {
		t.Errorf("planted are %q, in the table are %q", planted, listed)
	}
}

// binaries are the tests of packages, built once with mutants in them.
type binaries struct {
	dir   string
	built map[string]string // by package
}

func (b *binaries) of(t *testing.T, pkg string) string {
	t.Helper()
	if path := b.built[pkg]; path != "" {
		return path
	}
	path := filepath.Join(b.dir, strings.ReplaceAll(pkg, "/", "-")+".test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "mutants", "-o", path, "./"+pkg)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
	}
	b.built[pkg] = path
	return path
}

// patience bounds one run of a detector. A mutant may well make it hang.
const patience = 15 * time.Minute

// run runs a detector in a process that is the mutant; "" is none. It returns whether the
// test failed, and what it said.
func (b *binaries) run(t *testing.T, d detector, mutant string, args ...string) (failed bool, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args = slices.Concat([]string{"-test.run", "^" + d.test + "$", "-test.v"}, d.args, args)
	cmd := exec.CommandContext(ctx, b.of(t, d.pkg), args...)
	cmd.Dir = filepath.Join("..", "..", d.pkg)
	cmd.Env = append(os.Environ(), Variable+"="+mutant)
	raw, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s of %s: %v", d.test, d.pkg, err)
	}
	if !strings.Contains(string(raw), "=== RUN   "+d.test) {
		t.Fatalf("%s has no %s:\n%s", d.pkg, d.test, raw)
	}
	return err != nil, string(raw)
}

// simFaults is how many faults a run of the simulation has here: fewer than by `make sim`, but of
// the kinds that matter.
const simFaults = 3

var simulation = detector{"simulation", "proof/sim", "TestClusterUnderFaults", []string{"-seeds", "1", "-faults", fmt.Sprint(simFaults)}}

// seeded is a run of the simulation.
type seeded struct {
	seed  uint64
	kinds string
}

func (b *binaries) simulate(t *testing.T, s seeded, mutant string) (found bool, out string) {
	t.Helper()
	return b.run(t, simulation, mutant, "-seed", fmt.Sprint(s.seed), "-kinds", s.kinds)
}

// TestAllMutants finds every mutant by the simulation, or says why that cannot, and by the
// other detectors that should; and shows that the same run finds nothing without it.
func TestAllMutants(t *testing.T) {
	b := &binaries{t.TempDir(), map[string]string{}}
	acquitted := map[seeded]bool{}
	var table []string
	for _, m := range mutants {
		if *onlyFlag != "" && !slices.Contains(strings.Split(*onlyFlag, ","), m.name) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			var by []string
			if m.notSim == "" {
				run, signs := search(t, b, m, *seedsFlag)
				by = append(by, fmt.Sprintf("simulation, seed %d, %s: %s", run.seed, run.kinds, signs))
				if !acquitted[run] {
					if found, out := b.simulate(t, run, ""); found {
						t.Errorf("%+v finds something without a mutant too:\n%s", run, tail(out))
					}
					acquitted[run] = true
				}
			}
			for _, d := range m.also {
				found, _ := b.run(t, d, m.name)
				if !found {
					t.Errorf("not found by %s of %s", d.test, d.pkg)
				}
				if failed, out := b.run(t, d, ""); failed {
					t.Errorf("%s of %s fails without a mutant too:\n%s", d.test, d.pkg, tail(out))
				}
				by = append(by, fmt.Sprintf("%s (`%s`)", d.name, d.test))
			}
			if m.notSim != "" {
				by = append(by, "not by the simulation: "+m.notSim)
			}
			line := fmt.Sprintf("| `%s` | %s | %s |", m.name, m.bug, strings.Join(by, "; "))
			fmt.Println(line)
			table = append(table, line)
		})
	}
	if *updateFlag && !t.Failed() && *onlyFlag == "" {
		update(t, table)
	}
}

// search tries seeds until one finds the mutant.
func search(t *testing.T, b *binaries, m row, seeds int) (run seeded, signs string) {
	t.Helper()
	for seed := uint64(1); seed <= uint64(seeds); seed++ {
		run = seeded{seed, m.kinds}
		if found, out := b.simulate(t, run, m.name); found {
			return run, signsOf(out)
		}
	}
	t.Fatalf("not found by the simulation with %d seeds", seeds)
	return run, ""
}

var (
	invariant = regexp.MustCompile(`invariant \d+ \([^)]*\)`)
	// others are what else the simulation finds, and how the table calls it.
	others = []struct{ text, name string }{
		{"had to stop", "a node stops"}, {"states compared", "invariant 12 (replicas differ)"}, {"not settled", "invariant 13 (never at rest)"},
		{"of 3 nodes serve", "nodes do not serve"}, {"not within", "not mended in time"}, {"void run", "void run"}, {"panic:", "panic"},
	}
)

// signsOf names what a run of the simulation has complained about.
func signsOf(out string) string {
	found := invariant.FindAllString(out, -1)
	for _, o := range others {
		if strings.Contains(out, o.text) {
			found = append(found, o.name)
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if len(found) == 0 {
		return "?"
	}
	return strings.Join(found, ", ")
}

// tail is the end of what a test said.
func tail(out string) string { return out[max(0, len(out)-4000):] }

// TestCommonMutants finds those that are quick to find: CI runs it.
func TestCommonMutants(t *testing.T) {
	b := &binaries{t.TempDir(), map[string]string{}}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			for _, d := range m.also {
				if found, _ := b.run(t, d, m.name); !found {
					t.Errorf("not found by %s of %s", d.test, d.pkg)
				}
			}
			if m.quick {
				run, signs := search(t, b, m, quickSeeds)
				t.Logf("simulation, seed %d: %s", run.seed, signs)
			}
			if len(m.also) == 0 && !m.quick {
				t.Log("left to `make mutants`")
			}
		})
	}
}

// quickSeeds is how many seeds CI tries. Goroutines run in an order that no seed decides, so one
// alone may once miss what it finds nearly always.
const quickSeeds = 3

// update replaces the table in the documentation.
func update(t *testing.T, table []string) {
	t.Helper()
	const begin, end = "<!-- mutants -->\n", "<!-- end of mutants -->"
	path := filepath.Join("..", "..", "docs", "reliability.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), begin)
	_, foot, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	text := head + begin + "| mutant | the bug | found by |\n|---|---|---|\n" + strings.Join(table, "\n") + "\n" + end + foot
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
