package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/certs"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/mqtt"
)

// endpoint is a listener that is bound.
type endpoint struct {
	net.Listener
	o     mqtt.ListenerOptions
	ip    bool
	certs *certs.Source // nil: no TLS
}

// bind opens the listeners.
func (n *node) bind() error {
	for _, l := range n.cfg.Listeners {
		e, err := n.open(l)
		if err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
		n.endpoints = append(n.endpoints, e)
	}
	return nil
}

// unbind closes what bind has opened; the error that made us give up is the one that counts.
func (n *node) unbind() {
	for _, e := range n.endpoints {
		_ = e.Close()
	}
}

// open reads what a listener needs and binds it.
func (n *node) open(l config.Listener) (*endpoint, error) {
	limits := listenerLimits(n.cfg, l)
	t := l.Transport
	e := &endpoint{o: mqtt.ListenerOptions{Name: l.Name, MaxConnections: l.Limits.MaxConnections, Limits: &limits, Proxies: t.Proxies}}
	if l.Type == config.TypeTLS || l.Type == config.TypeWSS {
		o := certs.Options{Cert: t.Cert, Key: t.Key, ClientCA: t.ClientCA, Optional: t.ClientCert == config.CertOptional, MinVersion: tls.VersionTLS12}
		if t.TLSMin == config.TLS13 {
			o.MinVersion = tls.VersionTLS13
		}
		var err error
		if e.certs, err = certs.Load(o); err != nil {
			return nil, err
		}
		e.o.TLS = e.certs.Config()
		n.warnExpiry(e)
		n.watch.Add(func() { n.reloadListener(e) }, e.certs.Files()...)
		n.reloadListener(e) // they may have changed since they were read
	}
	if l.Type == config.TypeWS || l.Type == config.TypeWSS {
		e.o.WebSocket = &mqtt.WebSocketOptions{Path: t.WSPath, Origins: t.WSOrigins}
	}
	var err error
	if l.Type == config.TypeUnix {
		e.Listener, err = listenUnix(l.Addr)
	} else {
		e.ip = true
		e.Listener, err = net.Listen("tcp", l.Addr)
	}
	return e, err
}

func (n *node) reloadListener(e *endpoint) {
	changed, err := e.certs.Reload()
	n.reloaded("certificate of "+e.o.Name, changed, err)
	if changed {
		n.warnExpiry(e)
	}
}

// warnExpiry: a certificate that has ended is no reason not to serve those who take it.
func (n *node) warnExpiry(e *endpoint) {
	if until := e.certs.NotAfter(); time.Now().After(until) {
		n.log.Warn("the certificate has expired, clients will refuse it", "listener", e.o.Name, "not_after", until)
	}
}

// serveClients starts to accept connections.
func (n *node) serveClients() {
	for _, e := range n.endpoints {
		n.serving.Go(func() {
			if err := n.gateway.Serve(e.Listener, e.o); err != nil {
				n.fail(fmt.Errorf("listener %s: %w", e.o.Name, err))
			}
		})
	}
}

// clientAddr is the address for clients that other nodes are told of: that of the first
// plain listener, or else of the first that is not a Unix socket; nil: there is none.
func (n *node) clientAddr() (addr net.Addr) {
	for _, e := range n.endpoints {
		if e.ip && e.o.TLS == nil && e.o.WebSocket == nil {
			return e.Addr()
		}
		if e.ip && addr == nil {
			addr = e.Addr()
		}
	}
	return addr
}

// errNoSocket is a file where a socket was to be.
var errNoSocket = errors.New("there is a file of that name that is no socket")

// listenUnix listens on a Unix socket. A socket that a process has left there when it
// was killed is replaced; one that somebody serves, or another file, is an error.
func listenUnix(path string) (net.Listener, error) {
	ln, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	info, statErr := os.Lstat(path)
	switch {
	case statErr != nil && !errors.Is(statErr, fs.ErrNotExist):
		return nil, statErr
	case statErr == nil && info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s: %w", path, errNoSocket)
	}
	nc, dialErr := net.DialTimeout("unix", path, time.Second)
	if dialErr == nil {
		_ = nc.Close()
		return nil, err
	}
	if !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}
