package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// startNode joins the parts of a node: stores, groups, lanes, gateway.
func startNode(context.Context, *config.Config, string, *slog.Logger) (broker, error) {
	return nil, errors.New("the cluster is not joined to the binary yet")
}
