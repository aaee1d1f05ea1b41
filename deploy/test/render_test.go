// Package test renders the manifests and the chart, decodes them strictly into
// Kubernetes' own types and holds them against each other, against the binary's
// settings and against the documented metrics.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	sigsyaml "sigs.k8s.io/yaml"
)

// manifests are the objects of one variant, by kind.
type manifests struct {
	name         string
	all          []meta.Object
	stateful     []*apps.StatefulSet
	services     []*core.Service
	configs      []*core.ConfigMap
	accounts     []*core.ServiceAccount
	roles        []*rbac.Role
	bindings     []*rbac.RoleBinding
	budgets      []*policy.PodDisruptionBudget
	policies     []*networking.NetworkPolicy
	namespaces   []*core.Namespace
	pods         []*core.Pod
	certificates []*certmanager.Certificate
	issuers      []*certmanager.Issuer
	podMonitors  []*monitoring.PodMonitor
	rules        []*monitoring.PrometheusRule
}

// add decodes one object. An unknown kind or field is an error, as is a field
// that stands twice.
func (m *manifests) add(data []byte) error {
	asJSON, err := sigsyaml.YAMLToJSONStrict(data)
	if err != nil {
		return err
	}
	var kind meta.TypeMeta
	if err := json.Unmarshal(asJSON, &kind); err != nil {
		return err
	}
	if kind.Kind == "" {
		return nil // only comments
	}
	var into meta.Object
	switch kind.APIVersion + " " + kind.Kind {
	case "apps/v1 StatefulSet":
		into = appended(&m.stateful)
	case "v1 Service":
		into = appended(&m.services)
	case "v1 ConfigMap":
		into = appended(&m.configs)
	case "v1 ServiceAccount":
		into = appended(&m.accounts)
	case "v1 Namespace":
		into = appended(&m.namespaces)
	case "v1 Pod":
		into = appended(&m.pods)
	case "rbac.authorization.k8s.io/v1 Role":
		into = appended(&m.roles)
	case "rbac.authorization.k8s.io/v1 RoleBinding":
		into = appended(&m.bindings)
	case "policy/v1 PodDisruptionBudget":
		into = appended(&m.budgets)
	case "networking.k8s.io/v1 NetworkPolicy":
		into = appended(&m.policies)
	case "cert-manager.io/v1 Certificate":
		into = appended(&m.certificates)
	case "cert-manager.io/v1 Issuer":
		into = appended(&m.issuers)
	case "monitoring.coreos.com/v1 PodMonitor":
		into = appended(&m.podMonitors)
	case "monitoring.coreos.com/v1 PrometheusRule":
		into = appended(&m.rules)
	default:
		return fmt.Errorf("%s %s is no kind that the tests know", kind.APIVersion, kind.Kind)
	}
	unknown, err := strict.UnmarshalStrict(asJSON, into)
	if err := errors.Join(append(unknown, err)...); err != nil {
		return fmt.Errorf("%s: %w", kind.Kind, err)
	}
	m.all = append(m.all, into)
	return nil
}

// appended adds an empty element to the list and returns it.
func appended[T any](list *[]*T) *T {
	e := new(T)
	*list = append(*list, e)
	return e
}

func decode(t *testing.T, name string, data []byte) *manifests {
	t.Helper()
	m := &manifests{name: name}
	for docs := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data))); ; {
		doc := make([]byte, len(data))
		n, err := docs.Read(doc)
		if errors.Is(err, io.EOF) {
			return m
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := m.add(doc[:n]); err != nil {
			t.Errorf("%s: %v in\n%s", name, err, doc[:n])
		}
	}
}

// kustomized renders a folder of deploy/k8s as `kubectl apply -k` does.
func kustomized(t *testing.T, folder string) *manifests {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../k8s/"+folder)
	if err != nil {
		t.Fatal(err)
	}
	data, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, "k8s/"+folder, data)
}

// values are those of the chart, by path.
type values map[string]any

// charted renders the chart as `helm install RELEASE -n flotilla` does; the value
// "release" is the name of the release, flotilla without.
func charted(t *testing.T, name string, v values) *manifests {
	t.Helper()
	data, err := render(v)
	if err != nil {
		t.Fatalf("chart %s: %v", name, err)
	}
	return decode(t, "chart, "+name, data)
}

func render(v values) ([]byte, error) {
	chart, err := loader.Load("../helm/flotilla")
	if err != nil {
		return nil, err
	}
	release := chartutil.ReleaseOptions{Name: "flotilla", Namespace: "flotilla", IsInstall: true, Revision: 1}
	nested := map[string]any{}
	for path, value := range v {
		if path == "release" {
			release.Name = value.(string)
			continue
		}
		at := nested
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			if at[p] == nil {
				at[p] = map[string]any{}
			}
			at = at[p].(map[string]any)
		}
		at[parts[len(parts)-1]] = value
	}
	all, err := chartutil.ToRenderValues(chart, nested, release, chartutil.DefaultCapabilities) // checks the schema
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") && strings.TrimSpace(text) != "" {
			fmt.Fprintf(&out, "---\n%s\n", text)
		}
	}
	return out.Bytes(), nil
}

// variants are all that people may apply.
func variants(t *testing.T) []*manifests {
	t.Helper()
	return []*manifests{
		kustomized(t, "."), kustomized(t, "overlays/single"), kustomized(t, "overlays/production"),
		charted(t, "defaults", nil),
		charted(t, "one node, anonymous", values{"replicas": 1, "expect": 1, "auth.anonymous": true}),
		charted(t, "production", production()),
		charted(t, "another name", values{"release": "prod", "peerTLS.enabled": true, "certManager.enabled": true}),
	}
}

// production are the values that make what the overlay of that name does.
func production() values {
	return values{
		"tls.enabled": true, "peerTLS.enabled": true, "certManager.enabled": true, "podMonitor.enabled": true, "prometheusRule.enabled": true,
		"service.type": "LoadBalancer", "service.externalTrafficPolicy": "Local", "storage.size": "50Gi",
		"resources.requests.cpu": "2", "resources.requests.memory": "4Gi", "resources.limits.memory": "4Gi",
		"spread.hosts": "DoNotSchedule", "spread.zones": "DoNotSchedule",
	}
}
