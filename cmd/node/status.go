package main

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// status asks a node how the cluster is.
func (p *program) status(ctx context.Context, args []string) error {
	fs := p.flagSet("status", "Show the cluster as one node sees it.\n\nUsage: flotilla status [flags]")
	addr := fs.String("http-addr", p.lookup("FLOTILLA_HTTP_ADDR", config.Default().HTTPAddr), "HTTP address of the node to ask")
	asJSON := fs.Bool("json", false, "print JSON")
	timeout := fs.Duration("timeout", 5*time.Second, "how long to wait for the answer")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := noArgs(fs); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	s, err := admin.GetStatus(ctx, *addr)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	return s.WriteTable(p.stdout)
}

// lookup is a variable of the environment the program was given.
func (p *program) lookup(name, otherwise string) string {
	for _, e := range p.env {
		if v, ok := strings.CutPrefix(e, name+"="); ok && v != "" {
			return v
		}
	}
	return otherwise
}
