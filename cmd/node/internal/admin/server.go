package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers over HTTP from the moment it is made, also while the node is
// still reading its data.
type Server struct {
	listener net.Listener
	http     *http.Server
	node     atomic.Pointer[holder]
	starting atomic.Pointer[string] // why there is no node yet
	served   chan struct{}          // closed when the accept loop has ended
}

type holder struct{ Node }

// Serve starts answering on l. Until SetNode the server is alive but not ready.
func Serve(l net.Listener, build string, log *slog.Logger) *Server {
	s := &Server{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /api/v1/status", s.status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(s.current, build), promhttp.HandlerOpts{}))
	s.start(l, mux, log)
	return s
}

func (s *Server) start(l net.Listener, handler http.Handler, log *slog.Logger) {
	s.listener, s.served = l, make(chan struct{})
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the HTTP server has stopped", "err", err)
		}
	}()
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// SetStarting says why there is no node yet; empty: its data is being read.
func (s *Server) SetStarting(why string) { s.starting.Store(&why) }

// SetNode gives the server the node to speak of.
func (s *Server) SetNode(n Node) { s.node.Store(&holder{n}) }

// Close ends the server after the requests under way, or when ctx ends.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.served
	return err
}

// current is the node, or nil while it is starting.
func (s *Server) current() Node {
	if h := s.node.Load(); h != nil {
		return h.Node
	}
	return nil
}

// healthz says only that the process answers. It never depends on other nodes:
// what restarts processes that are not alive would then restart all at once.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready    bool     `json:"ready"`
	Missing  []string `json:"missing,omitempty"`
	Degraded []string `json:"degraded,omitempty"`
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	r := s.readiness()
	code := http.StatusOK
	if !r.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, r)
}

func (s *Server) readiness() Readiness {
	n := s.current()
	if told := s.starting.Load(); n == nil && told != nil && *told != "" {
		return Readiness{Missing: []string{*told}}
	}
	return readiness(n)
}

func readiness(n Node) Readiness {
	if n == nil {
		return Readiness{Missing: []string{"the node is reading its data"}}
	}
	ok, missing, degraded := n.Ready()
	return Readiness{Ready: ok, Missing: missing, Degraded: degraded}
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	n := s.current()
	if n == nil {
		writeJSON(w, http.StatusServiceUnavailable, s.readiness())
		return
	}
	st := n.Status()
	st.Version = StatusVersion
	writeJSON(w, http.StatusOK, st)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	// The status line is out: a client that has gone away is all that can fail.
	_ = enc.Encode(v)
}
