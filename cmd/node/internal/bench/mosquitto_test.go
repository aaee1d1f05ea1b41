package bench

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/local"
)

// TestAgainstMosquitto checks the generator's client against a broker that
// nobody here wrote.
func TestAgainstMosquitto(t *testing.T) {
	const binary = "/usr/sbin/mosquitto"
	if _, err := os.Stat(binary); err != nil {
		t.Skip("mosquitto is not installed:", err)
	}
	addr := startMosquitto(t, binary)
	for _, tt := range []struct {
		name   string
		change func(*Options)
	}{
		{"QoS 0", func(o *Options) { o.QoS = 0 }},
		{"QoS 1, 3.1.1, persistent", func(o *Options) { o.Version, o.Persistent = 4, true }},
		{"QoS 2, 5.0, persistent", func(o *Options) { o.QoS, o.Persistent = 2, true }},
		{"fan-out", func(o *Options) { o.Scenario, o.Subscribers = FanOut, 5 }},
		{"connect", func(o *Options) { o.Scenario, o.Count = Connect, 100 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(addr)
			o.Drain = 5 * time.Second
			tt.change(&o)
			res := mustRun(t, o)
			if err := res.Err(2); err != nil {
				t.Error(err)
			}
			if o.Scenario != Connect && (res.Sent != uint64(o.Count) || res.Lost+res.Disordered+res.Strangers != 0) {
				t.Errorf("%+v", res)
			}
		})
	}
}

func startMosquitto(t *testing.T, binary string) (addr string) {
	t.Helper()
	ports, err := local.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(ports[0])
	conf := filepath.Join(t.TempDir(), "conf")
	text := "listener " + port + " 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nuser root\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		<-ended
	})
	addr = net.JoinHostPort("127.0.0.1", port)
	for {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
			return addr
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("mosquitto has ended: %v", err)
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		default:
		}
	}
}
