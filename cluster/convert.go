package cluster

import (
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// messageToLog makes the form of a message in an op: its expiry is what remains.
func messageToLog(m *flow.Message) *logpb.Message {
	return &logpb.Message{
		IdSource: m.ID.Source, IdSeq: m.ID.Seq,
		Topic: m.Topic, Payload: m.Payload, Qos: uint32(m.QoS), Retain: m.Retain, Props: m.Props,
		HasExpiry: m.HasExpiry, Expiry: m.Expiry, Publisher: m.Publisher,
	}
}

// messageFromLog is the reverse.
func messageFromLog(m *logpb.Message) *flow.Message {
	return &flow.Message{
		ID:    flow.MessageID{Source: m.IdSource, Seq: m.IdSeq},
		Topic: m.Topic, Payload: m.Payload, QoS: byte(m.Qos), Retain: m.Retain, Props: m.Props,
		HasExpiry: m.HasExpiry, Expiry: m.Expiry, Publisher: m.Publisher,
	}
}

// remaining turns a message of a partition's state, whose expiry is a deadline on
// the partition's clock, into one that travels. Its parts are shared.
func remaining(m *logpb.Message, now int64) *logpb.Message {
	c := &logpb.Message{
		IdSource: m.IdSource, IdSeq: m.IdSeq,
		Topic: m.Topic, Payload: m.Payload, Qos: m.Qos, Retain: m.Retain, Props: m.Props,
		Publisher: m.Publisher,
	}
	if m.HasExpiry {
		c.HasExpiry = true
		c.Expiry = max(0, m.Expiry-now)
	}
	return c
}

func subscriptionToLog(s flow.Subscription) *logpb.Subscription {
	return &logpb.Subscription{
		Filter: s.Filter, Qos: uint32(s.QoS), NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished,
		RetainHandling: uint32(s.RetainHandling), Id: s.ID,
	}
}

func subscriptionFromLog(s *logpb.Subscription) flow.Subscription {
	return flow.Subscription{
		Filter: s.Filter, QoS: byte(s.Qos), NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished,
		RetainHandling: byte(s.RetainHandling), ID: s.Id,
	}
}
