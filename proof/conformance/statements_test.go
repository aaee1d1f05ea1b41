package conformance

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A test says which normative statements it shows by their numbers: [MQTT-3.3.1-2] is one
// of MQTT 5.0, [MQTT-3.3.1-2 of 3.1.1] one of 3.1.1, which numbers differently. Tests of
// the codec name the clause of the error they want, of the version of the packet as far as
// their line tells.
var (
	tag    = regexp.MustCompile(`\[MQTT-([0-9][0-9.-]*-[0-9]+)( of 3\.1\.1)?\]`)
	plain  = regexp.MustCompile(`"MQTT-[^"]*"`)
	number = regexp.MustCompile(`MQTT-([0-9]+(?:[.-][0-9]+)*-[0-9]+)( of 3\.1\.1)?`)
	older  = regexp.MustCompile(`\bV311\b|\bV31\b`)
	test   = regexp.MustCompile(`^func ((?:Test|Fuzz)\w+)|^== (.*?)(?: \[MQTT|$)`)
)

// TestEveryStatement lists every normative statement with the tests that show it, and
// fails for one that no test shows, unless the list says why. Run it with -v to read it.
func TestEveryStatement(t *testing.T) {
	known := map[string]bool{} // "5.0 3.1.0-1"
	var all []statement
	for version, file := range map[string]string{"5.0": "statements/v5.txt", "3.1.1": "statements/v311.txt"} {
		for _, line := range readLines(t, file) {
			id, reason, _ := strings.Cut(line, " ")
			all = append(all, statement{version + " " + id, reason, file})
			known[version+" "+id] = true
		}
	}
	shown := map[string][]string{} // the tests of each
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".txt") && strings.Contains(path, "testdata") {
			return scan(path, known, shown)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		switch tests := shown[s.key]; {
		case len(tests) > 0:
			t.Logf("%s: %s", s.key, strings.Join(tests, "; "))
		case s.reason != "":
			t.Logf("%s: not tested: %s", s.key, s.reason)
		default:
			t.Errorf("%s is shown by no test, and %s gives no reason", s.key, s.file)
		}
	}
	for key, tests := range shown {
		if !known[key] {
			t.Errorf("there is no statement %s, which %s names", key, strings.Join(tests, "; "))
		}
	}
}

// statement is one line of a list.
type statement struct{ key, reason, file string }

// scan notes the statements that a file names, with the tests that do.
func scan(path string, known map[string]bool, shown map[string][]string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	name := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if m := test.FindStringSubmatch(line); m != nil {
			name = m[1] + m[2]
		}
		note := func(id string, old, sure bool) {
			key, other := "5.0 "+id, "3.1.1 "+id
			if old {
				key, other = other, key
			}
			if !sure && !known[key] && known[other] {
				key = other
			}
			where := fmt.Sprintf("%s (%s)", name, strings.TrimPrefix(filepath.ToSlash(path), "../../"))
			if list := shown[key]; len(list) == 0 || list[len(list)-1] != where {
				shown[key] = append(list, where)
			}
		}
		for _, m := range tag.FindAllStringSubmatch(line, -1) {
			note(m[1], m[2] != "", true)
		}
		if !strings.HasSuffix(path, ".go") {
			continue
		}
		for _, quoted := range plain.FindAllString(line, -1) {
			for _, m := range number.FindAllStringSubmatch(quoted, -1) {
				note(m[1], m[2] != "" || older.MatchString(line), false)
			}
		}
	}
	return nil
}

// readLines returns the lines of a list but for comments.
func readLines(t *testing.T, file string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}
