//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/workload"
)

// chaos is a run.
type chaos struct {
	o      options
	c      *cluster
	rng    *rand.Rand
	deck   []row // what is still to be drawn before all are shuffled again
	result *result
}

// injected is one fault that is over.
type injected struct {
	row       string
	node      string
	seq       uint64 // where it begins in the history of its round
	effective bool
}

// round plays one round until a time.
func (k *chaos) round(ctx context.Context, number int, until time.Time) error {
	prefix := fmt.Sprintf("k%d/", number)
	rec := history.NewRecorder()
	cfg := workload.Defaults(k.o.seed + uint64(number))
	cfg.Prefix, cfg.Recorder, cfg.Targets = prefix, rec, k.c.targets()
	cfg.Dial = func(string) client.Dialer { return client.TCP }
	cfg.Drained, cfg.Retry, cfg.Members, cfg.MemberWindow = k.c.drained, 400*time.Millisecond, 4, 100
	cfg.Publishers, cfg.Think = k.o.publishers, k.o.think
	w, ps := workload.New(cfg), startProbes(prefix, cfg.Targets, rec)
	defer ps.close()
	defer w.Close()
	w.Start()
	var faults []injected
	pause(ctx, 2*time.Second) // so that there are sessions
	for err := error(nil); ctx.Err() == nil && time.Now().Before(until); {
		var f injected
		if f, err = k.inject(ctx, rec, ps); err != nil {
			return err
		}
		faults = append(faults, f)
		pause(ctx, time.Duration(500+k.rng.IntN(1500))*time.Millisecond)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rec.Heal()
	if err := settle(ctx, w, ps, 2*k.o.limit); err != nil {
		k.result.find(faults, nil, err.Error())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	events := rec.Events()
	ids := w.ClientIDs()
	for _, p := range ps.all {
		ids = append(ids, p.id)
	}
	w.Close()
	ps.close()
	k.judge(number, events, faults)
	k.diverged(ctx, faults)
	return k.forget(ctx, ids)
}

// settle brings the clients to rest.
func settle(ctx context.Context, w *workload.Workload, ps *probes, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ps.settle()
	for why := ps.settled(); why != ""; why = ps.settled() {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %s", workload.ErrUnsettled, why)
		}
		pause(ctx, 50*time.Millisecond)
	}
	return w.Settle(ctx)
}

// judge checks a history, and keeps it if it shows a violation.
func (k *chaos) judge(number int, events []history.Event, faults []injected) {
	o := check.Defaults()
	o.Bound = k.o.limit
	o.Transit = 30 * time.Second // TCP may hold for long what a cut-off node had sent
	o.RetainedTimeout = time.Minute
	began := time.Now()
	r := check.Run(events, o)
	k.result.add(r)
	for i := range r.Violations {
		k.result.find(faults, r.Violations[i].Events, r.Violations[i].String())
	}
	for _, u := range r.Undecided {
		k.result.find(faults, nil, "undecided: "+u)
	}
	k.o.say("round %d: %s; checked in %v", number, r.Stats, time.Since(began).Round(time.Millisecond))
	if len(r.Violations)+len(r.Undecided) > 0 {
		path := filepath.Join(k.o.out, fmt.Sprintf("round-%d.ndjson", number))
		k.o.say("%s\nhistory: %s (%v)", r, path, save(path, events))
	}
}

func save(path string, events []history.Event) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(history.Write(f, events), f.Close())
}

// diverged finds replicas whose state differs although they have applied the same entries.
func (k *chaos) diverged(ctx context.Context, faults []injected) {
	for _, n := range k.c.nodes {
		if d := n.metric(ctx, "flotilla_replicas_diverged_total", ""); d > 0 {
			k.result.find(faults, nil, fmt.Sprintf("%s: %.0f replicas differ from the majority", n.name, d))
		}
		k.result.compared += int(n.metric(ctx, "flotilla_checkpoints_total", ""))
	}
}

// forget ends the sessions of a round, so that they hold nothing back in the next.
func (k *chaos) forget(ctx context.Context, ids []string) error {
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(ctx, k.o.limit)
		c, _, err := client.Dial(ctx, client.TCP, k.c.targets()[0], nil, client.Options{ClientID: id, Clean: true})
		cancel()
		if err != nil {
			return fmt.Errorf("end the session of %s: %w", id, err)
		}
		_ = c.Disconnect(0, nil) // the session ends with the connection, however that ends
	}
	return nil
}

// next draws a row. All come up before one comes again.
func (k *chaos) next() row {
	if len(k.deck) == 0 {
		for _, r := range k.o.rows {
			if k.c.skipped(r) == "" {
				k.deck = append(k.deck, r)
			}
		}
		k.rng.Shuffle(len(k.deck), func(i, j int) { k.deck[i], k.deck[j] = k.deck[j], k.deck[i] })
	}
	r := k.deck[0]
	k.deck = k.deck[1:]
	return r
}

// inject breaks one thing and waits until the cluster has its full strength again. An error
// says that the run cannot go on.
func (k *chaos) inject(ctx context.Context, rec *history.Recorder, ps *probes) (injected, error) {
	r := k.next()
	x := &injection{c: k.c, n: k.c.nodes[k.rng.IntN(len(k.c.nodes))], rng: k.rng}
	f := injected{row: r.name, node: x.n.name, seq: uint64(rec.Len()) + 1}
	if r.whole {
		f.node = ""
	}
	there, conns := ps.mark(x.n.name), ps.conns()
	rec.Fault(f.node, r.name)
	fault := time.Now()
	if err := r.inject(ctx, x); err != nil {
		return f, fmt.Errorf("%s of %s: %w", r.name, x.n.name, err)
	}
	recovery, err := k.repair(ctx, x, &f)
	if err != nil {
		return f, err
	}
	if r.after != nil {
		r.after(ctx, x)
	}
	f.effective = x.effective
	rec.Fault(f.node, history.FaultOver)
	if r.gap != "" {
		pause(ctx, 2*patience) // until every probe has had an answer
		k.result.gap(r.gap, ps.since(fault, there, conns))
	}
	ps.gather()
	k.result.done(r.name, f.effective, recovery)
	if x.finding != "" {
		k.result.find([]injected{f}, nil, x.finding)
	}
	k.o.say("%-45s %-3s effective=%t, ready again after %v %s", r.name, f.node, f.effective, recovery.Round(time.Millisecond), x.note)
	return f, nil
}

// repair starts what has ended and waits until all nodes serve, which it times, and then
// until all replicas follow. A node that does not come back is a finding; it gets an empty
// disk, so that the run goes on.
func (k *chaos) repair(ctx context.Context, x *injection, f *injected) (time.Duration, error) {
	for _, n := range k.c.nodes {
		if why := n.complaint(); why != "" {
			k.result.find([]injected{*f}, nil, why)
		}
		if why := n.crashed(); why != "" {
			k.result.find([]injected{*f}, nil, why)
		}
	}
	began := time.Now()
	if err := k.startAll(); err != nil {
		return 0, err
	}
	if err := k.c.ready(ctx); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		k.result.find([]injected{*f}, nil, err.Error())
		k.o.say("%v; %s gets an empty disk", err, x.n.name)
		if err := errors.Join(x.n.kill(), os.RemoveAll(x.n.data()), k.startAll()); err != nil {
			return 0, err
		}
	}
	recovery := time.Since(began)
	if err := k.c.await(ctx); err != nil {
		return 0, err
	}
	for _, n := range k.c.nodes {
		n.must()
	}
	return recovery, nil
}

// startAll starts every node that does not run.
func (k *chaos) startAll() error {
	return k.c.all(func(n *node) error {
		if n.running() {
			return nil
		}
		return n.start()
	})
}
