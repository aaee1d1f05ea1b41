package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/kube"
)

// drainer empties a node that leaves for good: leaderships, replicas, clients.
// It returns when the cluster needs nothing of the node any more.
type drainer interface {
	Drain(ctx context.Context, node string) error
}

// setReader tells what a StatefulSet is to be.
type setReader interface {
	StatefulSet(ctx context.Context, name string) (kube.StatefulSet, error)
}

// prestop is the preStop hook of a pod. Kubernetes sends SIGTERM when it returns:
// the stop itself is the node's.
func (p *program) prestop(ctx context.Context, args []string) error {
	fs := p.flagSet("prestop", "The preStop hook of a Kubernetes pod: drains the node if its StatefulSet is scaled down below it.\n\nUsage: flotilla prestop [flags]")
	h := hook{out: p.stderr, retry: time.Second}
	fs.StringVar(&h.pod, "pod", p.lookup("POD_NAME", ""), "name of this pod, which is the name of the node (default: POD_NAME)")
	fs.DurationVar(&h.settle, "settle", 5*time.Second, "time in which the Services' proxies learn that no new clients are to come here")
	fs.DurationVar(&h.ask, "ask-timeout", 10*time.Second, "how long to ask the Kubernetes API")
	fs.DurationVar(&h.drain, "drain-timeout", 9*time.Minute, "how long draining may take; the pod's grace period must be longer by the time of a plain stop")
	addr := fs.String("admin-addr", p.lookup("FLOTILLA_ADMIN_ADDR", config.Default().Security.AdminAddr), "admin address of this pod's node: HOST:PORT or unix:PATH")
	account := fs.String("service-account-dir", kube.ServiceAccountDir, "folder of the pod's token and of the API's certificate")
	logFile := fs.String("log-file", "", "also write what is done there, such as /proc/1/fd/2: kubelet shows nothing of a hook that succeeds")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := noArgs(fs); err != nil {
		return err
	}
	if *logFile != "" {
		f, err := os.OpenFile(*logFile, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			fmt.Fprintln(p.stderr, "prestop: --log-file:", err)
		} else {
			defer f.Close()
			h.out = io.MultiWriter(p.stderr, f)
		}
	}
	h.drainer = forgetful{admin.NewClient(*addr, nil)}
	client, err := kube.InCluster(func(name string) string { return p.lookup(name, "") }, *account)
	if err != nil {
		h.noSets = err
	} else {
		defer client.Close()
		h.sets = client
	}
	return h.run(ctx)
}

// forgetful drains a node that is then no member any more: a voter of the control group
// that is away for good would count as a failure for ever.
type forgetful struct{ api *admin.Client }

func (f forgetful) Drain(ctx context.Context, node string) error {
	return drainNode(ctx, f.api, node, true)
}

// hook is one run of prestop.
type hook struct {
	pod                       string
	settle, ask, drain, retry time.Duration
	sets                      setReader
	noSets                    error // why there is nobody to ask
	drainer                   drainer
	out                       io.Writer
}

// run returns when the pod may get its SIGTERM. In doubt the pod is one that
// comes back: that needs no drain, and a drain by mistake would move all its data.
func (h *hook) run(ctx context.Context) error {
	settled := time.NewTimer(h.settle)
	defer settled.Stop()
	stays, err := h.stays(ctx)
	switch {
	case err != nil:
		h.say("stopping as for a restart, since it is not known whether this pod is to come back: %v", err)
	case stays:
		h.say("stopping for a restart")
	default:
		err = h.leave(ctx)
	}
	select {
	case <-settled.C:
	case <-ctx.Done():
	}
	return err
}

// leave drains the node. What is not done when the time is up stays as it is:
// each move of a replica is safe by itself.
func (h *hook) leave(ctx context.Context) error {
	h.say("leaving for good: draining")
	ctx, cancel := context.WithTimeout(ctx, h.drain)
	defer cancel()
	if err := h.drainer.Drain(ctx, h.pod); err != nil {
		h.say("not drained: %v", err)
		return fmt.Errorf("drain: %w", err)
	}
	h.say("drained")
	return nil
}

// stays asks whether the pod is to come back, again and again while the API is
// out of reach.
func (h *hook) stays(ctx context.Context) (bool, error) {
	set, ordinal, err := kube.PodName(h.pod)
	if err != nil {
		return false, err
	}
	if h.noSets != nil {
		return false, h.noSets
	}
	ctx, cancel := context.WithTimeout(ctx, h.ask)
	defer cancel()
	for {
		s, err := h.sets.StatefulSet(ctx, set)
		var status *kube.StatusError
		switch {
		case err == nil:
			return s.Keeps(ordinal), nil
		case errors.As(err, &status) && status.Code == http.StatusNotFound:
			return true, nil // the set is deleted, its disks are not
		case errors.As(err, &status) && status.Code < 500 && status.Code != http.StatusTooManyRequests:
			return false, err
		}
		select {
		case <-time.After(h.retry):
		case <-ctx.Done():
			return false, err
		}
	}
}

func (h *hook) say(format string, args ...any) {
	fmt.Fprintf(h.out, "prestop: "+format+"\n", args...)
}
