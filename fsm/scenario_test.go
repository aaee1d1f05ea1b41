package fsm

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata/*.txt with what the machine does now")

// TestScenarios plays the stories in testdata. A file is a sequence of blocks:
// commands, a line "----", what came of them, an empty line. The commands of one
// block are one log entry. See scenario.command for what there is.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newScenario().play(t, string(old))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(old) {
				t.Errorf("%s tells another story now (go test ./fsm -run Scenarios -rewrite; review the change):\n%s",
					file, firstDifference(string(old), got))
			}
		})
	}
}

func firstDifference(old, got string) string {
	a, b := strings.Split(old, "\n"), strings.Split(got, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d\nwas: %s\nnow: %s", i+1, a[i], b[i])
		}
	}
	return "one is longer"
}

type scenario struct {
	m       *Machine
	twin    *Machine // applies the same log, is never restarted
	index   uint64
	time    int64
	lanes   laneOps
	epochs  map[string]uint64
	sources map[string]uint64 // gateway of each client
}

func newScenario() *scenario {
	return &scenario{
		m: New(0, 2), twin: New(0, 2), time: 1000,
		lanes: laneOps{}, epochs: map[string]uint64{}, sources: map[string]uint64{},
	}
}

func (s *scenario) play(t *testing.T, text string) string {
	var out strings.Builder
	var block []string
	skipping := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case skipping:
			skipping = line != ""
			if !skipping {
				out.WriteString("\n")
			}
		case line == "----":
			out.WriteString("----\n" + s.block(t, block))
			block, skipping = nil, true
		default:
			out.WriteString(line + "\n")
			if line != "" && line[0] != '#' {
				block = append(block, line)
			}
		}
	}
	return out.String()
}

// block carries out the commands of a block. Ops that follow each other are one entry.
func (s *scenario) block(t *testing.T, lines []string) string {
	var out strings.Builder
	e := &pendingEntry{}
	for _, line := range lines {
		c := parseCommand(t, line)
		if s.isQuery(c) {
			s.apply(t, e, &out)
			e = &pendingEntry{}
			s.query(t, c, &out)
			continue
		}
		if c.name == "confirm" { // confirm source=1.1 seq=N
			e.Confirms = append(e.Confirms, &logpb.Confirm{Source: c.source("source"), Seq: c.num("seq")})
			continue
		}
		if c.name == "connect" {
			e.connects++
			s.epochs[c.arg] = s.m.lastEpoch + e.connects
		}
		op := s.command(t, c)
		if c.has("refuse") {
			op.Refuse = uint32(c.num("refuse"))
		}
		e.names, e.Ops = append(e.names, c.name), append(e.Ops, op)
	}
	s.apply(t, e, &out)
	return out.String()
}

type pendingEntry struct {
	logpb.Entry
	names    []string
	connects uint64
}

// apply applies an entry, and tells what came of it. The twin shows that a restart
// changes nothing.
func (s *scenario) apply(t *testing.T, e *pendingEntry, out *strings.Builder) {
	if len(e.Ops)+len(e.Confirms) == 0 {
		return
	}
	e.Format, e.Time = Format, s.time
	s.index++
	version := s.m.version
	data := marshal(&e.Entry)
	outcome, err := s.m.Apply(s.index, data)
	if err != nil {
		t.Fatalf("%v: %v", e.names, err)
	}
	if _, err := s.twin.Apply(s.index, data); err != nil {
		t.Fatal(err)
	}
	if s.m.Snapshot().Digest() != s.twin.Snapshot().Digest() {
		t.Fatalf("%v: restarted and running machine differ", e.names)
	}
	for i, r := range outcome.Results {
		if r.Source != 0 || r.Code != CodeOK {
			fmt.Fprintf(out, "%s: %s\n", e.names[i], formatResult(e.names[i], r))
		}
	}
	out.WriteString(formatEffects(&outcome.Effects, version))
}

func (s *scenario) isQuery(c command) bool {
	return strings.Contains(" time restart attach pending releasing deadline retained owners interest mark stats ", " "+c.name+" ")
}

// query answers commands that are no ops.
func (s *scenario) query(t *testing.T, c command, b *strings.Builder) {
	switch c.name {
	case "time": // time +MS: the clock of the next entries
		s.time += int64(c.argNum())
	case "restart": // from a snapshot
		var buf bytes.Buffer
		if _, err := s.m.Snapshot().WriteTo(&buf); err != nil {
			t.Fatal(err)
		}
		m, err := Restore(0, 2, &buf)
		if err != nil {
			t.Fatal(err)
		}
		s.m = m
	case "attach": // attach CLIENT position=N
		push, ok := s.m.Attach(c.arg, s.epoch(c), c.num("position"))
		if !ok {
			b.WriteString("fenced\n")
		}
		for _, p := range push {
			b.WriteString(formatPush(p))
		}
	case "pending":
		b.WriteString(formatEffects(s.m.Pending(), s.m.version))
	case "releasing": // releasing CLIENT pid=N
		fmt.Fprintln(b, s.m.Releasing(c.arg, s.epoch(c), uint16(c.num("pid"))))
	case "deadline":
		at, ok := s.m.NextDeadline()
		fmt.Fprintln(b, at, ok)
	case "retained": // retained FILTER
		s.m.RetainedMatch(c.arg, func(pb *logpb.Message) bool {
			fmt.Fprintln(b, formatMessage(pb))
			return true
		})
	case "owners":
		s.m.Owners(func(g uint64, n int) { fmt.Fprintf(b, "%s owns %d\n", formatGateway(g), n) })
	case "interest":
		v, filters := s.m.Interest()
		fmt.Fprintf(b, "version %d:", v)
		filters(func(c InterestChange) {
			fmt.Fprintf(b, " %s", c.Filter)
			if c.Groups {
				b.WriteString("(shared)")
			}
		})
		b.WriteString("\n")
	case "mark": // mark SOURCE
		mark, closed := s.m.Mark(parseSource(c.arg))
		fmt.Fprintf(b, "mark %d closed %v, %d stored results\n", mark, closed, len(s.m.StoredResults(parseSource(c.arg), 0)))
	case "stats":
		x := s.m.Stats()
		fmt.Fprintf(b, "sessions %d (%d connected, %d ephemeral), queued %d, inflight %d, inbound %d, retained %d, outbox %d, subscriptions %d\n",
			x.Sessions, x.Connected, x.Ephemeral, x.Queued, x.Inflight, x.Inbound, x.Retained, x.Outbox, x.Subscriptions)
		if x.Groups > 0 {
			fmt.Fprintf(b, "groups %d with %d members, queued %d, assigned %d\n", x.Groups, x.Members, x.GroupQueued, x.GroupAssigned)
		}
	}
}

func (s *scenario) epoch(c command) uint64 {
	if c.has("epoch") {
		return c.num("epoch")
	}
	return s.epochs[c.arg]
}

// command is a line: a name, an argument, options (key=value or key), and the rest.
type command struct {
	t     *testing.T
	name  string
	arg   string
	opts  map[string]string
	words []string // all after the name and argument, in order
}

func parseCommand(t *testing.T, line string) command {
	words := strings.Fields(line)
	c := command{t: t, name: words[0], opts: map[string]string{}}
	words = words[1:]
	if len(words) > 0 && !strings.Contains(words[0], "=") {
		c.arg, words = words[0], words[1:]
	}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		c.opts[k] = v
	}
	c.words = words
	return c
}

func (c command) has(key string) bool { _, ok := c.opts[key]; return ok || c.arg == key }

func (c command) num(key string) uint64 {
	if !c.has(key) {
		return 0
	}
	return parseNum(c.t, c.opts[key])
}

func (c command) argNum() uint64 { return parseNum(c.t, strings.TrimPrefix(c.arg, "+")) }

func (c command) nums(key string) (list []uint32) {
	if !c.has(key) {
		return nil
	}
	for _, x := range strings.Split(c.opts[key], ",") {
		list = append(list, uint32(parseNum(c.t, x)))
	}
	return list
}

func (c command) source(key string) uint64 { return parseSource(c.opts[key]) }

func parseNum(t *testing.T, s string) uint64 {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// parseSource reads "1.2" (gateway: node 1, incarnation 2) or "p3" (partition 3).
func parseSource(s string) uint64 {
	if p, ok := strings.CutPrefix(s, "p"); ok {
		n, err := strconv.ParseUint(p, 10, 32)
		must(err)
		return n
	}
	node, incarnation, _ := strings.Cut(s, ".")
	n, err := strconv.ParseUint(node, 10, 24)
	must(err)
	i, err := strconv.ParseUint(incarnation, 10, 40)
	must(err)
	return gw(n, i)
}
