package check

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// parse makes a history from a script, one event a line:
//
//	client/conn[@node] > PACKET key=value ...   the client sends
//	client/conn < PACKET ...                    the client receives
//	! fault node | heal | quiet | +5s
//
// A story that must break more than one invariant says "# and more" on a line.
// m=ID is the message, t=TOPIC, q1 the QoS, f=FILTER:QOS a filter; bare words are flags.
func parse(t *testing.T, script string) []history.Event {
	t.Helper()
	var out []history.Event
	var now time.Duration
	nodes := map[string]string{}
	for number, line := range strings.Split(script, "\n") {
		w := strings.Fields(line)
		if len(w) == 0 || strings.HasPrefix(w[0], "#") {
			continue
		}
		if strings.HasPrefix(w[0], "+") {
			d, err := time.ParseDuration(w[0][1:])
			if err != nil {
				t.Fatalf("line %d: %v", number+1, err)
			}
			now += d
			continue
		}
		now += time.Millisecond
		e := history.Event{Seq: uint64(len(out)) + 1, Time: int64(now), Type: history.Info}
		switch w[0] {
		case "!":
			e.Packet, e.Detail, e.Node = history.Fault, w[1], w[2]
		case "heal":
			e.Packet = history.Heal
		case "quiet":
			e.Packet = history.Quiet
		default:
			if err := packetLine(&e, w, nodes); err != nil {
				t.Fatalf("line %d %q: %v", number+1, line, err)
			}
		}
		out = append(out, e)
	}
	return out
}

func packetLine(e *history.Event, w []string, nodes map[string]string) error {
	name, node, _ := strings.Cut(w[0], "@")
	if node != "" {
		nodes[name] = node
	}
	e.Node = nodes[name]
	var conn string
	e.Client, conn, _ = strings.Cut(name, "/")
	n, err := strconv.ParseUint(conn, 10, 32)
	if err != nil {
		return err
	}
	e.Conn, e.Packet = n, w[2]
	if w[1] == ">" {
		e.Dir = history.Out
		switch e.Packet {
		case history.Connect, history.Publish, history.Pubrel, history.Subscribe, history.Unsubscribe:
			e.Type = history.Invoke
		}
	} else {
		e.Dir = history.In
	}
	e.Version = 5
	for _, word := range w[3:] {
		if err := attribute(e, word); err != nil {
			return err
		}
	}
	switch e.Packet {
	case history.Connack, history.Puback, history.Pubrec, history.Pubcomp, history.Suback, history.Unsuback:
		if e.Dir == history.In {
			e.Type = history.OK
			if e.Reason >= 0x80 {
				e.Type = history.Fail
			}
		}
	case history.Publish:
		h := fnv.New64a()
		_, _ = h.Write([]byte(e.Message))
		e.Sum, e.Size = e.Sum+h.Sum64(), len(e.Message)
	}
	return nil
}

func attribute(e *history.Event, word string) error {
	key, value, _ := strings.Cut(word, "=")
	n, _ := strconv.ParseUint(value, 0, 32) // 0 for what is no number
	u := uint32(n)
	switch key {
	case "clean":
		e.Clean = true
	case "expiry":
		e.Expiry = u
	case "keep":
		e.Expiry = history.NeverExpires
	case "rm":
		e.ReceiveMaximum = uint16(n)
	case "will": // will=id:topic:delay
		p := strings.Split(value, ":")
		e.Will = &history.Will{Message: p[0], Topic: p[1], QoS: 1}
		if len(p) > 2 {
			d, err := strconv.ParseUint(p[2], 10, 32)
			if err != nil {
				return err
			}
			e.Will.Delay = uint32(d)
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(p[0]))
		e.Will.Sum = h.Sum64()
	case "present":
		e.SessionPresent = true
	case "set":
		e.SetExpiry = &u
	case "id":
		e.ID = uint16(n)
	case "q0", "q1", "q2":
		e.QoS = key[1] - '0'
	case "dup":
		e.Dup = true
	case "retain":
		e.Retain = true
	case "t":
		e.Topic = value
	case "m":
		e.Message = value
	case "sum":
		e.Sum = uint64(n)
	case "mexp":
		e.MessageExpiry = &u
	case "reason":
		e.Reason = byte(n)
	case "codes":
		for _, c := range strings.Split(value, ",") {
			b, err := strconv.ParseUint(c, 0, 8)
			if err != nil {
				return err
			}
			e.Codes = append(e.Codes, byte(b))
		}
	case "f":
		filter, qos, _ := strings.Cut(value, ":")
		f := history.Filter{Filter: filter}
		if qos != "" {
			f.QoS = qos[0] - '0'
		}
		e.Filters = append(e.Filters, f)
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

type story struct {
	name   string
	want   int // the invariant that is broken; 0: none
	script string
}

// options are tight, so that scripts stay short.
func options() Options {
	o := Defaults()
	o.Bound, o.EarlyExpiry, o.LateExpiry = 5*time.Second, time.Second, 5*time.Second
	o.MessageExpiry, o.Transit, o.RetainedWait = time.Second, 100*time.Millisecond, 2*time.Second
	return o
}

func tell(t *testing.T, stories []story) {
	t.Helper()
	for _, s := range stories {
		t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
			r := Run(parse(t, s.script), options())
			if len(r.Undecided) > 0 {
				t.Errorf("undecided: %v", r.Undecided)
			}
			found := map[int]bool{}
			for _, v := range r.Violations {
				found[v.Invariant] = true
				if len(v.Events) == 0 {
					t.Errorf("a violation without lines: %s", v)
				}
			}
			switch {
			case s.want == 0 && len(r.Violations) > 0:
				t.Errorf("a good history was condemned: %s", r)
			case s.want != 0 && !found[s.want]:
				t.Errorf("invariant %d (%s) was not found broken: %s", s.want, names[s.want], r)
			case s.want != 0 && len(found) != 1 && !strings.Contains(s.script, "# and more"):
				t.Errorf("more than invariant %d: %s", s.want, r)
			}
		})
	}
}
