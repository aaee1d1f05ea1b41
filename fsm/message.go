package fsm

import (
	"strings"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// message is an application message as the state holds it: immutable, and shared
// by every queue it is in. Its expiry is a deadline on the partition's clock.
type message struct {
	pb   logpb.Message
	size int64
	// refs counts the places in the current state that hold the message. A
	// frozen snapshot does not count: it is short-lived.
	refs int32
}

const (
	messageOverhead = 250 // bytes of the structs around topic, payload and properties
	refOverhead     = 48  // bytes of a place in a queue
)

// newMessage copies a message out of a log entry, so that a queued message never
// keeps the whole entry in memory. Remaining expiry becomes a deadline.
func (m *Machine) newMessage(src *logpb.Message) *message {
	c := &message{}
	c.pb.IdSource, c.pb.IdSeq = src.IdSource, src.IdSeq
	c.pb.Qos, c.pb.Retain = src.Qos, src.Retain
	if src.HasExpiry {
		c.pb.HasExpiry, c.pb.Expiry = true, after(m.time, src.Expiry)
	}
	names := src.Topic + src.Publisher
	if src.Publisher == "" {
		names = strings.Clone(src.Topic) // a sum with nothing is no copy
	}
	c.pb.Topic, c.pb.Publisher = names[:len(src.Topic)], names[len(src.Topic):]
	if n := len(src.Payload) + len(src.Props); n > 0 {
		buf := append(append(make([]byte, 0, n), src.Payload...), src.Props...)
		c.pb.Payload = buf[:len(src.Payload):len(src.Payload)]
		c.pb.Props = buf[len(src.Payload):]
	}
	c.size = sizeOf(&c.pb)
	return c
}

func sizeOf(pb *logpb.Message) int64 {
	return messageOverhead + int64(len(pb.Topic)+len(pb.Payload)+len(pb.Props)+len(pb.Publisher))
}

// after is time + ms, without overflow.
func after(time, ms int64) int64 {
	if ms > 0 && time > 0 && time+ms < time {
		return 1<<63 - 1
	}
	return time + ms
}

func (m *Machine) expired(pb *logpb.Message) bool { return pb.HasExpiry && pb.Expiry <= m.time }

// keep and forget count the places that hold a message; a message is in the
// machine's memory as long as there is one.
func (m *Machine) keep(x *message) {
	if x.refs == 0 {
		m.stats.Bytes += x.size
	}
	x.refs++
	m.stats.Bytes += refOverhead
}

func (m *Machine) forget(x *message) {
	x.refs--
	if x.refs == 0 {
		m.stats.Bytes -= x.size
	}
	m.stats.Bytes -= refOverhead
}

// queued is a message on its way to a session. It is immutable, and shared by
// the sessions that get the same message in the same way.
type queued struct {
	msg      *message
	qos      uint32 // effective: 1 or 2 in queues
	retained bool   // the RETAIN flag to send
	ids      []uint32
	// share is the filter of the group that it comes from, item its number there; "":
	// none, or the session has left the group since.
	share string
	item  uint64
}

// minPacket is a lower bound of the size of the PUBLISH packet, in bytes.
func (q *queued) minPacket(protocol uint32) int64 {
	pb := &q.msg.pb
	n := 2 + 2 + len(pb.Topic) + 2 + len(pb.Payload) // header, topic, packet id, payload
	if protocol >= 5 {
		n += 1 + len(pb.Props)
	}
	return int64(n)
}
