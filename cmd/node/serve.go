package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// stopTime is how long a node may take to hand over its leaderships, close its
// clients and its stores.
const stopTime = 10 * time.Second

// broker is a running node.
type broker interface {
	admin.Node
	// Done is closed when the node has ended by itself, since going on would
	// break a promise; Err says why.
	Done() <-chan struct{}
	Err() error
	// Close ends the node: hands over leaderships, closes clients, waits for
	// its goroutines. When ctx ends it does only what it must.
	Close(ctx context.Context) error
}

// starter starts a node. It returns as soon as the node's data is read and its
// addresses are bound; whether it may serve is what Ready tells. ctx bounds the
// start only.
type starter func(ctx context.Context, cfg *config.Config, build string, log *slog.Logger) (broker, error)

// serve runs one node until ctx ends or the node fails.
func (p *program) serve(ctx context.Context, args []string) error {
	cfg, err := config.Load(args, p.env, os.Hostname, p.stdout)
	if err != nil {
		return err
	}
	log := newLogger(cfg, p.stderr)
	for _, name := range cfg.UnknownEnv {
		log.Warn("environment variable is no setting", "name", name)
	}
	listener, err := net.Listen("tcp", cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("http-addr: %w", err)
	}
	http := admin.Serve(listener, buildVersion(), log)
	err = p.serveNode(ctx, cfg, http, log)

	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(err, http.Close(end))
}

func (p *program) serveNode(ctx context.Context, cfg *config.Config, http *admin.Server, log *slog.Logger) error {
	began := time.Now()
	b, err := p.start(ctx, cfg, buildVersion(), log)
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to end while starting
		}
		return err
	}
	http.SetNode(b)
	var mqtt []string
	for _, l := range cfg.Listeners {
		mqtt = append(mqtt, l.Addr)
	}
	log.Info("node started", "version", buildVersion(), "mqtt", strings.Join(mqtt, ","), "http", http.Addr(),
		"data", cfg.Data, "took", time.Since(began).Round(time.Millisecond))

	select {
	case <-ctx.Done():
		log.Info("node stops")
	case <-b.Done():
		err = fmt.Errorf("the node had to stop: %w", b.Err())
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	return errors.Join(err, b.Close(end))
}

func newLogger(cfg *config.Config, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if cfg.LogFormat == "json" {
		h = slog.NewJSONHandler(w, opts)
	}
	return slog.New(h).With("node", cfg.Node)
}
