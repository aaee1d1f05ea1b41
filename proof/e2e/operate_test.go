package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// order runs an operator's command against the node and returns what it printed; code is
// what it exits with.
func (n *Node) order(code int, args ...string) string {
	n.c.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(n.c.t.Context(), binary, args...)
	cmd.Env = append(cmd.Environ(), "FLOTILLA_ADMIN_ADDR="+n.Admin)
	cmd.Stdout, cmd.Stderr = &out, &errs
	got := 0
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			n.c.t.Fatal(err)
		}
		got = exit.ExitCode()
	}
	if got != code {
		n.c.t.Fatalf("flotilla %q exits with %d, not %d: %s%s", args, got, code, out.String(), errs.String())
	}
	return out.String() + errs.String()
}

// orderJSON is order with its output decoded.
func (n *Node) orderJSON(into any, args ...string) {
	n.c.t.Helper()
	text := n.order(0, append(args, "--json")...)
	if err := json.Unmarshal([]byte(text), into); err != nil {
		n.c.t.Fatalf("flotilla %q prints %s: %v", args, text, err)
	}
}

// operated is what these tests need of a session.
type operated struct {
	ClientID      string `json:"client_id"`
	Connected     bool   `json:"connected"`
	Node          string `json:"node"`
	Ephemeral     bool   `json:"ephemeral"`
	Subscriptions int    `json:"subscriptions"`
	Queued        int    `json:"queued_messages"`
	Remote        string `json:"remote"`
	List          []struct {
		Filter string `json:"filter"`
		QoS    int    `json:"qos"`
	} `json:"subscription_list"`
}

func clientIDs(list []operated) (ids []string) {
	for _, s := range list {
		ids = append(ids, s.ClientID)
	}
	return ids
}

// TestOperateSessions: an operator asks any node about sessions that are anywhere, ends a
// connection and deletes a session, for good.
func TestOperateSessions(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	asked := c.Nodes[2]
	odd := "odd/id with \u00e9 %2f"
	stays := s.step(odd, c.Nodes[0])
	subscribe := func(conn *client.Conn, filter string) {
		t.Helper()
		if _, err := conn.Subscribe(s.ctx, 1, history.Filter{Filter: filter, QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	subscribe(stays.conn, "x/+")
	var eph *client.Conn
	s.unlessBusy("eph", func() (err error) {
		eph, _, err = client.Dial(s.ctx, client.TCP, c.Nodes[1].Target(), c.Rec, client.Options{ClientID: "eph"})
		return err
	})
	defer eph.Close()
	subscribe(eph, "y/#")
	away := s.step("away", c.Nodes[1])
	subscribe(away.conn, "z")
	away.conn.Close()
	pub := s.connect("pub", nil, c.Nodes[0])
	for i := range 5 {
		pub.say("z", 1, fmt.Sprint("m", i))
	}

	var list []operated
	asked.orderJSON(&list, "sessions", "list")
	if got := clientIDs(list); !slices.Equal(got, []string{"away", "eph", odd, "pub"}) {
		t.Errorf("listed %q", got)
	}
	var one operated
	asked.orderJSON(&one, "sessions", "show", "eph")
	if one.Node != "n2" || !one.Ephemeral || one.Subscriptions != 1 || one.List[0].Filter != "y/#" || one.Remote == "" {
		t.Errorf("eph: %+v", one)
	}
	for end := time.Now().Add(patience); one.ClientID != "away" || one.Connected || one.Queued != 5; {
		one = operated{}
		asked.orderJSON(&one, "sessions", "show", "away")
		if time.Now().After(end) {
			t.Fatalf("away: %+v", one)
		}
	}
	list = nil
	asked.orderJSON(&list, "sessions", "list", "--limit", "2", "--state", "connected")
	if got := clientIDs(list); !slices.Equal(got, []string{"eph", odd}) {
		t.Errorf("the first two connected ones: %q", got)
	}
	list = nil
	asked.orderJSON(&list, "sessions", "list", "--prefix", "a", "--state", "offline")
	if got := clientIDs(list); !slices.Equal(got, []string{"away"}) {
		t.Errorf("offline: %q", got)
	}
	if table := asked.order(0, "sessions", "list"); !strings.Contains(table, "CLIENT") || !strings.Contains(table, odd) {
		t.Errorf("the table is\n%s", table)
	}
	if text := asked.order(1, "sessions", "show", "nobody"); !strings.Contains(text, "no such session") {
		t.Errorf("of nobody: %s", text)
	}

	asked.order(0, "sessions", "kick", odd)
	bye, err := stays.conn.Await(s.ctx, client.DISCONNECT, 0)
	if err != nil || bye.Code != 0x98 {
		t.Errorf("a kicked client got %+v, %v", bye, err)
	}
	<-stays.conn.Done()
	if text := asked.order(1, "sessions", "kick", "away"); !strings.Contains(text, "no connection") {
		t.Errorf("kick of an absent client: %s", text)
	}

	asked.order(0, "sessions", "delete", "away")
	asked.order(0, "sessions", "delete", "eph")
	if bye, err := eph.Await(s.ctx, client.DISCONNECT, 0); err != nil || bye.Code != 0x98 {
		t.Errorf("the client of a deleted session got %+v, %v", bye, err)
	}
	var wg sync.WaitGroup
	for _, n := range c.Nodes {
		wg.Go(n.Kill9)
	}
	wg.Wait()
	c.Repair()
	list = nil
	asked.orderJSON(&list, "sessions", "list")
	for _, id := range []string{"away", "eph"} {
		if slices.Contains(clientIDs(list), id) {
			t.Errorf("%s is back after a power cut", id)
		}
	}
	if !slices.Contains(clientIDs(list), odd) {
		t.Errorf("the kicked session is gone: %q", clientIDs(list))
	}
}

// TestOperateCluster: retained messages, leaderships, logs, disks and profiles.
func TestOperateCluster(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	s := begin(t, c)
	asked := c.Nodes[1]
	pub := s.connect("pub", nil, c.Nodes[0])
	for i := range 20 {
		s.taken("retained", pub.Publish(client.Packet{Topic: fmt.Sprintf("r/%02d", i), QoS: 1, Retain: true, Payload: []byte("kept|")}))
	}
	s.taken("retained", pub.Publish(client.Packet{Topic: "other", QoS: 1, Retain: true, Payload: []byte("other|")}))
	var topics []struct{ Topic string }
	asked.orderJSON(&topics, "retained", "list", "r/#")
	if len(topics) != 20 || topics[0].Topic != "r/00" || topics[19].Topic != "r/19" {
		t.Errorf("retained: %v", topics)
	}
	if text := asked.order(0, "retained", "clear", "r/+"); !strings.Contains(text, "20 retained") {
		t.Error(text)
	}
	reader := s.connect("reader", nil, c.Nodes[2])
	reader.subscribe("#", 1)
	if got := reader.await("other"); !slices.Equal(got, []string{"other"}) {
		t.Errorf("a new subscriber gets %q", got)
	}
	asked.order(1, "retained", "clear", "a#b")

	if text := asked.order(0, "cluster", "members"); !strings.Contains(text, "n1") || !strings.Contains(text, "n3") || !strings.Contains(text, "alive") {
		t.Error(text)
	}
	for _, to := range []string{"n3", "n1"} {
		asked.order(0, "cluster", "transfer", "5", to)
		for end := time.Now().Add(patience); c.leaders()[5] != to; time.Sleep(20 * time.Millisecond) { // polling
			if time.Now().After(end) {
				t.Fatalf("%s does not lead", to)
			}
		}
	}
	if text := asked.order(1, "cluster", "transfer", "5", "n9"); !strings.Contains(text, "no replica") {
		t.Error(text)
	}

	if text := asked.order(0, "log-level"); strings.TrimSpace(text) != "debug" {
		t.Error(text)
	}
	asked.order(0, "log-level", "warn")
	if text := asked.order(0, "log-level"); strings.TrimSpace(text) != "warn" {
		t.Error(text)
	}
	asked.order(1, "log-level", "loud")

	for _, args := range [][]string{{"check-disk"}, {"check-disk", "--data", t.TempDir()}} {
		if text := asked.order(0, args...); !strings.Contains(text, "p99") {
			t.Error(text)
		}
	}
	if k := asked.counted("flotilla_fsync_recent_p99_seconds"); k <= 0 {
		t.Errorf("p99 of fsync is %v", k)
	}

	// Profiles and orders are at the admin address only.
	for path, at := range map[string]string{"/debug/pprof/cmdline": "GET", "/api/v1/sessions": "GET", "/api/v1/retained?filter=x": "DELETE"} {
		for _, addr := range []string{asked.Admin, asked.HTTP} {
			req, err := http.NewRequestWithContext(s.ctx, at, "http://"+addr+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
			if ok := resp.StatusCode == http.StatusOK; ok != (addr == asked.Admin) {
				t.Errorf("%s %s answers %s", at, path, resp.Status)
			}
		}
	}
}

// TestOperateWithCertificate: where the admin API has a certificate, operators need one.
func TestOperateWithCertificate(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	dir, operator, stranger := t.TempDir(), t.TempDir(), t.TempDir()
	a.write(dir, []string{"127.0.0.1"}, a)
	a.write(operator, []string{"operator"}, a)
	other.write(stranger, []string{"operator"}, a)
	files := func(dir string) []string {
		return []string{"--admin-cert", filepath.Join(dir, "cert.pem"), "--admin-key", filepath.Join(dir, "key.pem"), "--admin-ca", filepath.Join(dir, "ca.pem")}
	}
	c := StartCluster(t, 1, files(dir)...)
	n := c.Nodes[0]
	n.order(0, append([]string{"cluster", "members"}, files(operator)...)...)
	n.order(1, append([]string{"cluster", "members"}, files(stranger)...)...)
	n.order(1, "cluster", "members")
	if k := n.counted(`flotilla_certificate_expiry_timestamp_seconds{use="admin"}`); k == 0 {
		t.Error("the certificate's end is not told")
	}
}
