package transport_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// BenchmarkFrames sends small lane frames over one flow stream on loopback.
func BenchmarkFrames(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			c := newCluster(b, 2)
			defer c.close()
			got := make(chan struct{}, 1)
			n := 0 // the reader's goroutine
			c.opts = func(o *transport.Options) {
				o.OnFrame = func(string, *peerpb.Frame) {
					if n++; n == b.N {
						got <- struct{}{}
					}
				}
			}
			a, _ := c.startNode("node-1"), c.startNode("node-2")
			a.tr.Connect("node-2")
			f := &peerpb.Frame{Body: &peerpb.Frame_LaneItems{LaneItems: &peerpb.LaneItems{
				Lane:  &peerpb.Lane{Source: 1 << 40, Destination: 7},
				Items: []*peerpb.LaneItem{{Seq: 9, Prev: 8, Op: make([]byte, size)}},
			}}}
			eventually(b, 5*time.Second, "link", func() bool { return a.tr.Stats().LinkUps == 1 })
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				for !a.tr.Send("node-2", f) {
					time.Sleep(100 * time.Microsecond)
				}
			}
			<-got
		})
	}
}

// BenchmarkAppend measures one AppendEntries of one entry there and back.
func BenchmarkAppend(b *testing.B) {
	c := newCluster(b, 2)
	defer c.close()
	x, y := c.startNode("node-1"), c.startNode("node-2")
	to, from := y.tr.Raft(1, y.id()), x.tr.Raft(1, x.id())
	go func() {
		for rpc := range to.Consumer() { // the channel is never closed: ends with the process
			rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
		}
	}()
	req := entry(2)
	req.Entries[0].Data = make([]byte, 256)
	b.ReportAllocs()
	for range b.N {
		var resp raft.AppendEntriesResponse
		if err := from.AppendEntries(y.id(), "", req, &resp); err != nil {
			b.Fatal(err)
		}
	}
}
