package e2e

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// freeAddr is an address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A process that cannot run as it was told ends at once, with exit code 1 and an
// error that names what is in the way; the one that was there first goes on.
func TestBadSurroundings(t *testing.T) {
	c := StartCluster(t, 1)
	n := c.Nodes[0]
	for _, tc := range []struct {
		name string
		// change is what the second process has in common with the first.
		change map[string]string
		says   []string
	}{
		{"data folder in use", map[string]string{"--data": n.dir}, []string{n.dir, "in use by another process", "--data"}},
		{"mqtt port in use", map[string]string{"--mqtt-addr": n.MQTT}, []string{"mqtt-addr", n.MQTT, "address already in use"}},
		{"peer port in use", map[string]string{"--peer-addr": n.Peer}, []string{"peer-addr", n.Peer, "address already in use"}},
		{"http port in use", map[string]string{"--http-addr": n.HTTP}, []string{"http-addr", n.HTTP, "address already in use"}},
		{"admin port in use", map[string]string{"--admin-addr": n.Admin}, []string{"admin-addr", n.Admin, "address already in use"}},
		{"gossip port in use", map[string]string{"--gossip-addr": n.Gossip}, []string{"gossip-addr", n.Gossip, "address already in use"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			flags := map[string]string{"--node": n.Name, "--data": filepath.Join(t.TempDir(), "data"), "--mqtt-addr": freeAddr(t),
				"--peer-addr": freeAddr(t), "--http-addr": freeAddr(t), "--gossip-addr": freeAddr(t), "--admin-addr": freeAddr(t)}
			for k, v := range tc.change {
				flags[k] = v
			}
			refused(t, flags, tc.says)
		})
	}
	n.kill()
	t.Run("data folder of another node", func(t *testing.T) {
		refused(t, map[string]string{"--node": "somebody", "--data": n.dir, "--mqtt-addr": freeAddr(t), "--peer-addr": freeAddr(t),
			"--http-addr": freeAddr(t), "--gossip-addr": freeAddr(t), "--admin-addr": freeAddr(t)}, []string{n.dir, n.Name, "somebody"})
	})
	n.start()
	if err := c.ready(); err != nil {
		t.Errorf("the first node does not start again: %v", err)
	}
}

// refused runs a node that must end by itself with an error that says something.
func refused(t *testing.T, flags map[string]string, says []string) {
	t.Helper()
	args := []string{"serve"}
	for k, v := range flags {
		args = append(args, k+"="+v)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("it ended with %v\n%s", err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	last := lines[len(lines)-1]
	for _, want := range says {
		if !strings.Contains(last, want) {
			t.Errorf("its last word does not say %q: %s", want, last)
		}
	}
	if strings.Contains(out.String(), "goroutine ") {
		t.Errorf("it panicked:\n%s", out.String())
	}
}
