// Package topic knows the topic names and topic filters of MQTT 3.1, 3.1.1 and
// 5.0: what is well formed, what matches what, and two tries over them. [Tree]
// finds the subscriptions that match a topic name, [Store] finds the topic names
// that match a filter (retained messages).
//
// Nothing here locks, starts goroutines or reads a clock. Names and filters are
// compared byte by byte: no normalization, no case folding [MQTT-4.7.3-4].
package topic

import (
	"strings"
	"unicode/utf8"
)

// MaxLength is the longest topic name or filter, in bytes of UTF-8 [MQTT-4.7.3-3].
const MaxLength = 65535

// SharePrefix begins the filter of every shared subscription [MQTT-4.8.2-1].
const SharePrefix = "$share/"

// Error says which rule a topic name or filter breaks. All errors of this package
// are one of the Err values below, so callers compare with errors.Is.
type Error struct {
	Clause string // normative statement of MQTT 5.0, e.g. "MQTT-4.7.3-1"
	Reason string // in plain English
}

// Error implements error.
func (e *Error) Error() string { return "topic: " + e.Reason + " [" + e.Clause + "]" }

// The errors of this package.
var (
	ErrEmpty     = &Error{"MQTT-4.7.3-1", "a topic name or filter has at least one character"}
	ErrNull      = &Error{"MQTT-4.7.3-2", "a topic name or filter has no U+0000"}
	ErrTooLong   = &Error{"MQTT-4.7.3-3", "a topic name or filter has at most 65535 bytes"}
	ErrUTF8      = &Error{"MQTT-1.5.4-1", "a topic name or filter is well-formed UTF-8"}
	ErrWildcard  = &Error{"MQTT-4.7.0-1", "a topic name has no wildcard"}
	ErrMulti     = &Error{"MQTT-4.7.1-1", "'#' is the last level of a filter and stands alone in it"}
	ErrSingle    = &Error{"MQTT-4.7.1-2", "'+' stands alone in its level"}
	ErrShareName = &Error{"MQTT-4.8.2-1", "a share name is not empty and has neither '+' nor '#'"}
	ErrShare     = &Error{"MQTT-4.8.2-2", "a share name is followed by '/' and a topic filter"}
)

// ValidName checks a topic name: what PUBLISH and a will carry.
func ValidName(s string) error {
	if err := validString(s); err != nil {
		return err
	}
	if strings.IndexByte(s, '+') >= 0 || strings.IndexByte(s, '#') >= 0 {
		return ErrWildcard // [MQTT-4.7.0-1], in 3.1.1 [MQTT-4.7.1-1]
	}
	return nil
}

// ValidFilter checks a topic filter. It looks at a shared subscription as at any
// other filter; [ParseShared] checks its share name too.
func ValidFilter(s string) error {
	if err := validString(s); err != nil {
		return err
	}
	for rest, more := s, true; more; {
		var level string
		level, rest, more = cut(rest)
		switch {
		case strings.IndexByte(level, '#') >= 0 && (level != "#" || more):
			return ErrMulti // [MQTT-4.7.1-1], in 3.1.1 [MQTT-4.7.1-2]
		case strings.IndexByte(level, '+') >= 0 && level != "+":
			return ErrSingle // [MQTT-4.7.1-2], in 3.1.1 [MQTT-4.7.1-3]
		}
	}
	return nil
}

// validString checks what names and filters have in common.
func validString(s string) error {
	switch {
	case s == "":
		return ErrEmpty // [MQTT-4.7.3-1]
	case len(s) > MaxLength:
		return ErrTooLong // [MQTT-4.7.3-3]
	case strings.IndexByte(s, 0) >= 0:
		return ErrNull // [MQTT-4.7.3-2]
	case !utf8.ValidString(s):
		return ErrUTF8 // [MQTT-1.5.4-1]
	}
	return nil
}

// ParseShared takes the filter of a shared subscription, "$share/group/inner",
// apart. For any other filter shared is false and inner is the filter itself.
// A filter that [ValidFilter] refuses is refused here too.
func ParseShared(filter string) (group, inner string, shared bool, err error) {
	if err := ValidFilter(filter); err != nil {
		return "", "", false, err
	}
	rest, shared := strings.CutPrefix(filter, SharePrefix)
	if !shared {
		return "", filter, false, nil
	}
	group, inner, ok := strings.Cut(rest, "/")
	switch {
	case group == "", group == "+", group == "#":
		return "", "", true, ErrShareName // [MQTT-4.8.2-1]
	case !ok, inner == "":
		return "", "", true, ErrShare // [MQTT-4.8.2-2]
	}
	return group, inner, true, nil
}

// Levels counts the topic levels of a name or filter: one more than it has
// separators, and 0 for the empty string.
func Levels(s string) int {
	if s == "" {
		return 0
	}
	return strings.Count(s, "/") + 1
}

// Match says whether a topic name matches a filter. Both must be valid, the filter
// without share prefix. It allocates nothing.
func Match(filter, name string) bool {
	if hidden(filter, name) {
		return false
	}
	moreF, moreN := true, true
	for moreF && moreN {
		var f, n string
		f, filter, moreF = cut(filter)
		if f == "#" {
			return true
		}
		n, name, moreN = cut(name)
		if f != "+" && f != n {
			return false
		}
	}
	// "a/#" matches "a" too: '#' includes the parent level.
	return !moreN && (!moreF || filter == "#")
}

// hidden applies the rule that a leading wildcard does not match a name that
// begins with '$' [MQTT-4.7.2-1].
func hidden(filter, name string) bool {
	return name != "" && name[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#')
}

// cut slices off the first level of s. more is true when a separator followed it;
// then rest holds the other levels (and may be empty: that is one empty level).
func cut(s string) (level, rest string, more bool) {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
