package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// broker is our broker, built once by TestMain.
var broker string

// TestMain builds the broker.
func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "flotilla-conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	broker = filepath.Join(dir, "flotilla")
	build := exec.Command("go", "build", "-o", broker, "github.com/flotilla-mqtt/flotilla/cmd/node")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the broker:", err)
		return 1
	}
	return m.Run()
}

// node is a process to be.
type node struct {
	name, http, peer, gossip string
	listeners                map[string]string
}

// start starts a cluster that ends with the test. settings are lines of its configuration.
func start(t *testing.T, n int, settings ...string) Broker {
	t.Helper()
	dir := t.TempDir()
	// Ports that were free a moment ago may be taken by now: then again, with others.
	for attempt := range 3 {
		nodes := plan(t, n)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		stop, err := launch(ctx, nodes, settings, filepath.Join(dir, fmt.Sprint(attempt)))
		cancel()
		if err != nil {
			t.Logf("attempt %d: %v", attempt, err)
			stop()
			continue
		}
		t.Cleanup(stop)
		var b Broker
		for _, node := range nodes {
			b.Nodes = append(b.Nodes, node.listeners)
		}
		return b
	}
	t.Fatal("the broker did not start")
	return Broker{}
}

// plan finds free addresses.
func plan(t *testing.T, n int) []*node {
	t.Helper()
	var open []interface{ Close() error }
	addr := func() string {
		for {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, l)
			if p, err := net.ListenPacket("udp", l.Addr().String()); err == nil { // gossip needs both
				open = append(open, p)
				return l.Addr().String()
			}
		}
	}
	var nodes []*node
	for i := range n {
		node := &node{name: fmt.Sprintf("n%d", i+1), http: addr(), peer: addr(), gossip: addr(), listeners: map[string]string{"": addr()}}
		for name := range listeners {
			node.listeners[name] = addr()
		}
		nodes = append(nodes, node)
	}
	for _, o := range open {
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

// launch starts the processes and waits until all are ready. stop kills them.
func launch(ctx context.Context, nodes []*node, settings []string, dir string) (stop func(), err error) {
	var running []*exec.Cmd
	stop = func() {
		for _, cmd := range running {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return stop, err
	}
	for _, n := range nodes {
		config := filepath.Join(dir, n.name+".yaml")
		if err := os.WriteFile(config, []byte(n.config(nodes, settings)), 0o644); err != nil {
			return stop, err
		}
		cmd := exec.Command(broker, "serve", "--config", config, "--data", filepath.Join(dir, n.name))
		log, err := os.Create(filepath.Join(dir, n.name+".log"))
		if err != nil {
			return stop, err
		}
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Start()
		_ = log.Close() // the process has its own handle
		if err != nil {
			return stop, err
		}
		running = append(running, cmd)
	}
	for _, n := range nodes {
		if err := n.ready(ctx); err != nil {
			text, _ := os.ReadFile(filepath.Join(dir, n.name+".log"))
			return stop, fmt.Errorf("%s: %w: %s", n.name, err, text)
		}
	}
	return stop, nil
}

func (n *node) config(all []*node, settings []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "node: %s\nhttp-addr: %s\npeer-addr: %s\ngossip-addr: %s\nadmin-addr: 127.0.0.1:0\nexpect: %d\n", n.name, n.http, n.peer, n.gossip, len(all))
	fmt.Fprintf(&b, "mqtt-addr: %s\nsys-interval: 1s\n%s\nlisteners:\n", n.listeners[""], strings.Join(settings, "\n"))
	for name, lines := range listeners {
		fmt.Fprintf(&b, "  - addr: %s\n", n.listeners[name])
		for line := range strings.Lines(lines) {
			fmt.Fprintf(&b, "    %s", line)
		}
	}
	var join []string
	for _, other := range all {
		if other != n {
			join = append(join, other.gossip)
		}
	}
	if len(join) > 0 {
		fmt.Fprintf(&b, "join: %s\n", strings.Join(join, ","))
	}
	return b.String()
}

func (n *node) ready(ctx context.Context) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.http+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond): // polling
		}
	}
}

// listeners are those besides the usual one, and what each sets.
var listeners = map[string]string{
	"strict": `max-qos: 1
retain-available: false
wildcard-available: false
subscription-id-available: false
shared-available: false
receive-maximum: 3
topic-alias-maximum: 2
max-packet-size: 2KiB
max-keep-alive: 60s
max-topic-levels: 5
check-payload-format: true
response-information: answers/%c/
`,
	"patient": "receive-maximum: 2\ntopic-alias-maximum: 0\n",
	"moved":   "server-moved: true\nserver-reference: elsewhere.example.org:1883\n",
}
