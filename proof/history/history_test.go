package history

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	expiry := uint32(7)
	in := []Event{
		{Seq: 1, Time: 5, Client: "a", Conn: 1, Dir: Out, Type: Invoke, Packet: Connect, Version: 5, Clean: true,
			Expiry: 60, Will: &Will{Topic: "w", Message: "w1", QoS: 1}},
		{Seq: 2, Time: 5, Client: "a", Conn: 1, Dir: In, Type: OK, Packet: Connack, SessionPresent: true},
		{Seq: 3, Time: 9, Client: "a", Conn: 1, Dir: Out, Type: Invoke, Packet: Publish, ID: 1, QoS: 2, Topic: "t<>&",
			Message: "m", Sum: 1<<64 - 1, MessageExpiry: &expiry},
		{Seq: 4, Time: 9, Type: Info, Packet: Fault, Node: "n1", Detail: FaultKill},
	}
	var b bytes.Buffer
	if err := Write(&b, in); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n != len(in) {
		t.Fatalf("%d lines for %d events", n, len(in))
	}
	out, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Fatalf("read back %+v", out)
	}
}

func TestReadRefusesDisorder(t *testing.T) {
	for name, text := range map[string]string{
		"seq":  `{"seq":2,"time":1,"type":"info","packet":"HEAL"}` + "\n" + `{"seq":2,"time":1,"type":"info","packet":"HEAL"}`,
		"time": `{"seq":1,"time":2,"type":"info","packet":"HEAL"}` + "\n" + `{"seq":2,"time":1,"type":"info","packet":"HEAL"}`,
	} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, ErrOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(strings.NewReader(`{"seq":1,"surprise":1}`)); err == nil {
		t.Error("an unknown field was accepted")
	}
	if _, err := Read(strings.NewReader(`{"seq":1`)); err == nil {
		t.Error("a torn line was accepted")
	}
}

func TestRecorderOrdersConcurrentEvents(t *testing.T) {
	r := NewRecorder()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				before := r.Record(Event{Packet: Heal})
				if after := r.Record(Event{Packet: Heal}); after <= before {
					t.Errorf("seq %d after %d", after, before)
				}
			}
		})
	}
	wg.Wait()
	events := r.Events()
	for i := range events {
		if events[i].Seq != uint64(i)+1 || i > 0 && events[i].Time < events[i-1].Time {
			t.Fatalf("event %d out of order: %v", i, events[i])
		}
	}
	if got := r.Since(uint64(len(events) - 3)); len(got) != 3 {
		t.Fatalf("Since returned %d events", len(got))
	}
	if a, b := r.NewConn(), r.NewConn(); a == b {
		t.Fatal("two connections share a number")
	}
}
