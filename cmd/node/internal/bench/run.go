package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// openAtOnce is how many connections are opened at the same time.
const openAtOnce = 64

// run is one run of the generator. Times are nanoseconds since base.
type run struct {
	opts Options
	id   string // in every client id and topic: runs do not disturb each other
	base time.Time

	measuredFrom atomic.Int64 // 0: not yet
	measuredTo   atomic.Int64 // 0: not yet
	stopping     atomic.Bool  // publishers send nothing new
	stopped      chan struct{}
	drainUntil   atomic.Int64 // publishers wait for answers until then
	ending       atomic.Bool  // connections end because the run ends

	pubs []*publisher
	subs []*subscriber
}

// Run carries out a scenario. When ctx ends it stops early and reports what it
// has. The error is for runs that have no result; whatever went wrong during
// a run is in Result.Errors.
func Run(ctx context.Context, opts Options) (*Result, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	id := make([]byte, 4)
	rand.Read(id)
	r := &run{opts: opts, id: hex.EncodeToString(id), base: time.Now(), stopped: make(chan struct{})}
	if opts.Scenario == Connect {
		return r.connects(ctx)
	}
	idle, took, err := r.openIdle(ctx)
	if err != nil {
		return nil, err
	}
	defer closeAll(idle)
	if opts.Scenario == Idle {
		return r.holdIdle(ctx, took), nil
	}
	return r.messages(ctx)
}

// now never returns 0, which stands for "not yet".
func (r *run) now() int64 { return int64(time.Since(r.base)) + 1 }

// measures reports whether a message sent at that time counts for latencies.
func (r *run) measures(sent int64) bool {
	from, to := r.measuredFrom.Load(), r.measuredTo.Load()
	return from != 0 && sent >= from && (to == 0 || sent < to)
}

func (r *run) measuring(begins bool) {
	if r.opts.Measuring != nil {
		r.opts.Measuring(begins)
	}
}

func (r *run) login(id, addr string) login {
	return login{id: id, addr: addr, version: r.opts.Version, persistent: r.opts.Persistent,
		username: r.opts.Username, password: r.opts.Password}
}

// messages runs the scenarios in which messages flow.
func (r *run) messages(ctx context.Context) (*Result, error) {
	pubRoles, subRoles := r.opts.plan(r.id)
	if err := r.open(ctx, pubRoles, subRoles); err != nil {
		return nil, errors.Join(err, r.close())
	}
	var subs, pubs sync.WaitGroup
	for _, s := range r.subs {
		subs.Go(s.work)
	}
	if r.opts.Count > 0 {
		r.begin()
	}
	for _, p := range r.pubs {
		pubs.Go(p.work)
	}
	published := make(chan struct{})
	go func() { pubs.Wait(); close(published) }()

	sample := r.measure(ctx, published)
	r.stop(published)
	r.drain(ctx)
	if r.opts.Count > 0 {
		sample = r.end()
		sample.to = r.lastReception(sample)
	}
	r.ending.Store(true)
	for _, s := range r.subs {
		s.c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	subs.Wait()
	res := r.result(sample, crossed(pubRoles, subRoles))
	if err := r.close(); err != nil {
		res.fail("cleaning up: %v", err)
	}
	return res, nil
}

// open connects subscribers and then publishers.
func (r *run) open(ctx context.Context, pubRoles, subRoles []role) error {
	subs, pubs := make([]*conn, len(subRoles)), make([]*conn, len(pubRoles))
	err := each(ctx, len(subs), func(ctx context.Context, i int) error {
		l := r.login(subRoles[i].id, subRoles[i].addr)
		l.buffer = 64 << 10
		c, err := connect(ctx, l)
		if err != nil {
			return err
		}
		subs[i] = c
		return c.subscribe(subRoles[i].topic, r.opts.QoS)
	})
	if err == nil {
		err = each(ctx, len(pubs), func(ctx context.Context, i int) error {
			l := r.login(pubRoles[i].id, pubRoles[i].addr)
			l.buffer = 4 << 10
			c, err := connect(ctx, l)
			pubs[i] = c
			return err
		})
	}
	if err != nil {
		closeAll(append(subs, pubs...))
		return err
	}
	for i, c := range pubs {
		r.pubs = append(r.pubs, newPublisher(r, i, pubRoles[i], c))
	}
	for i, c := range subs {
		r.subs = append(r.subs, newSubscriber(r, subRoles[i], c, r.pubs))
	}
	return nil
}

// sample is what was counted between two moments.
type sample struct {
	from, to        int64
	acked, received uint64 // totals at from, then differences
}

func (r *run) totals() (acked, received uint64) {
	for _, p := range r.pubs {
		acked += p.acked.Load()
	}
	for _, s := range r.subs {
		received += s.received.Load()
	}
	return acked, received
}

func (r *run) begin() sample {
	r.measuring(true)
	s := sample{from: r.now()}
	s.acked, s.received = r.totals()
	r.measuredFrom.Store(s.from)
	return s
}

func (r *run) end() sample {
	acked, received := r.totals()
	to := r.now()
	r.measuredTo.Store(to)
	r.measuring(false)
	return sample{from: r.measuredFrom.Load(), to: to, acked: acked, received: received}
}

// measure lets the run go on for its time. With a count it waits for the
// publishers instead, as long as there is progress.
func (r *run) measure(ctx context.Context, published <-chan struct{}) sample {
	if r.opts.Count > 0 {
		r.progress(ctx, published, func() uint64 { acked, received := r.totals(); return acked + received })
		return sample{}
	}
	sleep(ctx, r.opts.Warmup, published)
	begin := r.begin()
	sleep(ctx, r.opts.Duration, published)
	s := r.end()
	s.acked -= begin.acked
	s.received -= begin.received
	return s
}

// stop has the publishers end and waits for them.
func (r *run) stop(published <-chan struct{}) {
	until := r.now() + int64(r.opts.Drain)
	r.drainUntil.Store(until)
	r.stopping.Store(true)
	close(r.stopped)
	if r.opts.Rate == 0 {
		for _, p := range r.pubs {
			p.c.nc.SetReadDeadline(r.base.Add(time.Duration(until)))
		}
	}
	for _, p := range r.pubs {
		p.c.nc.SetWriteDeadline(r.base.Add(time.Duration(until)))
	}
	<-published
}

// drain waits until the subscribers have all, or until nothing more comes.
func (r *run) drain(ctx context.Context) {
	var want uint64
	for _, p := range r.pubs {
		want += p.sent * uint64(p.role.to)
	}
	done := make(chan struct{})
	r.progress(ctx, done, func() uint64 {
		_, received := r.totals()
		if received >= want {
			select {
			case <-done:
			default:
				close(done)
			}
		}
		return received
	})
}

// progress waits for done while a number keeps changing.
func (r *run) progress(ctx context.Context, done <-chan struct{}, number func() uint64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last, since := number(), time.Now()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := number(); n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > r.opts.Drain {
			return
		}
	}
}

func (r *run) lastReception(s sample) int64 {
	var last int64
	for _, sub := range r.subs {
		last = max(last, sub.last.Load())
	}
	if last <= s.from {
		return s.to
	}
	return last
}

// close ends all connections and sessions of the run.
func (r *run) close() error {
	type client struct {
		c      *conn
		role   role
		broken bool
	}
	var clients []client
	for _, p := range r.pubs {
		clients = append(clients, client{p.c, p.role, p.err != nil})
	}
	for _, s := range r.subs {
		clients = append(clients, client{s.c, s.role, s.err != nil})
	}
	// The end of ctx ends the load, not the cleaning up.
	return each(context.Background(), len(clients), func(ctx context.Context, i int) error {
		c := clients[i]
		err := c.c.bye(true)
		if c.broken {
			err = nil // reported already
		}
		if r.opts.Persistent && (c.broken || err != nil || r.opts.Version < 5) {
			err = forget(ctx, r.login(c.role.id, c.role.addr))
		}
		return err
	})
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		if c != nil {
			// Whether the broker takes the goodbye does not matter any more.
			_ = c.bye(true)
		}
	}
}

// sleep waits for a time, or for the end of ctx or of all publishers.
func sleep(ctx context.Context, d time.Duration, published <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-published:
	}
}

// each calls f for 0 … n-1, some at the same time, and returns the first error.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, openAtOnce) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(ctx, i); err != nil {
					cancel(fmt.Errorf("client %d of %d: %w", i+1, n, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
