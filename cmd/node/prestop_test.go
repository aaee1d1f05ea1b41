package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/kube"
)

// answers are what an API says, one after the other; the last for ever.
type answers struct {
	list []any // kube.StatefulSet or error
	name string
}

func (a *answers) StatefulSet(_ context.Context, name string) (kube.StatefulSet, error) {
	a.name = name
	next := a.list[0]
	if len(a.list) > 1 {
		a.list = a.list[1:]
	}
	if err, ok := next.(error); ok {
		return kube.StatefulSet{}, err
	}
	return next.(kube.StatefulSet), nil
}

// drain takes its time and counts its calls.
type drain struct {
	takes  time.Duration
	err    error
	called []string
}

func (d *drain) Drain(ctx context.Context, node string) error {
	d.called = append(d.called, node)
	select {
	case <-time.After(d.takes):
		return d.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestPrestop: a restart is not taken for a farewell, and a farewell that cannot
// be known or done is a plain stop. Each ends when it is to.
func TestPrestop(t *testing.T) {
	down, broken := errors.New("connection refused"), errors.New("broken")
	three := kube.StatefulSet{Replicas: 3}
	for _, tt := range []struct {
		name    string
		pod     string
		answers []any
		drainer *drain
		drained bool
		takes   time.Duration
		err     error
	}{
		{name: "restart", pod: "flotilla-2", answers: []any{three}, drainer: &drain{}, takes: 5 * time.Second},
		{name: "scaled down", pod: "flotilla-3", answers: []any{three}, drainer: &drain{takes: time.Minute}, drained: true, takes: time.Minute},
		{name: "drained at once", pod: "flotilla-3", answers: []any{three}, drainer: &drain{}, drained: true, takes: 5 * time.Second},
		{name: "drain overruns", pod: "flotilla-3", answers: []any{three}, drainer: &drain{takes: time.Hour}, drained: true,
			takes: 9 * time.Minute, err: context.DeadlineExceeded},
		{name: "drain fails", pod: "flotilla-3", answers: []any{three}, drainer: &drain{err: broken}, drained: true, takes: 5 * time.Second, err: broken},
		{name: "API late", pod: "flotilla-3", answers: []any{down, &kube.StatusError{Code: 503}, &kube.StatusError{Code: 429}, three}, drainer: &drain{},
			drained: true, takes: 5 * time.Second},
		{name: "API away", pod: "flotilla-3", answers: []any{down}, drainer: &drain{}, takes: 10 * time.Second, err: down},
		{name: "forbidden", pod: "flotilla-3", answers: []any{&kube.StatusError{Code: 403}, three}, drainer: &drain{}, takes: 5 * time.Second, err: &kube.StatusError{}},
		{name: "set deleted", pod: "flotilla-3", answers: []any{&kube.StatusError{Code: 404}}, drainer: &drain{}, takes: 5 * time.Second},
		{name: "all stop", pod: "flotilla-0", answers: []any{kube.StatefulSet{}}, drainer: &drain{}, takes: 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				api := &answers{list: tt.answers}
				h := hook{pod: tt.pod, settle: 5 * time.Second, ask: 10 * time.Second, drain: 9 * time.Minute, retry: time.Second, sets: api, drainer: tt.drainer, out: &out}
				began := time.Now()
				err := h.run(t.Context())
				if took := time.Since(began); took != tt.takes {
					t.Errorf("took %v, want %v", took, tt.takes)
				}
				var status *kube.StatusError
				if tt.err == nil && err != nil || tt.err != nil && !errors.Is(err, tt.err) && !(errors.As(tt.err, &status) && errors.As(err, &status)) {
					t.Errorf("got %v, want %v", err, tt.err)
				}
				if drained := len(tt.drainer.called) > 0; drained != tt.drained || drained && tt.drainer.called[0] != tt.pod {
					t.Errorf("drained: %v %+v", drained, tt.drainer)
				}
				if out.Len() == 0 || api.name != "flotilla" {
					t.Errorf("asked for %q and said %q", api.name, out.String())
				}
			})
		})
	}
}

func TestPrestopOfNoStatefulSet(t *testing.T) {
	h := hook{pod: "flotilla", out: &bytes.Buffer{}, sets: &answers{}}
	if err := h.run(t.Context()); err == nil {
		t.Error("a pod without an ordinal was found to stay or go")
	}
	h = hook{pod: "flotilla-0", out: &bytes.Buffer{}, noSets: kube.ErrNotInCluster}
	if err := h.run(t.Context()); !errors.Is(err, kube.ErrNotInCluster) {
		t.Errorf("outside Kubernetes: %v", err)
	}
}

// TestPrestopCommand runs the subcommand as a pod does, against an API over TLS.
func TestPrestopCommand(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"spec":{"replicas":3}}`)
	}))
	defer srv.Close()
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, data := range map[string][]byte{"ca.crt": ca, "token": []byte("t"), "namespace": []byte("fleet"), "log": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stderr bytes.Buffer
	env := []string{"POD_NAME=flotilla-1", "KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port}
	log := filepath.Join(dir, "log")
	args := []string{"prestop", "--settle", "0s", "--service-account-dir", dir, "--log-file", log}
	if err := run(t.Context(), args, env, &bytes.Buffer{}, &stderr); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(log)
	if err != nil || string(written) != stderr.String() || !strings.Contains(stderr.String(), "restart") {
		t.Errorf("said %q, and to the log %q (%v)", stderr.String(), written, err)
	}
	// A log that cannot be written is no reason not to stop in order.
	args[len(args)-1] = filepath.Join(dir, "none")
	if err := run(t.Context(), args, env, &bytes.Buffer{}, &stderr); err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), []string{"prestop", "--settle", "0s"}, nil, &bytes.Buffer{}, &stderr); err == nil {
		t.Error("outside Kubernetes nothing is wrong")
	}
}
