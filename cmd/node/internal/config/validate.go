package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// finish fills in what depends on other settings and checks them together.
func (l *loader) finish(hostname func() (string, error)) error {
	if err := l.nodeName(hostname); err != nil {
		return err
	}
	if _, ok := l.given("expect"); !ok && len(l.cfg.Join) == 0 {
		l.cfg.Expect = 1
	}
	var errs []error
	if l.cfg.Expect == 0 && len(l.cfg.Join) == 0 {
		errs = append(errs, l.fault("expect", "0", "at least 1 when there is no --join: nobody would found the cluster"))
	}
	errs = append(errs, l.wholeSeconds("max-keep-alive", l.cfg.Limits.MaxKeepAlive),
		l.wholeSeconds("max-session-expiry", l.cfg.Sessions.MaxExpiry), l.timing(), l.security(), l.listeners(), l.distinct())
	return errors.Join(errs...)
}

// fault is an error about a setting wherever its value came from.
func (l *loader) fault(name, value, allowed string) error {
	source := "the default"
	if v, ok := l.given(name); ok {
		source = v.source
	}
	return &Error{Setting: name, Value: value, Source: source, Allowed: allowed}
}

func (l *loader) nodeName(hostname func() (string, error)) error {
	if l.cfg.Node != "" {
		return nil
	}
	name, err := hostname()
	if err != nil {
		return fmt.Errorf("node: not set, and the host has no name: %w", err)
	}
	if !validName(name) {
		return &Error{Setting: "node", Value: name, Source: "the host name", Allowed: "1 to 64 letters, digits, '.', '_' or '-': set --node"}
	}
	l.cfg.Node = name
	return nil
}

// wholeSeconds: the protocol counts both in seconds.
func (l *loader) wholeSeconds(name string, d time.Duration) error {
	if d%time.Second != 0 {
		return l.fault(name, d.String(), "whole seconds")
	}
	return nil
}

// timing checks what the consensus library demands of its timers, and that a
// failover does not cost clients their connections.
func (l *loader) timing() error {
	t := l.cfg.Timing
	var errs []error
	if t.Election < t.Heartbeat {
		errs = append(errs, l.fault("election-timeout", t.Election.String(), fmt.Sprintf("at least heartbeat-timeout (%v)", t.Heartbeat)))
	}
	if t.Lease > t.Heartbeat {
		errs = append(errs, l.fault("leader-lease", t.Lease.String(), fmt.Sprintf("at most heartbeat-timeout (%v)", t.Heartbeat)))
	}
	if least := 4 * (t.Heartbeat + t.Election); t.Ownership < least {
		errs = append(errs, l.fault("ownership-time", t.Ownership.String(),
			fmt.Sprintf("at least %v, four times heartbeat-timeout and election-timeout, or a failover ends a gateway", least)))
	}
	return errors.Join(errs...)
}

// distinct: two services on one address would fail one after the other, with a
// worse message.
func (l *loader) distinct() error {
	type use struct{ setting, addr string }
	uses := []use{{"peer-addr", l.cfg.PeerAddr}, {"gossip-addr", l.cfg.GossipAddr}, {"http-addr", l.cfg.HTTPAddr},
		{"admin-addr", l.cfg.Security.AdminAddr}}
	for _, li := range l.cfg.Listeners {
		uses = append(uses, use{li.Name, li.Addr})
	}
	var errs []error
	taken := map[string]string{}
	for _, u := range uses {
		if _, port, err := net.SplitHostPort(u.addr); err == nil && port == "0" {
			continue
		}
		if other, ok := taken[u.addr]; ok {
			errs = append(errs, l.fault(u.setting, u.addr, "an address that "+other+" does not have already"))
		}
		taken[u.addr] = u.setting
	}
	return errors.Join(errs...)
}

// AdvertiseHost is the host that other nodes are told. Without --advertise it
// is the host of --peer-addr; if that is every address (0.0.0.0), the first
// address of this machine that others may reach. addrs is net.InterfaceAddrs.
func (c *Config) AdvertiseHost(addrs func() ([]net.Addr, error)) (string, error) {
	if c.Advertise != "" {
		return c.Advertise, nil
	}
	host, _, err := net.SplitHostPort(c.PeerAddr)
	if err != nil {
		return "", err
	}
	ip := net.ParseIP(host)
	if host != "" && (ip == nil || !ip.IsUnspecified()) {
		return host, nil
	}
	list, err := addrs()
	if err != nil {
		return "", err
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", &Error{Setting: "advertise", Value: "", Source: "the default",
		Allowed: "a host, since --peer-addr " + strconv.Quote(c.PeerAddr) + " names none and this machine has only loopback addresses"}
}
