package main

import (
	"context"
	"errors"
)

func (p *program) bench(_ context.Context, args []string) error {
	return errors.Join(p.flagSet("bench", "Usage: flotilla bench").Parse(args), errors.New("the load generator comes with the next change"))
}
