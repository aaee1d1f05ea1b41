package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// fakeNode answers what the test puts into it.
type fakeNode struct {
	ready             atomic.Bool
	missing, degraded []string
	status            Status
	metrics           Metrics
}

func (f *fakeNode) Ready() (bool, []string, []string) { return f.ready.Load(), f.missing, f.degraded }
func (f *fakeNode) Status() Status                    { return f.status }
func (f *fakeNode) Metrics() Metrics                  { return f.metrics }

func exampleStatus() Status {
	return Status{
		Node: "n1", Build: "v1", ClusterID: "c-1", Ready: true, UptimeMS: 90_400, Connections: 3,
		Degraded: []string{"partition 1 has no leader"},
		Members: []Member{
			{Name: "n1", Addr: "127.0.0.1:1", State: "alive", Control: true, Partitions: 2, Leads: 1},
			{Name: "n2", Addr: "127.0.0.1:2", State: "dead", Partitions: 1},
		},
		Partitions: []Partition{
			{ID: 0, Leader: "n1", Local: true, Sessions: 5, Connected: 2, Queued: 7, Retained: 1,
				Replicas: []Replica{{Node: "n1", Voter: true, Applied: 100, State: "leader"}, {Node: "n2", Voter: true, Applied: 90, Lag: 10, State: "follower"}}},
			{ID: 1, Replicas: []Replica{{Node: "n2", State: "set-aside"}}},
		},
	}
}

func serve(t *testing.T) (*Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, "v1", slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, s.Addr()
}

func fetch(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestReadinessGoesWithTheNode(t *testing.T) {
	s, addr := serve(t)
	ctx := context.Background()

	var notReady *NotReadyError
	if err := GetReady(ctx, addr); !errors.As(err, &notReady) || len(notReady.Missing) != 1 {
		t.Fatalf("without a node: %v", err)
	}
	if code, _ := fetch(t, addr, "/healthz"); code != http.StatusOK {
		t.Errorf("a node that reads its data must count as alive, got %d", code)
	}
	if _, err := GetStatus(ctx, addr); !errors.As(err, &notReady) {
		t.Errorf("status without a node: %v", err)
	}

	n := &fakeNode{missing: []string{"no valid lease"}}
	s.SetNode(n)
	if err := GetReady(ctx, addr); !errors.As(err, &notReady) || notReady.Missing[0] != "no valid lease" {
		t.Errorf("a node without a lease: %v", err)
	}
	n.ready.Store(true)
	if err := GetReady(ctx, addr); err != nil {
		t.Errorf("a ready node: %v", err)
	}
}

func TestDegradedNodeStaysReady(t *testing.T) {
	s, addr := serve(t)
	n := &fakeNode{degraded: []string{"partition 7 has no leader"}}
	n.ready.Store(true)
	s.SetNode(n)
	code, body := fetch(t, addr, "/readyz")
	if code != http.StatusOK || !strings.Contains(body, "partition 7 has no leader") {
		t.Errorf("got %d %s", code, body)
	}
}

func TestStatusTravels(t *testing.T) {
	s, addr := serve(t)
	s.SetNode(&fakeNode{status: exampleStatus()})
	got, err := GetStatus(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != StatusVersion || got.ClusterID != "c-1" || len(got.Members) != 2 || got.Partitions[0].Replicas[1].Lag != 10 {
		t.Errorf("got %+v", got)
	}
}

func TestStatusOfSomethingElse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v1/status", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	srv := &http.Server{Handler: mux}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	if _, err := GetStatus(context.Background(), l.Addr().String()); err == nil {
		t.Error("took something else for a node")
	}
	if err := GetReady(context.Background(), l.Addr().String()); err == nil {
		t.Error("took 404 for ready")
	}
}

func TestTable(t *testing.T) {
	s := exampleStatus()
	var out bytes.Buffer
	if err := s.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	const want = `node n1 (v1), cluster c-1, up 1m30s, ready
3 client connections here; 5 sessions in the partitions held here, 2 of them connected
degraded: partition 1 has no leader

MEMBER  ADDRESS      STATE  REPLICAS  LEADS  
n1      127.0.0.1:1  alive  2         1      leads the control group
n2      127.0.0.1:2  dead   1         0      

PARTITION  LEADER  REPLICAS (applied, lag)  SESSIONS  QUEUED  RETAINED
0          n1      n1 100, n2 90 (-10)      5         7       1
1          -       n2 set-aside             -         -       -
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	s.Ready, s.Missing = false, []string{"no valid lease", "3 replicas are catching up"}
	out.Reset()
	if err := s.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "NOT READY: no valid lease, 3 replicas are catching up") {
		t.Errorf("a node that is not ready does not say so:\n%s", out.String())
	}
}

func exampleMetrics() (m Metrics) {
	m.Gateway.Connections, m.Gateway.PublishReceived = 3, [3]uint64{1, 2, 3}
	m.Gateway.Closed = map[string]uint64{"session_taken_over": 6}
	m.Cluster.Dropped = map[Drop]uint64{{"queue_full", "offline"}: 4, {"expired", "offline"}: 5}
	m.Cluster.ClockOffset = map[string]float64{"n2": 0.25}
	m.Store.Fsync = &Histogram{Count: 10, Sum: 0.5, Buckets: map[float64]uint64{0.001: 4, 0.01: 9}}
	return m
}

func TestMetrics(t *testing.T) {
	s, addr := serve(t)
	_, before := fetch(t, addr, "/metrics")
	if !strings.Contains(before, "flotilla_ready 0") {
		t.Errorf("before the node is there:\n%s", before)
	}
	n := &fakeNode{status: exampleStatus(), metrics: exampleMetrics()}
	n.ready.Store(true)
	s.SetNode(n)
	code, body := fetch(t, addr, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for _, want := range []string{
		"flotilla_ready 1", "flotilla_connections 3", `flotilla_messages_received_total{qos="1"} 2`,
		`flotilla_messages_dropped_total{class="offline",reason="queue_full"} 4`,
		`flotilla_connections_closed_total{reason="session_taken_over"} 6`,
		`flotilla_partition_leader{partition="0"} 1`, `flotilla_partition_has_leader{partition="1"} 0`,
		`flotilla_replica_applied_index{member="n1",partition="0"} 100`,
		`flotilla_replica_lag_entries{member="n2",partition="0"} 10`,
		`flotilla_fsync_duration_seconds_bucket{le="0.01"} 9`, "flotilla_fsync_duration_seconds_count 10",
		`flotilla_member_alive{member="n2"} 0`, `flotilla_build_info{version="v1"} 1`, "go_goroutines ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is missing in:\n%s", want, body)
		}
	}
	if strings.Contains(body, `flotilla_sessions{partition="1"}`) {
		t.Error("numbers of a partition that is not held here are made up")
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
