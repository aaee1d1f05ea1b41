package cluster

import (
	"github.com/flotilla-mqtt/flotilla/fsm"
	"github.com/flotilla-mqtt/flotilla/proto/logpb"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

// answerFromReplica is what a planted bug does, see package proof/mutant: retained messages are read
// from this node's replica, whether it leads or not.
func (n *Node) answerFromReplica(from string, q *peerpb.RetainedRead) {
	d := &peerpb.RetainedData{Partition: q.Partition, Id: q.Id}
	n.replicas[q.Partition].Load().sm.read(func(m *fsm.Machine) {
		for _, f := range q.Filters {
			m.RetainedMatch(f, func(msg *logpb.Message) bool {
				b, err := remaining(msg, m.Time()).MarshalVT()
				d.Messages = append(d.Messages, b)
				return err == nil
			})
		}
	})
	n.send(from, &peerpb.Frame{Body: &peerpb.Frame_RetainedData{RetainedData: d}})
}
