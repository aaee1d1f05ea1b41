package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// stopTime is how long a node may take to hand over its leaderships, close its
// clients and its stores.
const stopTime = 10 * time.Second

// broker is a running node.
type broker interface {
	admin.Operator
	// Reload reads what may change while the node runs: certificates, lists.
	Reload()
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
// start only; level is that of log.
type starter func(ctx context.Context, cfg *config.Config, build string, log *slog.Logger, level *slog.LevelVar) (broker, error)

// serve runs one node until ctx ends or the node fails.
func (p *program) serve(ctx context.Context, args []string) error {
	cfg, err := config.Load(args, p.env, os.Hostname, p.stdout)
	if err != nil {
		return err
	}
	level := &slog.LevelVar{}
	level.Set(cfg.LogLevel)
	log := newLogger(cfg, level, p.stderr)
	for _, name := range cfg.UnknownEnv {
		log.Warn("environment variable is no setting", "name", name)
	}
	listener, err := net.Listen("tcp", cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("http-addr: %w", err)
	}
	http := admin.Serve(listener, buildVersion(), log)
	err = p.serveNode(ctx, cfg, http, log, level)

	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(err, http.Close(end))
}

func (p *program) serveNode(ctx context.Context, cfg *config.Config, http *admin.Server, log *slog.Logger, level *slog.LevelVar) error {
	hangup := make(chan os.Signal, 1) // before the start, which a SIGHUP must not end
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if err := awaitSpace(ctx, cfg.Data, p.free, http.SetStarting, log); err != nil {
		return nil // told to end while waiting
	}
	began := time.Now()
	b, err := p.start(ctx, cfg, buildVersion(), log, level)
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

	err = await(ctx, b, hangup, log)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	return errors.Join(err, b.Close(end))
}

// await waits until the node is told to end, or must. Until then it reloads on request.
func await(ctx context.Context, b broker, hangup <-chan os.Signal, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			log.Info("node stops")
			return nil
		case <-b.Done():
			return fmt.Errorf("the node had to stop: %w", b.Err())
		case <-hangup:
			log.Info("SIGHUP: certificates and lists are read again")
			b.Reload()
		}
	}
}

func newLogger(cfg *config.Config, level *slog.LevelVar, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if cfg.LogFormat == "json" {
		h = slog.NewJSONHandler(w, opts)
	}
	return slog.New(h).With("node", cfg.Node)
}
