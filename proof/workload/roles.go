package workload

import (
	"fmt"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// payload names the message, its topic, QoS and number, and fills up to a drawn size.
func (a *actor) payload(topic string, qos byte) []byte {
	a.sent++
	return fmt.Appendf(nil, "%s.%d|%s|%d|%s", a.id, a.sent, topic, qos, strings.Repeat("x", a.rng.IntN(200)))
}

// publisher sends at all QoS to all topics. Every fifth starts clean, so that what it has
// on its way is lost with the connection.
func (w *Workload) publisher(a *actor, cfg *client.SessionConfig, i int) {
	a.clean = i%5 == 4
	if a.clean {
		cfg.Expiry = 0
	}
	cfg.Window = 1 + i*4
	cfg.NextWill = a.will
	a.act = func() {
		if a.session.Unanswered() >= maxUnanswered {
			return
		}
		topic := w.topic(a.rng.IntN(w.cfg.Topics))
		qos := byte(a.rng.IntN(3))
		p := client.Packet{Topic: topic, QoS: qos, Payload: a.payload(topic, qos)}
		if qos == 0 {
			_ = a.session.PublishQoS0(p) // a connection that has broken is found by the loop
			return
		}
		a.session.Publish(p)
	}
}

// will gives each connection its own.
func (a *actor) will() *client.Will {
	a.wills++
	return &client.Will{Topic: a.w.cfg.Prefix + "w/" + a.id, QoS: 1, Payload: fmt.Appendf(nil, "%s.w%d|", a.id, a.wills)}
}

// subscriber takes either all topics or some of them. Every third starts clean and
// subscribes after each CONNACK; the others subscribe once and change a filter now and
// then. Some acknowledgements are held back until the next connection.
func (w *Workload) subscriber(a *actor, cfg *client.SessionConfig, i int) {
	a.clean = i%3 == 2
	if a.clean {
		cfg.Expiry = 0
	}
	if cfg.Version == 5 {
		cfg.ReceiveMaximum = uint16(30 + 10*i)
	}
	cfg.HoldAck = a.holdAck()
	var filters []history.Filter
	if i%2 == 0 {
		filters = append(filters, history.Filter{Filter: w.cfg.Prefix + "t/#", QoS: 2})
	} else {
		for n := range w.cfg.Topics {
			if n%2 == i/2%2 {
				filters = append(filters, history.Filter{Filter: w.topic(n), QoS: byte(1 + n/2%2)})
			}
		}
	}
	subscribed := false
	subscribe := func(f ...history.Filter) bool {
		ctx, cancel := a.operation()
		defer cancel()
		_, err := a.session.Subscribe(ctx, f...)
		return err == nil
	}
	a.connected = func(present bool) {
		if present && subscribed {
			return
		}
		if subscribed = subscribe(filters...); !subscribed {
			a.session.Drop()
		}
	}
	a.act = func() {
		if a.rng.IntN(200) != 0 || len(filters) < 2 {
			return
		}
		// An own filter goes and comes back; subscribed says whether all are there.
		f := filters[a.rng.IntN(len(filters))]
		ctx, cancel := a.operation()
		defer cancel()
		subscribed = false
		if a.session.Unsubscribe(ctx, f.Filter) == nil {
			a.pause(500)
			subscribed = subscribe(f)
		}
		if !subscribed {
			a.session.Drop()
		}
	}
}

// member takes its part of all topics. The first is alone in its group, so that it must
// get everything, and in order. Of the others every second starts clean, and those that do
// not leave the group now and then, except for one, for which all must be there that
// nobody else has taken.
func (w *Workload) member(a *actor, cfg *client.SessionConfig, i int) {
	a.clean = i > 0 && i%2 == 0
	if a.clean {
		cfg.Expiry = 0
	}
	if cfg.Version == 5 {
		cfg.ReceiveMaximum = w.cfg.MemberWindow + uint16(10*i)
	}
	cfg.HoldAck = a.holdAck()
	filter := history.Filter{Filter: "$share/crew/" + w.cfg.Prefix + "t/#", QoS: byte(1 + i/2%2)}
	if i == 0 {
		filter = history.Filter{Filter: "$share/solo/" + w.cfg.Prefix + "t/#", QoS: 2}
	}
	subscribed := false
	subscribe := func() {
		ctx, cancel := a.operation()
		defer cancel()
		_, err := a.session.Subscribe(ctx, filter)
		if subscribed = err == nil; !subscribed {
			a.session.Drop()
		}
	}
	a.connected = func(present bool) {
		if !present || !subscribed {
			subscribe()
		}
	}
	a.act = func() {
		if i < 3 || a.clean || a.rng.IntN(200) != 0 {
			return
		}
		ctx, cancel := a.operation()
		defer cancel()
		subscribed = false
		if a.session.Unsubscribe(ctx, filter.Filter) != nil {
			a.session.Drop()
			return
		}
		a.pause(500)
		subscribe()
	}
}

// holdAck holds back one acknowledgement in fifty, from the pump's goroutine, by a counter
// that the actor's random numbers offset.
func (a *actor) holdAck() func(*client.Packet) bool {
	n := a.rng.IntN(50)
	return func(*client.Packet) bool {
		n++
		return a.w.holding.Load() && n%50 == 0
	}
}

// retainer sets and deletes retained messages, and reads them by subscribing to all of
// them with a clean session after each CONNACK.
func (w *Workload) retainer(a *actor, cfg *client.SessionConfig, i int) {
	a.habit, a.clean = flaps, i%2 == 1
	if a.clean {
		cfg.Expiry = 0
		a.connected = func(bool) {
			ctx, cancel := a.operation()
			defer cancel()
			if _, err := a.session.Subscribe(ctx, history.Filter{Filter: w.cfg.Prefix + "r/#", QoS: byte(1 + i/2%2)}); err != nil {
				a.session.Drop()
			}
		}
		return
	}
	a.act = func() {
		if a.rng.IntN(10) != 0 || a.session.Unanswered() > 3 {
			return
		}
		topic := fmt.Sprintf("%sr/%d", w.cfg.Prefix, a.rng.IntN(3))
		qos := byte(1 + a.rng.IntN(2))
		p := client.Packet{Topic: topic, QoS: qos, Retain: true}
		if a.rng.IntN(6) != 0 {
			p.Payload = a.payload(topic, qos)
		}
		a.session.Publish(p)
	}
}

// watcher is subscribed to all wills from the beginning.
func (w *Workload) watcher(a *actor, _ *client.SessionConfig, _ int) {
	a.habit = stays
	subscribed := false
	a.connected = func(present bool) {
		if present && subscribed {
			return
		}
		ctx, cancel := a.operation()
		defer cancel()
		_, err := a.session.Subscribe(ctx, history.Filter{Filter: w.cfg.Prefix + "w/#", QoS: 2})
		if subscribed = err == nil; !subscribed {
			a.session.Drop()
		}
	}
}

// visitor subscribes to one new topic after the other and keeps every second: whoever
// publishes to it after SUBACK reaches it, after UNSUBACK nobody does.
func (w *Workload) visitor(a *actor, _ *client.SessionConfig, _ int) {
	topics := 0
	a.act = func() {
		if a.rng.IntN(10) != 0 {
			return
		}
		topics++
		topic := fmt.Sprintf("v/%s/%d", a.id, topics)
		ctx, cancel := a.operation()
		defer cancel()
		_, err := a.session.Subscribe(ctx, history.Filter{Filter: topic, QoS: byte(1 + topics/2%2)})
		if err == nil && topics%2 == 0 {
			a.pause(50)
			err = a.session.Unsubscribe(ctx, topic)
		}
		if err != nil {
			a.session.Drop()
			return
		}
		for _, c := range w.clients {
			select {
			case c.calls <- topic:
			default: // no caller, or one that is away
			}
		}
	}
}

// caller publishes where a visitor has just been heard of. It stays on its node, also
// when that is cut off.
func (w *Workload) caller(a *actor, _ *client.SessionConfig, _ int) {
	a.habit, a.calls = stays, make(chan string, 4)
}

// call publishes to a visitor's topic.
func (a *actor) call(topic string) {
	if !a.settling() && a.session.Unanswered() < maxUnanswered {
		qos := byte(1 + a.rng.IntN(2))
		a.session.Publish(client.Packet{Topic: topic, QoS: qos, Payload: a.payload(topic, qos)})
	}
}
