//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// networkRows are done by the packet filter in the node's namespace, so that both sides see
// nothing but packets that do not come.
func networkRows() []row {
	need := []need{networks}
	return []row{
		{name: "cut off from the other nodes", needs: need, inject: func(ctx context.Context, x *injection) error {
			return x.filter(ctx, x.peers(), 1, 10, true, true, "drop")
		}},
		{name: "cut off from nodes and clients", needs: need, inject: func(ctx context.Context, x *injection) error {
			return x.filter(ctx, append(x.peers(), x.us()), 1, 10, true, true, "drop")
		}},
		{name: "cut off from one node", needs: need, inject: func(ctx context.Context, x *injection) error {
			peers := x.peers()
			return x.filter(ctx, peers[x.rng.IntN(len(peers)):][:1], 1, 10, true, true, "drop")
		}},
		{name: "one-way partition", needs: need, inject: func(ctx context.Context, x *injection) error {
			in := x.rng.IntN(2) == 0
			hosts := x.peers()
			if x.rng.IntN(2) == 0 {
				hosts = append(hosts, x.us())
			}
			return x.filter(ctx, hosts, 1, 10, in, !in, "drop")
		}},
		{name: "lossy link", needs: need, inject: func(ctx context.Context, x *injection) error {
			percent := 5 + x.rng.IntN(36)
			x.note = fmt.Sprintf("%d%%", percent)
			return x.filter(ctx, append(x.peers(), x.us()), 3, 10, true, true, fmt.Sprintf("numgen random mod 100 < %d drop", percent))
		}},
		{name: "resets", needs: need, inject: func(ctx context.Context, x *injection) error {
			hosts := x.peers()
			if x.rng.IntN(2) == 0 {
				hosts = append(hosts, x.us())
			}
			return x.filter(ctx, hosts, 0, 2, true, true, "meta l4proto tcp reject with tcp reset")
		}},
		{name: "slow link", needs: need, inject: func(ctx context.Context, x *injection) error {
			if err := x.c.net.slow(x.n.name, fmt.Sprintf("%dkbit", 500+x.rng.IntN(4000))); err != nil {
				return err
			}
			x.hold(ctx, 3*time.Second, 10*time.Second)
			held, err := x.c.net.fast(x.n.name)
			x.effective = held > 0
			return err
		}},
	}
}

func (x *injection) peers() (out []string) {
	for _, n := range x.c.others(x.n) {
		out = append(out, n.ip)
	}
	return out
}

// us is the address of the clients.
func (x *injection) us() string { return x.c.net.ip(clients - 1) }

// filter has what is done to packets from hosts (in) and to hosts (out) for a number of seconds
// between low and high. What begins with numgen is a condition with its verdict.
func (x *injection) filter(ctx context.Context, hosts []string, low, high int, in, out bool, what string) error {
	condition, verdict := "", what
	for _, v := range []string{"drop", "reject with tcp reset"} {
		if c, ok := strings.CutSuffix(what, v); ok {
			condition, verdict = c, v
		}
	}
	var rules [2][]string
	for _, h := range hosts {
		if in {
			rules[0] = append(rules[0], fmt.Sprintf("ip saddr %s %s counter %s", h, condition, verdict))
		}
		if out {
			rules[1] = append(rules[1], fmt.Sprintf("ip daddr %s %s counter %s", h, condition, verdict))
		}
	}
	if err := x.c.net.rules(x.n.name, rules[0], rules[1]); err != nil {
		return err
	}
	x.hold(ctx, time.Duration(low)*time.Second+50*time.Millisecond, time.Duration(high)*time.Second)
	n, err := x.c.net.dropped(x.n.name)
	x.effective = n > 0
	return err
}
