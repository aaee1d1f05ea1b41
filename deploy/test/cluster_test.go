package test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSettingsAreKnown: every setting, variable and flag is one of the binary.
func TestSettingsAreKnown(t *testing.T) {
	serve, prestop := flags(t, "serve"), flags(t, "prestop")
	for _, m := range variants(t) {
		_, c := m.set(t)
		for name := range m.settings(t) {
			if _, ok := serve[name]; !ok {
				t.Errorf("%s: the binary has no setting %s", m.name, name)
			}
		}
		if c.Args[0] != "serve" || c.Command != nil {
			t.Errorf("%s: runs %q %q", m.name, c.Command, c.Args)
		}
		for name := range given(c.Args) {
			if _, ok := serve[name]; !ok {
				t.Errorf("%s: serve has no flag --%s", m.name, name)
			}
		}
		hook := c.Lifecycle.PreStop.Exec.Command
		if hook[0] != "/flotilla" || hook[1] != "prestop" {
			t.Errorf("%s: preStop runs %q", m.name, hook)
		}
		for name := range given(hook) {
			if _, ok := prestop[name]; !ok {
				t.Errorf("%s: prestop has no flag --%s", m.name, name)
			}
		}
		for _, pod := range m.pods {
			for _, c := range pod.Spec.Containers {
				known := flags(t, c.Args[0])
				for name := range given(c.Args) {
					if _, ok := known[name]; !ok {
						t.Errorf("%s: %s has no flag --%s", m.name, c.Args[0], name)
					}
				}
			}
		}
	}
}

// stopTime is how long serve takes at most to end, in seconds.
func stopTime(t *testing.T) int64 {
	t.Helper()
	code, err := os.ReadFile("../../cmd/node/serve.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^const stopTime = (\d+) \* time\.Second$`).FindSubmatch(code)
	if found == nil {
		t.Fatal("cmd/node/serve.go does not say stopTime in seconds")
	}
	return seconds(t, string(found[1])+"s") + 1 // to close what answers over HTTP
}

// TestGracePeriod: the hook and the stop after it fit, and leave some time to
// spare.
func TestGracePeriod(t *testing.T) {
	prestop := flags(t, "prestop")
	for _, m := range variants(t) {
		s, c := m.set(t)
		times := given(c.Lifecycle.PreStop.Exec.Command)
		need := stopTime(t)
		for _, name := range []string{"ask-timeout", "drain-timeout"} {
			if times[name] == "" {
				times[name] = prestop[name]
			}
			need += seconds(t, times[name])
		}
		if grace := *s.Spec.Template.Spec.TerminationGracePeriodSeconds; grace < need+15 || grace > 600 {
			t.Errorf("%s: %d s are granted, and %d s may be needed", m.name, grace, need)
		}
	}
}

// TestAccess: a pod may get its own StatefulSet, and nothing else.
func TestAccess(t *testing.T) {
	for _, m := range variants(t) {
		s, _ := m.set(t)
		if len(m.accounts) != 1 || len(m.roles) != 1 || len(m.bindings) != 1 {
			t.Fatalf("%s: want one account, role and binding", m.name)
		}
		account, role, binding := m.accounts[0], m.roles[0], m.bindings[0]
		want := []rbac.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"statefulsets"}, ResourceNames: []string{s.Name}, Verbs: []string{"get"}}}
		if !reflect.DeepEqual(role.Rules, want) {
			t.Errorf("%s: the role allows %+v", m.name, role.Rules)
		}
		if binding.RoleRef.Kind != "Role" || binding.RoleRef.Name != role.Name || len(binding.Subjects) != 1 ||
			binding.Subjects[0].Kind != "ServiceAccount" || binding.Subjects[0].Name != account.Name {
			t.Errorf("%s: binding %+v", m.name, binding)
		}
		pod := s.Spec.Template.Spec
		if pod.ServiceAccountName != account.Name || !*pod.AutomountServiceAccountToken || *account.AutomountServiceAccountToken || *pod.EnableServiceLinks {
			t.Errorf("%s: the pod's account", m.name)
		}
		for _, p := range m.pods {
			if *p.Spec.AutomountServiceAccountToken {
				t.Errorf("%s: pod %s has a token for nothing", m.name, p.Name)
			}
			if selects(t, s, meta.SetAsLabelSelector(p.Labels)) {
				t.Errorf("%s: pod %s looks like a node", m.name, p.Name)
			}
		}
	}
}

func TestDisruptionBudget(t *testing.T) {
	for _, m := range variants(t) {
		s, _ := m.set(t)
		if len(m.budgets) != 1 || m.budgets[0].Spec.MaxUnavailable.IntValue() != 1 || m.budgets[0].Spec.MinAvailable != nil ||
			!selects(t, s, m.budgets[0].Spec.Selector) {
			t.Errorf("%s: budgets %+v", m.name, m.budgets)
		}
	}
}

// TestNetworkPolicy: every port of a pod is let in for somebody, those of nodes
// only for nodes.
func TestNetworkPolicy(t *testing.T) {
	for _, m := range variants(t) {
		s, c := m.set(t)
		if len(m.policies) != 1 || !selects(t, s, &m.policies[0].Spec.PodSelector) || len(m.policies[0].Spec.PolicyTypes) != 2 {
			t.Fatalf("%s: want one policy about the pods", m.name)
		}
		let := map[string][]networking.NetworkPolicyPeer{}
		for _, rule := range m.policies[0].Spec.Ingress {
			for _, p := range rule.Ports {
				i := slices.IndexFunc(c.Ports, func(cp core.ContainerPort) bool {
					return cp.Name == p.Port.String() && (cp.Protocol == core.ProtocolUDP) == (p.Protocol != nil && *p.Protocol == core.ProtocolUDP)
				})
				if i < 0 {
					t.Errorf("%s: lets in %s, which no container has", m.name, p.Port)
				}
				let[p.Port.String()] = rule.From
			}
		}
		for _, p := range c.Ports {
			from, ok := let[p.Name]
			switch {
			case !ok:
				t.Errorf("%s: nobody reaches port %s", m.name, p.Name)
			case strings.HasPrefix(p.Name, "mqtt"):
				if len(from) != 0 {
					t.Errorf("%s: clients come from %v only", m.name, from)
				}
			case p.Name == "http":
				if len(from) == 0 {
					t.Errorf("%s: everybody reads metrics", m.name)
				}
			case len(from) != 1 || from[0].NamespaceSelector != nil || !selects(t, s, from[0].PodSelector):
				t.Errorf("%s: port %s is for %v", m.name, p.Name, from)
			}
		}
	}
}

// TestCertificates: each Secret of a certificate is mounted, that of nodes names
// every pod and is good for both sides, and there is an issuer.
func TestCertificates(t *testing.T) {
	for _, m := range variants(t) {
		s, _ := m.set(t)
		issuers := map[string]string{} // by name: the Secret of its authority
		for _, i := range m.issuers {
			issuers[i.Name] = ""
			if i.Spec.CA != nil {
				issuers[i.Name] = i.Spec.CA.SecretName
			}
		}
		mounted := map[string]bool{}
		for _, v := range s.Spec.Template.Spec.Volumes {
			if v.Secret != nil {
				mounted[v.Secret.SecretName] = true
			}
		}
		for _, c := range m.certificates {
			authority, ok := issuers[c.Spec.IssuerRef.Name]
			if !ok || c.Spec.IssuerRef.Kind != "Issuer" {
				t.Errorf("%s: nobody issues %s", m.name, c.Name)
			}
			if mounted[c.Spec.SecretName] == c.Spec.IsCA {
				t.Errorf("%s: the pods have the key of %s: %v", m.name, c.Name, mounted[c.Spec.SecretName])
			}
			if c.Spec.SecretName != "flotilla-peer" {
				continue
			}
			if !slices.Contains(c.Spec.Usages, "server auth") || !slices.Contains(c.Spec.Usages, "client auth") || authority == "" {
				t.Errorf("%s: nodes cannot use %s", m.name, c.Name)
			}
			for i := range *s.Spec.Replicas + 2 {
				if pod := s.Name + "-" + string(rune('0'+i)); !slices.Contains(c.Spec.DNSNames, pod) {
					t.Errorf("%s: certificate %s does not name %s", m.name, c.Name, pod)
				}
			}
		}
		if m.settings(t)["tls-addr"] != nil && len(m.certificates) != 3 {
			t.Errorf("%s: %d certificates", m.name, len(m.certificates))
		}
	}
}

// TestOneNamespace: all objects are in one namespace, and no name stands twice.
func TestOneNamespace(t *testing.T) {
	for _, m := range variants(t) {
		seen := map[string]bool{}
		for _, o := range m.all {
			key := reflect.TypeOf(o).String() + " " + o.GetName()
			if ns := o.GetNamespace(); seen[key] || strings.HasPrefix(m.name, "k8s") && ns != "flotilla" && len(m.namespaces) > 0 && o != meta.Object(m.namespaces[0]) {
				t.Errorf("%s: %s, in namespace %q, twice: %v", m.name, key, ns, seen[key])
			}
			seen[key] = true
		}
	}
}
