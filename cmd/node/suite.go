package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/suite"
)

// debianMosquitto is where Debian's package has it.
const debianMosquitto = "/usr/sbin/mosquitto"

// suite measures the standard scenarios on a cluster of its own.
func (p *program) suite(ctx context.Context, args []string) error {
	binary, err := p.executable()
	if err != nil {
		return err
	}
	o := suite.Options{Binary: binary, Env: p.env, Progress: func(line string) { fmt.Fprintln(p.stdout, line) }}
	fs := p.flagSet("suite", "Measure the standard scenarios on three nodes of this machine, beside Mosquitto where it is installed.\n\n"+
		"Usage: flotilla bench suite [flags]\n\nScenarios: "+strings.Join(suite.Names(), ", "))
	fs.StringVar(&o.Dir, "dir", ".run/bench", "folder for the nodes' data, on the disk that is to be measured")
	fs.StringVar(&o.Mosquitto, "mosquitto", debianMosquitto, "binary of Mosquitto; empty: measure without")
	fs.DurationVar(&o.Duration, "duration", 5*time.Second, "measured time of each round")
	fs.DurationVar(&o.Warmup, "warmup", time.Second, "time before it")
	fs.IntVar(&o.Rounds, "rounds", 3, "rounds of each scenario; the median counts")
	fs.StringSliceVar(&o.Only, "only", nil, "scenarios to measure (default: all)")
	report := fs.String("report", "", "Markdown file to write (default: print it)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := noArgs(fs); err != nil {
		return err
	}
	if o.Rounds < 1 {
		return fmt.Errorf("--rounds is %d: want at least 1", o.Rounds)
	}
	for _, name := range o.Only {
		if !slices.Contains(suite.Names(), name) {
			return fmt.Errorf("--only: there is no scenario %q; there are %s", name, strings.Join(suite.Names(), ", "))
		}
	}
	if o.Mosquitto == debianMosquitto && !fs.Changed("mosquitto") {
		if _, err := os.Stat(o.Mosquitto); err != nil {
			fmt.Fprintf(p.stdout, "Mosquitto is not installed (%v): measuring without\n", err)
			o.Mosquitto = ""
		}
	}
	r, err := suite.Run(ctx, o)
	if err != nil {
		return err
	}
	if *report != "" {
		err = r.WriteFile(*report)
	} else {
		_, err = fmt.Fprint(p.stdout, r.Markdown())
	}
	return errors.Join(err, r.Err())
}
