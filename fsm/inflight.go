package fsm

// flight is an outgoing QoS 1 or 2 flow. All fields but at are immutable, since a
// frozen snapshot may read them; a step of the flow makes a new flight.
type flight struct {
	seq      uint64 // delivery number, growing in the order of first sending
	packetID uint16
	pubrec   bool    // the client has the message; PUBREL is next
	q        *queued // nil once pubrec
	epoch    uint64  // connection that it was first sent on
	sent     uint64  // connection that its PUBLISH was last sent on
	at       int     // position in order; never read from a frozen session
}

// inflight holds a session's outgoing flows by packet id and in delivery order.
type inflight struct {
	order []*flight // nil where a flow has ended
	head  int       // everything before it has ended
	// byID is never read from a frozen session.
	byID map[uint16]*flight
}

func (f *inflight) len() int { return len(f.byID) }

func (f *inflight) add(x *flight) {
	if f.byID == nil {
		f.byID = make(map[uint16]*flight)
	}
	if len(f.order) == cap(f.order) && len(f.order) >= 2*len(f.byID) {
		f.compact()
	}
	x.at = len(f.order)
	f.order = append(f.order, x)
	f.byID[x.packetID] = x
}

// find returns the flow of a packet id, or nil.
func (f *inflight) find(id uint32) *flight {
	if id > 65535 {
		return nil
	}
	return f.byID[uint16(id)]
}

// replace puts the next step of a flow in the place of the one before.
func (f *inflight) replace(old, x *flight) {
	x.at = old.at
	f.order[x.at] = x
	f.byID[x.packetID] = x
}

func (f *inflight) remove(x *flight) {
	f.order[x.at] = nil
	delete(f.byID, x.packetID)
	for f.head < len(f.order) && f.order[f.head] == nil {
		f.head++
	}
	if f.head == len(f.order) {
		f.order, f.head = f.order[:0], 0
	}
}

// compact closes the gaps. Some flows may stay for long while others come and
// go behind them.
func (f *inflight) compact() {
	kept := f.order[:0]
	for _, x := range f.order[f.head:] {
		if x != nil {
			kept = append(kept, x)
		}
	}
	clear(f.order[len(kept):])
	f.order, f.head = kept, 0
	for i, x := range f.order {
		x.at = i
	}
}

// freeID returns the next free packet id after last: 1 to 65535, wrapping
// [MQTT-2.2.1-4]. The caller knows that there is one.
func (f *inflight) freeID(last uint16) uint16 {
	for {
		last++
		if last == 0 {
			continue
		}
		if _, used := f.byID[last]; !used {
			return last
		}
	}
}

// each visits the flows in delivery order.
func (f *inflight) each(fn func(*flight) bool) {
	for _, x := range f.order[f.head:] {
		if x != nil && !fn(x) {
			return
		}
	}
}

// clone copies what a snapshot reads; the map goes with the clone.
func (f *inflight) clone() inflight {
	c := *f
	c.order = append([]*flight(nil), f.order...)
	return c
}
