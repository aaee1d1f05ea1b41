package check

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// A topic's retained message is a register. Writes are PUBLISHes with RETAIN, reads are
// SUBSCRIBEs: what comes first on the topic after one shows what it read.

// empty is the state and the value of a topic without a retained message.
const empty = ""

// write sets the register to a message id, or to empty.
type write struct{ value string }

// read saw one of the values: a live copy of a message that was published with RETAIN
// may have come in place of its retained copy, or the register may have been empty.
type read struct{ values []string }

var register = porcupine.Model{
	Init: func() any { return empty },
	Step: func(state, input, _ any) (bool, any) {
		switch op := input.(type) {
		case write:
			return true, op.value
		case read:
			return slices.Contains(op.values, state.(string)), state
		}
		return false, state
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
}

// retained checks invariant 9 for every topic with retained messages.
func (c *checker) retained() {
	writes := map[string][]*message{}
	skip := map[string]bool{} // wills and expiry write at times that nobody sees
	var topics []string
	for _, m := range c.inOrder {
		if !m.retain || m.clash {
			continue
		}
		if writes[m.topic] == nil {
			topics = append(topics, m.topic)
		}
		writes[m.topic] = append(writes[m.topic], m)
		skip[m.topic] = skip[m.topic] || m.will != nil || m.expiry != nil
	}
	for _, topic := range topics {
		if !skip[topic] {
			c.linearizable(topic, writes[topic])
		}
	}
}

func (c *checker) linearizable(topic string, writes []*message) {
	var ops []porcupine.Operation
	process := 0
	add := func(input any, call, ret uint64) {
		process++ // each operation its own process: only Call and Return order them
		ops = append(ops, porcupine.Operation{ClientId: process, Input: input, Call: int64(call), Return: int64(ret)})
	}
	for _, m := range writes {
		if m.refused != nil && len(m.sends) == 1 { // surely not written
			continue
		}
		value := m.id
		if m.size == 0 {
			value = empty
		}
		if m.qos == 2 { // one write, however often it was sent
			add(write{value}, m.first.Seq, seqOr(m.ack, math.MaxInt64))
			continue
		}
		// Each copy of a QoS 1 message that was sent again is a write of its own, with its
		// own answer.
		for _, e := range m.sends {
			add(write{value}, e.Seq, seqOr(c.pubacks[e], math.MaxInt64))
		}
	}
	for _, cl := range c.clients {
		for _, s := range cl.sessions {
			for _, r := range c.reads(s, topic) {
				add(read{r.values}, r.call, r.ret)
			}
		}
	}
	switch porcupine.CheckOperationsTimeout(register, ops, c.opts.RetainedTimeout) {
	case porcupine.Illegal:
		c.violate(Retained, c.shrink(topic, ops), "the retained messages of %q are not linearizable: %d operations", topic, len(ops))
	case porcupine.Unknown:
		c.report.Undecided = append(c.report.Undecided, fmt.Sprintf("retained messages of %q: %d operations", topic, len(ops)))
	}
}

func seqOr(e *history.Event, otherwise uint64) uint64 {
	if e == nil {
		return otherwise
	}
	return e.Seq
}

// shrink returns the lines of the shortest prefix of ops that is not linearizable, the
// last few of them.
func (c *checker) shrink(topic string, ops []porcupine.Operation) []*history.Event {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Return - b.Return) })
	n := len(ops)
	for i := range ops {
		cut := cutAt(ops, ops[i].Return)
		if porcupine.CheckOperationsTimeout(register, cut, c.opts.RetainedTimeout/10+1) == porcupine.Illegal {
			n = i + 1
			break
		}
	}
	var out []*history.Event
	from := max(0, n-4)
	for _, op := range ops[from:n] {
		out = append(out, c.lineAt(op.Call), c.lineAt(op.Return))
	}
	return out
}

// cutAt returns the history as it was at a time: what had not ended then has no end.
func cutAt(ops []porcupine.Operation, at int64) []porcupine.Operation {
	var out []porcupine.Operation
	for _, op := range ops {
		_, isWrite := op.Input.(write)
		if op.Return > at && !isWrite || op.Call > at {
			continue
		}
		if op.Return > at {
			op.Return = math.MaxInt64
		}
		out = append(out, op)
	}
	return out
}

func (c *checker) lineAt(seq int64) *history.Event {
	for _, cl := range c.clients {
		for _, s := range cl.sessions {
			for _, e := range s.events {
				if int64(e.Seq) == seq {
					return e
				}
			}
		}
	}
	return nil
}

type observed struct {
	values    []string
	call, ret uint64
}

// reads returns what the SUBSCRIBEs of a session show of a topic. A SUBSCRIBE that follows
// an unanswered read of the same topic is left out: the answers could not be told apart.
func (c *checker) reads(s *session, topic string) []observed {
	var out []observed
	var matching []*sub
	for _, b := range s.subs {
		if matches(b.filter.Filter, topic) && !strings.HasPrefix(b.filter.Filter, "$share/") {
			matching = append(matching, b)
		}
	}
	clear := true // no answer to an earlier SUBSCRIBE is outstanding
	for i, b := range matching {
		until := uint64(never)
		if i+1 < len(matching) {
			until = matching[i+1].invoke
		}
		asks := b.filter.RetainHandling == 0 && b.ack != never
		r, ok := c.readOf(s, b, topic, until)
		if asks && ok && clear {
			out = append(out, r)
		}
		clear = clear && (!asks || ok) && b.ack != never
	}
	return out
}

// troubled says whether a fault hit any node in this time.
func (c *checker) troubled(from, to int64) bool {
	for _, f := range c.faults {
		if f.Time >= from && f.Time <= to {
			return true
		}
	}
	return false
}

// readOf returns what came first on the topic after b on its connection.
func (c *checker) readOf(s *session, b *sub, topic string, until uint64) (observed, bool) {
	var ackTime int64
	for _, e := range s.events {
		if e.Conn != b.conn.connect.Conn || e.Seq < b.invoke || e.Seq >= until {
			continue
		}
		if e.Seq == b.ack {
			ackTime = e.Time
		}
		// No answer within the time that it would surely have taken: there was nothing,
		// unless the node was in trouble, which a client may notice much later.
		if c.opts.RetainedWait > 0 && ackTime > 0 && e.Time > ackTime+int64(c.opts.RetainedWait) {
			if c.troubled(ackTime, e.Time) {
				return observed{}, false
			}
			return observed{[]string{empty}, b.invoke, e.Seq}, true
		}
		if e.Packet != history.Publish || e.Dir != history.In || e.Topic != topic || e.Dup {
			continue
		}
		m := c.messages[e.Message]
		switch {
		case m == nil:
			return observed{}, false
		case e.Retain:
			return observed{[]string{m.id}, b.invoke, e.Seq}, true
		case m.retain && len(c.faults) == 0: // under faults a silent retained partition is not waited for
			return observed{[]string{m.id, empty}, b.invoke, e.Seq}, true
		default:
			return observed{}, false
		}
	}
	if c.opts.RetainedWait > 0 && ackTime > 0 && b.conn.end == nil && until == never && c.quiet != nil {
		return observed{[]string{empty}, b.invoke, c.endSeq}, true
	}
	return observed{}, false
}
