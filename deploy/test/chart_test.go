package test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	core "k8s.io/api/core/v1"
	sigsyaml "sigs.k8s.io/yaml"
)

// TestChartIsTheSame: the chart makes what kustomize makes, but for what has to
// do with its own ways of naming and labelling.
func TestChartIsTheSame(t *testing.T) {
	for _, pair := range [][2]*manifests{
		{kustomized(t, "."), charted(t, "defaults", nil)},
		{kustomized(t, "overlays/single"), charted(t, "single", values{"replicas": 1, "expect": 1, "auth.anonymous": true, "storage.size": "1Gi",
			"settings.log-format": nil, "resources.requests.cpu": "100m", "resources.requests.memory": "512Mi", "resources.limits.memory": "512Mi"})},
		{kustomized(t, "overlays/production"), charted(t, "production", production())},
	} {
		a, b := pair[0], pair[1]
		if d := cmp.Diff(a.settings(t), b.settings(t)); d != "" {
			t.Errorf("%s and %s: settings\n%s", a.name, b.name, d)
		}
		for _, m := range pair {
			s, _ := m.set(t)
			s.Spec.Template.Annotations = nil
			for i := range s.Spec.Template.Spec.Volumes {
				if v := &s.Spec.Template.Spec.Volumes[i]; v.ConfigMap != nil {
					v.ConfigMap.Name = "" // has a hash in its name
				}
			}
			for i, svc := range m.services {
				if svc.Spec.Type == core.ServiceTypeClusterIP {
					m.services[i].Spec.Type = "" // the default
				}
			}
		}
		same := func(what string, x, y any) {
			byName := cmpopts.SortSlices(func(x, y any) bool { return name(x) < name(y) })
			if d := cmp.Diff(x, y, byName, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(core.ObjectReference{}, "Namespace")); d != "" {
				t.Errorf("%s and %s: %s\n%s", a.name, b.name, what, d)
			}
		}
		same("StatefulSet", a.stateful[0].Spec, b.stateful[0].Spec)
		for i := range a.services {
			for j := range b.services {
				if a.services[i].Name == b.services[j].Name {
					same("Service", a.services[i].Spec, b.services[j].Spec)
				}
			}
		}
		same("PodDisruptionBudget", a.budgets[0].Spec, b.budgets[0].Spec)
		same("NetworkPolicy", a.policies[0].Spec, b.policies[0].Spec)
		same("Role", a.roles[0].Rules, b.roles[0].Rules)
		certificates := map[string]any{}
		for _, c := range a.certificates {
			certificates[c.Name] = c.Spec
		}
		for _, c := range b.certificates {
			same("Certificate "+c.Name, certificates[c.Name], c.Spec)
		}
		if len(a.certificates) != len(b.certificates) || len(a.issuers) != len(b.issuers) || len(a.podMonitors) != len(b.podMonitors) || len(a.rules) != len(b.rules) {
			t.Errorf("%s has not as many certificates, issuers, monitors and rules as %s", a.name, b.name)
		}
		for i := range a.podMonitors {
			same("PodMonitor", a.podMonitors[i].Spec, b.podMonitors[i].Spec)
		}
		for i := range a.rules {
			same("PrometheusRule", a.rules[i].Spec, b.rules[i].Spec)
		}
	}
}

// name is what lists of environment variables, ports, volumes and mounts are in
// no order by.
func name(x any) string {
	switch x := x.(type) {
	case core.EnvVar:
		return x.Name
	case core.ContainerPort:
		return x.Name
	case core.Volume:
		return x.Name
	case core.VolumeMount:
		return x.Name
	}
	return ""
}

// TestSchema: values that make no sense are refused, before anything is applied.
func TestSchema(t *testing.T) {
	for _, bad := range []values{
		{"replica": 5}, {"replicas": -1}, {"replicas": "3"}, {"expect": 0}, {"image.registry": "x"}, {"image.pullPolicy": "Sometimes"},
		{"settings.node": "x"}, {"settings.password-file": "x"}, {"settings.MAX": 1}, {"settings.listeners": map[string]any{}},
		{"auth.anonymous": "yes"}, {"auth.secret": "Not A Name"}, {"tls.enabled": 1}, {"peerTLS.secret": ""}, {"storage.size": "10GB"},
		{"resources.limits.memory": "2000000"}, {"spread.hosts": "Never"}, {"terminationGracePeriodSeconds": 30}, {"service.type": "ExternalName"},
		{"certManager.issuerRef.kind": "Nobody"}, {"podMonitor.interval": "often"},
	} {
		if _, err := render(bad); err == nil || !strings.Contains(err.Error(), "schema") {
			t.Errorf("%v: got %v", bad, err)
		}
	}
}

// TestValues: what the values say arrives.
func TestValues(t *testing.T) {
	m := charted(t, "values", values{
		"settings.max-connections": 5, "auth.rules": true, "tls.enabled": true, "tls.clientCertificates": true, "replicas": 5, "storage.className": "fast",
		"certManager.enabled": true, "certManager.issuerRef": map[string]any{"kind": "ClusterIssuer", "name": "x"}, "certManager.dnsNames": []any{"mqtt.example.org"},
		"nodeSelector.a": "b", "podLabels.c": "d", "imagePullSecrets": []any{map[string]any{"name": "p"}}, "service.annotations.e": "f", "resources.limits.memory": "1000Mi",
		"networkPolicy.enabled": false, "priorityClassName": "high", "image.tag": "v1",
	})
	s, c := m.set(t)
	settings := m.settings(t)
	if settings["max-connections"] != 5.0 || settings["acl-file"] != "/etc/flotilla/users/rules" || settings["client-ca"] != "/etc/flotilla/tls/ca.crt" || settings["expect"] != 3.0 {
		t.Errorf("settings %v", settings)
	}
	if *s.Spec.Replicas != 5 || *s.Spec.VolumeClaimTemplates[0].Spec.StorageClassName != "fast" || s.Spec.Template.Spec.NodeSelector["a"] != "b" ||
		s.Spec.Template.Labels["c"] != "d" || s.Spec.Template.Spec.ImagePullSecrets[0].Name != "p" || s.Spec.Template.Spec.PriorityClassName != "high" || c.Image != "flotilla:v1" {
		t.Errorf("StatefulSet %+v", s.Spec)
	}
	for _, e := range c.Env {
		if e.Name == "GOMEMLIMIT" && e.Value != "875MiB" {
			t.Errorf("GOMEMLIMIT is %s", e.Value)
		}
	}
	if len(m.certificates) != 1 || m.certificates[0].Spec.IssuerRef.Name != "x" || m.certificates[0].Spec.DNSNames[3] != "mqtt.example.org" || len(m.policies) != 0 {
		t.Errorf("certificates %+v, policies %v", m.certificates, m.policies)
	}
}

// TestHelmTest: helm test asks the cluster, and sends messages where it may.
func TestHelmTest(t *testing.T) {
	for _, tt := range []struct {
		v    values
		args []string // of the second container
	}{
		{nil, nil},
		{values{"tls.enabled": true, "auth.anonymous": true}, nil},
		{values{"auth.anonymous": true}, []string{"bench", "--addr=flotilla:1883", "--qos=2", "--count=100"}},
		{values{"test.secret": "tester"}, []string{"bench", "--addr=flotilla:1883", "--qos=2", "--count=100", "--username=$(TEST_USERNAME)", "--password-file=/etc/flotilla/test/password"}},
	} {
		m := charted(t, "test", tt.v)
		if len(m.pods) != 1 || m.pods[0].Annotations["helm.sh/hook"] != "test" {
			t.Fatalf("%v: no test", tt.v)
		}
		containers := m.pods[0].Spec.Containers
		if want := []string{"status", "--http-addr", "flotilla-0.flotilla-headless:7402"}; !cmp.Equal(containers[0].Args, want) {
			t.Errorf("%v: asks by %q", tt.v, containers[0].Args)
		}
		var got []string
		if len(containers) > 1 {
			got = containers[1].Args
		}
		if !cmp.Equal(got, tt.args) {
			t.Errorf("%v: sends messages by %q", tt.v, got)
		}
	}
}

// TestChartDefaults: values.yaml says everything that the schema allows.
func TestChartDefaults(t *testing.T) {
	var have map[string]any
	var schema struct {
		Properties map[string]any `json:"properties"`
	}
	for file, into := range map[string]any{"../helm/flotilla/values.yaml": &have, "../helm/flotilla/values.schema.json": &schema} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := sigsyaml.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	for name := range schema.Properties {
		if _, ok := have[name]; !ok && name != "global" {
			t.Errorf("values.yaml does not tell of %s", name)
		}
	}
}
