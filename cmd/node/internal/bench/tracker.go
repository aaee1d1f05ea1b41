package bench

import "math/bits"

// tracker knows which messages of one publisher one subscriber has received.
// Numbers start at 0. It belongs to the subscriber's goroutine until that has ended.
type tracker struct {
	next       uint64   // all that is expected next, if everything comes in order
	seen       []uint64 // one bit for each number
	unique     uint64
	duplicates uint64
	disordered uint64 // first receptions with a lower number than one before
}

// receive notes a number and reports whether it is new.
func (t *tracker) receive(seq uint64) bool {
	word, bit := seq/64, uint64(1)<<(seq%64)
	for uint64(len(t.seen)) <= word {
		t.seen = append(t.seen, 0)
	}
	if t.seen[word]&bit != 0 {
		t.duplicates++
		return false
	}
	t.seen[word] |= bit
	t.unique++
	if seq < t.next {
		t.disordered++
	} else {
		t.next = seq + 1
	}
	return true
}

func (t *tracker) has(seq uint64) bool {
	return seq/64 < uint64(len(t.seen)) && t.seen[seq/64]&(1<<(seq%64)) != 0
}

// missing counts the numbers below sent that did not come, leaving out those
// that the publisher was never promised.
func (t *tracker) missing(sent uint64, unpromised []uint64) uint64 {
	var have uint64
	for i, w := range t.seen {
		if first := uint64(i) * 64; first+64 > sent {
			if first >= sent {
				break
			}
			w &= 1<<(sent-first) - 1
		}
		have += uint64(bits.OnesCount64(w))
	}
	lost := sent - have
	for _, seq := range unpromised {
		if seq < sent && !t.has(seq) {
			lost--
		}
	}
	return lost
}
