package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Error is a setting with a value that is not allowed.
type Error struct {
	Setting string
	Value   string
	Source  string // where the value came from: a flag, a variable, a line of a file, "the default"
	Allowed string // what is allowed
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %q (from %s) is not allowed: want %s", e.Setting, e.Value, e.Source, e.Allowed)
}

// sourced is a value as it was given, and where.
type sourced struct {
	value  string
	source string
}

// loader collects values until the most important one of each setting is known.
type loader struct {
	cfg    Config
	values map[string]sourced
	lists  []listenerYAML
}

// Load reads the settings of `flotilla serve` from args (without the program's
// name and "serve"), the environment (as os.Environ gives it) and the file
// that --config or FLOTILLA_CONFIG names. hostname gives the default of the
// node's name. With --help it prints the settings to out and returns
// pflag.ErrHelp. Other errors contain an *Error for each setting at fault.
func Load(args, env []string, hostname func() (string, error), out io.Writer) (*Config, error) {
	l := &loader{cfg: Default(), values: map[string]sourced{}}
	list := settings()

	flags, err := parseFlags(list, args, out)
	if err != nil {
		return nil, err
	}
	vars := environment(env)
	file, from := vars["FLOTILLA_CONFIG"], "FLOTILLA_CONFIG"
	if f, ok := flags["config"]; ok {
		file, from = f.value, f.source
	}
	if file != "" {
		if err := l.readFile(file, from, list); err != nil {
			return nil, err
		}
	}
	for _, s := range list {
		if v, ok := vars[EnvName(s.name)]; ok {
			l.values[s.name] = sourced{v, EnvName(s.name)}
		}
	}
	for name, v := range flags {
		if name != "config" {
			l.values[name] = v
		}
	}
	l.cfg.UnknownEnv = unknown(vars, list)
	if err := l.apply(list); err != nil {
		return nil, err
	}
	if err := l.finish(hostname); err != nil {
		return nil, err
	}
	return &l.cfg, nil
}

// EnvName is the environment variable of a setting: mqtt-addr → FLOTILLA_MQTT_ADDR.
func EnvName(setting string) string {
	return "FLOTILLA_" + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

// parseFlags returns the flags that were given, unparsed.
func parseFlags(list []setting[Config], args []string, out io.Writer) (map[string]sourced, error) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	fs.SetOutput(out)
	fs.SortFlags = false
	fs.Usage = func() {
		fmt.Fprintf(out, "Run one node.\n\nUsage: flotilla serve [settings]\n\n"+
			"Each setting can also be an environment variable (FLOTILLA_MQTT_ADDR) or a key of\n"+
			"a YAML file (mqtt-addr:). Flags win over variables, variables over the file.\n\n%s", fs.FlagUsages())
	}
	defaults := Default()
	for _, s := range list {
		f := fs.VarPF(&raw{text: s.get(&defaults), kind: s.kind}, s.name, "", s.usage)
		if s.name == "allow-anonymous" {
			f.NoOptDefVal = "true"
		}
	}
	fs.Var(&raw{kind: "FILE"}, "config", "YAML file with settings and a list of listeners")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("serve takes no argument, only settings: %q", fs.Arg(0))
	}
	given := map[string]sourced{}
	fs.Visit(func(f *pflag.Flag) { given[f.Name] = sourced{f.Value.String(), "--" + f.Name} })
	return given, nil
}

// raw is a flag's value that is looked at later.
type raw struct{ text, kind string }

func (r *raw) String() string     { return r.text }
func (r *raw) Set(s string) error { r.text = s; return nil }
func (r *raw) Type() string       { return r.kind }

func environment(env []string) map[string]string {
	vars := map[string]string{}
	for _, e := range env {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, "FLOTILLA_") {
			vars[name] = value
		}
	}
	return vars
}

// unknown lists variables that look like settings and are none. Kubernetes
// gives every pod variables for each service of its namespace
// (FLOTILLA_SERVICE_HOST, FLOTILLA_PORT_1883_TCP …): these are left out.
func unknown(vars map[string]string, list []setting[Config]) []string {
	known := map[string]bool{"FLOTILLA_CONFIG": true}
	for _, s := range list {
		known[EnvName(s.name)] = true
	}
	var names []string
	for name := range vars {
		if !known[name] && !strings.Contains(name, "_SERVICE_") && !strings.Contains(name, "_PORT") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// apply parses the value that counts of each setting.
func (l *loader) apply(list []setting[Config]) error {
	var errs []error
	for _, s := range list {
		v, ok := l.values[s.name]
		if !ok {
			continue
		}
		if err := s.set(&l.cfg, v.value); err != nil {
			errs = append(errs, &Error{Setting: s.name, Value: v.value, Source: v.source, Allowed: s.allowed})
		}
	}
	return errors.Join(errs...)
}

func (l *loader) readFile(file, from string, list []setting[Config]) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("config: %q (from %s): %w", file, from, err)
	}
	return l.readYAML(file, data, list)
}

// given tells where the value of a setting came from.
func (l *loader) given(name string) (sourced, bool) {
	v, ok := l.values[name]
	return v, ok
}
