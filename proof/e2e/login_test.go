package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUsersAndRules logs in to a node with Mosquitto's clients, by files that its tools and
// ours have written, and changes them while it runs.
func TestUsersAndRules(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mosquitto_pub", "mosquitto_sub", "mosquitto_passwd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	users, rules := filepath.Join(dir, "users"), filepath.Join(dir, "rules")
	write := func(text string) {
		if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(ok bool, stdin, tool string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, tool, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if (err == nil) != ok {
			t.Errorf("%s %q: %v: %s", filepath.Base(tool), args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run(true, "", "mosquitto_passwd", "-c", "-b", users, "alice", "secret")
	run(true, "s c r a m\n", binary, "passwd", "--scram", "--iterations", "4096", users, "bob")
	write("allow user alice both plant/%u/#\nallow user bob subscribe plant/#\n")

	c := StartCluster(t, 1, "--password-file", users, "--acl-file", rules)
	n := c.Nodes[0]
	host, port, err := net.SplitHostPort(n.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	pub := func(ok bool, user, password, topic string, more ...string) string {
		t.Helper()
		args := []string{"-h", host, "-p", port, "-V", "5", "-q", "1", "-t", topic, "-m", "x"}
		if user != "" {
			args = append(args, "-u", user, "-P", password)
		}
		return run(ok, "", "mosquitto_pub", append(args, more...)...)
	}
	pub(true, "alice", "secret", "plant/alice/1", "-r")
	pub(false, "alice", "guess", "plant/alice/1")
	pub(false, "carol", "secret", "plant/alice/1")
	pub(false, "", "", "plant/alice/1")
	pub(true, "alice", "secret", "plant/bob/1", "-r") // mosquitto_pub does not look at 0x87…
	if got := n.counted(`flotilla_messages_refused_total{reason="not_authorized"}`); got != 1 {
		t.Errorf("%v messages were refused, want 1", got)
	}
	sub := func(user, password, filter string) string {
		t.Helper()
		return run(true, "", "mosquitto_sub", "-h", host, "-p", port, "-V", "5", "-u", user, "-P", password, "-t", filter, "-C", "1", "-W", "30", "-v")
	}
	if got := sub("bob", "s c r a m", "plant/#"); got != "plant/alice/1 x" { // …but the message is not there
		t.Errorf("bob gets %q", got)
	}
	if got := sub("alice", "secret", "plant/#"); !strings.Contains(got, "denied") {
		t.Errorf("alice is told %q", got)
	}

	// A bad file changes nothing; the next one does, at SIGHUP.
	write("allow user alice\n")
	n.signal(syscall.SIGHUP)
	n.waitLog(1, "the old users or rules stay in force", "rules:1:")
	if got := sub("bob", "s c r a m", "plant/#"); got != "plant/alice/1 x" {
		t.Errorf("bob gets %q", got)
	}
	run(true, "changed\n", binary, "passwd", users, "alice")
	write("allow user alice subscribe plant/#\n")
	// The node may notice by itself, with one file changed and not the other: what follows
	// the first reading after both changes has both.
	const read = "users and rules are read"
	for range 2 {
		done := strings.Count(n.log(), read)
		n.signal(syscall.SIGHUP)
		n.waitLog(done+1, read)
	}
	pub(false, "alice", "secret", "plant/alice/1")
	if got := sub("alice", "changed", "plant/#"); got != "plant/alice/1 x" {
		t.Errorf("alice gets %q", got)
	}
	if got := sub("bob", "s c r a m", "plant/#"); !strings.Contains(got, "denied") {
		t.Errorf("bob is told %q", got)
	}
}

// TestBadFilesAreRefusedAtTheStart: a node that cannot know who may do what does not run.
func TestBadFilesAreRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("# nothing\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, says := range map[string]string{"--password-file": "password file", "--acl-file": "rules file"} {
		out, err := exec.Command(binary, "serve", "--data", filepath.Join(dir, "data"), "--mqtt-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0",
			"--gossip-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", flag, bad).CombinedOutput()
		if err == nil || !strings.Contains(string(out), says) || !strings.Contains(string(out), "bad:2: ") {
			t.Errorf("%s: %v: %s", flag, err, out)
		}
	}
}
