// The flotilla binary: a node of the broker, and the tools around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/flotilla-mqtt/flotilla/cluster/store"
)

// version is set by the linker (-X main.version=…).
var version string

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		lazyTimers()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end, the second one gets its way.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flotilla:", err)
		os.Exit(1)
	}
}

// run is the whole program.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	p := &program{env: env, stdin: os.Stdin, stdout: stdout, stderr: stderr, start: startNode, free: store.FreeSpace, executable: os.Executable}
	return p.run(ctx, args)
}

// program is what the subcommands share. Tests put their own parts into it.
type program struct {
	env            []string
	stdin          io.Reader
	stdout, stderr io.Writer
	start          starter
	free           func(dir string) (uint64, error) // bytes of the disk
	executable     func() (string, error)
}

// command is one subcommand. To add one: a function in a file of its own and a
// line in commands.
type command struct {
	name    string
	summary string
	run     func(p *program, ctx context.Context, args []string) error
}

func commands() []command {
	return []command{
		{"serve", "run one node", (*program).serve},
		{"status", "show the cluster as one node sees it", (*program).status},
		{"cluster", "show and change the cluster", (*program).cluster},
		{"sessions", "show, end and delete sessions", (*program).sessions},
		{"retained", "list and clear retained messages", (*program).retained},
		{"log-level", "show or set what a node logs", (*program).logLevel},
		{"check-disk", "measure how fast a disk makes data durable", (*program).checkDisk},
		{"run", "run a cluster of several nodes on this machine, to try things out", (*program).runLocal},
		{"prestop", "drain this pod's node if its StatefulSet is scaled down (Kubernetes)", (*program).prestop},
		{"passwd", "write users and their passwords", (*program).passwd},
		{"bench", "put load on brokers and measure them", (*program).bench},
		{"version", "print the version", (*program).version},
		{"help", "print this list", (*program).help},
	}
}

func (p *program) run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" {
		return p.help(ctx, nil)
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(p, ctx, args[1:])
		if errors.Is(err, pflag.ErrHelp) {
			return nil // printed already
		}
		return err
	}
	return fmt.Errorf("there is no subcommand %q; flotilla help lists them", args[0])
}

func (p *program) help(_ context.Context, args []string) error {
	if len(args) > 0 {
		return p.run(context.Background(), []string{args[0], "--help"})
	}
	fmt.Fprint(p.stdout, "Flotilla is a clustered MQTT broker.\n\nUsage: flotilla SUBCOMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(p.stdout, "  %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprint(p.stdout, "\nflotilla SUBCOMMAND --help lists the flags of a subcommand.\n")
	return nil
}

func (p *program) version(context.Context, []string) error {
	_, err := fmt.Fprintf(p.stdout, "flotilla %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// buildVersion is the version the linker was told, or what `go install` knows.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// flagSet is the flags of a subcommand.
func (p *program) flagSet(name, usage string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetOutput(p.stderr)
	fs.SortFlags = false
	fs.Usage = func() { fmt.Fprintf(p.stdout, "%s\n\n%s", usage, fs.FlagUsages()) }
	return fs
}

// noArgs refuses what is left after the flags.
func noArgs(fs *pflag.FlagSet) error {
	if fs.NArg() > 0 {
		return fmt.Errorf("%s takes no argument, only flags: %q", fs.Name(), fs.Arg(0))
	}
	return nil
}
