package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"
)

// answerTime bounds the work for one request of an operator.
const answerTime = 30 * time.Second

// APIOptions are what ServeAPI needs beside a listener.
type APIOptions struct {
	// TLS demands certificates of operators; nil: the listener is for this machine only.
	TLS   *tls.Config
	Level *slog.LevelVar // of the node's log
	Log   *slog.Logger
}

// ServeAPI starts answering operators on l. Until SetNode the node is starting.
func ServeAPI(l net.Listener, o APIOptions) *Server {
	a := &api{level: o.Level, log: o.Log}
	mux := http.NewServeMux()
	a.s = &Server{}
	mux.HandleFunc("GET /api/v1/status", a.s.status)
	for pattern, h := range map[string]handler{
		"GET /api/v1/cluster/members":    a.members,
		"DELETE /api/v1/cluster/members": a.remove,
		"GET /api/v1/cluster/moves":      a.moves,
		"GET /api/v1/cluster/drain":      a.drainOf,
		"POST /api/v1/cluster/drain":     a.drain,
		"DELETE /api/v1/cluster/drain":   a.undrain,
		"POST /api/v1/cluster/transfer":  a.transfer,
		"GET /api/v1/sessions":           a.sessions,
		"GET /api/v1/session":            a.session,
		"DELETE /api/v1/session":         a.deleteSession,
		"POST /api/v1/session/kick":      a.kick,
		"GET /api/v1/retained":           a.retained,
		"DELETE /api/v1/retained":        a.clearRetained,
		"POST /api/v1/disk/check":        a.checkDisk,
	} {
		mux.HandleFunc(pattern, a.answer(h))
	}
	mux.HandleFunc("GET /api/v1/log-level", a.logLevel)
	mux.HandleFunc("PUT /api/v1/log-level", a.setLogLevel)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	// A page in a browser on this machine is not an operator.
	var all http.Handler = http.NewCrossOriginProtection().Handler(mux)
	if o.TLS != nil {
		l = tls.NewListener(l, o.TLS)
	} else {
		all = localHost(all)
	}
	a.s.start(l, all, o.Log)
	return a.s
}

// localHost refuses requests for a name that is not this machine's: of a page whose name
// was made to stand for this machine.
func localHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			writeJSON(w, http.StatusForbidden, Problem{fmt.Sprintf("this address is for this machine only, not for %q", host)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

type api struct {
	s     *Server
	level *slog.LevelVar
	log   *slog.Logger
}

// handler answers a request that has come to a running node; nil stands for success
// without anything to say.
type handler func(ctx context.Context, n Operator, r *http.Request) (any, error)

func (a *api) answer(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, ok := a.s.current().(Operator)
		if !ok {
			writeJSON(w, http.StatusServiceUnavailable, Problem{"the node is reading its data"})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		v, err := h(ctx, n, r)
		if r.Method != http.MethodGet {
			a.log.Info("an operator's request", "method", r.Method, "path", r.URL.Path, "query", r.URL.RawQuery, "from", who(r), "error", err)
		}
		switch {
		case err != nil:
			writeJSON(w, statusOf(err), Problem{err.Error()})
		case v == nil:
			writeJSON(w, http.StatusOK, struct{}{})
		default:
			writeJSON(w, http.StatusOK, v)
		}
	}
}

// who is the operator by certificate, or the address.
func who(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return r.TLS.PeerCertificates[0].Subject.String()
	}
	return r.RemoteAddr
}

func statusOf(err error) int {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Status
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

func bad(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// limit is the size of the page that is asked for.
func limit(r *http.Request) (int, error) {
	text := r.FormValue("limit")
	if text == "" {
		return DefaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxPage {
		return 0, bad("limit is %q: want a number from 1 to %d", text, MaxPage)
	}
	return n, nil
}

// clientID is the one of the request. It may be empty, but must be there.
func clientID(r *http.Request) (string, error) {
	if !r.URL.Query().Has("client_id") {
		return "", bad("which session: want client_id=")
	}
	return r.URL.Query().Get("client_id"), nil
}

func (a *api) members(_ context.Context, n Operator, _ *http.Request) (any, error) {
	return n.Status().Members, nil
}

func (a *api) transfer(ctx context.Context, n Operator, r *http.Request) (any, error) {
	var t TransferRequest
	if err := body(r, &t); err != nil {
		return nil, err
	}
	return nil, n.Transfer(ctx, t.Partition, t.Node)
}

// named is the node of the request.
func named(r *http.Request) (string, error) {
	node := r.URL.Query().Get("node")
	if node == "" {
		return "", bad("which node: want node=")
	}
	return node, nil
}

func (a *api) drain(ctx context.Context, n Operator, r *http.Request) (any, error) {
	var d DrainRequest
	if err := body(r, &d); err != nil {
		return nil, err
	}
	return nil, n.Drain(ctx, d.Node, d.Forget)
}

func (a *api) undrain(ctx context.Context, n Operator, r *http.Request) (any, error) {
	node, err := named(r)
	if err != nil {
		return nil, err
	}
	return nil, n.Undrain(ctx, node)
}

func (a *api) drainOf(_ context.Context, n Operator, r *http.Request) (any, error) {
	node, err := named(r)
	if err != nil {
		return nil, err
	}
	return n.DrainOf(node), nil
}

func (a *api) remove(ctx context.Context, n Operator, r *http.Request) (any, error) {
	node, err := named(r)
	if err != nil {
		return nil, err
	}
	return nil, n.Remove(ctx, node)
}

func (a *api) moves(_ context.Context, n Operator, _ *http.Request) (any, error) {
	return n.Moves(), nil
}

func (a *api) sessions(ctx context.Context, n Operator, r *http.Request) (any, error) {
	k, err := limit(r)
	if err != nil {
		return nil, err
	}
	q := SessionQuery{
		After: r.FormValue("after"), FromStart: !r.URL.Query().Has("after"), Prefix: r.FormValue("prefix"),
		State: r.FormValue("state"), Limit: k,
	}
	if q.State != "" && q.State != "connected" && q.State != "offline" {
		return nil, bad("state is %q: want connected or offline", q.State)
	}
	return n.Sessions(ctx, q)
}

func (a *api) session(ctx context.Context, n Operator, r *http.Request) (any, error) {
	id, err := clientID(r)
	if err != nil {
		return nil, err
	}
	return n.Session(ctx, id)
}

func (a *api) deleteSession(ctx context.Context, n Operator, r *http.Request) (any, error) {
	id, err := clientID(r)
	if err != nil {
		return nil, err
	}
	return nil, n.DeleteSession(ctx, id)
}

func (a *api) kick(ctx context.Context, n Operator, r *http.Request) (any, error) {
	id, err := clientID(r)
	if err != nil {
		return nil, err
	}
	return nil, n.Kick(ctx, id)
}

func (a *api) retained(ctx context.Context, n Operator, r *http.Request) (any, error) {
	k, err := limit(r)
	if err != nil {
		return nil, err
	}
	filter := r.FormValue("filter")
	if filter == "" {
		filter = "#"
	}
	return n.Retained(ctx, filter, r.FormValue("after"), k)
}

func (a *api) clearRetained(ctx context.Context, n Operator, r *http.Request) (any, error) {
	filter := r.URL.Query().Get("filter")
	if filter == "" {
		return nil, bad("which retained messages: want filter=")
	}
	k, err := n.ClearRetained(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("after %d were removed: %w", k, err)
	}
	return Cleared{k}, nil
}

func (a *api) checkDisk(ctx context.Context, n Operator, _ *http.Request) (any, error) {
	return n.CheckDisk(ctx)
}

func (a *api) logLevel(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, LogLevel{strings.ToLower(a.level.Level().String())})
}

func (a *api) setLogLevel(w http.ResponseWriter, r *http.Request) {
	var want LogLevel
	if err := body(r, &want); err != nil {
		writeJSON(w, statusOf(err), Problem{err.Error()})
		return
	}
	level, ok := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[want.Level]
	if !ok {
		writeJSON(w, http.StatusBadRequest, Problem{fmt.Sprintf("level is %q: want debug, info, warn or error", want.Level)})
		return
	}
	a.level.Set(level)
	a.log.Warn("log level set by an operator", "level", want.Level, "from", who(r))
	a.logLevel(w, r)
}

// body reads the JSON of a request.
func body(r *http.Request, into any) error {
	const most = 1 << 20
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return bad("the request is no JSON of the right form: %w", err)
	}
	return nil
}
