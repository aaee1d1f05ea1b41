package mqtt

import (
	"sync"
	"time"
)

// later runs functions in order on a goroutine of its own, which exists while there
// are any.
type later struct {
	mu      sync.Mutex
	queue   []func()
	running bool
	busy    tally // 1 while the goroutine runs
}

func (l *later) do(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, fn)
	if !l.running {
		l.running = true
		l.busy.Add(1)
		go l.run()
	}
}

func (l *later) run() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) > 0 {
		batch := l.queue
		l.queue = nil
		l.mu.Unlock()
		for _, fn := range batch {
			fn()
		}
		l.mu.Lock()
	}
	l.running = false
	l.busy.Done()
}

// ackDelay is how long acknowledgements of persistent sessions are gathered.
const ackDelay = 5 * time.Millisecond

// ackers are the connections with gathered acknowledgements. One timer serves all.
type ackers struct {
	mu    sync.Mutex
	conns []*conn
	timer *time.Timer
}

func (a *ackers) add(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = append(a.conns, c)
	if len(a.conns) > 1 {
		return
	}
	if a.timer == nil {
		a.timer = time.AfterFunc(ackDelay, a.flush)
		return
	}
	a.timer.Reset(ackDelay)
}

func (a *ackers) flush() {
	a.mu.Lock()
	conns := a.conns
	a.conns = nil
	a.mu.Unlock()
	for _, c := range conns {
		c.flushAcks()
	}
}

// tally counts what is under way, and can be waited for while it still grows.
type tally struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed when n is 0; nil: nobody waits
}

// Add adds n.
func (t *tally) Add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += n
	if t.n == 0 && t.zero != nil {
		close(t.zero)
		t.zero = nil
	}
}

// Done takes one off.
func (t *tally) Done() { t.Add(-1) }

// idle returns a channel that is closed when the count is 0.
func (t *tally) idle() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		c := make(chan struct{})
		close(c)
		return c
	}
	if t.zero == nil {
		t.zero = make(chan struct{})
	}
	return t.zero
}
