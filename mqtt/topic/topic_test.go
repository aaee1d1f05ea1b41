package topic

import (
	"errors"
	"strings"
	"testing"
)

func TestValidName(t *testing.T) {
	for _, c := range []struct {
		name string
		want error
	}{
		{"a", nil},
		{"/", nil},
		{"a//b/", nil},
		{"$SYS/x", nil},
		{"a b/Ω/\ufeff", nil}, // [MQTT-1.5.4-3] a BOM is a character like any other
		{strings.Repeat("x", 65535), nil},
		{"", ErrEmpty},                           // [MQTT-4.7.3-1]
		{strings.Repeat("x", 65536), ErrTooLong}, // [MQTT-4.7.3-3]
		{"a\x00b", ErrNull},                      // [MQTT-4.7.3-2]
		{"a/\xff", ErrUTF8},                      // [MQTT-1.5.4-1]
		{"a/\xed\xa0\x80", ErrUTF8},              // [MQTT-1.5.4-1] U+D800
		{"a/+", ErrWildcard},                     // [MQTT-4.7.0-1]
		{"#", ErrWildcard},                       // [MQTT-4.7.0-1]
		{"a+b", ErrWildcard},                     // [MQTT-4.7.0-1]
	} {
		if err := ValidName(c.name); !same(err, c.want) {
			t.Errorf("ValidName(%.20q) = %v, want %v", c.name, err, c.want)
		}
	}
}

// same compares without the trap of a typed nil.
func same(got, want error) bool {
	if want == nil {
		return got == nil
	}
	return errors.Is(got, want)
}

func TestValidFilter(t *testing.T) {
	for _, c := range []struct {
		filter string
		want   error
	}{
		{"a", nil}, {"/", nil}, {"#", nil}, {"+", nil}, {"+/+/#", nil}, {"/+", nil}, {"a/+/b", nil}, {"$SYS/#", nil}, {"$share/g/#", nil},
		{"", ErrEmpty},                           // [MQTT-4.7.3-1]
		{"\x00", ErrNull},                        // [MQTT-4.7.3-2]
		{strings.Repeat("/", 65536), ErrTooLong}, // [MQTT-4.7.3-3]
		{"a\xc0\x80", ErrUTF8},                   // [MQTT-1.5.4-1] overlong
		{"a#", ErrMulti},                         // [MQTT-4.7.1-1]
		{"#/a", ErrMulti},                        // [MQTT-4.7.1-1]
		{"a/#/b", ErrMulti},                      // [MQTT-4.7.1-1]
		{"a/#/", ErrMulti},                       // [MQTT-4.7.1-1]
		{"##", ErrMulti},                         // [MQTT-4.7.1-1]
		{"a+", ErrSingle},                        // [MQTT-4.7.1-2]
		{"a/+b/c", ErrSingle},                    // [MQTT-4.7.1-2]
		{"++", ErrSingle},                        // [MQTT-4.7.1-2]
	} {
		if err := ValidFilter(c.filter); !same(err, c.want) {
			t.Errorf("ValidFilter(%.20q) = %v, want %v", c.filter, err, c.want)
		}
	}
}

func TestParseShared(t *testing.T) {
	for _, c := range []struct {
		filter, group, inner string
		shared               bool
		want                 error
	}{
		{"a/b", "", "a/b", false, nil},
		{"$share", "", "$share", false, nil}, // does not start with "$share/"
		{"$shared/g/a", "", "$shared/g/a", false, nil},
		{"$share/g/a/+/#", "g", "a/+/#", true, nil},
		{"$share/g//", "g", "/", true, nil},
		{"$share/g/#", "g", "#", true, nil},
		{"$share//a", "", "", true, ErrShareName},   // [MQTT-4.8.2-1]
		{"$share/", "", "", true, ErrShareName},     // [MQTT-4.8.2-1]
		{"$share/+/a", "", "", true, ErrShareName},  // [MQTT-4.8.2-2]
		{"$share/#", "", "", true, ErrShareName},    // [MQTT-4.8.2-2]
		{"$share/g", "", "", true, ErrShare},        // [MQTT-4.8.2-2]
		{"$share/g/", "", "", true, ErrShare},       // [MQTT-4.8.2-2]
		{"$share/g+/a", "", "", false, ErrSingle},   // [MQTT-4.8.2-2]
		{"$share/g/a/#/b", "", "", false, ErrMulti}, // [MQTT-4.7.1-1]
	} {
		group, inner, shared, err := ParseShared(c.filter)
		if group != c.group || inner != c.inner || shared != c.shared || !same(err, c.want) {
			t.Errorf("ParseShared(%q) = %q, %q, %v, %v", c.filter, group, inner, shared, err)
		}
	}
}

func TestLevels(t *testing.T) {
	for s, want := range map[string]int{"": 0, "a": 1, "/": 2, "a/b/c": 3, "a//": 3} {
		if got := Levels(s); got != want {
			t.Errorf("Levels(%q) = %d, want %d", s, got, want)
		}
	}
}

// matchCases are the examples of section 4.7 and their neighbours.
var matchCases = []struct {
	filter, name string
	want         bool
}{
	{"sport/tennis/player1/#", "sport/tennis/player1", true},
	{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
	{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
	{"sport/tennis/player1/#", "sport/tennis/player12", false},
	{"sport/#", "sport", true},
	{"#", "sport/tennis", true},
	{"#", "/", true},
	{"sport/tennis/+", "sport/tennis/player1", true},
	{"sport/tennis/+", "sport/tennis/player1/ranking", false},
	{"sport/+", "sport", false},
	{"sport/+", "sport/", true},
	{"+", "finance", true},
	{"+/+", "/finance", true},
	{"/+", "/finance", true},
	{"+", "/finance", false},
	{"+/#", "a", true},
	{"a/+/#", "a", false},
	{"a", "a/", false},
	{"a/", "a", false},
	{"a//b", "a/b", false},
	{"ACCOUNTS", "Accounts", false}, // [MQTT-4.7.3-4]
	{"e\u0301", "\u00e9", false},    // [MQTT-4.7.3-4] no normalization
	{"#", "$SYS/x", false},          // [MQTT-4.7.2-1]
	{"+/x", "$SYS/x", false},        // [MQTT-4.7.2-1]
	{"+", "$SYS", false},            // [MQTT-4.7.2-1]
	{"$SYS/#", "$SYS/x", true},
	{"$SYS/#", "$SYS", true},
	{"$SYS/+", "$SYS/x", true},
	{"+/$SYS", "a/$SYS", true},
}

func TestMatch(t *testing.T) {
	for _, c := range matchCases {
		if got := Match(c.filter, c.name); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.filter, c.name, got)
		}
		var tree Tree[int, int]
		tree.Set(c.filter, 1, 1)
		got := false
		tree.Match(c.name, func(string, int, int) { got = true })
		if got != c.want {
			t.Errorf("Tree with %q matches %q = %v", c.filter, c.name, got)
		}
		var store Store[int]
		store.Put(c.name, 1)
		got = false
		store.MatchFilter(c.filter, func(string, int) bool { got = true; return true })
		if got != c.want {
			t.Errorf("Store with %q matches %q = %v", c.name, c.filter, got)
		}
	}
}

func TestErrorText(t *testing.T) {
	if got, want := ErrEmpty.Error(), "topic: a topic name or filter has at least one character [MQTT-4.7.3-1]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
