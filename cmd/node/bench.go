package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/bench"
	"github.com/spf13/pflag"
)

// bench puts load on brokers.
func (p *program) bench(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "suite" {
		return p.suite(ctx, args[1:])
	}
	o := bench.Default()
	fs := p.flagSet("bench", `Put load on MQTT brokers and measure them.

Usage: flotilla bench [flags]
       flotilla bench suite [flags]   the standard scenarios; writes a report

Scenarios: fan-in (each message goes to one subscriber), fan-out (each message
goes to all), pairs (one publisher for each subscriber), connect (clients
connect, subscribe and disconnect), idle (connections that do nothing).`)
	benchFlags(fs, &o)
	password := fs.String("password-file", "", "`FILE` whose first line is the password")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := noArgs(fs); err != nil {
		return err
	}
	if *password != "" {
		data, err := os.ReadFile(*password)
		if err != nil {
			return fmt.Errorf("--password-file: %w", err)
		}
		o.Password, _, _ = bytes.Cut(data, []byte("\n"))
	}
	o.QoS, o.Version = narrow(fs, "qos"), narrow(fs, "mqtt-version")
	o.Scenario = bench.Scenario(fs.Lookup("scenario").Value.String())
	if o.QoS == 0 && !fs.Changed("window") {
		o.Window = 1000
	}
	if o.Rate > 0 && !fs.Changed("window") {
		o.Window = 0
	}
	res, err := bench.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(res)
	} else {
		err = res.WriteTable(p.stdout)
	}
	if err != nil {
		return err
	}
	return res.Err(o.QoS)
}

func benchFlags(fs *pflag.FlagSet, o *bench.Options) {
	fs.String("scenario", string(o.Scenario), "fan-in, fan-out, pairs, connect or idle")
	fs.StringSliceVar(&o.Addrs, "addr", o.Addrs, "brokers; publishers and subscribers are spread so that messages cross nodes")
	fs.StringSliceVar(&o.PubAddrs, "pub-addr", nil, "brokers of the publishers only")
	fs.StringSliceVar(&o.SubAddrs, "sub-addr", nil, "brokers of the subscribers only")
	fs.IntVar(&o.Publishers, "publishers", o.Publishers, "publishing clients")
	fs.IntVar(&o.Subscribers, "subscribers", o.Subscribers, "subscribing clients")
	fs.Int("qos", int(o.QoS), "QoS of messages and subscriptions")
	fs.BoolVar(&o.Persistent, "persistent", false, "sessions that outlive connections")
	fs.IntVar(&o.Window, "window", o.Window, "messages under way per publisher: not acknowledged, or at QoS 0 not received (default 1000 there, 0: no limit)")
	fs.Float64Var(&o.Rate, "rate", 0, "messages a second of all publishers together (0: as the windows allow)")
	fs.IntVar(&o.Size, "size", o.Size, "bytes of payload")
	fs.IntVar(&o.Count, "count", 0, "messages, or connects, in all (0: --duration counts)")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "measured time")
	fs.DurationVar(&o.Warmup, "warmup", o.Warmup, "time before it")
	fs.DurationVar(&o.Drain, "drain", o.Drain, "how long to wait in the end while nothing comes")
	fs.IntVar(&o.Idle, "idle", 0, "idle connections besides all others")
	fs.IntVar(&o.Workers, "workers", o.Workers, "connect: clients that connect at the same time")
	fs.StringVar(&o.Username, "username", "", "user of all clients (default: anonymous)")
	fs.Int("mqtt-version", int(o.Version), "4 (3.1.1) or 5")
}

// narrow is a number that fits a byte, or one that no check lets through.
func narrow(fs *pflag.FlagSet, name string) byte {
	n, err := fs.GetInt(name)
	if err != nil || n < 0 || n > 255 {
		return 255
	}
	return byte(n)
}
