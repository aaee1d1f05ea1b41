package fsm

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// TestSharedWorld plays a shared subscription over two partitions, with members whose
// stored sessions are in both and one with an ephemeral session at a gateway; lanes
// between them that lag, repeat, and start again from the oldest item after a change of
// leader; clients that come, go, move, end their sessions and lose their gateways. It
// checks what is promised of every message, and that a machine restored from a snapshot
// goes on as the one that was running.
func TestSharedWorld(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		for range 400 {
			w.step()
		}
		w.finish()
	})
}

const worldGroup, worldTopic = "$share/crew/job", "job"

// world is two partitions and all around them.
type world struct {
	t       testing.TB
	seed    uint64
	rng     *rand.Rand
	parts   []*worldPart
	lanes   map[[2]uint64][]*logpb.LaneOp // by source and destination: not taken
	last    map[[2]uint64]uint64          // newest item
	marks   map[[2]uint64]uint64          // of the ephemeral client's gateway
	clients map[string]*worldClient
	alone   bool // zoe is the only member: order is kept
	sent    map[string]*worldMessage
	stamp   uint64 // of the ephemeral members
	order   []string
}

type worldPart struct {
	m, twin *Machine
	index   uint64
	done    []uint64                 // outbox items that were taken
	where   map[uint64]uint64        // destination by outbox number
	outbox  map[uint64]*OutboxItem   //
	applied map[uint64]*logpb.LaneOp // last item by source, for repeats
}

type worldMessage struct {
	qos     uint32
	got     map[string]bool // clients that it was sent to
	taken   int             // final acknowledgements
	excused bool            // a session ended with it in delivery at QoS 2, or unsubscribed with it
}

type worldClient struct {
	id        string
	ephemeral bool
	gateway   uint64 // 0: not connected
	epoch     uint64
	member    bool
	stamp     uint64                  // ephemeral: of the membership
	flights   map[uint64]*worldFlight // by packet id, or by item for an ephemeral client
}

type worldFlight struct {
	msg    string
	pubrec bool
	share  bool
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 3)), lanes: map[[2]uint64][]*logpb.LaneOp{}, last: map[[2]uint64]uint64{}, marks: map[[2]uint64]uint64{},
		clients: map[string]*worldClient{}, sent: map[string]*worldMessage{}, alone: seed%4 == 0,
	}
	for p := range uint32(2) {
		w.parts = append(w.parts, &worldPart{m: New(p, 2), twin: New(p, 2), where: map[uint64]uint64{}, outbox: map[uint64]*OutboxItem{}, applied: map[uint64]*logpb.LaneOp{}})
		w.apply(p, leaderOp(&logpb.Lead{Settings: &logpb.Settings{MaxInflight: uint32(w.rng.IntN(4))}}))
	}
	for _, id := range []string{"zoe", "ann", "bob", "cat", "eve"} {
		w.clients[id] = &worldClient{id: id, ephemeral: id == "eve", flights: map[uint64]*worldFlight{}}
		w.order = append(w.order, id)
	}
	w.connect(w.clients["zoe"], false)
	w.subscribe(w.clients["zoe"])
	return w
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d: "+format, append([]any{w.seed}, args...)...)
}

func (w *world) chance(oneIn int) bool { return w.rng.IntN(oneIn) == 0 }

// apply carries out an entry at a partition, and what follows from it.
func (w *world) apply(p uint32, ops ...*logpb.LaneOp) *Outcome {
	x := w.parts[p]
	x.index++
	data := entryOf(int64(x.index), ops...)
	out, err := x.m.Apply(x.index, data)
	if err != nil {
		w.fatalf("%v", err)
	}
	if _, err := x.twin.Apply(x.index, bytes.Clone(data)); err != nil {
		w.fatalf("twin: %v", err)
	}
	if w.chance(8) {
		w.restart(x, p)
	}
	for _, push := range out.Effects.Push {
		w.pushed(push)
	}
	for _, it := range out.Effects.Outbox {
		x.outbox[it.Seq] = it
		w.send(uint64(p), it)
	}
	return out
}

func (w *world) restart(x *worldPart, p uint32) {
	var a, b bytes.Buffer
	write(w.t, x.m.Snapshot(), &a)
	write(w.t, x.twin.Snapshot(), &b)
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		w.fatalf("the replicas differ")
	}
	twin, err := Restore(p, 2, &a)
	if err != nil {
		w.fatalf("%v", err)
	}
	want := x.m.Stats()
	want.UnknownAcks, want.Dropped = 0, [Classes][Reasons]uint64{}
	if got := twin.Stats(); got != want {
		w.fatalf("counters\nkept:      %+v\nrecounted: %+v", want, got)
	}
	x.twin = twin
}

// send puts an outbox item on its lane.
func (w *world) send(source uint64, it *OutboxItem) {
	key := [2]uint64{source, it.Destination}
	op := &logpb.LaneOp{Source: source, Seq: it.Seq, Prev: w.last[key], Op: opOf(&logpb.Group{Items: it.Group})}
	w.last[key] = it.Seq
	w.lanes[key] = append(w.lanes[key], op)
	w.parts[source].where[it.Seq] = it.Destination
}

// ask is an op of a gateway, taken at once.
func (w *world) ask(gateway uint64, p uint32, body any) *Outcome {
	mark, closed := w.parts[p].m.Mark(gateway)
	if closed {
		w.fatalf("gateway %d is closed", gateway)
	}
	return w.apply(p, &logpb.LaneOp{Source: gateway, Seq: mark + 1, Prev: mark, Op: opOf(body)})
}

func (w *world) part(id string) uint32 { return PartitionOf(id, 2) }
func (w *world) group() uint32         { return PartitionOf(worldGroup, 2) }

// gateway is the newest incarnation of some node; eve has one of her own.
func (w *world) gateway(node uint64) uint64 {
	for i := uint64(1); ; i++ {
		if _, closed := w.parts[0].m.Mark(gw(node, i)); !closed {
			return gw(node, i)
		}
	}
}

// step does something.
func (w *world) step() {
	c := w.clients[w.order[w.rng.IntN(len(w.order))]]
	if w.alone {
		c = w.clients["zoe"]
	}
	switch n := w.rng.IntN(100); {
	case n < 25:
		w.publish()
	case n < 50:
		w.deliver()
	case n < 75:
		w.ack(c, false)
	case n < 80:
		w.outboxDone()
	case n < 83:
		w.lead()
	case n < 85:
		w.closeGateway()
	case c.gateway == 0:
		w.connect(c, c.id != "zoe" && w.chance(4))
	case n < 91 && !c.member:
		w.subscribe(c)
	case n < 93 && c.id != "zoe":
		w.unsubscribe(c)
	case n < 96:
		w.disconnect(c)
	case n < 98 && !c.ephemeral:
		w.connect(c, c.id != "zoe" && w.chance(4)) // takes over
	case c.member:
		w.subscribe(c) // with other options
	}
}

func (w *world) publish() {
	name := fmt.Sprintf("%04d", len(w.sent)+1)
	qos := uint32(1 + w.rng.IntN(2))
	w.sent[name] = &worldMessage{qos: qos, got: map[string]bool{}}
	w.ask(gw(9, 1), w.group(), &logpb.Publish{Deliver: true, Message: &logpb.Message{Topic: worldTopic, Payload: []byte(name), Qos: qos}})
}

// deliver moves items over some lane, now and then with what was taken before again.
func (w *world) deliver() {
	keys := slices.SortedFunc(maps.Keys(w.lanes), func(a, b [2]uint64) int { return slices.Compare(a[:], b[:]) })
	if len(keys) == 0 {
		return
	}
	key := keys[w.rng.IntN(len(keys))]
	n := 1 + w.rng.IntN(len(w.lanes[key]))
	ops := w.lanes[key][:n:n]
	if w.lanes[key] = w.lanes[key][n:]; len(w.lanes[key]) == 0 {
		delete(w.lanes, key)
	}
	source := w.parts[key[0]]
	for _, op := range ops {
		source.done = append(source.done, op.Seq)
	}
	if isGateway(key[1]) {
		for _, op := range ops {
			w.eveGets(key[1], op)
		}
		return
	}
	to := w.parts[key[1]]
	if again := to.applied[key[0]]; again != nil && w.chance(3) {
		ops = append([]*logpb.LaneOp{again}, ops...)
	}
	to.applied[key[0]] = ops[len(ops)-1]
	w.apply(uint32(key[1]), ops...)
}

// outboxDone removes what was taken from an outbox.
func (w *world) outboxDone() {
	p := uint32(w.rng.IntN(2))
	x := w.parts[p]
	w.apply(p, leaderOp(&logpb.OutboxDone{Done: x.done}))
	for _, seq := range x.done {
		delete(x.outbox, seq)
	}
	x.done = nil
}

// lead is a change of leader: the new one sends everything in the outbox again.
func (w *world) lead() {
	p := uint32(w.rng.IntN(2))
	for key := range w.lanes {
		if key[0] == uint64(p) {
			delete(w.lanes, key)
		}
	}
	for key := range w.last {
		if key[0] == uint64(p) {
			delete(w.last, key)
		}
	}
	w.parts[p].done = nil
	for _, it := range w.parts[p].m.Pending().Outbox {
		if _, closed := w.parts[p].m.Mark(it.Destination); closed {
			w.parts[p].done = append(w.parts[p].done, it.Seq)
			continue
		}
		w.send(uint64(p), it)
	}
}

// closeGateway ends some node's gateway everywhere, and with it its connections.
func (w *world) closeGateway() {
	g := w.gateway(1 + uint64(w.rng.IntN(4)))
	for _, c := range w.clients {
		if c.gateway == g {
			w.over(c, c.ephemeral)
		}
	}
	for _, p := range w.rng.Perm(2) {
		w.apply(uint32(p), leaderOp(&logpb.CloseGateway{Gateway: g}))
		w.deliver()
	}
	for key, ops := range w.lanes {
		if key[1] == g {
			delete(w.lanes, key)
			for _, op := range ops {
				w.eveGets(g, op) // nobody knows that it has not come there
			}
		}
	}
}
