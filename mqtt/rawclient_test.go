package mqtt

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// rawClient speaks MQTT over a network connection, packet by packet.
type rawClient struct {
	t       testing.TB
	nc      net.Conn
	r       *bufio.Reader
	version byte
}

func newRawClient(t testing.TB, nc net.Conn, version byte) *rawClient {
	return &rawClient{t: t, nc: nc, r: bufio.NewReader(nc), version: version}
}

func dialRaw(t testing.TB, addr string, version byte) *rawClient {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return newRawClient(t, nc, version)
}

func (k *rawClient) send(ps ...packet.Packet) {
	k.t.Helper()
	var raw []byte
	for _, p := range ps {
		raw = p.AppendTo(raw, k.version)
	}
	k.write(raw)
}

func (k *rawClient) write(raw []byte) {
	k.t.Helper()
	if _, err := k.nc.Write(raw); err != nil {
		k.t.Fatal(err)
	}
}

// next reads one packet; nil: the server has closed the connection.
func (k *rawClient) next() packet.Packet {
	k.t.Helper()
	k.nc.SetReadDeadline(time.Now().Add(10 * patience))
	p, err := k.read()
	if err != nil && !errors.Is(err, io.EOF) {
		k.t.Fatal(err)
	}
	return p
}

func (k *rawClient) read() (packet.Packet, error) {
	head, err := k.r.Peek(2)
	if err != nil {
		return nil, err
	}
	for n := 3; ; n++ {
		header, start, length, err := packet.Frame(head)
		if err == nil {
			body := make([]byte, start+length)
			if _, err := io.ReadFull(k.r, body); err != nil {
				return nil, err
			}
			return packet.Decode(header, body[start:], k.version)
		}
		if !errors.Is(err, packet.ErrShort) {
			return nil, err
		}
		if head, err = k.r.Peek(n); err != nil {
			return nil, err
		}
	}
}

// expect checks the next packets; "closed" is the end of the connection.
func (k *rawClient) expect(want ...string) {
	k.t.Helper()
	for _, w := range want {
		got := "closed"
		if p := k.next(); p != nil {
			got = describe(p)
		}
		if got != w {
			k.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func (k *rawClient) connect(change func(*packet.Connect)) {
	k.t.Helper()
	p := connectPacket(k.version)
	if change != nil {
		change(p)
	}
	k.send(p)
	k.expect("CONNACK 00")
}
