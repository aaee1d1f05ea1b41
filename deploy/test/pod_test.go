package test

import (
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	admission "k8s.io/pod-security-admission/api"
	security "k8s.io/pod-security-admission/policy"
	sigsyaml "sigs.k8s.io/yaml"
)

// set is the only StatefulSet, and its only container.
func (m *manifests) set(t *testing.T) (*apps.StatefulSet, *core.Container) {
	t.Helper()
	if len(m.stateful) != 1 || len(m.stateful[0].Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("%s: want one StatefulSet with one container", m.name)
	}
	s := m.stateful[0]
	return s, &s.Spec.Template.Spec.Containers[0]
}

// settings are what the node is told: by its file and by variables, as it
// reads them in pod flotilla-0 with address 10.0.0.1.
func (m *manifests) settings(t *testing.T) map[string]any {
	t.Helper()
	s, c := m.set(t)
	out := map[string]any{}
	if err := sigsyaml.UnmarshalStrict([]byte(m.config(t).Data["flotilla.yaml"]), &out); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = map[string]string{"metadata.name": s.Name + "-0", "metadata.namespace": "flotilla", "status.podIP": "10.0.0.1"}[e.ValueFrom.FieldRef.FieldPath]
		}
		for _, ref := range regexp.MustCompile(`\$\((\w+)\)`).FindAllStringSubmatch(value, -1) {
			if env[ref[1]] == "" { // Kubernetes leaves it as it stands
				t.Errorf("%s: variable %s uses %s, which does not stand before it", m.name, e.Name, ref[1])
			}
			value = strings.ReplaceAll(value, ref[0], env[ref[1]])
		}
		env[e.Name] = value
		if name, ok := strings.CutPrefix(e.Name, "FLOTILLA_"); ok {
			out[strings.ToLower(strings.ReplaceAll(name, "_", "-"))] = value
		}
	}
	return out
}

// config is the ConfigMap that the container mounts.
func (m *manifests) config(t *testing.T) *core.ConfigMap {
	t.Helper()
	s, _ := m.set(t)
	for _, v := range s.Spec.Template.Spec.Volumes {
		for _, c := range m.configs {
			if v.ConfigMap != nil && v.ConfigMap.Name == c.Name {
				return c
			}
		}
	}
	t.Fatalf("%s: the StatefulSet mounts no ConfigMap that there is", m.name)
	return nil
}

// selects reports whether the selector is about our pods and no others.
func selects(t *testing.T, s *apps.StatefulSet, sel *meta.LabelSelector) bool {
	t.Helper()
	is, err := meta.LabelSelectorAsSelector(sel)
	if err != nil {
		t.Fatal(err)
	}
	return is.Matches(labels.Set(s.Spec.Template.Labels)) && !is.Matches(labels.Set{}) &&
		!is.Matches(labels.Set{"app.kubernetes.io/name": "other", "app.kubernetes.io/instance": "flotilla"}) &&
		!is.Matches(labels.Set{"app.kubernetes.io/name": "flotilla", "app.kubernetes.io/instance": "other"})
}

func TestStatefulSet(t *testing.T) {
	for _, m := range variants(t) {
		s, c := m.set(t)
		spec := s.Spec
		if spec.PodManagementPolicy != apps.ParallelPodManagement || spec.UpdateStrategy.Type != apps.RollingUpdateStatefulSetStrategyType ||
			spec.UpdateStrategy.RollingUpdate != nil || spec.MinReadySeconds == 0 {
			t.Errorf("%s: pods are not started at once and replaced one by one", m.name)
		}
		if r := spec.PersistentVolumeClaimRetentionPolicy; r == nil || r.WhenDeleted != apps.RetainPersistentVolumeClaimRetentionPolicyType ||
			r.WhenScaled != apps.RetainPersistentVolumeClaimRetentionPolicyType {
			t.Errorf("%s: data goes with its pod", m.name)
		}
		if !selects(t, s, spec.Selector) {
			t.Errorf("%s: the selector is not about its pods alone", m.name)
		}
		if expect, ok := m.settings(t)["expect"].(float64); !ok || int32(expect) != *spec.Replicas {
			t.Errorf("%s: %d pods, and %v found the cluster", m.name, *spec.Replicas, m.settings(t)["expect"])
		}
		if !regexp.MustCompile(`^flotilla:[\w.-]+$`).MatchString(c.Image) || c.ImagePullPolicy != core.PullIfNotPresent {
			t.Errorf("%s: image %q, pulled %s", m.name, c.Image, c.ImagePullPolicy)
		}
		var keys []string
		for _, k := range spec.Template.Spec.TopologySpreadConstraints {
			keys = append(keys, k.TopologyKey)
			if k.MaxSkew != 1 || !selects(t, s, k.LabelSelector) {
				t.Errorf("%s: pods are not spread over %s", m.name, k.TopologyKey)
			}
		}
		if !slices.Equal(keys, []string{core.LabelHostname, core.LabelTopologyZone}) {
			t.Errorf("%s: pods are spread over %q", m.name, keys)
		}
	}
}

// TestPodSecurity asks the code that the API server asks.
func TestPodSecurity(t *testing.T) {
	evaluator, err := security.NewEvaluator(security.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := admission.LevelVersion{Level: admission.LevelRestricted, Version: admission.LatestVersion()}
	for _, m := range variants(t) {
		s, c := m.set(t)
		specs := map[string]*core.PodSpec{s.Name: &s.Spec.Template.Spec}
		for _, p := range m.pods {
			specs[p.Name] = &p.Spec
		}
		for name, spec := range specs {
			for _, r := range evaluator.EvaluatePod(restricted, &meta.ObjectMeta{}, spec) {
				if !r.Allowed {
					t.Errorf("%s: pod %s: %s: %s", m.name, name, r.ForbiddenReason, r.ForbiddenDetail)
				}
			}
			for _, c := range spec.Containers {
				if ro := c.SecurityContext.ReadOnlyRootFilesystem; ro == nil || !*ro {
					t.Errorf("%s: pod %s may write to its root", m.name, name)
				}
			}
		}
		// The user of the image owns what it mounts.
		ctx := s.Spec.Template.Spec.SecurityContext
		if *ctx.RunAsUser != 65532 || *ctx.FSGroup != 65532 || c.SecurityContext.RunAsUser != nil {
			t.Errorf("%s: runs as %d, its volumes belong to %d", m.name, *ctx.RunAsUser, *ctx.FSGroup)
		}
		for _, n := range m.namespaces {
			if n.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
				t.Errorf("%s: the namespace does not enforce it", m.name)
			}
		}
	}
}

// TestPorts: what containers, probes and Services call a port is the port of a
// setting.
func TestPorts(t *testing.T) {
	setting := map[string]string{"mqtt": "mqtt-addr", "mqtts": "tls-addr", "peer": "peer-addr", "gossip": "gossip-addr", "gossip-udp": "gossip-addr", "http": "http-addr"}
	for _, m := range variants(t) {
		s, c := m.set(t)
		settings := m.settings(t)
		ports := map[string]core.ContainerPort{}
		for _, p := range c.Ports {
			ports[p.Name] = p
			addr, _ := settings[setting[p.Name]].(string)
			host, port, err := net.SplitHostPort(addr)
			if n, _ := strconv.Atoi(port); err != nil || int32(n) != p.ContainerPort || host == "localhost" {
				t.Errorf("%s: port %s is %d, but %s is %q", m.name, p.Name, p.ContainerPort, setting[p.Name], addr)
			}
			if udp := p.Protocol == core.ProtocolUDP; udp != (p.Name == "gossip-udp") {
				t.Errorf("%s: port %s has protocol %s", m.name, p.Name, p.Protocol)
			}
		}
		probes := map[*core.Probe]string{c.StartupProbe: "/healthz", c.LivenessProbe: "/healthz", c.ReadinessProbe: "/readyz"}
		if len(probes) != 3 {
			t.Fatalf("%s: a probe is missing", m.name)
		}
		for p, path := range probes {
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || ports[p.HTTPGet.Port.String()].Name != "http" {
				t.Errorf("%s: probe %+v", m.name, p)
			}
		}
		if len(m.services) != 2 {
			t.Fatalf("%s: %d Services", m.name, len(m.services))
		}
		for _, svc := range m.services {
			if !selects(t, s, meta.SetAsLabelSelector(svc.Spec.Selector)) {
				t.Errorf("%s: Service %s is not about the pods alone", m.name, svc.Name)
			}
			var names []string
			for _, p := range svc.Spec.Ports {
				names = append(names, p.Name)
				to, ok := ports[p.TargetPort.String()]
				if !ok || to.Name != p.Name || to.ContainerPort != p.Port || (to.Protocol == core.ProtocolUDP) != (p.Protocol == core.ProtocolUDP) {
					t.Errorf("%s: Service %s: port %s leads to %s", m.name, svc.Name, p.Name, p.TargetPort.String())
				}
			}
			headless := svc.Name == s.Spec.ServiceName
			if headless != (svc.Spec.ClusterIP == core.ClusterIPNone) || headless != svc.Spec.PublishNotReadyAddresses {
				t.Errorf("%s: Service %s: headless, and with pods that are not ready: for nodes only", m.name, svc.Name)
			}
			if want := []string{"peer", "gossip", "gossip-udp"}; headless && !slices.Equal(names, want) {
				t.Errorf("%s: Service %s has ports %q", m.name, svc.Name, names)
			}
			if !headless && (len(names) != 1 || !strings.HasPrefix(names[0], "mqtt")) {
				t.Errorf("%s: Service %s shows clients %q", m.name, svc.Name, names)
			}
		}
		if join := settings["join"]; join != s.Spec.ServiceName {
			t.Errorf("%s: joins at %v, not at %s", m.name, join, s.Spec.ServiceName)
		}
		if settings["node"] != s.Name+"-0" || settings["advertise"] != s.Name+"-0."+s.Spec.ServiceName+".flotilla.svc" || settings["gossip-addr"] != "[10.0.0.1]:7401" {
			t.Errorf("%s: is known as %v at %v, gossip at %v", m.name, settings["node"], settings["advertise"], settings["gossip-addr"])
		}
	}
}

// TestMounts: volumes and mounts belong together, and each file that a setting
// names is in one of them.
func TestMounts(t *testing.T) {
	for _, m := range variants(t) {
		s, c := m.set(t)
		volumes := map[string]core.VolumeSource{}
		for _, v := range s.Spec.Template.Spec.Volumes {
			volumes[v.Name] = v.VolumeSource
		}
		for _, v := range s.Spec.VolumeClaimTemplates {
			volumes[v.Name] = core.VolumeSource{}
		}
		mounts := map[string]core.VolumeSource{} // by folder
		for _, v := range c.VolumeMounts {
			source, ok := volumes[v.Name]
			if !ok {
				t.Errorf("%s: mounts %s, which there is not", m.name, v.Name)
			}
			delete(volumes, v.Name)
			mounts[v.MountPath] = source
			if v.ReadOnly == (v.MountPath == "/data") {
				t.Errorf("%s: %s may be written: %v", m.name, v.MountPath, !v.ReadOnly)
			}
		}
		if len(volumes) > 0 {
			t.Errorf("%s: nobody mounts %v", m.name, slices.Collect(maps.Keys(volumes)))
		}
		settings := m.settings(t)
		settings["config"] = given(c.Args)["config"]
		if settings["data"] != "/data" {
			t.Errorf("%s: data is at %v", m.name, settings["data"])
		}
		for name, value := range settings {
			file, ok := value.(string)
			if !ok || !strings.HasPrefix(file, "/") || name == "data" {
				continue
			}
			folder, key := file[:strings.LastIndexByte(file, '/')], file[strings.LastIndexByte(file, '/')+1:]
			source, ok := mounts[folder]
			switch {
			case !ok:
				t.Errorf("%s: %s is %s, where nothing is mounted", m.name, name, file)
			case source.Secret != nil:
				secretHas(t, m, source.Secret.SecretName, key)
			case source.ConfigMap == nil || m.config(t).Data[key] == "":
				t.Errorf("%s: %s is %s, and there is no such file", m.name, name, file)
			}
		}
	}
}

// secretHas: a key that cert-manager or docs/kubernetes.md puts into the Secret.
func secretHas(t *testing.T, m *manifests, secret, key string) {
	t.Helper()
	docs, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`create secret generic ` + secret + ` --from-file=` + key + `\b`).Match(docs) {
		return
	}
	for _, c := range m.certificates {
		if c.Spec.SecretName == secret && slices.Contains([]string{"tls.crt", "tls.key", "ca.crt"}, key) {
			return
		}
	}
	t.Errorf("%s: nothing makes %s in Secret %s", m.name, key, secret)
}

// TestMemory: the collector begins to work hard well before the limit.
func TestMemory(t *testing.T) {
	for _, m := range variants(t) {
		_, c := m.set(t)
		limit := c.Resources.Limits.Memory().Value()
		for _, e := range c.Env {
			if e.Name != "GOMEMLIMIT" {
				continue
			}
			mib, err := strconv.ParseInt(strings.TrimSuffix(e.Value, "MiB"), 10, 64)
			if share := float64(mib<<20) / float64(limit); err != nil || share < 0.8 || share > 0.92 {
				t.Errorf("%s: GOMEMLIMIT is %s, %.2f of the limit", m.name, e.Value, share)
			}
			limit = 0
		}
		if limit != 0 || c.Resources.Requests.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			t.Errorf("%s: no limit of memory that the collector knows, or no requests: %+v", m.name, c.Resources)
		}
	}
}
