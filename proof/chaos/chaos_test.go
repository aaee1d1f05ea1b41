//go:build linux

package main

import (
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// logged writes to a test's log.
type logged struct{ t *testing.T }

func (l logged) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// TestSmoke breaks processes, network and disks for a short while, and leaves nothing behind.
func TestSmoke(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root, nftables and loop devices")
	}
	dir := t.TempDir()
	o := defaults(logged{t})
	o.binary, o.out, o.seed = filepath.Join(dir, "flotilla"), filepath.Join(dir, "out"), rand.Uint64()
	o.length, o.round, o.publishers = 15*time.Second, 15*time.Second, 4
	o.limit = 5 * time.Minute // a machine may be busy
	o.rows = selected(o.rows, []string{"cut off from nodes", "unsynced writes lost"})
	o.thresholds = check.Thresholds{Acks: 100}
	build := exec.Command("go", "build", "-o", o.binary, "github.com/flotilla-mqtt/flotilla/cmd/node")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Logf("run again with: bin/chaos -seed %d -length %s -only 'cut off from nodes,unsynced writes lost'", o.seed, o.length)
	r, c, err := play(t.Context(), o)
	for _, n := range []need{networks, disks} {
		if err == nil && c.missing[n] != "" {
			t.Skipf("%s: %s", n, c.missing[n])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.verdict(o.thresholds); err != nil {
		t.Errorf("%v: %s", err, strings.Join(r.findings, "\n"))
		for _, n := range c.nodes {
			t.Logf("the last word of %s: %s", n.name, n.lastWords())
		}
	}
	left := append(append(names("/run/netns"), names("/sys/class/net")...), append(mounts(), names(os.TempDir())...)...)
	for _, root := range cgroupRoots() {
		left = append(left, names(root)...)
	}
	for _, name := range left {
		if pid, ok := taggedBy(name); ok && pid == os.Getpid() {
			t.Errorf("%s was left behind", name)
		}
	}
}

func TestTags(t *testing.T) {
	for name, want := range map[string]int{"flc12": 12, "flc7n3": 7, "/tmp/flc99/n1": 99, "/tmp/flc99/n1.img": 99, tag(5): 5,
		"xflc12": 0, "flc": 0, "flcx": 0, "flc12x": 0} {
		pid, ok := taggedBy(name)
		if pid != want || ok != (want != 0) {
			t.Errorf("%q is of %d (%t), want %d", name, pid, ok, want)
		}
	}
	ended := exec.Command("true")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	pid := ended.Process.Pid
	if err := ended.Wait(); err != nil {
		t.Fatal(err)
	}
	if dead(os.Getpid()) || !dead(pid) {
		t.Errorf("we are dead: %t; what has ended is: %t", dead(os.Getpid()), dead(pid))
	}
}

// Every row has a name of its own, and what it needs decides whether it is skipped.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	skipped := 0
	c := &cluster{missing: map[need]string{networks: "not root", disks: "not root", groups: "not root", skew: "none"}}
	var b strings.Builder
	r := newResult()
	r.done("kill -9", true, 2*time.Second)
	r.table(&b, table(), c.skipped)
	for _, row := range table() {
		if seen[row.name] || row.inject == nil {
			t.Errorf("row %q twice, or without a fault", row.name)
		}
		seen[row.name] = true
		if c.skipped(row) != "" {
			skipped++
		}
	}
	if n := strings.Count(b.String(), "skipped: "); n != skipped || n == 0 || n == len(seen) {
		t.Errorf("%d of %d rows skipped, %d shown so:\n%s", skipped, len(seen), n, b.String())
	}
	if !strings.Contains(b.String(), "| kill -9 | 1 | 1 | 0 | 2s, 2s |") {
		t.Errorf("no row of kill -9:\n%s", b.String())
	}
}

// A violation is counted at the fault that came last before what shows it, and fails the run,
// as does one in which too little happened.
func TestVerdict(t *testing.T) {
	r := newResult()
	r.add(&check.Report{Stats: check.Stats{Acks: 6, Effective: 1}})
	r.add(&check.Report{Stats: check.Stats{Acks: 4}})
	r.done("a", true, 0)
	r.done("b", false, 0)
	if err := r.verdict(check.Thresholds{Acks: 10, Faults: 1}); err != nil {
		t.Error(err)
	}
	if r.verdict(check.Thresholds{Acks: 10, Faults: 2}) == nil {
		t.Error("a fault that nobody noticed counts")
	}
	faults := []injected{{row: "a", seq: 10}, {row: "b", seq: 20}}
	in := func(seq uint64, packet string) history.Event {
		return history.Event{Seq: seq, Dir: history.In, Packet: packet}
	}
	r.find(faults, []history.Event{in(12, history.Puback), in(30, history.Connack)}, "lost")
	r.find(faults, []history.Event{in(22, history.Publish)}, "twice")
	r.find(faults, []history.Event{in(5, history.Publish)}, "early")
	if a, b, none := r.row("a").violations, r.row("b").violations, r.row(beforeFaults).violations; a != 1 || b != 1 || none != 1 {
		t.Errorf("violations: a %d, b %d, before %d", a, b, none)
	}
	if r.verdict(check.Thresholds{}) == nil {
		t.Error("violations pass")
	}
}

// What clients of the node wait counts from the fault to the first answer on a new connection.
func TestGaps(t *testing.T) {
	now := time.Now()
	at := func(ms int) time.Time { return now.Add(time.Duration(ms) * time.Millisecond) }
	own, other := &probe{at: "n1"}, &probe{at: "n2"}
	ps := &probes{all: []*probe{own, other}}
	there := ps.mark("n1")
	own.acked = []ack{{at(-20), at(-10), 1}, {at(-5), at(1), 1}, {at(2), at(700), 2}, {at(701), at(900), 2}}
	other.acked = []ack{{at(-2000), at(-1), 3}, {at(5), at(305), 3}, {at(306), at(310), 3}}
	g := ps.since(now, there, map[*probe]uint64{own: 1, other: 3})
	if len(g.Own) != 1 || g.Own[0] != 700*time.Millisecond || len(g.Others) != 1 || g.Others[0] != 300*time.Millisecond {
		t.Errorf("gaps: %v", g)
	}
}

func TestBetween(t *testing.T) {
	text := "before\n" + beginMarker + "\nold\n" + endMarker + "\nafter\n"
	if got := between(text, beginMarker, endMarker, "new\n"); got != strings.Replace(text, "old", "new", 1) {
		t.Errorf("replaced: %q", got)
	}
	if got := between("before\n", beginMarker, endMarker, "new\n"); got != "before\n\n"+beginMarker+"\nnew\n"+endMarker+"\n" {
		t.Errorf("appended: %q", got)
	}
}

func TestDamage(t *testing.T) {
	data := t.TempDir()
	if err := os.Mkdir(filepath.Join(data, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"marks", "node", "log/1.log", "log/LOCK"} {
		if err := os.WriteFile(filepath.Join(data, f), make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := logFiles(data)
	if err != nil || len(files) != 2 {
		t.Fatalf("log files: %v, %v", files, err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	if _, err := flip(files[:1], rng); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil || len(b) != 1000 || strings.Trim(string(b), "\x00") == "" {
		t.Errorf("nothing flipped: %d bytes, %v", len(b), err)
	}
	if _, err := shorten(files[1:], rng); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(files[1]); err != nil || info.Size() >= 1000 {
		t.Errorf("nothing cut: %v", err)
	}
}

// The files of both versions of control groups.
func TestCgroup(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		root := t.TempDir()
		memory, cpu := filepath.Join(root, "memory", "g"), filepath.Join(root, "cpu", "g")
		if v2 {
			memory, cpu = filepath.Join(root, "g"), filepath.Join(root, "g")
			if err := write(root, "cgroup.controllers", "cpuset cpu memory\n"); err != nil {
				t.Fatal(err)
			}
		} else if err := os.MkdirAll(filepath.Join(root, "cpu"), 0o755); err != nil {
			t.Fatal(err)
		} else if err := os.MkdirAll(filepath.Join(root, "memory"), 0o755); err != nil {
			t.Fatal(err)
		}
		g, err := newCgroup(root, "g")
		if err != nil {
			t.Fatal(err)
		}
		says := func(dir, file, want string) {
			t.Helper()
			if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(b) != want {
				t.Errorf("v2 %t: %s says %q, want %q (%v)", v2, file, b, want, err)
			}
		}
		try := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		try(g.add(17))
		says(memory, "cgroup.procs", "17")
		says(cpu, "cgroup.procs", "17")
		try(g.limitMemory(1 << 20))
		try(g.limitCPU(5))
		if v2 {
			says(root, "cgroup.subtree_control", "+memory +cpu")
			says(memory, "memory.max", "1048576")
			says(cpu, "cpu.max", "5000 100000")
			try(write(memory, "memory.events", "low 9\nhigh 9\nmax 3\noom 1\n"))
		} else {
			says(memory, "memory.limit_in_bytes", "1048576")
			says(cpu, "cpu.cfs_quota_us", "5000")
			try(write(memory, "memory.failcnt", "3\n"))
		}
		try(write(cpu, "cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 9\n"))
		if m, c := g.hits(); m != 3 || c != 4 {
			t.Errorf("v2 %t: %d and %d hits", v2, m, c)
		}
		try(g.limitMemory(0))
		try(g.limitCPU(0))
		if v2 {
			says(memory, "memory.max", "max")
			says(cpu, "cpu.max", "max")
		} else {
			says(memory, "memory.limit_in_bytes", "-1")
			says(cpu, "cpu.cfs_quota_us", "-1")
		}
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"-only", "no such row"}, {"-length", "x"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
