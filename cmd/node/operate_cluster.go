package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/disk"
)

func (p *program) cluster(ctx context.Context, args []string) error {
	return p.family(ctx, "cluster", "Show and change the cluster.", []order{
		{name: "members", summary: "list the nodes of the cluster", run: (*program).clusterMembers},
		{name: "transfer", args: []string{"PARTITION", "NODE"}, summary: "hand the leadership of a partition to a node", run: (*program).clusterTransfer},
		{
			name: "drain", args: []string{"NODE"}, takes: 15 * time.Minute, run: (*program).clusterDrain,
			summary: "move a node's leaderships and replicas to others and send its clients away, until it starts again",
			flags: func(fs *pflag.FlagSet, c *call) {
				fs.BoolVar(&c.forget, "forget", false, "when the node has stopped it is no member any more")
				fs.BoolVar(&c.undo, "undo", false, "take the node into use again")
			},
		},
		{name: "remove", args: []string{"NODE"}, takes: 15 * time.Minute, summary: "forget a node that is gone for good; others get its replicas", run: (*program).clusterRemove},
		{name: "balance", summary: "show the moves that the cluster makes by itself, one after the other, to be even", run: (*program).clusterBalance,
			flags: func(fs *pflag.FlagSet, c *call) { fs.Bool("dry-run", true, "only show: the cluster balances itself") }},
	}, args)
}

func (p *program) clusterMembers(ctx context.Context, c *call) error {
	list, err := c.admin.Members(ctx)
	if err != nil {
		return err
	}
	return p.show(c, list, func(w io.Writer) {
		fmt.Fprintln(w, "MEMBER\tADDRESS\tSTATE\tINCARNATION\tREPLICAS\tLEADS\t")
		for _, m := range list {
			note := ""
			if m.Control {
				note = "leads the control group"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", m.Name, m.Addr, m.State, m.Incarnation, m.Partitions, m.Leads, note)
		}
	})
}

func (p *program) clusterTransfer(ctx context.Context, c *call) error {
	partition, err := strconv.ParseUint(c.args[0], 10, 32)
	if err != nil {
		return fmt.Errorf("%q is no number of a partition; flotilla status lists them", c.args[0])
	}
	if err := c.admin.Transfer(ctx, uint32(partition), c.args[1]); err != nil {
		return err
	}
	return p.done(c, "%s leads partition %d", c.args[1], partition)
}

func (p *program) clusterDrain(ctx context.Context, c *call) error {
	node := c.args[0]
	if c.undo {
		if err := c.admin.Undrain(ctx, node); err != nil {
			return err
		}
		return p.done(c, "%s is in use again", node)
	}
	if err := drainNode(ctx, c.admin, node, c.forget); err != nil {
		return err
	}
	return p.done(c, "%s is drained: it may be stopped", node)
}

// drainNode returns when the cluster needs nothing of the node any more.
func drainNode(ctx context.Context, a *admin.Client, node string, forget bool) error {
	if err := a.Drain(ctx, node, forget); err != nil {
		return err
	}
	return until(ctx, func() (bool, error) {
		d, err := a.DrainOf(ctx, node)
		return d.Draining && d.Replicas == 0 || !d.Member, err
	})
}

func (p *program) clusterRemove(ctx context.Context, c *call) error {
	node := c.args[0]
	if err := c.admin.Remove(ctx, node); err != nil {
		return err
	}
	err := until(ctx, func() (bool, error) {
		d, err := c.admin.DrainOf(ctx, node)
		return !d.Member, err
	})
	if err != nil {
		return err
	}
	return p.done(c, "%s is no member any more", node)
}

// until asks once a second.
func until(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it goes on, but is not done yet: %w", ctx.Err())
		}
	}
}

func (p *program) clusterBalance(ctx context.Context, c *call) error {
	moves, err := c.admin.Moves(ctx)
	if err != nil {
		return err
	}
	return p.show(c, moves, func(w io.Writer) {
		if len(moves) == 0 {
			fmt.Fprintln(w, "nothing to move")
			return
		}
		fmt.Fprintln(w, "PARTITION\tREPLICAS\tLEAVES\tPREFERRED\tWHY")
		for _, m := range moves {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", m.Partition, strings.Join(m.Replicas, ", "), m.Leaving, m.Preferred, m.Why)
		}
	})
}

func (p *program) logLevel(ctx context.Context, args []string) error {
	return p.order(ctx, "log-level", order{
		name: "log-level", option: "debug|info|warn|error", summary: "show or set the least severe level that a node logs, until its next start",
		run: func(p *program, ctx context.Context, c *call) error {
			if len(c.args) == 1 {
				if err := c.admin.SetLogLevel(ctx, c.args[0]); err != nil {
					return err
				}
			}
			level, err := c.admin.LogLevel(ctx)
			if err != nil {
				return err
			}
			return p.show(c, map[string]string{"level": level}, func(w io.Writer) { fmt.Fprintln(w, level) })
		},
	}, args)
}

func (p *program) checkDisk(ctx context.Context, args []string) error {
	return p.order(ctx, "check-disk", order{
		name: "check-disk", summary: "measure how fast a node's data folder makes data durable",
		flags: func(fs *pflag.FlagSet, c *call) {
			fs.StringVar(&c.data, "data", "", "measure this folder here, without a node")
		},
		run: func(p *program, ctx context.Context, c *call) error {
			if c.data != "" {
				if _, err := os.Stat(c.data); err != nil {
					return fmt.Errorf("data: %w", err)
				}
				r, err := disk.Check(ctx, c.data)
				if err != nil {
					return err
				}
				return p.show(c, r, func(w io.Writer) { fmt.Fprintln(w, r) })
			}
			d, err := c.admin.CheckDisk(ctx)
			if err != nil {
				return err
			}
			return p.show(c, d, func(w io.Writer) {
				fmt.Fprintf(w, "node %s, measured now\t%v\n", d.Node, d.Now)
				if d.Running.Samples > 0 {
					fmt.Fprintf(w, "its own last writes\t%v\n", d.Running)
				}
			})
		},
	}, args)
}
