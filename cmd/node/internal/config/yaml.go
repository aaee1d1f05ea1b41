package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// listenerYAML is one element of `listeners:` before defaults are filled in.
type listenerYAML struct {
	name   string
	source string // file:line
	values map[string]sourced
}

// UnknownKeyError is a key of the file that is no setting.
type UnknownKeyError struct {
	Key    string
	Source string
	Known  []string
}

func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("%s: unknown setting %q (from %s); known are %s", e.Key, e.Key, e.Source, strings.Join(e.Known, ", "))
}

// readYAML collects the values of a file. What they mean is looked at later,
// together with flags and variables.
func (l *loader) readYAML(file string, data []byte, list []setting[Config]) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("config: %s: %w", file, err)
	}
	if len(doc.Content) == 0 {
		return nil // an empty file
	}
	known := []string{"listeners"}
	for _, s := range list {
		known = append(known, s.name)
	}
	keys, err := mapping(file, doc.Content[0], known)
	if err != nil {
		return err
	}
	var errs []error
	for _, k := range keys {
		if k.name == "listeners" {
			errs = append(errs, l.readListeners(file, k.node))
			continue
		}
		v, err := scalar(k)
		errs = append(errs, err)
		l.values[k.name] = v
	}
	return errors.Join(errs...)
}

// readListeners reads the list of listeners.
func (l *loader) readListeners(file string, node *yaml.Node) error {
	if node.Kind != yaml.SequenceNode {
		return &Error{Setting: "listeners", Value: node.Value, Source: place(file, node), Allowed: "a list of listeners, each with an addr"}
	}
	var errs []error
	for i, item := range node.Content {
		name := fmt.Sprintf("listeners[%d]", i)
		keys, err := mapping(file, item, listenerKeys())
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		ly := listenerYAML{name: name, source: place(file, item), values: map[string]sourced{}}
		for _, k := range keys {
			v, err := scalar(k)
			errs = append(errs, err)
			ly.values[k.name] = v
		}
		l.lists = append(l.lists, ly)
	}
	return errors.Join(errs...)
}

// key is one key of a mapping with its value.
type key struct {
	name   string
	source string
	node   *yaml.Node
}

// mapping lists the keys of a mapping, each known and given once.
func mapping(file string, node *yaml.Node, known []string) ([]key, error) {
	if node.Kind != yaml.MappingNode {
		return nil, &Error{Setting: "config", Value: node.Value, Source: place(file, node), Allowed: "settings, one a line, such as mqtt-addr: localhost:1883"}
	}
	var keys []key
	var errs []error
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, source := node.Content[i].Value, place(file, node.Content[i])
		switch {
		case !slices.Contains(known, name):
			errs = append(errs, &UnknownKeyError{Key: name, Source: source, Known: known})
		case seen[name]:
			errs = append(errs, &Error{Setting: name, Value: node.Content[i+1].Value, Source: source, Allowed: "the setting once"})
		}
		seen[name] = true
		keys = append(keys, key{name, source, node.Content[i+1]})
	}
	return keys, errors.Join(errs...)
}

// scalar is a plain value, or a list of them joined by commas.
func scalar(k key) (sourced, error) {
	switch k.node.Kind {
	case yaml.ScalarNode:
		return sourced{k.node.Value, k.source}, nil
	case yaml.SequenceNode:
		var items []string
		for _, n := range k.node.Content {
			if n.Kind != yaml.ScalarNode {
				return sourced{}, &Error{Setting: k.name, Value: n.Tag, Source: k.source, Allowed: "a list of plain values"}
			}
			items = append(items, n.Value)
		}
		return sourced{strings.Join(items, ","), k.source}, nil
	default:
		return sourced{}, &Error{Setting: k.name, Value: k.node.Tag, Source: k.source, Allowed: "a plain value"}
	}
}

func place(file string, node *yaml.Node) string { return fmt.Sprintf("%s:%d", file, node.Line) }
