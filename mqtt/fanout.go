package mqtt

import (
	"math"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// message is a message for one subscriber: what its subscriptions make of it.
type message struct {
	m        *flow.Message
	deadline int64 // on Server.now; of use if m.HasExpiry
	ids      []uint32
	qos      byte
	retain   bool
	share    shareOf
}

func (x *message) expired(now int64) bool { return x.m.HasExpiry && x.deadline <= now }

func (x *message) size() int { return messageSize(x.m) }

// remaining is what is left of a message expiry interval in seconds, rounded up
// [MQTT-3.3.2-6].
func remaining(deadline, now int64) uint32 {
	return uint32(min(max((deadline-now+999)/1000, 0), math.MaxUint32))
}

// fanout encodes a message once for all of its receivers whose packets differ in
// nothing but packet identifier and DUP. It is for one goroutine.
type fanout struct {
	m        *flow.Message
	shared   bool  // there are several receivers, so that encoding once pays
	now      int64 // on Server.now
	deadline int64
	encoded  [2][3][2]encoded // MQTT 5, QoS, retain
}

// encoded is a PUBLISH in wire form.
type encoded struct {
	wire []byte // nil: not encoded yet
	id   int    // offset of the packet identifier, if the QoS is not 0
}

func (f *fanout) reset(m *flow.Message, now int64) {
	*f = fanout{m: m, now: now, deadline: now + m.Expiry}
}

// encode returns the wire form for a version.
func (f *fanout) encode(version, qos byte, retain bool) encoded {
	v, r := 0, 0
	if version >= packet.V5 {
		v = 1
	}
	if retain {
		r = 1
	}
	e := &f.encoded[v][qos][r]
	if e.wire == nil {
		p := packet.Publish{Topic: f.m.Topic, Payload: f.m.Payload, Forward: f.m.Props, QoS: qos, Retain: retain}
		if f.m.HasExpiry {
			p.HasExpiry, p.Expiry = true, remaining(f.deadline, f.now)
		}
		e.wire = packet.AppendPublish(make([]byte, 0, packet.PublishSize(version, &p)), version, &p)
		_, start, _, _ := packet.Frame(e.wire) // cannot fail: it was just written
		e.id = start + 2 + len(p.Topic)
	}
	return *e
}

// appendTo appends the packet for one receiver; a large one is shared but for the
// part that differs. It returns the number of bytes.
func (e encoded) appendTo(b *batch, id uint16, dup bool) int {
	if id == 0 {
		if len(e.wire) >= shareFrom {
			b.share(e.wire)
		} else {
			b.grown(append(b.room(len(e.wire)), e.wire...))
		}
		return len(e.wire)
	}
	own := e.id + 2
	if len(e.wire)-own < shareFrom {
		own = len(e.wire)
	}
	tail := b.room(own)
	at := len(tail)
	tail = append(tail, e.wire[:own]...)
	if dup {
		tail[at] |= 8
	}
	tail[at+e.id], tail[at+e.id+1] = byte(id>>8), byte(id)
	b.grown(tail)
	if own < len(e.wire) {
		b.share(e.wire[own:])
	}
	return len(e.wire)
}
