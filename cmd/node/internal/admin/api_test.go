package admin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/disk"
)

// fakeOperator has a few sessions and says what it was asked.
type fakeOperator struct {
	*fakeNode
	ids   []string
	asked []string
	err   error
}

func (f *fakeOperator) note(format string, args ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fakeOperator) Sessions(_ context.Context, q SessionQuery) (p SessionPage, err error) {
	for _, id := range f.ids {
		if (q.FromStart || id > q.After) && strings.HasPrefix(id, q.Prefix) {
			if p.More = len(p.Sessions) == q.Limit; p.More {
				break
			}
			p.Sessions = append(p.Sessions, Session{ClientID: id})
		}
	}
	return p, f.note("sessions %+v", q)
}

func (f *fakeOperator) Session(_ context.Context, id string) (*SessionDetail, error) {
	return &SessionDetail{Session: Session{ClientID: id}}, f.note("show %q", id)
}
func (f *fakeOperator) Kick(_ context.Context, id string) error { return f.note("kick %q", id) }
func (f *fakeOperator) DeleteSession(_ context.Context, id string) error {
	return f.note("delete %q", id)
}
func (f *fakeOperator) Retained(_ context.Context, filter, after string, limit int) (RetainedPage, error) {
	return RetainedPage{Retained: []Retained{{Topic: filter}}}, f.note("retained %q %q %d", filter, after, limit)
}
func (f *fakeOperator) ClearRetained(_ context.Context, filter string) (int, error) {
	return 7, f.note("clear %q", filter)
}
func (f *fakeOperator) Transfer(_ context.Context, p uint32, node string) error {
	return f.note("transfer %d %s", p, node)
}
func (f *fakeOperator) Drain(_ context.Context, node string, forget bool) error {
	return f.note("drain %s %v", node, forget)
}
func (f *fakeOperator) Undrain(_ context.Context, node string) error {
	return f.note("undrain %s", node)
}
func (f *fakeOperator) Remove(_ context.Context, node string) error { return f.note("remove %s", node) }
func (f *fakeOperator) DrainOf(node string) Drain                   { return Drain{Member: node == "n2", Replicas: 3} }
func (f *fakeOperator) Moves() []Move                               { return []Move{{Partition: 9, Why: "even"}} }
func (f *fakeOperator) CheckDisk(context.Context) (DiskCheck, error) {
	return DiskCheck{Node: "n1", Now: disk.Judge([]time.Duration{1})}, f.note("disk")
}

// serveAPI serves a fake operator at a listener.
func serveAPI(t *testing.T, l net.Listener, conf *tls.Config) *fakeOperator {
	t.Helper()
	f := &fakeOperator{fakeNode: &fakeNode{status: exampleStatus()}}
	level := &slog.LevelVar{}
	s := ServeAPI(l, APIOptions{TLS: conf, Level: level, Log: slog.New(slog.DiscardHandler)})
	s.SetNode(f)
	t.Cleanup(func() { s.Close(context.Background()) })
	return f
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Each call of the client reaches the node as it was meant, over TCP and a Unix socket.
func TestOrders(t *testing.T) {
	unix := filepath.Join(t.TempDir(), "s")
	ul, err := net.Listen("unix", unix)
	if err != nil {
		t.Fatal(err)
	}
	tl := loopback(t)
	for addr, l := range map[string]net.Listener{tl.Addr().String(): tl, "unix:" + unix: ul} {
		f := serveAPI(t, l, nil)
		f.ids = []string{"", "a", "a/b", "ü %2F&=+"}
		c, ctx := NewClient(addr, nil), t.Context()
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		page, err := c.Sessions(ctx, SessionQuery{FromStart: true, Limit: 3, Prefix: "", State: "offline"})
		ok(err)
		if len(page.Sessions) != 3 || !page.More || page.Sessions[0].ClientID != "" {
			t.Errorf("%+v", page)
		}
		page, err = c.Sessions(ctx, SessionQuery{After: "a/b", Limit: MaxPage})
		ok(err)
		if len(page.Sessions) != 1 || page.More || page.Sessions[0].ClientID != f.ids[3] {
			t.Errorf("%+v", page)
		}
		d, err := c.Session(ctx, f.ids[3])
		ok(err)
		if d.ClientID != f.ids[3] {
			t.Errorf("%+v", d)
		}
		ok(c.Kick(ctx, ""))
		ok(c.DeleteSession(ctx, "a/b"))
		r, err := c.Retained(ctx, "x/#", "x/1", 5)
		ok(err)
		if len(r.Retained) != 1 || r.Retained[0].Topic != "x/#" {
			t.Errorf("%+v", r)
		}
		n, err := c.ClearRetained(ctx, "x/+")
		ok(err)
		if n != 7 {
			t.Error(n)
		}
		ok(c.Transfer(ctx, 3, "n2"))
		ok(c.Drain(ctx, "n2", true))
		ok(c.Undrain(ctx, "n2"))
		ok(c.Remove(ctx, "n3"))
		out, err := c.DrainOf(ctx, "n2")
		ok(err)
		if out != (Drain{Member: true, Replicas: 3}) {
			t.Errorf("%+v", out)
		}
		moves, err := c.Moves(ctx)
		ok(err)
		if len(moves) != 1 || moves[0].Partition != 9 {
			t.Errorf("%+v", moves)
		}
		members, err := c.Members(ctx)
		ok(err)
		if len(members) != len(exampleStatus().Members) {
			t.Errorf("%+v", members)
		}
		check, err := c.CheckDisk(ctx)
		ok(err)
		if check.Now.Samples != 1 || check.Now.Verdict != disk.Good {
			t.Errorf("%+v", check)
		}
		ok(c.SetLogLevel(ctx, "error"))
		level, err := c.LogLevel(ctx)
		ok(err)
		if level != "error" {
			t.Error(level)
		}
		want := []string{
			`sessions {After: FromStart:true Prefix: State:offline Limit:3}`,
			`sessions {After:a/b FromStart:false Prefix: State: Limit:1000}`,
			`show "ü %2F&=+"`, `kick ""`, `delete "a/b"`, `retained "x/#" "x/1" 5`, `clear "x/+"`, `transfer 3 n2`,
			`drain n2 true`, `undrain n2`, `remove n3`, `disk`,
		}
		if !slices.Equal(f.asked, want) {
			t.Errorf("asked %q", f.asked)
		}
	}
}

// What cannot be done is answered with a status and a sentence, and reaches no node
// where it makes no sense.
func TestRefusedOrders(t *testing.T) {
	l := loopback(t)
	f := serveAPI(t, l, nil)
	do := func(method, path, body string, change func(*http.Request)) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(req)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, tc := range []struct {
		method, path, body string
		change             func(*http.Request)
		status             int
		says               string
	}{
		{method: "GET", path: "/api/v1/sessions?limit=1001", status: 400, says: "1 to 1000"},
		{method: "GET", path: "/api/v1/sessions?state=asleep", status: 400, says: "asleep"},
		{method: "GET", path: "/api/v1/session", status: 400, says: "client_id="},
		{method: "DELETE", path: "/api/v1/session", status: 400, says: "client_id="},
		{method: "POST", path: "/api/v1/session/kick", status: 400, says: "client_id="},
		{method: "DELETE", path: "/api/v1/retained", status: 400, says: "filter="},
		{method: "POST", path: "/api/v1/cluster/transfer", body: `{"partition":"x"}`, status: 400, says: "JSON"},
		{method: "POST", path: "/api/v1/cluster/transfer", body: `{"part":1}`, status: 400, says: "part"},
		{method: "PUT", path: "/api/v1/log-level", body: `{"level":"loud"}`, status: 400, says: "loud"},
		{method: "POST", path: "/api/v1/sessions", status: 405},
		{method: "GET", path: "/metrics", status: 404},
		// A page that a browser on this machine shows, and a name that was made to stand for it.
		{method: "POST", path: "/api/v1/session/kick?client_id=a", status: 403,
			change: func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }},
		{method: "GET", path: "/api/v1/sessions", status: 403, says: "evil.example", change: func(r *http.Request) { r.Host = "evil.example:7403" }},
	} {
		status, text := do(tc.method, tc.path, tc.body, tc.change)
		if status != tc.status || !strings.Contains(text, tc.says) {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, status, text)
		}
	}
	if len(f.asked) != 0 {
		t.Errorf("the node was asked %q", f.asked)
	}
	for _, host := range []string{"localhost", "localhost:1", "127.0.0.1:1", "[::1]:1"} {
		if status, text := do("GET", "/debug/pprof/cmdline", "", func(r *http.Request) { r.Host = host }); status != 200 {
			t.Errorf("host %s: %d %s", host, status, text)
		}
	}

	f.err = &Error{http.StatusConflict, errors.New("no connection")}
	var refused *RefusedError
	err := NewClient(l.Addr().String(), nil).Kick(t.Context(), "a")
	if !errors.As(err, &refused) || refused.Status != 409 || refused.Message != "no connection" {
		t.Errorf("got %v", err)
	}
	f.err = context.DeadlineExceeded
	if status, _ := do("POST", "/api/v1/disk/check", "", nil); status != 504 {
		t.Errorf("status %d", status)
	}
	starting := loopback(t)
	s := ServeAPI(starting, APIOptions{Level: &slog.LevelVar{}, Log: slog.New(slog.DiscardHandler)})
	defer s.Close(context.Background())
	if _, err := NewClient(starting.Addr().String(), nil).Members(t.Context()); !errors.As(err, &refused) || refused.Status != 503 {
		t.Errorf("a node that starts answers %v", err)
	}
}

// With TLS, who has no certificate of the authority gets nowhere.
func TestOperatorsNeedCertificates(t *testing.T) {
	cert, pool := selfSigned(t)
	stranger, _ := selfSigned(t)
	l := loopback(t)
	serveAPI(t, l, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	ask := func(certs ...tls.Certificate) error {
		_, err := NewClient(l.Addr().String(), &tls.Config{RootCAs: pool, Certificates: certs}).Members(t.Context())
		return err
	}
	if err := ask(cert); err != nil {
		t.Error(err)
	}
	if ask() == nil || ask(stranger) == nil {
		t.Error("a stranger was answered")
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}
