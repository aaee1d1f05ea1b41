package control

import (
	"syscall"
	"testing"
	"time"
)

func BenchmarkLeaseValid(b *testing.B) {
	nodes := realGroup(b, 1)
	serve(b, nodes)
	for b.Loop() {
		if !nodes[0].ctl.LeaseValid() {
			b.Fatal("lost")
		}
	}
}

// BenchmarkIdle measures what three idle nodes cost, on the real transport:
// run it with -benchtime=10x, each round is a second.
func BenchmarkIdle(b *testing.B) {
	nodes := realGroup(b, 3)
	serve(b, nodes)
	from, used := time.Now(), cpu(b)
	for b.Loop() {
		time.Sleep(time.Second)
	}
	b.ReportMetric(100*float64(cpu(b)-used)/float64(time.Since(from)), "%core")
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
