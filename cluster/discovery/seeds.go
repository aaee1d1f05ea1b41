package discovery

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Resolver looks names up. *net.Resolver is one.
type Resolver interface {
	LookupHost(ctx context.Context, host string) (addrs []string, err error)
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, addrs []*net.SRV, err error)
}

// seeds are the addresses of Join without our own, each once; sure is false if
// a name could not be looked up.
func (g *Gossip) seeds(ctx context.Context) (addrs []string, sure bool) {
	sure = true
	self := g.Addr()
	_, ours, _ := net.SplitHostPort(self) // it is one that we have joined ourselves
	for _, s := range g.opt.Join {
		targets, err := g.targets(ctx, s, ours)
		if err != nil {
			g.log.Debug("discovery: look-up failed", "name", s, "error", err)
			sure = false
		}
		for _, t := range targets {
			ips, err := g.opt.Resolver.LookupHost(ctx, t.host)
			if err != nil {
				g.log.Debug("discovery: look-up failed", "name", t.host, "error", err)
				sure = false
			}
			for _, ip := range ips {
				if addr := net.JoinHostPort(ip, t.port); addr != self && !slices.Contains(addrs, addr) {
					addrs = append(addrs, addr)
				}
			}
		}
	}
	return addrs, sure
}

type target struct{ host, port string }

// targets are the hosts that one element of Join stands for.
func (g *Gossip) targets(ctx context.Context, join, port string) ([]target, error) {
	if !strings.HasPrefix(join, "_") {
		host, given, err := net.SplitHostPort(join)
		if err != nil {
			return []target{{join, port}}, nil
		}
		return []target{{host, given}}, nil
	}
	// Records that are not valid are left out and told of by the error: the others count.
	_, records, err := g.opt.Resolver.LookupSRV(ctx, "", "", join)
	var targets []target
	for _, r := range records {
		targets = append(targets, target{strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))})
	}
	return targets, err
}
