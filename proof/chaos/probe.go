//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// probe is a client that sends one QoS 1 message after the other and notes how long it waits. It
// keeps its session, and is subscribed to what it sends, so that each message is stored.
type probe struct {
	id      string
	home    int
	targets []client.Target
	session *client.Session
	sent    int // messages so far

	settling atomic.Bool // no further messages
	rested   atomic.Bool // connected at home, nothing unanswered
	goHome   atomic.Bool

	mu    sync.Mutex
	at    string // guarded by mu; the node it is connected to
	acked []ack  // guarded by mu; since the last mark
}

// ack is a message that was answered.
type ack struct {
	sent, acked time.Time
	conn        uint64 // the connection that brought the answer
}

const (
	// patience is how long a probe waits for an answer before it tries another node.
	patience = time.Second
	// probesPerNode makes enough of them for a distribution, and too few to be a load.
	probesPerNode = 4
	probePause    = 20 * time.Millisecond
	// retryPause is the longest pause between two attempts to connect; the first is probePause.
	retryPause = 250 * time.Millisecond
)

// probes are all probes of a round.
type probes struct {
	all    []*probe
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func startProbes(prefix string, targets []client.Target, rec *history.Recorder) *probes {
	ctx, cancel := context.WithCancel(context.Background())
	ps := &probes{cancel: cancel}
	for i := range probesPerNode * len(targets) {
		p := &probe{id: fmt.Sprintf("%sprobe%d", prefix, i), home: i % len(targets), targets: targets}
		p.session = client.NewSession(client.SessionConfig{Dial: client.TCP, Recorder: rec,
			Options: client.Options{ClientID: p.id, Version: 5, Expiry: history.NeverExpires}})
		ps.all = append(ps.all, p)
		ps.wg.Go(func() { p.run(ctx) })
	}
	return ps
}

// settle has the probes stop sending; settled says whether all are at rest.
func (ps *probes) settle() {
	for _, p := range ps.all {
		p.settling.Store(true)
	}
}

func (ps *probes) settled() string {
	for _, p := range ps.all {
		if !p.rested.Load() {
			return p.id + " is not at rest"
		}
	}
	return ""
}

// gather sends every probe to its home node.
func (ps *probes) gather() {
	for _, p := range ps.all {
		p.goHome.Store(true)
	}
}

func (ps *probes) close() {
	ps.cancel()
	ps.wg.Wait()
	for _, p := range ps.all {
		p.session.Close()
	}
}

// mark forgets what was answered, and returns which probes are at a node.
func (ps *probes) mark(node string) map[*probe]bool {
	there := map[*probe]bool{}
	for _, p := range ps.all {
		p.mu.Lock()
		p.acked = nil
		there[p] = p.at == node
		p.mu.Unlock()
	}
	return there
}

// gaps are what clients saw of one fault, each client once.
type gaps struct {
	// Own is from the fault to the first answer on a new connection, for clients of the node.
	// Others is the longest that a client of another node waited for an answer.
	Own, Others []time.Duration
}

// since returns the gaps after a fault of the node whose probes mark has named. A probe that
// kept its connection, or had no answer yet, gives none.
func (ps *probes) since(fault time.Time, there map[*probe]bool, conns map[*probe]uint64) (g gaps) {
	for _, p := range ps.all {
		p.mu.Lock()
		acked := slices.Clone(p.acked)
		p.mu.Unlock()
		longest := time.Duration(0)
		for _, a := range acked {
			if there[p] && a.acked.After(fault) && a.conn != conns[p] {
				g.Own = append(g.Own, a.acked.Sub(fault))
				break
			}
			if a.acked.After(fault) {
				longest = max(longest, a.acked.Sub(a.sent))
			}
		}
		if !there[p] && longest > 0 {
			g.Others = append(g.Others, longest)
		}
	}
	return g
}

// conns returns each probe's connection.
func (ps *probes) conns() map[*probe]uint64 {
	out := map[*probe]uint64{}
	for _, p := range ps.all {
		if c := p.session.Conn(); c != nil {
			out[p] = c.Number
		}
	}
	return out
}

// run is the probe's goroutine.
func (p *probe) run(ctx context.Context) {
	subscribed := false
	next := p.home
	retry := probePause
	var waiting *client.Token
	var sent time.Time
	for ctx.Err() == nil {
		if p.goHome.Swap(false) && p.where() != p.targets[p.home].Node {
			next = p.home
			p.session.Drop()
		}
		if !p.session.Connected() {
			p.rested.Store(false)
			if p.connect(ctx, p.targets[next], &subscribed) {
				retry = probePause
			} else {
				pause(ctx, retry)
				retry = min(2*retry, retryPause)
			}
			next = (next + 1) % len(p.targets)
			continue
		}
		if waiting == nil {
			if p.settling.Load() {
				p.rested.Store(true)
				pause(ctx, probePause)
				continue
			}
			p.sent++
			sent = time.Now()
			waiting = p.session.Publish(client.Packet{Topic: p.id, QoS: 1, Payload: fmt.Appendf(nil, "%s.%d|", p.id, p.sent)})
		}
		if p.answered(ctx, waiting, sent) {
			waiting = nil
			pause(ctx, probePause)
		}
	}
}

func (p *probe) where() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// connect connects, and subscribes if that has not been done yet.
func (p *probe) connect(ctx context.Context, target client.Target, subscribed *bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := p.session.Connect(ctx, target, false, client.LeaveAbort); err != nil {
		return false
	}
	if !*subscribed {
		_, err := p.session.Subscribe(ctx, history.Filter{Filter: p.id, QoS: 1})
		*subscribed = err == nil
		if err != nil {
			p.session.Drop()
			return false
		}
	}
	p.mu.Lock()
	p.at = target.Node
	p.mu.Unlock()
	return true
}

// answered waits for the answer to the message under way, and gives up a connection that
// brings none.
func (p *probe) answered(ctx context.Context, t *client.Token, sent time.Time) bool {
	c := p.session.Conn()
	if c == nil {
		return false
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-t.Done():
		p.mu.Lock()
		p.acked = append(p.acked, ack{sent: sent, acked: time.Now(), conn: c.Number})
		p.mu.Unlock()
		return true
	case <-c.Done():
	case <-timer.C:
		p.session.Drop()
	case <-ctx.Done():
	}
	return false
}

// pause waits, less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// quantile of a sorted list; 0 if it is empty.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
