package mqtt

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// Options configure a Server.
type Options struct {
	// Cluster is what is behind the gateway. It may be given later, by Attach.
	Cluster Cluster
	// Limits of connections whose listener has none of its own; the zero value stands
	// for DefaultLimits.
	Limits Limits
	// Auth decides who may do what; nil: everybody may do everything.
	Auth Authenticator
	// Logger; nil: slog.Default.
	Logger *slog.Logger
	// Metrics to count in; nil: new ones, see Server.Metrics.
	Metrics *Metrics
	// NewClientID makes a client identifier for a client that leaves the choice to
	// the server; it must be new in the whole cluster. nil: 130 random bits.
	NewClientID func() string
	// Sys are the broker's own topics.
	Sys SysOptions
}

// Server is the gateway of a node: it terminates MQTT on any number of listeners.
type Server struct {
	cluster     Cluster // fixed before Serve
	limits      Limits
	auth        Authenticator
	log         *slog.Logger
	metrics     *Metrics
	newClientID func() string
	start       time.Time

	away      atomic.Pointer[away]
	nextConn  atomic.Uint64
	nextStamp atomic.Uint64 // of memberships in groups
	clients   registry
	subs      subscriptions
	grants    atomic.Uint64 // times that Recheck was called
	sys       sys
	later     later
	ackers    ackers
	departing tally // Connects whose Disconnect is not answered
	sockets   socketSet
	// handshakes bounds those that compute at once.
	handshakes slots
	tasks      sync.WaitGroup // sockets, flushers and the timekeeper

	mu        sync.Mutex
	listeners map[net.Listener]struct{} // mu
	stop      chan struct{}             // closed by Shutdown, with mu held
	running   context.Context           // done when stop is closed
	end       context.CancelFunc        // of running
	timing    bool                      // mu; the timekeeper runs
}

// NewServer makes a gateway. It does nothing before Serve.
func NewServer(o Options) *Server {
	s := &Server{
		limits: o.Limits, auth: o.Auth, log: o.Logger, metrics: o.Metrics, newClientID: o.NewClientID,
		start: time.Now(), listeners: map[net.Listener]struct{}{}, stop: make(chan struct{}),
	}
	s.running, s.end = context.WithCancel(context.Background())
	if s.limits == (Limits{}) {
		s.limits = DefaultLimits()
	}
	if s.auth == nil {
		s.auth = allowAll{}
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.metrics == nil {
		s.metrics = &Metrics{}
	}
	if s.newClientID == nil {
		s.newClientID = func() string { return "auto-" + rand.Text() }
	}
	s.subs.metrics, s.subs.interest = s.metrics, map[string]*want{}
	s.sys.init(o.Sys)
	s.clients.init()
	s.sockets.init()
	s.handshakes = newSlots()
	s.Attach(o.Cluster)
	return s
}

// Attach gives the gateway its cluster. It must be called before Serve, if
// Options.Cluster was nil.
func (s *Server) Attach(c Cluster) { s.cluster, s.subs.cluster = c, c }

// Metrics returns what the server counts in.
func (s *Server) Metrics() *Metrics { return s.metrics }

// now is the time in milliseconds since the server was made; it never goes back.
func (s *Server) now() int64 { return int64(time.Since(s.start) / time.Millisecond) }

func (s *Server) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// ListenerOptions configure one listener.
type ListenerOptions struct {
	// Name tells listeners apart in logs and for the Authenticator.
	Name string
	// MaxConnections bounds the open connections of the listener; 0: no limit. One
	// more is closed at once.
	MaxConnections int
	// Limits are those of the listener's connections; nil: the server's. They must
	// not change any more.
	Limits *Limits
	// Proxies are the networks of proxies: a connection from there must begin with a
	// PROXY header, version 1 or 2, and comes from where that says. To others a
	// header means nothing. Empty: there are no proxies.
	Proxies []netip.Prefix
	// TLS makes the connections TLS; nil: they are plain.
	TLS *tls.Config
	// WebSocket makes the connections WebSockets with the sub-protocol mqtt; nil: they
	// are none.
	WebSocket *WebSocketOptions
}

// WebSocketOptions say for which requests a listener opens a WebSocket.
type WebSocketOptions struct {
	// Path of the URL; empty: /mqtt.
	Path string
	// Origins that pages of browsers may have; empty: any.
	Origins []string
}

// listener is one that is served.
type listener struct {
	o      ListenerOptions
	limits *Limits
	open   atomic.Int64 // connections
}

// Serve accepts connections until Shutdown, and then returns nil; or until the
// listener fails for good. It closes the listener.
func (s *Server) Serve(ln net.Listener, o ListenerOptions) error {
	if !s.serving(ln) {
		return ln.Close()
	}
	defer s.served(ln)
	l := &listener{o: o, limits: o.Limits}
	if l.limits == nil {
		l.limits = &s.limits
	}
	for delay := time.Duration(0); ; {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
		case s.stopping():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of file descriptors, most likely: others must close first
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Error("cannot accept connections", "listener", o.Name, "err", err)
			if !s.sleep(delay) {
				return nil
			}
			continue
		}
		s.metrics.Accepted.Add(1)
		if n := l.open.Add(1); o.MaxConnections > 0 && n > int64(o.MaxConnections) {
			l.open.Add(-1)
			s.metrics.TooMany.Add(1)
			nc.Close() // nothing was said yet, so there is nothing to lose
			continue
		}
		s.serve(nc, l)
	}
}

// sleep waits; false: the server stops.
func (s *Server) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stop:
		return false
	}
}

// serving registers a listener; false: the server has been shut down.
func (s *Server) serving(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping() {
		return false
	}
	s.listeners[ln] = struct{}{}
	if !s.timing {
		s.timing = true
		s.tasks.Go(s.keepTime)
	}
	return true
}

func (s *Server) served(ln net.Listener) {
	s.mu.Lock()
	delete(s.listeners, ln)
	s.mu.Unlock()
	ln.Close()
}

// Shutdown closes the listeners and all connections (0x8B), and waits until the
// cluster knows of their end and all goroutines have ended, or ctx is done.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopping() {
		close(s.stop)
		s.end()
	}
	for ln := range s.listeners {
		ln.Close()
	}
	s.mu.Unlock()
	s.endAll(ending{Code: packet.ServerShuttingDown})
	done := make(chan struct{})
	go func() { // ends when all tasks have, which ctx does not wait for
		s.tasks.Wait()
		<-s.departing.idle()
		<-s.later.busy.idle()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endAll ends all connections.
func (s *Server) endAll(e ending) {
	s.sockets.each(func(k *socket) { k.c.end(e) })
}
