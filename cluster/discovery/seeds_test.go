package discovery

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
)

// dns is one whose records a test changes.
type dns struct {
	mu    sync.Mutex
	hosts map[string][]string
	srv   map[string][]*net.SRV
}

func (d *dns) set(host string, addrs ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hosts == nil {
		d.hosts = make(map[string][]string)
	}
	d.hosts[host] = addrs
}

func (d *dns) LookupHost(_ context.Context, host string) ([]string, error) {
	if net.ParseIP(host) != nil {
		return []string{host}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if addrs := d.hosts[host]; len(addrs) > 0 {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (d *dns) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if recs := d.srv[name]; service == "" && proto == "" && len(recs) > 0 {
		return name, recs, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// What is given with --join, as the addresses it stands for.
func TestSeeds(t *testing.T) {
	d := &dns{srv: map[string][]*net.SRV{"_gossip._tcp.all": {{Target: "n1.all.", Port: 7001}, {Target: "n2.all.", Port: 7002}}}}
	d.set("many", "10.0.0.1", "10.0.0.2", "fd00::3")
	d.set("n1.all", "10.0.0.1")
	d.set("n2.all", "10.0.0.2")
	for _, tt := range []struct {
		join []string
		want []string
		sure bool
	}{
		{[]string{"many"}, []string{"10.0.0.1:7401", "10.0.0.2:7401"}, true}, // with our port, and without ourselves
		{[]string{"many:7000"}, []string{"10.0.0.1:7000", "10.0.0.2:7000", "[fd00::3]:7000"}, true},
		{[]string{"_gossip._tcp.all"}, []string{"10.0.0.1:7001", "10.0.0.2:7002"}, true},
		{[]string{"many:7001", "_gossip._tcp.all"}, []string{"10.0.0.1:7001", "10.0.0.2:7001", "[fd00::3]:7001", "10.0.0.2:7002"}, true},
		{[]string{"fd00::3", "fd00::4"}, []string{"[fd00::4]:7401"}, true},
		{[]string{"[fd00::3]:7000"}, []string{"[fd00::3]:7000"}, true},
		{[]string{"nowhere:1", "many"}, []string{"10.0.0.1:7401", "10.0.0.2:7401"}, false},
		{[]string{"_gossip._tcp.nowhere"}, nil, false},
	} {
		g := &Gossip{log: slog.New(slog.DiscardHandler), opt: Options{Self: Peer{Name: "me"}, Join: tt.join, Resolver: d},
			seen: map[string]node{"me": {gossip: "[fd00::3]:7401"}}}
		got, sure := g.seeds(t.Context())
		if !slices.Equal(got, tt.want) || sure != tt.sure {
			t.Errorf("%q stand for %q (sure: %v), want %q (%v)", tt.join, got, sure, tt.want, tt.sure)
		}
	}
}

// A name that is not there yet, and then says where others are, brings a node in:
// so it goes when all pods of a StatefulSet start at once.
func TestNameAppears(t *testing.T) {
	d := &dns{}
	a := open(t, Options{Self: Peer{Name: "a", Addr: "127.0.0.1:1"}})
	_, port, err := net.SplitHostPort(a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, Options{Self: Peer{Name: "b", Addr: "127.0.0.1:2"}, Join: []string{"headless:" + port}, Resolver: d})
	if b.joinOnce(t.Context()) || b.Complete() {
		t.Error("trusts what it sees although the name stands for nothing")
	}
	d.set("headless", "127.0.0.1")
	until(t, "b is in", func() bool { return b.Complete() && names(a.Peers()) == "b" && names(b.Peers()) == "a" })
}

// A name to advertise may still stand for an earlier address of this node; the
// address that gossip is bound to does not.
func TestAdvertise(t *testing.T) {
	for _, tt := range []struct{ bind, advertise, want string }{
		{"127.0.0.1:1", "no-such-name.invalid", ""},
		{"[127.0.0.1]:1", "no-such-name.invalid", ""}, // [$(POD_IP)] does for both families
		{"127.0.0.1:1", "10.0.0.1", "10.0.0.1"},
		{"0.0.0.0:1", "localhost", "127.0.0.1"},
	} {
		g := &Gossip{log: slog.New(slog.DiscardHandler), opt: Options{Self: Peer{Name: "a"}, Bind: tt.bind, Advertise: tt.advertise}}
		c, err := g.config()
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
		} else if c.AdvertiseAddr != tt.want {
			t.Errorf("%+v: %q", tt, c.AdvertiseAddr)
		}
	}
}
