package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// frame is a client's frame; length says what the header claims, if not the payload's.
func frame(first byte, payload string) []byte {
	key := [4]byte{0x12, 0x34, 0x56, 0x78}
	var b []byte
	switch n := len(payload); {
	case n < 126:
		b = []byte{first, 0x80 | byte(n)}
	case n < 1<<16:
		b = []byte{first, 0x80 | 126, byte(n >> 8), byte(n)}
	default:
		b = []byte{first, 0x80 | 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

// decode feeds bytes in pieces and says what came of them.
func decode(raw []byte, pieces func() int) (out string, err error) {
	var d Decoder
	var mqtt []byte
	var controls string
	control := func(op Opcode, payload []byte) error {
		controls += fmt.Sprintf(" %d:%s@%d", op, payload, len(mqtt))
		return nil
	}
	for len(raw) > 0 && err == nil {
		piece := bytes.Clone(raw[:min(len(raw), max(1, pieces()))])
		raw = raw[len(piece):]
		var n int
		n, err = d.Decode(piece, control)
		mqtt = append(mqtt, piece[:n]...)
	}
	if len(mqtt) > 50 {
		mqtt = fmt.Appendf(nil, "%d bytes, %.5s…", len(mqtt), mqtt)
	}
	return string(mqtt) + "|" + stripPositions(controls), err
}

// stripPositions leaves the order of control frames: where MQTT bytes are at the time
// depends on the pieces.
func stripPositions(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '@' {
			for i+1 < len(s) && s[i+1] != ' ' {
				i++
			}
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func TestDecoder(t *testing.T) {
	large := string(bytes.Repeat([]byte("0123456789"), 7000))
	for _, tt := range []struct {
		name   string
		raw    []byte
		want   string // MQTT bytes | control frames
		status Status // 0: no error
		clause string // of an *Error
	}{
		{"one frame", frame(0x82, "hello"), "hello|", 0, ""},
		{"several frames", cat(frame(0x82, "he"), frame(0x82, "llo")), "hello|", 0, ""}, // [MQTT-6.0.0-2]
		{"fragments", cat(frame(0x02, "he"), frame(0x00, "l"), frame(0x80, "lo")), "hello|", 0, ""},
		{"empty frames", cat(frame(0x82, ""), frame(0x02, ""), frame(0x80, "x"), frame(0x82, "")), "x|", 0, ""},
		{"126 bytes", frame(0x82, large[:126]), "126 bytes, 01234…|", 0, ""},
		{"70,000 bytes", frame(0x82, large), "70000 bytes, 01234…|", 0, ""},
		{"ping", frame(0x89, "are you there"), "| 9:are you there", 0, ""},
		{"ping within a message", cat(frame(0x02, "a"), frame(0x89, ""), frame(0x8a, "p"), frame(0x80, "b")), "ab| 9: 10:p", 0, ""},
		{"largest ping", frame(0x89, large[:125]), "| 9:" + large[:125], 0, ""},
		{"text", cat(frame(0x82, "a"), frame(0x81, "b")), "a|", UnsupportedData, "MQTT-6.0.0-1"},
		{"fragmented text", frame(0x01, "b"), "|", UnsupportedData, "MQTT-6.0.0-1"},
		{"reserved data type", frame(0x83, "b"), "|", UnsupportedData, "MQTT-6.0.0-1"},
		{"reserved control type", frame(0x8b, "b"), "|", UnsupportedData, "MQTT-6.0.0-1"},
		{"not masked", []byte{0x82, 1, 'a'}, "|", ProtocolError, "RFC 6455 5.1"},
		{"compressed", frame(0xc2, "a"), "|", ProtocolError, "RFC 6455 5.2"},
		{"message in a message", cat(frame(0x02, "a"), frame(0x82, "b")), "a|", ProtocolError, "RFC 6455 5.4"},
		{"continuation of nothing", frame(0x80, "b"), "|", ProtocolError, "RFC 6455 5.4"},
		{"continuation after the end", cat(frame(0x02, "a"), frame(0x80, "b"), frame(0x80, "c")), "ab|", ProtocolError, "RFC 6455 5.4"},
		{"fragmented ping", frame(0x09, "a"), "|", ProtocolError, "RFC 6455 5.5"},
		{"long ping", frame(0x89, large[:126]), "|", ProtocolError, "RFC 6455 5.5"},
		{"absurd length", []byte{0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, "|", ProtocolError, "RFC 6455 5.2"},
		{"close", cat(frame(0x82, "a"), frame(0x88, ""), frame(0x82, "b")), "a|", NormalClosure, ""},
		{"close with status", frame(0x88, "\x03\xe9bye"), "|", 1001, ""},
		{"close with own status", frame(0x88, "\x0f\xa0"), "|", 4000, ""},
		{"close with half a status", frame(0x88, "\x03"), "|", ProtocolError, "RFC 6455 5.5.1"},
		{"close with a status that may not be there", frame(0x88, "\x03\xed"), "|", ProtocolError, "RFC 6455 7.4"},
		{"close with a reason that is not UTF-8", frame(0x88, "\x03\xe8\xff"), "|", InvalidPayload, "RFC 6455 5.5.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const seed = 5
			rnd := rand.New(rand.NewPCG(seed, seed))
			for name, pieces := range map[string]func() int{
				"at once": func() int { return len(tt.raw) }, "byte by byte": func() int { return 1 },
				"in pieces": func() int { return rnd.IntN(20) },
			} {
				got, err := decode(tt.raw, pieces)
				var broken *Error
				var closed *ClosedError
				var status Status
				clause := ""
				switch {
				case errors.As(err, &broken):
					status, clause = broken.Status, broken.Clause
				case errors.As(err, &closed):
					status = closed.Reply()
				case err != nil:
					t.Fatal(err)
				}
				if got != tt.want || status != tt.status || clause != tt.clause {
					t.Errorf("%s: got %q, status %d, %q; want %q, status %d, %q", name, got, status, clause, tt.want, tt.status, tt.clause)
				}
			}
		})
	}
}

// TestControlEndsDecoding: an error of control is the error of Decode, with the bytes
// before it.
func TestControlEndsDecoding(t *testing.T) {
	var d Decoder
	failed := errors.New("cannot write")
	raw := cat(frame(0x82, "ab"), frame(0x89, ""), frame(0x82, "cd"))
	n, err := d.Decode(raw, func(Opcode, []byte) error { return failed })
	if !errors.Is(err, failed) || string(raw[:n]) != "ab" {
		t.Errorf("got %q, %v", raw[:n], err)
	}
}

func TestAppendHeader(t *testing.T) {
	for n, want := range map[int]string{
		0: "8200", 125: "827d", 126: "827e007e", 65535: "827effff", 65536: "827f0000000000010000",
	} {
		if got := fmt.Sprintf("%x", AppendHeader(nil, Binary, n)); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
	if got := fmt.Sprintf("%x", AppendClose(nil, UnsupportedData)); got != "880203eb" {
		t.Errorf("close: %s", got)
	}
}

// FuzzDecoder: whatever comes, the pieces in which it comes change nothing, and no more
// bytes come out than went in.
func FuzzDecoder(f *testing.F) {
	f.Add(cat(frame(0x02, "he"), frame(0x89, "ping"), frame(0x80, "llo"), frame(0x88, "\x03\xe8")), uint8(3))
	f.Add(frame(0x82, string(make([]byte, 300))), uint8(7))
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4}, uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, piece uint8) {
		whole, err := decode(raw, func() int { return len(raw) })
		parts, err2 := decode(raw, func() int { return int(piece) })
		if whole != parts || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Errorf("at once %q, %v; in pieces of %d: %q, %v", whole, err, piece, parts, err2)
		}
		if len(whole) > len(raw)+200 {
			t.Errorf("%d bytes came of %d", len(whole), len(raw))
		}
	})
}
