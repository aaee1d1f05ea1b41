package bench

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func options(addr string) Options {
	o := Default()
	o.Addrs, o.Count, o.Drain = []string{addr}, 2000, 500*time.Millisecond
	return o
}

func mustRun(t *testing.T, o Options) *Result {
	t.Helper()
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestMessagesArrive(t *testing.T) {
	for _, tt := range []struct {
		name     string
		change   func(*Options)
		received uint64
	}{
		{"QoS 0", func(o *Options) { o.QoS = 0 }, 2000},
		{"QoS 1", func(o *Options) {}, 2000},
		{"QoS 2", func(o *Options) { o.QoS = 2 }, 2000},
		{"MQTT 3.1.1, persistent", func(o *Options) { o.Version, o.Persistent = 4, true }, 2000},
		{"MQTT 5, persistent, QoS 2", func(o *Options) { o.QoS, o.Persistent = 2, true }, 2000},
		{"fan-out", func(o *Options) { o.Scenario, o.Subscribers = FanOut, 5 }, 10000},
		{"fan-out, QoS 0", func(o *Options) { o.Scenario, o.Subscribers, o.QoS = FanOut, 5, 0 }, 10000},
		{"pairs", func(o *Options) { o.Scenario = Pairs }, 2000},
		{"a rate", func(o *Options) { o.Rate, o.Window = 20000, 0 }, 2000},
		{"a rate, QoS 0", func(o *Options) { o.Rate, o.Window, o.QoS = 20000, 0, 0 }, 2000},
		{"window of one, smallest payload", func(o *Options) { o.Window, o.Size = 1, MinSize }, 2000},
		{"large payload", func(o *Options) { o.Size, o.Count = 100_000, 100 }, 100},
		{"idle connections", func(o *Options) { o.Idle = 20 }, 2000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(broker(t, nil))
			tt.change(&o)
			res := mustRun(t, o)
			if err := res.Err(o.QoS); err != nil {
				t.Error(err)
			}
			if res.Sent != uint64(o.Count) || res.Received != tt.received || res.Published != uint64(o.Count) {
				t.Errorf("sent %d, published %d, received %d; want %d, %d, %d", res.Sent, res.Published, res.Received, o.Count, o.Count, tt.received)
			}
			if res.Lost+res.Duplicates+res.Disordered+res.Strangers != 0 {
				t.Errorf("%+v", res)
			}
			if res.Receive.Count != tt.received || res.Receive.P50 <= 0 || res.Receive.P50 > res.Receive.P99 || res.Receive.P99 > res.Receive.Max {
				t.Errorf("latency %+v", res.Receive)
			}
			if o.QoS > 0 && res.Ack.Count != uint64(o.Count) {
				t.Errorf("acknowledgement latency %+v", res.Ack)
			}
		})
	}
}

func TestADurationIsMeasuredWithoutWarmup(t *testing.T) {
	o := options(broker(t, nil))
	o.Count, o.Warmup, o.Duration = 0, 50*time.Millisecond, 200*time.Millisecond
	var calls []bool
	o.Measuring = func(begins bool) { calls = append(calls, begins) }
	res := mustRun(t, o)
	if res.Seconds < 0.2 || res.Seconds > 2 {
		t.Errorf("measured %v s", res.Seconds)
	}
	if res.Published == 0 || res.Published >= res.Sent || res.Ack.Count >= res.Sent {
		t.Errorf("published %d and timed %d of %d: warmup must not count", res.Published, res.Ack.Count, res.Sent)
	}
	if res.Lost != 0 {
		t.Errorf("%d lost", res.Lost)
	}
	if len(calls) != 2 || !calls[0] || calls[1] {
		t.Errorf("Measuring was called with %v", calls)
	}
}

// TestFaultsAreSeen: a generator that cannot see faults proves nothing.
func TestFaultsAreSeen(t *testing.T) {
	t.Run("loss", func(t *testing.T) {
		res := mustRun(t, options(broker(t, &fault{drop: true})))
		if res.Lost != 20 || res.Received != 1980 || res.Err(1) == nil {
			t.Errorf("lost %d, received %d, %v", res.Lost, res.Received, res.Err(1))
		}
	})
	t.Run("loss at QoS 0", func(t *testing.T) {
		o := options(broker(t, &fault{drop: true}))
		o.QoS, o.Window = 0, 10
		if res := mustRun(t, o); res.Lost != 20 || res.Sent != 2000 || res.Err(0) != nil {
			t.Errorf("sent %d, lost %d, %v", res.Sent, res.Lost, res.Err(0))
		}
	})
	t.Run("duplicates", func(t *testing.T) {
		o := options(broker(t, &fault{twice: true}))
		o.QoS = 2
		if res := mustRun(t, o); res.Duplicates != 20 || res.Received != 2000 || res.Err(2) == nil {
			t.Errorf("duplicates %d, received %d, %v", res.Duplicates, res.Received, res.Err(2))
		}
	})
	t.Run("refusals", func(t *testing.T) {
		res := mustRun(t, options(broker(t, &fault{refuse: true})))
		var refused uint64
		for _, n := range res.Refused {
			refused += n
		}
		if refused != 20 || res.Lost != 0 {
			t.Errorf("refused %v, lost %d: what was refused is not lost", res.Refused, res.Lost)
		}
	})
}

func TestConnects(t *testing.T) {
	o := options(broker(t, nil))
	o.Scenario, o.Count, o.Workers = Connect, 200, 8
	res := mustRun(t, o)
	if res.Connack.Count != 200 || res.Suback.Count != 200 || res.ConnectsPerSecond <= 0 || len(res.Errors) != 0 {
		t.Errorf("%+v", res)
	}
}

func TestIdle(t *testing.T) {
	o := options(broker(t, nil))
	o.Scenario, o.Idle, o.Duration, o.Warmup = Idle, 50, 10*time.Millisecond, 0
	if res := mustRun(t, o); res.ConnectsPerSecond <= 0 || len(res.Errors) != 0 {
		t.Errorf("%+v", res)
	}
}

// TestNothingIsLeft: persistent sessions of a run must not stay in the broker.
func TestPasswords(t *testing.T) {
	b := startBroker(t, nil)
	b.mu.Lock()
	b.user, b.password = "ada", "engine"
	b.mu.Unlock()
	o := options(b.addr)
	o.Username, o.Password = "ada", []byte("engine")
	if res := mustRun(t, o); res.Received != 2000 {
		t.Errorf("received %d", res.Received)
	}
	var refused *RefusedError
	if _, err := Run(t.Context(), options(b.addr)); !errors.As(err, &refused) || refused.What != "CONNECT" {
		t.Errorf("without a password: %v", err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	for _, version := range []byte{4, 5} {
		b := startBroker(t, nil)
		o := options(b.addr)
		o.Version, o.Persistent, o.Count = version, true, 100
		mustRun(t, o)
		if n := b.stored(); n != 0 || !b.stayed {
			t.Errorf("MQTT level %d: %d sessions are left; persistent ones were made: %v", version, n, b.stayed)
		}
	}
}

func TestARunCanBeEnded(t *testing.T) {
	o := options(broker(t, nil))
	o.Count, o.Duration, o.Warmup = 0, time.Hour, 0
	ctx, cancel := context.WithCancel(t.Context())
	o.Measuring = func(bool) { cancel() }
	res, err := Run(ctx, o)
	if err != nil || res.Lost != 0 || len(res.Errors) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestNoBroker(t *testing.T) {
	addr := broker(t, nil)
	o := options(addr)
	o.Addrs = []string{"127.0.0.1:1"}
	if _, err := Run(t.Context(), o); err == nil {
		t.Error("no error without a broker")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for option, change := range map[string]func(*Options){
		"qos":          func(o *Options) { o.QoS = 3 },
		"size":         func(o *Options) { o.Size = MinSize - 1 },
		"window":       func(o *Options) { o.Window = 0 },
		"scenario":     func(o *Options) { o.Scenario = "fan" },
		"publishers":   func(o *Options) { o.Publishers = 0 },
		"subscribers":  func(o *Options) { o.Subscribers = 0 },
		"addr":         func(o *Options) { o.Addrs = nil },
		"mqtt-version": func(o *Options) { o.Version = 3 },
		"duration":     func(o *Options) { o.Duration = 0 },
		"rate":         func(o *Options) { o.Rate = -1 },
		"drain":        func(o *Options) { o.Drain = 0 },
		"idle":         func(o *Options) { o.Scenario = Idle },
	} {
		o := Default()
		change(&o)
		_, err := Run(t.Context(), o)
		var e *OptionError
		if !errors.As(err, &e) || e.Option != option {
			t.Errorf("%s: got %v", option, err)
		}
	}
}

func TestResultTable(t *testing.T) {
	o := options(broker(t, nil))
	var out strings.Builder
	if err := mustRun(t, o).WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fan-in: 4 publishers", "publish to ack", "publish to receive", "longest silence", "lost 0"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}
