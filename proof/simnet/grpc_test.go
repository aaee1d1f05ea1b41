package simnet

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// TestGRPC shows that gRPC runs over the network in fake time, stalls in a partition, goes
// on after it, and reconnects after a crash.
func TestGRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, Link{Delay: 5 * time.Millisecond, Jitter: time.Millisecond})
		var servers sync.WaitGroup
		serve := func() *grpc.Server {
			l, err := n.Listen("b", 80)
			if err != nil {
				t.Fatal(err)
			}
			s := grpc.NewServer()
			healthpb.RegisterHealthServer(s, health.NewServer())
			servers.Go(func() { _ = s.Serve(l) }) // ends with an error when the host crashes
			return s
		}
		server := serve()
		cc, err := grpc.NewClient("passthrough:///b:80", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return n.Dial(ctx, "a", addr) }))
		if err != nil {
			t.Fatal(err)
		}
		client := healthpb.NewHealthClient(cc)
		call := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			_, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
			return err
		}
		if err := call(time.Second); err != nil {
			t.Error(err)
		}
		n.Partition("a", "b")
		if err := call(time.Second); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a call through a partition: %v", err)
		}
		n.Heal()
		if err := call(time.Second); err != nil {
			t.Errorf("after healing: %v", err)
		}
		n.Crash("b")
		server.Stop()
		n.Start("b")
		server = serve()
		err = call(time.Minute)
		if status.Code(err) == codes.Unavailable { // sent on the old connection before its reset was seen
			err = call(time.Minute)
		}
		if err != nil {
			t.Errorf("after a restart: %v", err)
		}
		if err := cc.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		servers.Wait()
	})
}
