// Package workload drives a broker with clients that behave as applications do: some stay
// on one node, some flap between nodes, some are away for seconds; they keep sessions or
// start clean, subscribe and unsubscribe, hold back acknowledgements, leave wills and read
// retained messages. What each does is drawn from a seed. It keeps to the rules that
// proof/check asks of a workload.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Config says how much of what happens.
type Config struct {
	Seed    uint64
	Targets []client.Target
	// Dial returns the dialer of a process, by which a simulation gives it a host.
	Dial     func(process string) client.Dialer
	Recorder *history.Recorder
	// Prefix begins every client id and topic, so that several workloads can follow each
	// other on one cluster.
	Prefix string

	Publishers, Subscribers int
	// Retainers set and delete retained messages and read them back.
	Retainers int
	// Members share a subscription to all topics; the first has one of its own.
	Members int
	// MemberWindow is the Receive Maximum of the first member; the others have more. What one
	// member gets in a second is bounded by it.
	MemberWindow uint16
	// Visitors subscribe to topics that nobody has used before; on each node a caller
	// publishes to one at once when its visitor has SUBACK or UNSUBACK.
	Visitors int
	// Topics is how many topics live messages are spread over.
	Topics int
	// Think is the mean time between two actions of a client.
	Think time.Duration
	// Operation bounds each CONNECT, SUBSCRIBE and UNSUBSCRIBE; after it the client gives
	// the connection up.
	Operation time.Duration
	// Retry bounds the drawn pause after an attempt to connect that failed.
	Retry time.Duration
	// KeepAlive in seconds finds connections to nodes that are silent.
	KeepAlive uint16
	// Settled is how long nothing must happen before the workload is called quiet.
	Settled time.Duration
	// Drained, if set, must also say nil before it is: a broker on a busy machine may owe
	// something for longer than Settled.
	Drained func(context.Context) error
}

// Defaults returns a small mixed workload.
func Defaults(seed uint64) Config {
	return Config{Seed: seed, Publishers: 6, Subscribers: 6, Retainers: 3, MemberWindow: 5, Visitors: 3, Topics: 8, Think: 20 * time.Millisecond,
		Operation: 5 * time.Second, Retry: 100 * time.Millisecond, KeepAlive: 4, Settled: 3 * time.Second}
}

// maxUnanswered bounds what a publisher has on its way and queued.
const maxUnanswered = 60

// Workload is a running set of clients.
type Workload struct {
	cfg     Config
	clients []*actor
	wg      sync.WaitGroup // the actors
	ctx     context.Context
	cancel  context.CancelFunc
	// settling is closed when actors are to stop acting and to stay connected.
	settling chan struct{}
	holding  atomic.Bool // acknowledgements may be held back
}

// New prepares a workload; nothing connects before Start.
func New(cfg Config) *Workload {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Workload{cfg: cfg, ctx: ctx, cancel: cancel, settling: make(chan struct{})}
	w.holding.Store(true)
	for i := range cfg.Publishers {
		w.add(fmt.Sprintf("pub%d", i), i, w.publisher)
	}
	for i := range cfg.Subscribers {
		w.add(fmt.Sprintf("sub%d", i), i, w.subscriber)
	}
	for i := range cfg.Retainers {
		w.add(fmt.Sprintf("ret%d", i), i, w.retainer)
	}
	for i := range cfg.Members {
		w.add(fmt.Sprintf("mem%d", i), i, w.member)
	}
	w.add("willwatch", 0, w.watcher)
	for i := range cfg.Visitors {
		w.add(fmt.Sprintf("visit%d", i), i, w.visitor)
	}
	for i := range cfg.Targets {
		w.add(fmt.Sprintf("call%d", i), i, w.caller)
	}
	return w
}

// Start connects the clients and lets them act.
func (w *Workload) Start() {
	for _, a := range w.clients {
		w.wg.Go(a.run)
	}
}

// ErrUnsettled is returned by Settle when the workload did not become quiet.
var ErrUnsettled = errors.New("workload: not settled")

// Settle stops the actions, waits until every client is connected, every message is
// answered and nothing happens any more, and records that. Faults must be over.
func (w *Workload) Settle(ctx context.Context) error {
	w.holding.Store(false)
	close(w.settling)
	seen := uint64(w.cfg.Recorder.Len())
	last := time.Now()
	var drained error
	ticker := time.NewTicker(w.cfg.Settled / 10)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			w.cfg.Recorder.Quiet()
			return errors.Join(fmt.Errorf("%w: %s", ErrUnsettled, w.unsettled()), drained)
		case <-ticker.C:
		}
		for _, e := range w.cfg.Recorder.Since(seen) {
			seen = e.Seq
			if e.Packet != history.Pingreq && e.Packet != history.Pingresp {
				last = time.Now()
			}
		}
		if w.unsettled() != "" || time.Since(last) < w.cfg.Settled {
			continue
		}
		if w.cfg.Drained != nil {
			drained = w.cfg.Drained(ctx)
		}
		if drained == nil {
			w.cfg.Recorder.Quiet()
			return nil
		}
	}
}

// unsettled names what is not at rest yet.
func (w *Workload) unsettled() string {
	for _, a := range w.clients {
		if !a.rested.Load() || !a.session.Connected() {
			return a.id + " is not connected"
		}
		if n := a.session.Unanswered(); n > 0 {
			return fmt.Sprintf("%s has %d unanswered messages", a.id, n)
		}
	}
	return ""
}

// ClientIDs returns the ids of all clients.
func (w *Workload) ClientIDs() []string {
	var out []string
	for _, a := range w.clients {
		out = append(out, a.id)
	}
	return out
}

// topic is one of the topics with live messages.
func (w *Workload) topic(i int) string { return fmt.Sprintf("%st/%d", w.cfg.Prefix, i) }

// Close ends all clients and waits for them.
func (w *Workload) Close() {
	w.cancel()
	w.wg.Wait()
	for _, a := range w.clients {
		a.session.Close()
	}
}

// habit is how a client treats its connection.
type habit byte

const (
	stays  habit = iota // until it breaks
	flaps               // moves to another node now and then
	leaves              // is away for seconds now and then
)

// actor is one client with its own goroutine and its own random numbers.
type actor struct {
	w       *Workload
	id      string
	rng     *rand.Rand // the actor's goroutine only
	session *client.Session
	habit   habit
	clean   bool
	home    int
	// act does one thing of the actor's role; connected is called after each CONNACK.
	act       func()
	connected func(present bool)
	rested    atomic.Bool // connected anew since settling began, and subscribed
	sent      int         // messages so far, for their ids
	wills     int
	ever      bool        // it has been connected once
	calls     chan string // topics that a caller is to publish to; nil: it is none
}

func (w *Workload) add(id string, i int, role func(a *actor, cfg *client.SessionConfig, i int)) {
	id = w.cfg.Prefix + id
	a := &actor{w: w, id: id, rng: rand.New(rand.NewPCG(w.cfg.Seed, uint64(len(w.clients)))), habit: habit(i % 3),
		home: i % len(w.cfg.Targets), connected: func(bool) {}, act: func() {}}
	cfg := client.SessionConfig{Dial: w.cfg.Dial(id), Recorder: w.cfg.Recorder, Options: client.Options{ClientID: id, Version: 5,
		KeepAlive: w.cfg.KeepAlive, Expiry: history.NeverExpires}}
	if i%4 == 1 {
		cfg.Version = 4
	}
	role(a, &cfg, i)
	a.session = client.NewSession(cfg)
	w.clients = append(w.clients, a)
}

// run is the actor's goroutine.
func (a *actor) run() {
	settling := a.w.settling
	for {
		select {
		case <-a.w.ctx.Done():
			return
		case <-settling:
			settling = nil // once
			a.reconnect(client.LeaveClose)
			continue
		case topic := <-a.calls:
			a.call(topic)
			continue
		case <-time.After(a.think()):
		}
		switch {
		case !a.session.Connected():
			a.rested.Store(false)
			a.reconnect(client.LeaveAbort)
		case settling != nil:
			a.move()
			a.act()
		case !a.rested.Load(): // subscribing failed
			a.reconnect(client.LeaveAbort)
		}
	}
}

func (a *actor) think() time.Duration {
	return time.Duration(a.rng.ExpFloat64() * float64(a.w.cfg.Think))
}

// move changes the connection by the actor's habit.
func (a *actor) move() {
	if a.rng.IntN(60) != 0 {
		return
	}
	switch a.habit {
	case flaps:
		for range 3 { // so that there is something to send again
			a.act()
		}
		a.reconnect(client.Leave(a.rng.IntN(3)))
	case leaves:
		if a.rng.IntN(2) == 0 {
			_ = a.session.Disconnect() // a connection that is gone needs none
		} else {
			a.session.Drop()
		}
		a.pause(3000)
	}
}

// pause waits up to a number of milliseconds, less if the workload is to settle.
func (a *actor) pause(milliseconds int) {
	select {
	case <-a.w.ctx.Done():
	case <-a.w.settling:
	case <-time.After(time.Duration(1+a.rng.IntN(milliseconds)) * time.Millisecond):
	}
}

// reconnect connects once; the actor's loop tries again.
func (a *actor) reconnect(leave client.Leave) {
	node := a.home
	if a.habit != stays || a.ever && a.rng.IntN(2) == 0 {
		node = a.rng.IntN(len(a.w.cfg.Targets))
	}
	resting := a.settling()
	old := a.session.Conn()
	ctx, cancel := a.operation()
	present, err := a.session.Connect(ctx, a.w.cfg.Targets[node], a.clean, leave)
	cancel()
	if err != nil {
		a.pause(int(a.w.cfg.Retry.Milliseconds())) // a node that is down should not be asked in a tight loop
		return
	}
	a.ever = true
	if leave == client.LeaveOpen && old != nil {
		a.haunt(old)
	}
	a.connected(present)
	a.rested.Store(resting && a.session.Connected())
}

// haunt publishes on a connection that a newer one has replaced: nothing may come of it,
// not even where nobody would get the message.
func (a *actor) haunt(old *client.Conn) {
	for i, topic := range []string{a.w.topic(a.rng.IntN(a.w.cfg.Topics)), "nobody/" + a.id} {
		// It fails where the broker has closed the connection, as it soon must.
		_ = old.Publish(client.Packet{Topic: topic, QoS: 1, ID: uint16(65535 - i), Payload: a.payload(topic, 1)})
	}
}

func (a *actor) settling() bool {
	select {
	case <-a.w.settling:
		return true
	default:
		return false
	}
}

func (a *actor) operation() (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.w.ctx, a.w.cfg.Operation)
}
