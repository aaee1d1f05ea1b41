package control

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// real is one node of a group on loopback, on real time.
type real struct {
	name string
	disk *disk
	ctl  *Control
	tr   *transport.Transport
}

// realGroup starts n nodes on the transport they have in earnest.
func realGroup(tb testing.TB, n int) []*real {
	tb.Helper()
	table := discovery.NewTable()
	var nodes []*real
	for i := range n {
		x := &real{name: string(rune('a' + i)), disk: newDisk(uint64(i + 1))}
		x.open(tb, table, n)
		nodes = append(nodes, x)
	}
	tb.Cleanup(func() {
		for _, x := range nodes {
			x.close()
		}
	})
	for _, x := range nodes {
		if err := x.ctl.Start(); err != nil {
			tb.Fatal(err)
		}
	}
	return nodes
}

func (x *real) open(tb testing.TB, table *discovery.Table, n int) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	view := table.Node(x.name)
	x.tr, err = transport.New(transport.Options{
		Hello:    func() *peerpb.Hello { return &peerpb.Hello{Node: x.name, Disk: x.disk.incarnation} },
		Listener: l, Resolve: view.Resolve,
		OnLink: func(node string, up bool) {
			if !up {
				x.ctl.Suspect(node)
			}
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	id := raft.ServerID(fmt.Sprintf("%s#%016x", x.name, x.disk.incarnation))
	x.ctl, err = Open(Options{
		Node: x.name, Disk: x.disk.incarnation, ServerID: id, Expect: n,
		Store: x.disk, Stable: x.disk, Snapshots: x.disk.snaps, Meta: x.disk,
		Transport: x.tr.Raft(1<<16, id), Conn: x.tr.Conn, Registrar: x.tr.Registrar(), Discovery: view,
		Addresses: Addresses{Peer: l.Addr().String()},
		Fatal:     func(err error) { tb.Errorf("%s: fatal: %v", x.name, err) }, Logger: testLogger(x.name),
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := x.tr.Start(); err != nil {
		tb.Fatal(err)
	}
}

func (x *real) close() {
	if x.ctl == nil {
		return
	}
	x.tr.Close()
	x.ctl.Close()
	x.ctl = nil
}

// serve starts an incarnation on each node, and waits until they may serve.
func serve(tb testing.TB, nodes []*real) {
	tb.Helper()
	var wg sync.WaitGroup
	for _, x := range nodes {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			changed, stop := x.ctl.Watch()
			defer stop()
			if _, err := x.ctl.StartIncarnation(ctx); err != nil {
				tb.Errorf("%s: %v", x.name, err)
				return
			}
			for !x.ctl.LeaseValid() || !x.ctl.EveryoneKnows() {
				select {
				case <-changed:
				case <-ctx.Done():
					tb.Errorf("%s: serves nobody after 20 s", x.name)
					return
				}
			}
		})
	}
	wg.Wait()
}

// The whole story on real time and the real transport: found, serve, lose the
// leader.
func TestOverGRPC(t *testing.T) {
	from := time.Now()
	nodes := realGroup(t, 3)
	serve(t, nodes)
	t.Logf("serving %v after the start", time.Since(from))
	var victim *real
	var rest []*real
	leader, _ := nodes[0].ctl.Leader()
	for _, x := range nodes {
		if x.name == leader {
			victim = x
		} else {
			rest = append(rest, x)
		}
	}
	if victim == nil {
		t.Fatalf("leader %q", leader)
	}
	gateway := victim.ctl.Gateway()
	from = time.Now()
	victim.close()
	for _, x := range rest {
		changed, stop := x.ctl.Watch()
		for !x.ctl.State().Closed(gateway) {
			select {
			case <-changed:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the leader's gateway is not closed after 10 s", x.name)
			}
		}
		stop()
		t.Logf("%s: closed after %v, lease valid: %v", x.name, time.Since(from), x.ctl.LeaseValid())
	}
}
