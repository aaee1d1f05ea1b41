package suite

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/bench"
)

func TestParseStat(t *testing.T) {
	const stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1000000 2000 18446744073709551615 1"
	u, err := parseStat([]byte(stat), 4096)
	if err != nil || u.cpu != 3*time.Second || u.rss != 2000*4096 {
		t.Errorf("%+v %v", u, err)
	}
	for _, bad := range []string{"", "42 (a) S 1", strings.Replace(stat, "250", "x", 1)} {
		if _, err := parseStat([]byte(bad), 4096); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestFieldOfCPUInfo(t *testing.T) {
	const text = "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n"
	if got := field(text, "model name", "?"); got != "Fast CPU @ 3 GHz" {
		t.Errorf("got %q", got)
	}
	if got := field(text, "colour", "?"); got != "?" {
		t.Errorf("got %q", got)
	}
}

func TestFsyncTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if d, err := fsyncTime(file); err != nil || d <= 0 {
		t.Errorf("%v %v", d, err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is left")
	}
}

// TestScenariosAreValid checks names and descriptions, which the report shows.
func TestScenariosAreValid(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios() {
		o := bench.Default()
		s.opts(&o)
		if seen[s.name] || s.title == "" || s.unit == "" || s.rate == nil || o.Describe() == "" {
			t.Errorf("%+v", s)
		}
		seen[s.name] = true
	}
}

func side(name string, rates ...float64) Side {
	s := Side{Name: name}
	for _, r := range rates {
		s.Rounds = append(s.Rounds, Measured{Result: &bench.Result{Crossed: 1, Ack: bench.Latency{Count: 1, P50: 1500, P99: 2500, Max: 3500}}, Rate: r, CPU: 30})
	}
	return s
}

func exampleReport() *Report {
	s := scenarios()[0]
	o := bench.Default()
	s.opts(&o)
	return &Report{
		Machine:   Machine{CPU: "a CPU", Cores: 2, Fsync: 1500 * time.Microsecond},
		Mosquitto: "mosquitto version 2",
		Options:   Options{Rounds: 3, Duration: time.Second},
		Rows:      []Row{{scenario: s, opts: o, Sides: []Side{side("Flotilla", 20_000, 26_000, 27_000), side("Mosquitto", 29_000, 30_000, 31_000)}}},
		Idle:      &IdleCluster{CPU: 6, RSS: []int64{50 << 20, 60 << 20, 70 << 20}},
		Conns:     []Connections{{"Flotilla", 10 << 10}, {"Mosquitto", 2 << 10}},
		Kill:      &Kill{Rounds: []*bench.Result{{SilenceMS: 700}, {SilenceMS: 900, Lost: 1}}},
	}
}

func TestReport(t *testing.T) {
	text := exampleReport().Markdown()
	for _, want := range []string{
		"26000 (20000–27000) | 30.0 µs | 30000 (29000–31000) | 30.0 µs | 0.87 × | ≥ 25000/s, ≤ 40 µs, ≥ 0.8 × | met |",
		"1.5 / 2.5 / 3.5 ms", "100 % of the pairs", "6.0 % of a core | ≤ 5 % | **missed**", "[50 60 70] MiB | ≤ 150 MiB each | met",
		"10.0 KiB | ≤ 24 KiB | met", "2.0 KiB |  |  |", "700, 900 ms | ≤ 1500 ms | met", "1, 0 | 0 lost | **missed**", "mosquitto version 2", "1.5ms",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestAFailureDoesNotCostTheRest(t *testing.T) {
	r := &runner{opts: Options{Progress: func(string) {}}}
	rep := exampleReport()
	if rep.Err() != nil {
		t.Error("nothing failed yet")
	}
	if err := r.step(t.Context(), rep, "kill", func() error { return errors.New("a node is\ngone") }); err != nil {
		t.Errorf("the suite ends: %v", err)
	}
	if rep.Err() == nil || !strings.Contains(rep.Markdown(), "- kill: a node is gone") {
		t.Errorf("%v\n%s", rep.Err(), rep.Markdown())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.step(ctx, rep, "kill", func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("the suite goes on after its end: %v", err)
	}
	r.opts.Only = []string{"idle"}
	if err := r.step(ctx, rep, "kill", nil); err != nil {
		t.Errorf("what is not wanted: %v", err)
	}
}

func TestVerdict(t *testing.T) {
	s := scenarios()[0]
	for _, tt := range []struct {
		rate, cpu, ratio float64
		want             string
	}{
		{25_000, 40, 0.8, "met"},
		{24_999, 40, 0.8, "**missed**"},
		{25_000, 41, 0.8, "**missed**"},
		{25_000, 40, 0.79, "**missed**"},
		{25_000, 40, math.NaN(), "met"}, // no Mosquitto to compare with
		{25_000, math.NaN(), 1, "**missed**"},
	} {
		row := Row{scenario: s, Sides: []Side{{Rounds: []Measured{{Rate: tt.rate, CPU: tt.cpu}}}}}
		if _, got := row.verdict(tt.ratio); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

func TestReportWithoutMosquitto(t *testing.T) {
	r := exampleReport()
	r.Mosquitto, r.Rows[0].Sides = "", r.Rows[0].Sides[:1]
	if text := r.Markdown(); !strings.Contains(text, "| – | – | – | ≥ 25000/s, ≤ 40 µs | met |") {
		t.Errorf("\n%s", text)
	}
}

func TestReportKeepsWhatPeopleWrote(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b.md")
	r := exampleReport()
	if err := r.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, "\n## Where the rest goes\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Machine.CPU = "another CPU"
	if err := r.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(text); !strings.Contains(s, "## Where the rest goes") || !strings.Contains(s, "another CPU") || strings.Contains(s, ": a CPU") {
		t.Errorf("\n%s", s)
	}
}
