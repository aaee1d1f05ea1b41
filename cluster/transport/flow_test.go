package transport_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// recorder notes what a node's callbacks heard.
type recorder struct {
	mu     sync.Mutex
	frames map[string][]uint64 // by sender, the ids of RetainedRead frames
	links  map[string][]bool
	gate   chan struct{} // if not nil, OnFrame waits for it
}

func (r *recorder) options(o *transport.Options) {
	r.frames, r.links = map[string][]uint64{}, map[string][]bool{}
	o.OnFrame = func(node string, f *peerpb.Frame) {
		if r.gate != nil {
			<-r.gate
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.frames[node] = append(r.frames[node], f.GetRetainedRead().GetId())
	}
	o.OnLink = func(node string, up bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.links[node] = append(r.links[node], up)
	}
}

func (r *recorder) from(node string) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]uint64(nil), r.frames[node]...)
}

func (r *recorder) link(node string) (up bool, changes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.links[node]
	for i, v := range l {
		if v != (i%2 == 0) {
			panic(fmt.Sprintf("OnLink does not alternate: %v", l))
		}
	}
	return len(l) > 0 && l[len(l)-1], len(l)
}

func frame(id uint64) *peerpb.Frame {
	return &peerpb.Frame{Body: &peerpb.Frame_RetainedRead{RetainedRead: &peerpb.RetainedRead{Id: id}}}
}

// pair is two nodes, a connected to b.
func pair(t *testing.T, change func(name string, o *transport.Options)) (*testCluster, *testNode, *testNode, map[string]*recorder) {
	c := newCluster(t, 2)
	recs := map[string]*recorder{}
	for _, name := range c.names {
		rec := &recorder{}
		recs[name] = rec
		c.opts = func(o *transport.Options) {
			rec.options(o)
			if change != nil {
				change(name, o)
			}
		}
		c.startNode(name)
	}
	return c, c.nodes["node-1"], c.nodes["node-2"], recs
}

func TestFramesArriveInOrder(t *testing.T) {
	leaks := noLeaks(t)
	c, a, b, recs := pair(t, nil)
	if a.tr.Send("node-2", frame(1)) {
		t.Fatal("Send before Connect")
	}
	a.tr.Connect("node-2")
	b.tr.Connect("node-1")
	for _, x := range []struct{ rec, peer string }{{"node-1", "node-2"}, {"node-2", "node-1"}} {
		eventually(t, 5*time.Second, "link", func() bool { up, _ := recs[x.rec].link(x.peer); return up })
	}
	const n = 20000
	for i := uint64(1); i <= n; i++ {
		eventually(t, 5*time.Second, "room in the queue", func() bool { return a.tr.Send("node-2", frame(i)) })
		if i%10 == 0 {
			b.tr.Send("node-1", frame(i/10))
		}
	}
	check := func(rec *recorder, from string, want int) {
		t.Helper()
		eventually(t, 10*time.Second, "all frames", func() bool { return len(rec.from(from)) == want })
		for i, id := range rec.from(from) {
			if id != uint64(i+1) {
				t.Fatalf("frame %d has id %d", i, id)
			}
		}
	}
	check(recs["node-2"], "node-1", n)
	check(recs["node-1"], "node-2", n/10)
	if s := a.tr.Stats(); s.BatchesSent >= s.FramesSent {
		t.Errorf("frames were not batched: %+v", s)
	}
	c.close()
	leaks()
}

func TestSilentPeerIsNoticedAndComesBack(t *testing.T) {
	c, a, b, recs := pair(t, nil)
	defer c.close()
	a.tr.Connect("node-2")
	b.tr.Connect("node-1")
	rec := recs["node-1"]
	eventually(t, 5*time.Second, "link", func() bool { up, _ := rec.link("node-2"); return up })
	cut := time.Now()
	c.faults.set("node-1", "node-2", true)
	eventually(t, 10*time.Second, "link down", func() bool { up, _ := rec.link("node-2"); return !up })
	if took := time.Since(cut); took > 3500*time.Millisecond {
		t.Errorf("silence noticed after %v", took)
	}
	if a.tr.Send("node-2", frame(1)) {
		t.Error("Send on a broken link")
	}
	c.faults.set("node-1", "node-2", false)
	healed := time.Now()
	eventually(t, 10*time.Second, "link up", func() bool { up, _ := rec.link("node-2"); return up })
	if took := time.Since(healed); took > 2500*time.Millisecond {
		t.Errorf("back after %v", took)
	}
	t.Logf("noticed and back: back after %v", time.Since(healed))
}

func TestDeadPeerIsNoticedAtOnce(t *testing.T) {
	c, a, b, recs := pair(t, nil)
	defer c.close()
	a.tr.Connect("node-2")
	rec := recs["node-1"]
	eventually(t, 5*time.Second, "link", func() bool { up, _ := rec.link("node-2"); return up })
	c.faults.reset("node-1", "node-2")
	start := time.Now()
	eventually(t, 5*time.Second, "a second link", func() bool { up, n := rec.link("node-2"); return up && n == 3 })
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("reset noticed and mended after %v", took)
	}
	b.tr.Close()
	start = time.Now()
	eventually(t, 5*time.Second, "link down", func() bool { up, _ := rec.link("node-2"); return !up })
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("end noticed after %v", took)
	}
	// It comes back under another address.
	c.opts = recs["node-2"].options
	c.startNode("node-2")
	start = time.Now()
	eventually(t, 5*time.Second, "a third link", func() bool { up, _ := rec.link("node-2"); return up })
	t.Logf("reached the new address after %v", time.Since(start))
}

func TestDisconnect(t *testing.T) {
	c, a, _, recs := pair(t, nil)
	defer c.close()
	for range 3 {
		a.tr.Connect("node-2")
		eventually(t, 5*time.Second, "link", func() bool { up, _ := recs["node-1"].link("node-2"); return up })
		a.tr.Disconnect("node-2")
		eventually(t, 5*time.Second, "no link", func() bool { up, _ := recs["node-1"].link("node-2"); return !up })
		if a.tr.Send("node-2", frame(1)) {
			t.Fatal("Send after Disconnect")
		}
	}
}

// A newer stream of a node takes the place of the older one, and frames of both
// never mix.
func TestNewerStreamReplacesOlder(t *testing.T) {
	gate := make(chan struct{})
	c, a, b, recs := pair(t, nil)
	defer c.close()
	recs["node-2"].gate = gate
	a.tr.Connect("node-2")
	up := func() bool { up, _ := recs["node-1"].link("node-2"); return up }
	eventually(t, 5*time.Second, "link", up)
	for i := range uint64(5) {
		a.tr.Send("node-2", frame(i+1))
	}
	eventually(t, 5*time.Second, "the receiver is busy", func() bool { return b.tr.Stats().FramesReceived > 0 })
	a.tr.Disconnect("node-2")
	a.tr.Connect("node-2")
	close(gate)
	eventually(t, 10*time.Second, "link", up)
	eventually(t, 5*time.Second, "room", func() bool { return a.tr.Send("node-2", frame(100)) })
	eventually(t, 5*time.Second, "the last frame", func() bool {
		ids := recs["node-2"].from("node-1")
		return len(ids) > 0 && ids[len(ids)-1] == 100
	})
	ids := recs["node-2"].from("node-1")
	for i := 1; i < len(ids); i++ {
		if ids[i] <= ids[i-1] {
			t.Fatalf("frames of two streams mixed: %v", ids)
		}
	}
}

func TestPeerOfAnotherClusterOrFormatIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name    string
		hello   *peerpb.Hello
		counted string // "": it is let in
	}{
		{"another cluster", &peerpb.Hello{ClusterId: "other", Node: "node-2"}, "cluster"},
		{"another format", &peerpb.Hello{ClusterId: "c", Node: "node-2", Format: 9}, "format"},
		{"another node", &peerpb.Hello{ClusterId: "c", Node: "node-3"}, "node"},
		{"not founded yet", &peerpb.Hello{Node: "node-2"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, a, b, recs := pair(t, func(name string, o *transport.Options) {
				o.Logger = nil
				if name == "node-2" {
					o.Hello = func() *peerpb.Hello { return tc.hello }
				}
			})
			defer c.close()
			a.tr.Connect("node-2")
			if tc.counted == "" {
				eventually(t, 5*time.Second, "link", func() bool { up, _ := recs["node-1"].link("node-2"); return up })
				return
			}
			eventually(t, 5*time.Second, "a counted refusal", func() bool {
				return a.tr.Stats().RefusedPeers[tc.counted]+b.tr.Stats().RefusedPeers[tc.counted] >= 3 // again and again
			})
			if _, n := recs["node-1"].link("node-2"); n != 0 {
				t.Error("the link came up")
			}
		})
	}
}

// echo is a unary service without generated code.
var echo = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue) // no generated fast path: the codec falls back
			return in, dec(in)
		},
	}},
}

func TestUnaryCallsSurviveReconnects(t *testing.T) {
	c := newCluster(t, 2)
	var l net.Listener
	c.listen = func(string) (_ net.Listener, err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return l, err }
	a := c.startNode("node-1")
	defer c.close()
	conn, err := a.tr.Conn("node-2")
	if err != nil {
		t.Fatal(err)
	}
	call := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		out := new(wrapperspb.StringValue)
		err := conn.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("hello"), out)
		if err == nil && out.Value != "hello" {
			t.Fatalf("echo said %q", out.Value)
		}
		return err
	}
	if err := call(); status.Code(err) != codes.Unavailable {
		t.Fatalf("call to nobody: %v", err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr, err := transport.New(transport.Options{
		Hello:    func() *peerpb.Hello { return &peerpb.Hello{ClusterId: "c", Node: "node-2"} },
		Listener: lis, Resolve: c.resolve,
	})
	if err != nil {
		t.Fatal(err)
	}
	tr.Registrar().RegisterService(&echo, nil)
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.nodes["node-2"] = &testNode{name: "node-2", addr: lis.Addr().String(), tr: tr}
	c.mu.Unlock()
	a.tr.Connect("node-2")
	eventually(t, 5*time.Second, "a call", func() bool { return call() == nil })
	c.faults.reset("node-1", "node-2")
	eventually(t, 5*time.Second, "a call after a reset", func() bool { return call() == nil })
}
