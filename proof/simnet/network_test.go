package simnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipe returns both ends of a connection from a to b:1.
func pipe(t *testing.T, n *Network) (here, there net.Conn) {
	t.Helper()
	l, err := n.Listen("b", 1)
	if err != nil {
		t.Fatal(err)
	}
	here, err = n.Dial(t.Context(), "a", "b:1")
	if err != nil {
		t.Fatal(err)
	}
	there, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = here.Close(), there.Close() })
	return here, there
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestStreamTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, Link{Delay: 10 * time.Millisecond})
		start := time.Now()
		here, there := pipe(t, n)
		if d := time.Since(start); d != 20*time.Millisecond {
			t.Errorf("dialled in %s, not one round trip", d)
		}
		start = time.Now()
		write(t, here, "hello")
		if got := read(t, there, 5); got != "hello" || time.Since(start) != 10*time.Millisecond {
			t.Errorf("%q after %s", got, time.Since(start))
		}
		write(t, here, "bye")
		if err := here.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(there); string(b) != "bye" || err != nil {
			t.Errorf("read %q, %v before the end", b, err)
		}
		if _, err := there.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed peer: %v", err)
		}
		if _, err := here.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
	})
}

func TestStreamKeepsOrderUnderJitterAndLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(2, Link{Delay: time.Millisecond, Jitter: 50 * time.Millisecond, Loss: 0.2})
		here, there := pipe(t, n)
		rng := rand.New(rand.NewPCG(2, 2))
		want := make([]byte, 3*buffer)
		for i := range want {
			want[i] = byte(rng.Uint32())
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for rest := want; len(rest) > 0; {
				k := min(len(rest), 1+rng.IntN(9000))
				if _, err := here.Write(rest[:k]); err != nil {
					t.Error(err)
				}
				rest = rest[k:]
			}
			_ = here.Close()
		})
		got, err := io.ReadAll(there)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d arrived intact: %v", len(got), len(want), err)
		}
		wg.Wait()
	})
}

func TestWriterWaitsForSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := pipe(t, New(3, Link{}))
		if err := here.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		k, err := here.Write(make([]byte, 2*buffer))
		if k != buffer || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d, %v", k, err)
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Error("a deadline is no time-out")
		}
		read(t, there, buffer)
		if err := there.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := there.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("read: %v after %s", err, time.Since(start))
		}
	})
}

func TestPartitionStallsOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(4, Link{})
		here, there := pipe(t, n)
		n.PartitionOneWay("a", "b")
		write(t, here, "stalled")
		write(t, there, "through")
		if got := read(t, here, 7); got != "through" {
			t.Errorf("read %q", got)
		}
		if err := there.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := there.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read through a partition: %v", err)
		}
		if err := there.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dial(ctx, "a", "b:9"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialled through a partition: %v", err)
		}
		n.Heal()
		if got := read(t, there, 7); got != "stalled" {
			t.Errorf("read %q after healing", got)
		}
	})
}

func TestResetAndCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(5, Link{})
		for name, fault := range map[string]func(){
			"reset": func() { n.Reset("b", "a") },
			"crash": func() { n.Crash("b") },
		} {
			here, there := pipe(t, n)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := here.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s: %v", name, err)
				}
			})
			synctest.Wait() // the reader is waiting
			fault()
			wg.Wait()
			if _, err := there.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the other end: %v", name, err)
			}
			n.Start("b")
		}
		n.Crash("b")
		if _, err := n.Listen("b", 2); !errors.Is(err, syscall.ENETDOWN) {
			t.Errorf("listened on a crashed host: %v", err)
		}
		n.Start("b")
		if _, err := n.Dial(t.Context(), "a", "b:2"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialled nothing: %v", err)
		}
	})
}

func TestPowerOffIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(6, Link{})
		here, _ := pipe(t, n)
		n.PowerOff("b")
		if err := here.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := here.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a host without power spoke: %v", err)
		}
		n.Start("b")
		if _, err := here.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write to a restarted host: %v", err)
		}
	})
}

func TestCrashClosesListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(7, Link{})
		l, err := n.Listen("b", 0)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v", err)
			}
		})
		synctest.Wait()
		n.Crash("b")
		wg.Wait()
	})
}

func TestDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(8, Link{Delay: time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.5})
		a, err := n.ListenPacket("a", 7)
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.ListenPacket("b", 7)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			if _, err := a.WriteTo([]byte{byte(i)}, b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		got, reordered, last := 0, false, -1
		if err := b.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		for {
			k, from, err := b.ReadFrom(buf)
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
				break
			}
			if k != 1 || from.String() != "a:7" {
				t.Fatalf("%d bytes from %s", k, from)
			}
			reordered = reordered || int(buf[0]) < last
			last, got = int(buf[0]), got+1
		}
		if got < 60 || got > 140 || !reordered {
			t.Errorf("%d of 200 datagrams arrived, reordered: %t", got, reordered)
		}
		n.Partition("a", "b")
		n.SetLink(AnyHost, AnyHost, func(l *Link) { l.Loss = 0 })
		if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		n.Heal()
		if err := b.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a datagram crossed a partition: %v", err)
		}
		_, _ = a.Close(), b.Close()
	})
}

func TestSameSeedSameDelays(t *testing.T) {
	run := func() (out []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			here, there := pipe(t, New(9, Link{Delay: time.Millisecond, Jitter: time.Second, Loss: 0.3}))
			for range 50 {
				start := time.Now()
				write(t, here, "x")
				read(t, there, 1)
				out = append(out, time.Since(start))
			}
		})
		return out
	}
	a, b := run(), run()
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("delay %d: %s and %s", i, a[i], b[i])
		}
	}
}
