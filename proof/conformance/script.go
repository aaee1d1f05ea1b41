// Package conformance runs tables of MQTT scenarios against any broker, over real
// sockets, with a client that shares no code with ours.
//
// A table is a text file of scenarios, each a list of steps that read as a story:
//
//	== a refused topic alias [MQTT-3.3.2-9]
//	for 5
//	a connect
//	a > PUBLISH %/t x alias=65535
//	a < DISCONNECT code=94
//	a < closed
//
// Clients are single letters; they connect to different nodes: a to the first, b to the
// second and so on, around. In topics and client identifiers % stands for a name that is
// the scenario's own. See [Parse] for the steps.
package conformance

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Scenario is one row of a table.
type Scenario struct {
	Name     string
	Versions []byte // the protocol versions of clients that name none; it runs for each
	Listener string // which of each node's addresses; "": the first
	Steps    []Step
}

// Step is one line of a scenario.
type Step struct {
	Line   int
	Text   string
	Client byte // 0: none
	Verb   string
	Args   []string
	Raw    string // of "> raw"
}

// Parse reads a table. A line "== NAME" begins a scenario; "for 3 4 5" says in which
// versions it runs (4 and 5 if it does not say), "at NAME" on which listener. Then steps:
//
//	a open [v=4] [node=2]   open a connection
//	a connect [FIELDS]      open, send CONNECT and take a CONNACK that accepts
//	a > TYPE FIELDS         send a packet
//	a > raw BYTES           send bytes: hex, 'text', "text with its length", { length of what is inside }
//	a < TYPE FIELDS         the next packet is this one
//	a <5 ...  a <3 ...      the same, of MQTT 5 clients only, of older ones only
//	a << TYPE FIELDS        this packet is among those that have come or will come
//	a < closed              the broker closes the connection, and sends nothing before
//	a < nothing             a PINGREQ is answered, and nothing comes before its PINGRESP
//	a finds FILTER:QOS TOPIC PAYLOAD   SUBSCRIBE brings this message, sooner or later
//	a never TYPE FIELDS     a PINGREQ is answered, and this packet is not before its PINGRESP
//	a sub FILTER:QOS...     SUBSCRIBE, and a SUBACK that grants all
//	a pub TOPIC PAYLOAD     PUBLISH, and its handshake
//	a got TOPIC PAYLOAD     the next PUBLISH is this one; its handshake is done
//	a bye                   DISCONNECT, and wait for the broker to close
//	a drop                  reset the connection
//	wait 1s                 let time pass
//
// Fields are name=value. In what is expected, "name=*" is any value, "name=-" none, and
// "name<=5" a bound; "~N" at the end of a text makes it N bytes long; what a PUBLISH has and is not named must have its usual value.
func Parse(r io.Reader) ([]Scenario, error) {
	var all []Scenario
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if name, ok := strings.CutPrefix(text, "== "); ok {
			all = append(all, Scenario{Name: name, Versions: []byte{4, 5}})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("line %d: a step before the first scenario", n)
		}
		if err := all[len(all)-1].add(n, text); err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", n, text, err)
		}
	}
	return all, lines.Err()
}

func (s *Scenario) add(line int, text string) error {
	words, err := split(text)
	if err != nil {
		return err
	}
	switch words[0] {
	case "for":
		s.Versions = nil
		for _, w := range words[1:] {
			v, err := strconv.ParseUint(w, 10, 8)
			if err != nil {
				return err
			}
			s.Versions = append(s.Versions, byte(v))
		}
		return nil
	case "at":
		s.Listener = words[1]
		return nil
	}
	st := Step{Line: line, Text: text, Verb: words[0], Args: words[1:]}
	if len(words[0]) == 1 && len(words) > 1 {
		st.Client, st.Verb, st.Args = words[0][0], words[1], words[2:]
	}
	if len(st.Args) > 0 && st.Args[0] == "raw" {
		_, st.Raw, _ = strings.Cut(text, " raw ")
	}
	s.Steps = append(s.Steps, st)
	return nil
}

// split cuts a line into words; a word may have quoted parts.
func split(text string) ([]string, error) {
	var words []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		word := ""
		for text != "" && text[0] != ' ' {
			if text[0] != '"' {
				word, text = word+text[:1], text[1:]
				continue
			}
			q, err := strconv.QuotedPrefix(text)
			if err != nil {
				return nil, err
			}
			s, err := strconv.Unquote(q)
			if err != nil {
				return nil, err
			}
			word, text = word+s, text[len(q):]
		}
		words = append(words, word)
	}
	return words, nil
}
