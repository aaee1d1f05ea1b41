package mqtt

import "github.com/flotilla-mqtt/flotilla/mqtt/packet"

// answers puts acknowledgements that come in any order into the order of what they
// acknowledge.
type answers struct {
	list []answer
	head int    // list[head:] waits
	base uint32 // number of list[0]; wraps around
}

type answer struct {
	id    uint16
	code  packet.ReasonCode
	ready bool
}

// add opens a place for the answer to a packet identifier and returns its number.
func (a *answers) add(id uint16) uint32 {
	a.list = append(a.list, answer{id: id})
	return a.base + uint32(len(a.list)-1)
}

// ready fills in the answer with a number.
func (a *answers) ready(n uint32, code packet.ReasonCode) {
	e := &a.list[n-a.base]
	e.code, e.ready = code, true
}

// next takes the oldest answer, if it is there.
func (a *answers) next() (answer, bool) {
	if a.head == len(a.list) || !a.list[a.head].ready {
		return answer{}, false
	}
	e := a.list[a.head]
	a.head++
	if a.head == len(a.list) || a.head >= 256 && a.head >= len(a.list)/2 {
		a.base += uint32(a.head)
		a.list = a.list[:copy(a.list, a.list[a.head:])]
		a.head = 0
	}
	return e, true
}
