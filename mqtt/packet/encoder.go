package packet

import (
	"encoding/binary"
	"math"
)

func appendU16(dst []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(dst, v) }
func appendU32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }

// appendText appends a string or byte string with its length before it.
func appendText[T string | []byte](dst []byte, s T) []byte {
	if len(s) > math.MaxUint16 {
		panic("packet: a string is longer than 65535 bytes")
	}
	return append(appendU16(dst, uint16(len(s))), s...)
}

// appendVarint appends a Variable Byte Integer in its shortest form [MQTT-1.5.5-1].
func appendVarint(dst []byte, v int) []byte {
	if v < 0 || v > MaxRemaining {
		panic("packet: a length exceeds 268435455")
	}
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// varintSize is the number of bytes of appendVarint.
func varintSize(v int) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	}
	return 4
}

// prefixLength puts the length of dst[at:] before it, as a Variable Byte Integer.
// dst[at-1] must be a byte that was kept free for it, which is all that most need.
func prefixLength(dst []byte, at int) []byte {
	n := len(dst) - at
	if extra := varintSize(n) - 1; extra > 0 {
		dst = append(dst, make([]byte, extra)...)
		copy(dst[at+extra:], dst[at:at+n])
	}
	appendVarint(dst[:at-1], n)
	return dst
}

// begin appends the first byte of a packet and a free byte for its length.
func begin(dst []byte, t Type, flags byte) []byte { return append(dst, byte(t)<<4|flags, 0) }

func b2i(b bool) byte {
	if b {
		return 1
	}
	return 0
}
