package workload_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/check"
	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
	"github.com/flotilla-mqtt/flotilla/proof/simnet"
	"github.com/flotilla-mqtt/flotilla/proof/toy"
	"github.com/flotilla-mqtt/flotilla/proof/workload"
)

var (
	firstSeed = flag.Uint64("seed", 1, "first seed of the runs against the toy broker")
	seedRuns  = flag.Uint64("seeds", 3, "how many seeds to acquit")
)

// run plays the workload against a toy broker whose nodes die and whose network stalls,
// and checks the history.
func run(t *testing.T, seed uint64, bugs toy.Bugs, faults int) *check.Report {
	t.Helper()
	var events []history.Event
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(seed, simnet.Link{Delay: 2 * time.Millisecond, Jitter: 10 * time.Millisecond})
		rec := history.NewRecorder()
		broker := toy.New(bugs)
		nodes := []string{"n1", "n2", "n3"}
		cfg := workload.Defaults(seed)
		cfg.Recorder = rec
		cfg.Dial = func(process string) client.Dialer { return n.Dialer(process) }
		serve := func(node string) {
			l, err := n.Listen(node, 1883)
			if err != nil {
				t.Fatal(err)
			}
			broker.Serve(node, l)
		}
		for _, node := range nodes {
			cfg.Targets = append(cfg.Targets, client.Target{Node: node, Addr: node + ":1883"})
			serve(node)
		}
		w := workload.New(cfg)
		w.Start()
		rng := rand.New(rand.NewPCG(seed, 99))
		for range faults {
			time.Sleep(time.Duration(1+rng.IntN(4)) * time.Second)
			node := nodes[rng.IntN(len(nodes))]
			switch rng.IntN(3) {
			case 0:
				rec.Fault(node, history.FaultKill)
				n.Crash(node)
				broker.Kill(node)
				time.Sleep(time.Second)
				n.Start(node)
				serve(node)
			case 1:
				rec.Fault(node, history.FaultReset)
				n.Reset(node, "sub0")
				n.Reset(node, "pub0")
			case 2: // long enough for keep alive to find it
				rec.Fault(node, history.FaultPartition)
				n.PartitionOneWay(node, "pub1")
				n.PartitionOneWay("sub3", node)
				time.Sleep(time.Duration(rng.IntN(6000)) * time.Millisecond)
				n.Heal()
			}
		}
		time.Sleep(5 * time.Second)
		rec.Heal()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		settled := w.Settle(ctx)
		events = rec.Events()
		w.Close()
		broker.Stop()
		if settled != nil && bugs == (toy.Bugs{}) {
			t.Errorf("seed %d: %v", seed, settled)
		}
	})
	o := check.Defaults()
	o.Transit = 10 * time.Second // partitions between clients and nodes stall what was sent
	o.RetainedWait = 2 * time.Second
	return check.Run(events, o)
}

func TestCorrectBrokerIsAcquitted(t *testing.T) {
	runs := *seedRuns
	if testing.Short() {
		runs = 1
	}
	for seed := *firstSeed; seed < *firstSeed+runs; seed++ {
		r := run(t, seed, toy.Bugs{}, 8)
		if len(r.Violations) > 0 || len(r.Undecided) > 0 {
			t.Errorf("seed %d (-args -seed %d): %s", seed, seed, r)
		}
		if err := r.Stats.Void(check.Full()); err != nil {
			t.Errorf("seed %d: %v: %s", seed, err, r.Stats)
		}
		t.Logf("seed %d: %s", seed, r.Stats)
	}
}

// TestPlantedBugsAreFound shows that the checker and the workload together find what the
// toy is told to do wrong, each within a few seeds.
func TestPlantedBugsAreFound(t *testing.T) {
	const seeds = 5
	for name, c := range map[string]struct {
		bugs toy.Bugs
		want int
	}{
		"queue lost at takeover":    {toy.Bugs{LoseQueueAtTakeover: true}, check.Loss},
		"inbound ids forgotten":     {toy.Bugs{ForgetInboundIDs: true}, check.Loss},
		"new ids on resend":         {toy.Bugs{NewIDsOnResend: true}, check.ExactlyOnce},
		"redelivered without DUP":   {toy.Bugs{NoDup: true}, check.Order},
		"PUBREL forgotten":          {toy.Bugs{ForgetPubrel: true}, check.PacketID},
		"resent in reverse":         {toy.Bugs{ReverseResend: true}, check.Order},
		"acknowledged, not stored":  {toy.Bugs{AckBeforeStore: true}, check.Loss},
		"Receive Maximum ignored":   {toy.Bugs{IgnoreReceiveMaximum: true}, check.PacketID},
		"no Session Present":        {toy.Bugs{NoSessionPresent: true}, check.SessionPresent},
		"wills dropped":             {toy.Bugs{DropWills: true}, check.Wills},
		"will after DISCONNECT":     {toy.Bugs{WillAfterDisconnect: true}, check.Wills},
		"stale retained":            {toy.Bugs{StaleRetained: true}, check.Retained},
		"delivered twice":           {toy.Bugs{DeliverTwice: true}, check.ExactlyOnce},
		"delivered twice at QoS 1":  {toy.Bugs{DeliverTwice: true}, check.Duplicate},
		"out of order":              {toy.Bugs{SwapOrder: true}, check.Order},
		"delivered after UNSUBACK":  {toy.Bugs{KeepAfterUnsubscribe: true}, check.Unsubscribed},
		"old connection not fenced": {toy.Bugs{NoFence: true}, check.Takeover},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := *firstSeed; seed < *firstSeed+seeds; seed++ {
				for _, v := range run(t, seed, c.bugs, 3).Violations {
					if v.Invariant == c.want {
						t.Logf("found with seed %d", seed)
						return
					}
				}
			}
			t.Errorf("not found in %d seeds from %d on", seeds, *firstSeed)
		})
	}
}
