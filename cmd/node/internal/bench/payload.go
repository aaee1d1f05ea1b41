package bench

import "encoding/binary"

// MinSize is the smallest payload: what the generator itself has to say.
const MinSize = 24

// magic starts every payload of the generator.
const magic = 0x464C4231

// putPayload writes publisher, number and time of sending (nanoseconds since
// the run began) to the beginning of a payload.
func putPayload(b []byte, publisher uint32, seq uint64, sent int64) {
	_ = b[MinSize-1]
	binary.BigEndian.PutUint32(b, magic)
	binary.BigEndian.PutUint32(b[4:], publisher)
	binary.BigEndian.PutUint64(b[8:], seq)
	binary.BigEndian.PutUint64(b[16:], uint64(sent))
}

func readPayload(b []byte) (publisher uint32, seq uint64, sent int64, ok bool) {
	if len(b) < MinSize || binary.BigEndian.Uint32(b) != magic {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]), int64(binary.BigEndian.Uint64(b[16:])), true
}
