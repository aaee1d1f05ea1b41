package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/flotilla-mqtt/flotilla/cluster/transport/mtls"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// This file is what the subcommands of operators share: cluster, sessions, retained,
// log-level, check-disk.

// order is an order to a node: a subcommand with its own flags and arguments. To add one
// to a family: a line in its list.
type order struct {
	name    string
	args    []string // names of what must follow, for the usage
	option  string   // name of what may follow
	summary string
	flags   func(*pflag.FlagSet, *call) // its own; may be nil
	takes   time.Duration               // how long it may take; 0: defaultTimeout
	run     func(p *program, ctx context.Context, c *call) error
}

// call is one order with its flags and arguments, and the node to ask.
type call struct {
	admin   *admin.Client
	args    []string
	json    bool
	addr    string
	files   mtls.Files
	timeout time.Duration

	prefix, state string // of sessions
	limit         int    // of lists
	data          string // of check-disk
	forget, undo  bool   // of drain
}

const defaultTimeout = 30 * time.Second

// family runs one of several orders: flotilla NAME ORDER.
func (p *program) family(ctx context.Context, name, summary string, orders []order, args []string) error {
	if len(args) > 0 {
		for _, o := range orders {
			if o.name == args[0] {
				return p.order(ctx, name+" "+o.name, o, args[1:])
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage: flotilla %s ORDER [flags]\n\n", summary, name)
	for _, o := range orders {
		fmt.Fprintf(&b, "  %-32s %s\n", o.usage(), o.summary)
	}
	fmt.Fprintf(&b, "\nflotilla %s ORDER --help lists the flags of an order.\n", name)
	switch {
	case len(args) == 0:
		return fmt.Errorf("%s needs an order; flotilla %s --help lists them", name, name)
	case args[0] == "-h" || args[0] == "--help":
		_, err := io.WriteString(p.stdout, b.String())
		return err
	}
	return fmt.Errorf("%s has no order %q; flotilla %s --help lists them", name, args[0], name)
}

func (o *order) usage() string {
	words := append([]string{o.name}, o.args...)
	if o.option != "" {
		words = append(words, "["+o.option+"]")
	}
	return strings.Join(words, " ")
}

// order reads the flags and carries the order out.
func (p *program) order(ctx context.Context, name string, o order, args []string) error {
	usage := strings.TrimSuffix(name, o.name) + o.usage()
	fs := p.flagSet(name, fmt.Sprintf("%s.\n\nUsage: flotilla %s [flags]", capital(o.summary), usage))
	c := &call{}
	if o.flags != nil {
		o.flags(fs, c)
	}
	fs.BoolVar(&c.json, "json", false, "print JSON")
	fs.StringVar(&c.addr, "admin-addr", p.lookup("FLOTILLA_ADMIN_ADDR", config.Default().Security.AdminAddr),
		"admin address of the node to ask: HOST:PORT or unix:PATH")
	fs.StringVar(&c.files.Cert, "admin-cert", p.lookup("FLOTILLA_ADMIN_CERT", ""), "certificate to show to the node (PEM)")
	fs.StringVar(&c.files.Key, "admin-key", p.lookup("FLOTILLA_ADMIN_KEY", ""), "its key (PEM)")
	fs.StringVar(&c.files.CA, "admin-ca", p.lookup("FLOTILLA_ADMIN_CA", ""), "authorities that the node's certificate may be of (PEM)")
	fs.DurationVar(&c.timeout, "timeout", cmp.Or(o.takes, defaultTimeout), "how long to wait for an answer")
	if err := fs.Parse(args); err != nil {
		return err
	}
	c.args = fs.Args()
	most := len(o.args)
	if o.option != "" {
		most++
	}
	if len(c.args) < len(o.args) || len(c.args) > most {
		return fmt.Errorf("%s: want flotilla %s", name, usage)
	}
	conf, err := c.tls()
	if err != nil {
		return err
	}
	c.admin = admin.NewClient(c.addr, conf)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return o.run(p, ctx, c)
}

// tls is nil where no certificate was given.
func (c *call) tls() (*tls.Config, error) {
	if c.files == (mtls.Files{}) {
		return nil, nil
	}
	if c.files.Cert == "" || c.files.Key == "" || c.files.CA == "" {
		return nil, fmt.Errorf("admin-cert, admin-key and admin-ca go together: %q, %q and %q are given", c.files.Cert, c.files.Key, c.files.CA)
	}
	id, err := mtls.Load(c.files)
	if err != nil {
		return nil, fmt.Errorf("admin-cert: %w", err)
	}
	return id.ClientConfig(), nil
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// show prints v as JSON, or for people.
func (p *program) show(c *call, v any, people func(w io.Writer)) error {
	if c.json {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	tw := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	people(tw)
	return tw.Flush()
}

// done says that an order was carried out.
func (p *program) done(c *call, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return p.show(c, map[string]string{"done": text}, func(w io.Writer) { fmt.Fprintln(w, text) })
}
