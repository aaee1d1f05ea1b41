package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster/transport/memnet"
)

func connect(t *testing.T, n *memnet.Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("b")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	client, err = n.Dialer("a")(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}

func TestBytesAndEOF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := connect(t, memnet.New())
		want := bytes.Repeat([]byte("0123456789"), 1<<19) // above the window
		go func() {
			if _, err := c.Write(want); err != nil {
				t.Error(err)
			}
			if _, err := c.Write(want); err != nil {
				t.Error(err)
			}
			c.Close()
		}()
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, append(want, want...)) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		s.Close()
	})
}

func TestCutDelayResetAndDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		c, s := connect(t, n)
		one := make([]byte, 1)
		took := func(want time.Duration, f func()) {
			t.Helper()
			start := time.Now()
			f()
			if got := time.Since(start); got != want {
				t.Fatalf("took %v, want %v", got, want)
			}
		}
		write := func() {
			t.Helper()
			if _, err := c.Write(one); err != nil {
				t.Fatal(err)
			}
		}
		read := func() {
			t.Helper()
			if _, err := s.Read(one); err != nil {
				t.Fatal(err)
			}
		}
		n.Delay("a", "b", 30*time.Millisecond)
		write()
		took(30*time.Millisecond, read)

		n.Cut("a", "b")
		write()
		time.AfterFunc(time.Minute, func() { n.Heal("a", "b") })
		took(time.Minute, read)

		_ = s.SetReadDeadline(time.Now().Add(time.Second))
		took(time.Second, func() {
			if _, err := s.Read(one); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
		})
		_ = s.SetReadDeadline(time.Time{})

		n.Cut("a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		took(time.Second, func() {
			if _, err := n.Dialer("a")(ctx, s.LocalAddr().String()); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		})
		n.Kill("b") // a is not told: the link is cut
		write()
		if _, err := s.Read(one); !errors.Is(err, memnet.ErrReset) {
			t.Fatal(err)
		}
		n.Heal("a", "b")
		if _, err := c.Write(one); !errors.Is(err, memnet.ErrReset) {
			t.Fatal(err)
		}
		if _, err := n.Dialer("a")(t.Context(), s.LocalAddr().String()); !errors.Is(err, memnet.ErrRefused) {
			t.Fatal(err)
		}
		c.Close()
	})
}
