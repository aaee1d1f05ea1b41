package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/local"
)

// runLocal runs a cluster on this machine until ctx ends.
func (p *program) runLocal(ctx context.Context, args []string) error {
	ports := local.DefaultPorts()
	fs := p.flagSet("run", "Run a cluster on this machine. Ctrl-C stops it; the next run goes on with the same data.\n\nUsage: flotilla run [flags]")
	nodes := fs.Int("nodes", 3, "number of nodes, 1 to 9")
	dir := fs.String("dir", ".run", "folder of the nodes' data, settings and logs")
	fs.IntVar(&ports.MQTT, "mqtt-port", ports.MQTT, "MQTT port of the first node; the others have the next ones")
	fs.IntVar(&ports.HTTP, "http-port", ports.HTTP, "HTTP port of the first node")
	fs.IntVar(&ports.Peer, "peer-port", ports.Peer, "peer port of the first node")
	fs.IntVar(&ports.Gossip, "gossip-port", ports.Gossip, "gossip port of the first node")
	fs.IntVar(&ports.Admin, "admin-port", ports.Admin, "admin port of the first node")
	timeout := fs.Duration("timeout", time.Minute, "how long to wait until all are ready")
	grace := fs.Duration("grace", stopTime+5*time.Second, "how long the nodes may take to stop")
	set := fs.StringArray("set", nil, "NAME=VALUE: a setting for all nodes, such as log-level=debug")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := noArgs(fs); err != nil {
		return err
	}
	if *nodes < 1 || *nodes > 9 {
		return fmt.Errorf("--nodes is %d: want 1 to 9", *nodes)
	}
	more, err := parseSettings(*set)
	if err != nil {
		return err
	}
	return p.runCluster(ctx, local.Plan(*nodes, *dir, ports), more, *timeout, *grace)
}

func parseSettings(list []string) ([]local.Setting, error) {
	var out []local.Setting
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("--set is %q: want NAME=VALUE, such as log-level=debug", s)
		}
		out = append(out, local.Setting{Name: name, Value: value})
	}
	return out, nil
}

func (p *program) runCluster(ctx context.Context, specs []local.Spec, more []local.Setting, timeout, grace time.Duration) error {
	binary, err := p.executable()
	if err != nil {
		return err
	}
	// Each node is started once, so that reporting its end never waits.
	exits := make(chan local.Exit, len(specs))
	c, err := local.Start(specs, local.Options{Binary: binary, Env: p.env, Settings: more, OnExit: func(e local.Exit) { exits <- e }})
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, timeout)
	err = c.WaitReady(wait)
	cancel()
	if err == nil {
		p.printCluster(c, binary)
		err = p.watchCluster(ctx, c, binary, exits)
	} else if ctx.Err() != nil {
		err = nil // told to end while starting
	}
	fmt.Fprintln(p.stdout, "stopping the nodes")
	return errors.Join(err, c.Stop(grace))
}

// watchCluster reports nodes that end, until ctx ends or none is left.
func (p *program) watchCluster(ctx context.Context, c *local.Cluster, binary string, exits <-chan local.Exit) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-exits:
			fmt.Fprintf(p.stdout, "\nnode %s (pid %d) has ended: %s; the last lines of %s:\n", e.Spec.Name, e.PID, e.How, e.Spec.Log)
			for _, line := range e.Tail {
				fmt.Fprintf(p.stdout, "  %s\n", line)
			}
			if c.Running() == 0 {
				return errors.New("all nodes that were started here have ended")
			}
			fmt.Fprintf(p.stdout, "the others go on; to start it again: %s\n", restartLine(binary, e.Spec))
		}
	}
}

// printCluster prints what there is and what can be done with it.
func (p *program) printCluster(c *local.Cluster, binary string) {
	specs, pids := c.Specs(), c.PIDs()
	tw := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tPID\tMQTT\tHTTP\tADMIN\tDATA")
	for i, s := range specs {
		fmt.Fprintf(tw, "%s\t%d\t%s\thttp://%s\t%s\t%s\n", s.Name, pids[i], s.MQTTAddr, s.HTTPAddr, s.AdminAddr, s.Data)
	}
	tw.Flush()

	first, last := specs[0], specs[len(specs)-1]
	fmt.Fprintf(p.stdout, "\nThings to try in another terminal:\n"+
		"  mosquitto_sub -p %s -q 1 -c -i reader -t 'news/#'\n"+
		"  mosquitto_pub -p %s -q 1 -t news/today -m hello\n"+
		"  kill -9 %d\n", port(first.MQTTAddr), port(last.MQTTAddr), pids[len(pids)-1])
	fmt.Fprintf(p.stdout, "\nTo start a node again that was killed:\n")
	for _, s := range specs {
		fmt.Fprintf(p.stdout, "  %s\n", restartLine(binary, s))
	}
	fmt.Fprintf(p.stdout, "\nThe state of the cluster: %s status --http-addr %s\nIts sessions: %s sessions list --admin-addr %s\nLogs: %s. Ctrl-C stops all nodes.\n",
		short(binary), first.HTTPAddr, short(binary), first.AdminAddr, filepath.Join(filepath.Dir(first.Log), "*.log"))
}

func restartLine(binary string, s local.Spec) string {
	return fmt.Sprintf("%s serve --config %s", short(binary), s.Config)
}

func port(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return port
}

// short is a path as one would type it from here.
func short(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}
