package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// openIdle opens the idle connections, each with one subscription, and tells
// how long that took.
func (r *run) openIdle(ctx context.Context) ([]*conn, time.Duration, error) {
	addrs := r.opts.Addrs
	if len(addrs) == 0 {
		addrs = r.opts.SubAddrs
	}
	began := time.Now()
	conns := make([]*conn, r.opts.Idle)
	err := each(ctx, len(conns), func(ctx context.Context, i int) error {
		l := r.login(fmt.Sprintf("bench-%s-i%d", r.id, i), addrs[i%len(addrs)])
		l.persistent = false
		c, err := connect(ctx, l)
		if err != nil {
			return err
		}
		conns[i] = c
		err = c.subscribe(fmt.Sprintf("bench/%s/idle/%d", r.id, i), r.opts.QoS)
		c.in, c.out = nil, nil // there will be thousands
		return err
	})
	if err != nil {
		closeAll(conns)
		return nil, 0, err
	}
	return conns, time.Since(began), nil
}

// holdIdle lets idle connections be idle for the measured time.
func (r *run) holdIdle(ctx context.Context, opening time.Duration) *Result {
	sleep(ctx, r.opts.Warmup, nil)
	s := r.begin()
	sleep(ctx, r.opts.Duration, nil)
	s.to = r.end().to
	res := r.newResult(s)
	res.ConnectsPerSecond = float64(r.opts.Idle) / opening.Seconds()
	return res
}

// connector is one of the clients of the Connect scenario that connect over
// and over. It belongs to its goroutine until that has ended.
type connector struct {
	connack, suback histogram
	done            uint64
	failed          uint64
	err             error // the first
}

// connects runs the Connect scenario.
func (r *run) connects(ctx context.Context) (*Result, error) {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := make([]*connector, r.opts.Workers)
	var started atomic.Int64
	var wg sync.WaitGroup
	s := r.begin()
	for i := range workers {
		w := &connector{}
		workers[i] = w
		wg.Go(func() {
			for work.Err() == nil {
				n := started.Add(1) - 1
				if r.opts.Count > 0 && n >= int64(r.opts.Count) {
					return
				}
				w.once(work, r, n)
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	if r.opts.Count > 0 {
		select {
		case <-ended:
		case <-ctx.Done():
		}
	} else {
		sleep(ctx, r.opts.Duration, ended)
	}
	cancel()
	<-ended
	s.to = r.end().to
	return r.connectResult(s, workers), nil
}

// once connects, subscribes and disconnects.
func (w *connector) once(ctx context.Context, r *run, n int64) {
	addrs := r.opts.Addrs
	if len(addrs) == 0 {
		addrs = r.opts.SubAddrs
	}
	began := r.now()
	c, err := connect(ctx, r.login(fmt.Sprintf("bench-%s-c%d", r.id, n), addrs[int(n)%len(addrs)]))
	if err == nil {
		connected := r.now()
		if err = c.subscribe(fmt.Sprintf("bench/%s/c/%d", r.id, n), r.opts.QoS); err == nil {
			w.connack.add(connected - began)
			w.suback.add(r.now() - connected)
			w.done++
		}
		err = errors.Join(err, c.bye(true))
	}
	// Connections that were under way when the time was up do not count.
	if err != nil && ctx.Err() == nil {
		w.failed++
		if w.err == nil {
			w.err = err
		}
	}
}

func (r *run) connectResult(s sample, workers []*connector) *Result {
	res := r.newResult(s)
	var connack, suback histogram
	var done uint64
	for _, w := range workers {
		connack.merge(&w.connack)
		suback.merge(&w.suback)
		done += w.done
		if w.err != nil {
			res.fail("%d connections failed, the first: %v", w.failed, w.err)
		}
	}
	a, b := connack.latency(), suback.latency()
	res.Connack, res.Suback = &a, &b
	res.ConnectsPerSecond = float64(done) / res.Seconds
	return res
}
