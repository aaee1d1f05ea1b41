package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// api is a Kubernetes API with one StatefulSet; dir is the pod's side of it.
func api(t *testing.T, answer http.HandlerFunc) (lookup func(string) string, dir string) {
	t.Helper()
	srv := httptest.NewTLSServer(answer)
	t.Cleanup(srv.Close)
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, data := range map[string][]byte{"ca.crt": ca, "token": []byte("t0ken\n"), "namespace": []byte("fleet")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
	return func(name string) string { return env[name] }, dir
}

func TestStatefulSet(t *testing.T) {
	var object string
	lookup, dir := api(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/apis/apps/v1/namespaces/fleet/statefulsets/flotilla" ||
			r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"kind":"Status","message":"not for you"}`)
			return
		}
		fmt.Fprint(w, object)
	})
	c, err := InCluster(lookup, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		object string
		want   StatefulSet
	}{
		{`{"metadata":{"name":"flotilla"},"spec":{"replicas":3,"serviceName":"x"},"status":{"replicas":5}}`, StatefulSet{Replicas: 3}},
		{`{"spec":{"replicas":0,"ordinals":{"start":2}}}`, StatefulSet{Start: 2}},
		{`{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"replicas":1}}`, StatefulSet{Replicas: 1, Deleting: true}},
	} {
		object = tt.object
		if got, err := c.StatefulSet(t.Context(), "flotilla"); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v", tt.object, got, err)
		}
	}
	for _, object = range []string{`{"spec":{}}`, `{}`, `<html>`, ``} {
		if got, err := c.StatefulSet(t.Context(), "flotilla"); err == nil {
			t.Errorf("%q is taken for %+v", object, got)
		}
	}
	var status *StatusError
	if _, err := c.StatefulSet(t.Context(), "other"); !errors.As(err, &status) || status.Code != 403 || !strings.Contains(err.Error(), "not for you") {
		t.Errorf("refused, and it says %v", err)
	}
	// Another's name must not lead elsewhere in the API.
	if _, err := c.StatefulSet(t.Context(), "../secrets/x"); !errors.As(err, &status) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StatefulSet(t.Context(), "flotilla"); !errors.Is(err, ErrNotInCluster) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a token: %v", err)
	}
}

// The token is for the server that the pod's authority vouches for.
func TestStranger(t *testing.T) {
	asked := false
	stranger, _ := api(t, func(http.ResponseWriter, *http.Request) { asked = true })
	_, dir := api(t, nil)
	// httptest has one certificate for all its servers: give the pod another authority.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := InCluster(stranger, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.StatefulSet(t.Context(), "flotilla"); err == nil || asked {
		t.Errorf("the token went to a stranger: %v", err)
	}
}

func TestNotInCluster(t *testing.T) {
	nothing := func(string) string { return "" }
	if _, err := InCluster(nothing, t.TempDir()); !errors.Is(err, ErrNotInCluster) {
		t.Errorf("without variables: %v", err)
	}
	something := func(string) string { return "1" }
	dir := t.TempDir()
	if _, err := InCluster(something, dir); !errors.Is(err, ErrNotInCluster) {
		t.Errorf("without files: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := InCluster(something, dir); err == nil || errors.Is(err, ErrNotInCluster) {
		t.Errorf("with an authority that is none: %v", err)
	}
}

func TestKeeps(t *testing.T) {
	for _, tt := range []struct {
		set     StatefulSet
		ordinal int
		want    bool
	}{
		{StatefulSet{Replicas: 3}, 2, true},
		{StatefulSet{Replicas: 3}, 3, false},
		{StatefulSet{Replicas: 3, Start: 5}, 7, true},
		{StatefulSet{Replicas: 3, Start: 5}, 8, false},
		{StatefulSet{Replicas: 3, Start: 5}, 4, false},
		{StatefulSet{Replicas: 1, Deleting: true}, 2, true},
		{StatefulSet{}, 0, true},
	} {
		if got := tt.set.Keeps(tt.ordinal); got != tt.want {
			t.Errorf("%+v keeps %d: %v", tt.set, tt.ordinal, got)
		}
	}
}

func TestPodName(t *testing.T) {
	if set, n, err := PodName("my-fleet-12"); set != "my-fleet" || n != 12 || err != nil {
		t.Errorf("%q %d %v", set, n, err)
	}
	for _, bad := range []string{"", "flotilla", "flotilla-", "-1", "flotilla-x", "flotilla-1x"} {
		if set, n, err := PodName(bad); err == nil {
			t.Errorf("%q is pod %d of %q", bad, n, set)
		}
	}
}
