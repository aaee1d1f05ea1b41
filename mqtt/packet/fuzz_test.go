package packet

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// seeds gives each packet of the golden and malformed tables to add.
func seeds(add func(header byte, body []byte, version byte)) {
	for _, table := range [][]golden{goldenConnect, goldenConnack, goldenPublish, goldenAcks, goldenSubscribe, goldenOthers} {
		for _, g := range table {
			b := wire(g.wire)
			_, start, _, err := Frame(b)
			if err != nil {
				panic(err)
			}
			add(b[0], b[start:], g.version)
		}
	}
	for _, table := range [][]malformed{malformedConnect, malformedConnack, malformedPublish, malformedProperties, malformedAcks, malformedSubscribe, malformedOthers} {
		for _, m := range table {
			add(wire(m.header)[0], wire(m.body), m.version)
		}
	}
}

// anyVersion makes a version of any byte.
func anyVersion(b byte) byte { return V31 + b%3 }

// FuzzDecode feeds the decoder with anything. It must not panic, must not change its
// input, and what it accepts must survive being encoded and decoded again.
func FuzzDecode(f *testing.F) {
	seeds(func(header byte, body []byte, version byte) { f.Add(header, body, version-V31) })
	f.Fuzz(func(t *testing.T, header byte, body []byte, v byte) {
		version := anyVersion(v)
		before := bytes.Clone(body)
		p, err := Decode(header, body, version)
		if !bytes.Equal(before, body) {
			t.Fatal("Decode changes its input")
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || !e.Code.Failed() || e.Clause == "" || e.Detail == "" {
				t.Fatalf("error says too little: %#v", err)
			}
			return
		}
		if p.Type() != Type(header>>4) {
			t.Fatalf("type %v of header %#x", p.Type(), header)
		}
		encoded := p.AppendTo(nil, version)
		h, start, n, err := Frame(encoded)
		if err != nil || start+n != len(encoded) {
			t.Fatalf("encoded packet has a bad frame: % x", encoded)
		}
		q, err := Decode(h, encoded[start:], version)
		if err != nil {
			t.Fatalf("%+v is refused after encoding: %v", p, err)
		}
		if !reflect.DeepEqual(p, q) {
			t.Fatalf("decoded    %+v\nand again  %+v", p, q)
		}
		if again := q.AppendTo(nil, version); !bytes.Equal(encoded, again) {
			t.Fatalf("encoded    % x\nand again  % x", encoded, again)
		}
	})
}

// FuzzFrame compares the fixed header with a plain reading of section 1.5.5.
func FuzzFrame(f *testing.F) {
	for _, s := range []string{"", "30", "30 00", "30 80", "30 8001", "30 8000", "30 ffffff7f", "30 ffffffff"} {
		f.Add(wire(s))
	}
	f.Fuzz(func(t *testing.T, buf []byte) {
		header, start, length, err := Frame(buf)
		if err != nil {
			var e *Error
			if !errors.Is(err, ErrShort) && !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if errors.Is(err, ErrShort) && len(buf) >= MaxHeader {
				t.Fatal("ErrShort although five bytes are there")
			}
			return
		}
		if again := appendVarint([]byte{header}, length); !bytes.Equal(again, buf[:start]) {
			t.Fatalf("% x is read as length %d, which is % x", buf[:start], length, again)
		}
	})
}
