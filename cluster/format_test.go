package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// A node stops at what a newer release wrote, instead of guessing: an entry of
// another format, or with an op of an unknown kind. It does so again after a
// restart: the entry is committed, and only a release that knows it can go on.
func TestEntryOfNewerReleaseStopsTheNode(t *testing.T) {
	unknown := []byte{0xfa, 0x07, 0x00} // field 127, empty
	for _, tc := range []struct {
		name  string
		entry *logpb.Entry
		want  error
	}{
		{"format", &logpb.Entry{Format: 99}, fsm.ErrFormat},
		{"op", &logpb.Entry{Format: 1, Time: 1 << 50, Ops: []*logpb.LaneOp{{IsLeader: true, Op: unknown}}}, fsm.ErrUnknownOp},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startClusterWith(t, 1, func(o *Options) { o.Partitions = 1 })
			n := c.nodes[0]
			data, err := tc.entry.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			f := n.replicas.at(0).raft.Apply(data, 0)
			n.mustStop(t, tc.want)
			if err := f.Error(); err != nil {
				t.Fatal(err) // it is committed all the same
			}
			if err := n.Abort(); err != nil {
				t.Fatal(err)
			}
			c.start(0, 1, n.o.Dir).mustStop(t, tc.want)
		})
	}
}

// mustStop waits until the node would end its process.
func (n *testNode) mustStop(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-n.fatal:
		if !errors.Is(err, want) || !errors.Is(err, errNewer) {
			t.Errorf("the node stopped with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the node goes on")
	}
}

// So it does at a snapshot that it does not know.
func TestSnapshotOfNewerReleaseStopsTheNode(t *testing.T) {
	header, err := (&logpb.SnapshotRecord{Body: &logpb.SnapshotRecord_Header{
		Header: &logpb.SnapshotHeader{Format: 99, Partitions: 1},
	}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var stopped error
	sm := newStateMachine(0, 1, func(err error) { stopped = err })
	stream := append(binary.AppendUvarint(nil, uint64(len(header))), header...)
	err = sm.Restore(io.NopCloser(bytes.NewReader(stream)))
	if !errors.Is(err, errNewer) || !errors.Is(stopped, fsm.ErrFormat) {
		t.Errorf("restored with %v, stopped with %v", err, stopped)
	}
}
