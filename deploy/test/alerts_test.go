package test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
)

// metric is a line of docs/metrics.md.
type metric struct {
	kind   string
	labels []string
}

func metrics(t *testing.T) map[string]metric {
	t.Helper()
	data, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]metric{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(data), -1) {
		m := metric{kind: row[2]}
		for _, l := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[3], -1) {
			m.labels = append(m.labels, l[1])
		}
		known[row[1]] = m
	}
	if len(known) < 60 {
		t.Fatalf("docs/metrics.md lists %d metrics only", len(known))
	}
	return known
}

// targetLabels are those that a PodMonitor gives to every series.
var targetLabels = []string{"namespace", "pod"}

// TestAlerts: each expression is one of PromQL, on metrics and labels that there
// are, and texts use labels that the expression leaves.
func TestAlerts(t *testing.T) {
	known := metrics(t)
	m := kustomized(t, "overlays/production")
	seen := map[string]bool{}
	for _, group := range m.rules[0].Spec.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" || seen[rule.Alert] || !slices.Contains([]string{"critical", "warning"}, rule.Labels["severity"]) {
				t.Errorf("alert %q: no name, twice the same, or severity %q", rule.Alert, rule.Labels["severity"])
			}
			seen[rule.Alert] = true
			checkAlert(t, rule, known)
		}
	}
	for _, must := range []string{"QuorumLost", "ReplicaLags", "DropsMessages", "DiskFull", "CertificateExpires", "ReplicasDiverged"} {
		if !seen["Flotilla"+must] {
			t.Errorf("there is no alert Flotilla%s", must)
		}
	}
}

func checkAlert(t *testing.T, rule monitoring.Rule, known map[string]metric) {
	t.Helper()
	expr, err := parser.ParseExpr(rule.Expr.String())
	if err != nil {
		t.Errorf("%s: %v", rule.Alert, err)
		return
	}
	if expr.Type() != parser.ValueTypeVector {
		t.Errorf("%s: is a %s", rule.Alert, expr.Type())
	}
	if rule.For != nil {
		if d, err := time.ParseDuration(string(*rule.For)); err != nil || d < time.Minute {
			t.Errorf("%s: for %s", rule.Alert, *rule.For)
		}
	}
	labels := slices.Clone(targetLabels)
	var by [][]string
	parser.Inspect(expr, func(n parser.Node, path []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			family := n.Name
			if m, ok := known[strings.TrimSuffix(n.Name, "_bucket")]; ok && m.kind == "histogram" {
				family = strings.TrimSuffix(n.Name, "_bucket")
			}
			m, ok := known[family]
			if !ok {
				t.Errorf("%s: docs/metrics.md has no %s", rule.Alert, n.Name)
			}
			of := append(slices.Concat(targetLabels, m.labels), "__name__")
			for _, l := range n.LabelMatchers {
				if !slices.Contains(of, l.Name) {
					t.Errorf("%s: %s has no label %s", rule.Alert, n.Name, l.Name)
				}
			}
			labels = append(labels, m.labels...)
			if m.kind == "histogram" {
				labels = append(labels, "le")
			}
			if counter := m.kind != "gauge"; counter != rated(path) && !predicted(path) {
				t.Errorf("%s: %s is a %s", rule.Alert, n.Name, m.kind)
			}
		case *parser.AggregateExpr:
			by = append(by, n.Grouping)
		}
		return nil
	})
	for _, group := range by {
		for _, l := range group {
			if !slices.Contains(labels, l) {
				t.Errorf("%s: nothing has the label %s", rule.Alert, l)
			}
		}
	}
	left := labels
	if len(by) > 0 {
		left = slices.Concat(by...)
	}
	for _, text := range []string{rule.Annotations["summary"], rule.Annotations["description"]} {
		if text == "" {
			t.Errorf("%s: says nothing", rule.Alert)
		}
		for _, use := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
			if !slices.Contains(left, use[1]) {
				t.Errorf("%s: the expression leaves no label %s", rule.Alert, use[1])
			}
		}
	}
}

// rated reports whether a function over time is about a counter's growth.
func rated(path []parser.Node) bool { return called(path, "rate", "increase") }

func predicted(path []parser.Node) bool { return called(path, "predict_linear") }

func called(path []parser.Node, names ...string) bool {
	return slices.ContainsFunc(path, func(n parser.Node) bool {
		call, ok := n.(*parser.Call)
		return ok && slices.Contains(names, call.Func.Name)
	})
}
