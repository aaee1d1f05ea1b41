package auth

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/flotilla-mqtt/flotilla/mqtt/topic"
)

// rules is the content of a rules file, in its order. It does not change.
//
// A line is
//
//	allow|deny WHO… publish|subscribe|both FILTER
//
// WHO is anyone, anonymous, or one or more of user NAME, client ID, cn NAME and subject
// NAME, which must all fit. A name that ends in * fits all that begin so. Words are
// separated by blanks; one in double quotes may contain them, and is taken literally
// (\" and \\ stand for " and \). In FILTER, %u is the user name, %c the client
// identifier and %% a percent sign. A line that begins with # is a comment.
type rules struct{ list []rule }

type rule struct {
	allow              bool
	publish, subscribe bool
	anonymous          bool // only clients without a user name
	who                []condition
	filter             string // with placeholders
	placeholders       bool
}

// condition is one word about who, with its name.
type condition struct {
	kind   byte // kindUser …
	name   string
	prefix bool
}

const (
	kindUser byte = iota
	kindClient
	kindCN
	kindSubject
)

func readRules(file string) (*rules, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseRules(file, data)
}

// CheckRules says what is wrong with a rules file.
func CheckRules(file string, data []byte) error {
	_, err := parseRules(file, data)
	return err
}

// parseRules reads a rules file. All bad lines are told.
func parseRules(file string, data []byte) (*rules, error) {
	r := &rules{}
	var errs []error
	for n, line := range lines(data) {
		if ignored(line) {
			continue
		}
		one, err := parseRule(line)
		if err != nil {
			errs = append(errs, &LineError{file, n + 1, err})
			continue
		}
		r.list = append(r.list, one)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return r, nil
}

// word is one word of a line.
type word struct {
	text   string
	quoted bool
}

func split(line string) (words []word, err error) {
	if !utf8.ValidString(line) {
		return nil, errors.New("the line is not UTF-8")
	}
	for line = strings.TrimLeft(line, " \t"); line != ""; line = strings.TrimLeft(line, " \t") {
		if line[0] != '"' {
			n := strings.IndexAny(line+" ", " \t")
			words = append(words, word{text: line[:n]})
			line = line[n:]
			continue
		}
		var b strings.Builder
		i, closed := 1, false
		for ; i < len(line) && !closed; i++ {
			switch {
			case line[i] == '"':
				closed = true
			case line[i] == '\\' && i+1 < len(line) && (line[i+1] == '"' || line[i+1] == '\\'):
				i++
				b.WriteByte(line[i])
			default:
				b.WriteByte(line[i])
			}
		}
		if !closed {
			return nil, errors.New(`a quotation mark is not closed`)
		}
		if line = line[i:]; line != "" && line[0] != ' ' && line[0] != '\t' {
			return nil, errors.New(`a blank must follow a closing quotation mark`)
		}
		words = append(words, word{b.String(), true})
	}
	return words, nil
}

// keyword is a word that is not quoted.
func (w word) keyword() string {
	if w.quoted {
		return ""
	}
	return w.text
}

func parseRule(line string) (r rule, err error) {
	words, err := split(line)
	if err != nil {
		return r, err
	}
	next := func() (w word) {
		if len(words) > 0 {
			w, words = words[0], words[1:]
		}
		return w
	}
	switch w := next(); w.keyword() {
	case "allow":
		r.allow = true
	case "deny":
	default:
		return r, fmt.Errorf("a rule begins with allow or deny, not with %q", w.text)
	}
	access, err := r.parseWho(next)
	if err != nil {
		return r, err
	}
	switch access.keyword() {
	case "publish":
		r.publish = true
	case "subscribe":
		r.subscribe = true
	case "both":
		r.publish, r.subscribe = true, true
	default:
		return r, fmt.Errorf("want publish, subscribe or both behind who, not %q", access.text)
	}
	if r.filter = next().text; r.filter == "" {
		return r, errors.New("the topic filter is missing")
	}
	if len(words) > 0 {
		return r, fmt.Errorf("nothing may follow the topic filter: %q (a filter with blanks needs quotation marks)", words[0].text)
	}
	return r, r.checkFilter()
}

// parseWho reads what a rule says of clients, and returns the word behind it.
func (r *rule) parseWho(next func() word) (behind word, err error) {
	w := next()
	switch w.keyword() {
	case "anyone":
		return next(), nil
	case "anonymous":
		r.anonymous = true
		return next(), nil
	}
	for ; ; w = next() {
		kind, ok := map[string]byte{"user": kindUser, "client": kindClient, "cn": kindCN, "subject": kindSubject}[w.keyword()]
		if !ok && len(r.who) > 0 {
			return w, nil
		}
		if !ok {
			return w, fmt.Errorf("want anyone, anonymous, user NAME, client ID, cn NAME or subject NAME, not %q", w.text)
		}
		name := next()
		c := condition{kind: kind, name: name.text}
		if !name.quoted {
			c.name, c.prefix = strings.CutSuffix(name.text, "*")
			if strings.Contains(c.name, "*") {
				return w, fmt.Errorf("'*' stands at the end of a name: %q (a name with a star of its own needs quotation marks)", name.text)
			}
		}
		if c.name == "" && !c.prefix {
			return w, fmt.Errorf("the name behind %q is missing", w.text)
		}
		r.who = append(r.who, c)
	}
}

// checkFilter checks the filter with something in the place of its placeholders.
func (r *rule) checkFilter() error {
	for rest := r.filter; ; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			break
		}
		if i+1 == len(rest) || !strings.ContainsRune("uc%", rune(rest[i+1])) {
			return fmt.Errorf("%q: behind '%%' comes u (user name), c (client identifier) or another '%%'", r.filter)
		}
		r.placeholders = true
		rest = rest[i+2:]
	}
	filter := r.filter
	if r.placeholders {
		filter = strings.NewReplacer("%u", "x", "%c", "x", "%%", "%").Replace(filter)
	}
	if err := topic.ValidFilter(filter); err != nil {
		return fmt.Errorf("%q: %w", r.filter, err)
	}
	if strings.HasPrefix(filter, topic.SharePrefix) {
		return fmt.Errorf("%q: a rule names the filter behind $share/GROUP/, and holds for shared subscriptions to it", r.filter)
	}
	return nil
}
