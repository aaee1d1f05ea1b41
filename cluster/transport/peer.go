package transport

import (
	"context"
	"sync"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// peer holds our outgoing side to one node.
type peer struct {
	t      *Transport
	node   string
	ctx    context.Context // ends with close
	cancel context.CancelFunc

	flowConn *conn // the flow stream, and unary calls
	urgent   *exchange
	entries  *exchange

	mu   sync.Mutex
	flow *outboundFlow // mu; nil before Connect
}

func newPeer(t *Transport, node string) *peer {
	p := &peer{t: t, node: node, flowConn: &conn{t: t, node: node}}
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	p.urgent = newExchange(p, "urgent", max(t.opts.Gather, 0))
	p.entries = newExchange(p, "entries", 0)
	return p
}

func (p *peer) startFlow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flow != nil || p.ctx.Err() != nil {
		return
	}
	f := newOutboundFlow(p)
	if p.t.goIfOpen(f.run) {
		p.flow = f
	}
}

func (p *peer) outbound() *outboundFlow {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flow
}

func (p *peer) send(fr *peerpb.Frame) bool {
	f := p.outbound()
	return f != nil && f.send(fr)
}

func (p *peer) nudge() {
	p.flowConn.wake()
	p.urgent.retry.poke()
	p.entries.retry.poke()
	if f := p.outbound(); f != nil {
		f.retry.poke()
	}
}

// close ends everything; its goroutines finish on their own (Transport.Close
// waits for them).
func (p *peer) close() {
	p.cancel()
	p.flowConn.close()
	p.urgent.close()
	p.entries.close()
}
