package mqtt

import (
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// away is set while clients are sent to other servers.
type away struct {
	elsewhere string        // as a Server Reference
	stop      chan struct{} // closed when clients are welcome again
}

// SendAway ends all connections, spread evenly over a time, so that the servers to which
// the clients turn are not overrun: with 0x9C and the Server Reference elsewhere, if it is
// not empty, for MQTT 5 clients [MQTT-4.13.1-1]. It returns at once. That no new clients
// come is the Cluster's to see to (Available).
func (s *Server) SendAway(over time.Duration, elsewhere string) {
	a := &away{elsewhere: elsewhere, stop: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping() || s.away.Load() != nil {
		return
	}
	s.away.Store(a)
	s.tasks.Go(func() { s.sendAway(a, over) })
}

// Welcome ends SendAway.
func (s *Server) Welcome() {
	if a := s.away.Swap(nil); a != nil {
		close(a.stop)
	}
}

func (s *Server) sendAway(a *away, over time.Duration) {
	var all []*socket
	s.sockets.each(func(k *socket) { all = append(all, k) })
	began := time.Now()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for i, k := range all {
		tick.Reset(time.Until(began.Add(over * time.Duration(i) / time.Duration(len(all)))))
		select {
		case <-tick.C:
		case <-a.stop:
			return
		case <-s.stop:
			return
		}
		k.c.end(ending{Code: packet.UseAnotherServer})
	}
}
