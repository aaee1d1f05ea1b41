package auth

import "strings"

// view is what the rules say of one client: those that concern it, with its names in
// the place of placeholders.
type view struct {
	of                 *rules
	publish, subscribe []verdict
}

type verdict struct {
	allow  bool
	filter string
}

// view finds the rules for a client.
func (r *rules) view(c *Client) *view {
	v := &view{of: r}
	cn, subject, certified := certificate(c.TLS)
	names := [...]string{kindUser: c.Username, kindClient: c.ID}
	for i := range r.list {
		rule := &r.list[i]
		if rule.anonymous && c.Username != "" {
			continue
		}
		fits := true
		for _, w := range rule.who {
			switch w.kind {
			case kindCN:
				fits = fits && certified && w.fits(cn)
			case kindSubject:
				fits = fits && certified && w.fits(subject)
			default:
				fits = fits && w.fits(names[w.kind])
			}
		}
		if !fits {
			continue
		}
		filter, ok := rule.expand(c)
		if !ok {
			continue
		}
		if rule.publish {
			v.publish = append(v.publish, verdict{rule.allow, filter})
		}
		if rule.subscribe {
			v.subscribe = append(v.subscribe, verdict{rule.allow, filter})
		}
	}
	return v
}

// fits compares a name. A client without the name fits no condition on it.
func (w *condition) fits(name string) bool {
	switch {
	case name == "":
		return false
	case w.prefix:
		return strings.HasPrefix(name, w.name)
	}
	return name == w.name
}

// expand puts the client's names in the place of placeholders. Clients choose their
// names, so a name that would mean more than itself (wildcards, separators, a leading
// '$', or no name at all) makes a rule narrower, never wider: one that allows is left
// out (ok is false), and one that denies holds for all below the level in question.
func (r *rule) expand(c *Client) (filter string, ok bool) {
	if !r.placeholders {
		return r.filter, true
	}
	var b strings.Builder
	for rest := r.filter; ; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			b.WriteString(rest)
			return b.String(), true
		}
		b.WriteString(rest[:i])
		value := "%"
		switch rest[i+1] {
		case 'u':
			value = c.Username
		case 'c':
			value = c.ID
		}
		if rest[i+1] != '%' && (value == "" || strings.ContainsAny(value, "+#/") || b.Len() == 0 && value[0] == '$') {
			so := b.String()
			return so[:strings.LastIndexByte(so, '/')+1] + "#", !r.allow
		}
		b.WriteString(value)
		rest = rest[i+2:]
	}
}

// decide goes through the rules in their order: the first that concerns the filter (or
// name) counts, and without one the answer is no. A rule that allows concerns what it
// covers whole, one that denies what it touches: so a client that may subscribe gets
// nothing that it may not read.
func decide(list []verdict, filter string) bool {
	for i := range list {
		v := &list[i]
		if v.allow && covers(v.filter, filter) {
			return true
		}
		if !v.allow && touches(v.filter, filter) {
			return false
		}
	}
	return false
}

// covers says whether every topic name that matches b matches a too. It may say no
// where only a closer look would show it ("+/#" covers "#").
func covers(a, b string) bool {
	if wild(a) && strings.HasPrefix(b, "$") {
		return false // [MQTT-4.7.2-1]
	}
	for {
		x, restA, moreA := strings.Cut(a, "/")
		y, restB, moreB := strings.Cut(b, "/")
		switch {
		case x == "#":
			return true
		case y == "#", x != "+" && x != y:
			return false
		case !moreA && !moreB:
			return true
		case !moreB:
			return restA == "#" // which includes the parent level
		case !moreA:
			return false
		}
		a, b = restA, restB
	}
}

// touches says whether some topic name matches both. A leading wildcard in a, the
// filter of a rule that denies, includes names that begin with '$'; one in b does not
// [MQTT-4.7.2-1].
func touches(a, b string) bool {
	if wild(b) && strings.HasPrefix(a, "$") {
		return false
	}
	for {
		x, restA, moreA := strings.Cut(a, "/")
		y, restB, moreB := strings.Cut(b, "/")
		switch {
		case x == "#", y == "#":
			return true
		case x != y && x != "+" && y != "+":
			return false
		case !moreA && !moreB:
			return true
		case !moreB:
			return restA == "#"
		case !moreA:
			return restB == "#"
		}
		a, b = restA, restB
	}
}

func wild(filter string) bool { return filter[0] == '+' || filter[0] == '#' }
