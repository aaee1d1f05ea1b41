package cluster

import (
	"fmt"
	"strings"
	"time"
)

// Waits lists what this node waits for at this moment, for people who look for
// the cause of a standstill.
func (n *Node) Waits() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: serving %v, lease %v, missing %v\n", n.name, n.serving.Load(), n.leaseValid(), n.Missing())
	n.pump.waits(&b)
	g := n.ingress()
	if g == nil {
		return b.String()
	}
	for _, p := range g.parts {
		p.waits(&b, n.leaders.node(p.partition))
	}
	g.kicks.waits(&b)
	g.reads.waits(&b)
	g.interest.waits(&b)
	g.mu.Lock()
	if len(g.gated) > 0 {
		fmt.Fprintf(&b, "  %d answers wait for the lease\n", len(g.gated))
	}
	g.mu.Unlock()
	return b.String()
}

func (p *pump) waits(b *strings.Builder) {
	for _, l := range p.all() {
		l.mu.Lock()
		if len(l.items) > 0 {
			fmt.Fprintf(b, "  lane %s -> %s via %q: %d items from %d, %d sent, last answer %v ago\n", endName(l.id.Source),
				endName(l.id.Destination), l.via, len(l.items), l.items[0].seq, l.sent, time.Since(l.progress).Round(time.Millisecond))
		}
		l.mu.Unlock()
	}
}

func (p *ingressPart) waits(b *strings.Builder, leader string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	releasing := 0
	for _, s := range p.sessions {
		releasing += len(s.releasing)
	}
	if len(p.connecting)+len(p.waiting)+releasing > 0 || p.attached != leader {
		fmt.Fprintf(b, "  partition %d: %d connecting, %d wait for interest (settled %d), %d releasing, attached to %q, leader %q\n",
			p.partition, len(p.connecting), len(p.waiting), p.settled, releasing, p.attached, leader)
	}
}

func (k *kicks) waits(b *strings.Builder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key := range k.open {
		fmt.Fprintf(b, "  waits for %s to close %q, epoch %d\n", endName(key.gateway), key.client, key.epoch)
	}
}

func (r *reads) waits(b *strings.Builder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pr := range r.open {
		fmt.Fprintf(b, "  waits for retained messages of partition %d since %v\n", pr.partition, time.Since(pr.started).Round(time.Millisecond))
	}
}

func (a *announcer) waits(b *strings.Builder) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiters) == 0 {
		return
	}
	fmt.Fprintf(b, "  %d wait for the interest of %s: version %d, settled %d\n", len(a.waiters), endName(a.destination), a.version, a.settled)
	for node, m := range a.members {
		fmt.Fprintf(b, "    %s: complete %v, acknowledged %d, sent %d, asked %v\n", node, m.have, m.acked, m.sent, m.asked)
	}
}
