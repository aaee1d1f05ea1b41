package packet

import "errors"

// MaxRemaining is the largest Remaining Length: the bytes after the fixed header.
const MaxRemaining = 268_435_455

// MaxHeader is the longest fixed header in bytes.
const MaxHeader = 5

// ErrShort says that more bytes must be read before the fixed header is complete.
var ErrShort = errors.New("packet: fixed header is incomplete")

// Frame reads the fixed header at the beginning of buf: the packet's first byte and
// where its body begins and how long it is. The body itself need not be in buf, so
// that a reader with a small buffer can refuse a packet of start+length bytes before
// it makes room for it. The error is ErrShort, or an *Error for a length that is
// longer than four bytes or than it needs to be [MQTT-1.5.5-1].
func Frame(buf []byte) (header byte, start, length int, err error) {
	for i := 1; i < len(buf); i++ {
		b := buf[i]
		length |= int(b&0x7f) << (7 * (i - 1))
		switch {
		case b == 0 && i > 1:
			return 0, 0, 0, &Error{Code: MalformedPacket, Clause: "MQTT-1.5.5-1", Detail: "remaining length has needless bytes"}
		case b < 0x80:
			return buf[0], i + 1, length, nil
		case i == 4:
			return 0, 0, 0, &Error{Code: MalformedPacket, Clause: "1.5.5", Detail: "remaining length has more than four bytes"}
		}
	}
	return 0, 0, 0, ErrShort
}
