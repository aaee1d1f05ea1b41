package admin

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsDoc = "../../../../docs/metrics.md"

const metricsHead = `# Metrics

What ` + "`/metrics`" + ` exposes, in the format of Prometheus, besides the Go runtime's and the process's own
(` + "`go_*`, `process_*`" + `). Counters begin with the process. Reasons are the names of MQTT 5's reason codes in
snake case, also for clients of older versions. A series with a reason appears when it is first counted.

| name | type | labels | meaning |
|---|---|---|---|
`

// TestMetricsAreDocumented: docs/metrics.md lists what a node exposes, no more and no
// less. go test -update writes it.
func TestMetricsAreDocumented(t *testing.T) {
	n := &fakeNode{status: exampleStatus()}
	fill(reflect.ValueOf(&n.metrics).Elem())
	families, err := registry(func() Node { return n }, "v1").Gather()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "flotilla_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n",
			f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp()))
	}
	slices.Sort(rows)
	want := metricsHead + strings.Join(rows, "")
	if *update {
		if err := os.WriteFile(metricsDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range rows {
		if !strings.Contains(string(got), line) {
			t.Errorf("docs/metrics.md lacks: %s", line)
		}
	}
	if len(rows) < 60 || string(got) != want {
		t.Errorf("docs/metrics.md is not the list of the %d metrics there are; go test -update writes it", len(rows))
	}
}

// fill gives every field a value, so that everything is exposed.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.String:
		v.SetString("x")
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Bool:
		v.SetBool(true)
	}
}
