// Package local runs the nodes of a cluster as processes of one machine, for
// trying Flotilla out and for measuring it.
package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Spec is one node of a local cluster.
type Spec struct {
	Name       string
	MQTTAddr   string
	HTTPAddr   string
	PeerAddr   string
	GossipAddr string
	AdminAddr  string
	Data       string // data folder
	Config     string // its YAML file, written by Start
	Log        string // where its output goes
}

// ports is how many each node has.
const ports = 5

// Ports are those of the first node; each next node has the next ones.
type Ports struct {
	MQTT, HTTP, Peer, Gossip, Admin int
}

// DefaultPorts are those of `flotilla run`: n1 is where MQTT clients and operators look
// first.
func DefaultPorts() Ports {
	return Ports{MQTT: 1883, HTTP: 7411, Peer: 7421, Gossip: 7431, Admin: 7403}
}

// Plan lays out nodes n1, n2 … in dir at the given ports.
func Plan(nodes int, dir string, p Ports) []Spec {
	specs := make([]Spec, nodes)
	for i := range specs {
		specs[i] = spec(i, dir, [ports]int{p.MQTT + i, p.HTTP + i, p.Peer + i, p.Gossip + i, p.Admin + i})
	}
	return specs
}

// PlanFree lays out nodes in dir at ports that are free now.
func PlanFree(nodes int, dir string) ([]Spec, error) {
	free, err := FreePorts(ports * nodes)
	if err != nil {
		return nil, err
	}
	specs := make([]Spec, nodes)
	for i := range specs {
		specs[i] = spec(i, dir, [ports]int(free[ports*i:]))
	}
	return specs, nil
}

// FreePorts finds loopback ports that nothing listens at. They are below those
// that systems give to outgoing connections: a listener that is to come back
// at its port must not find a client there.
func FreePorts(n int) ([]int, error) {
	const low, high = 10_000, 32_000
	var found []int
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	start := rand.IntN(high - low)
	var last error
	for i := 0; i < high-low && len(found) < n; i++ {
		port := low + (start+i)%(high-low)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		held = append(held, l)
		found = append(found, port)
	}
	if len(found) < n {
		return nil, fmt.Errorf("no %d free ports from %d to %d: %w", n, low, high, last)
	}
	return found, nil
}

func spec(i int, dir string, p [ports]int) Spec {
	name := "n" + strconv.Itoa(i+1)
	at := func(k int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p[k])) }
	return Spec{
		Name: name, MQTTAddr: at(0), HTTPAddr: at(1), PeerAddr: at(2), GossipAddr: at(3), AdminAddr: at(4),
		Data: filepath.Join(dir, name), Config: filepath.Join(dir, name+".yaml"), Log: filepath.Join(dir, name+".log"),
	}
}

// PortInUseError is an address that something else listens at.
type PortInUseError struct {
	Node, Setting, Addr string
	Err                 error
}

func (e *PortInUseError) Error() string {
	return fmt.Sprintf("cannot listen at %s (%s of node %s): %v", e.Addr, e.Setting, e.Node, e.Err)
}

func (e *PortInUseError) Unwrap() error { return e.Err }

// errNothingStarted ends what CheckPorts reports.
var errNothingStarted = errors.New("nothing was started; end what listens there, or choose other ports")

// CheckPorts finds out whether all addresses are free, before anything is
// started. Its error contains a *PortInUseError for each that is not.
func CheckPorts(specs []Spec) error {
	var errs []error
	for _, s := range specs {
		for _, a := range []struct{ setting, addr string }{
			{"mqtt-addr", s.MQTTAddr}, {"http-addr", s.HTTPAddr}, {"peer-addr", s.PeerAddr}, {"gossip-addr", s.GossipAddr},
			{"admin-addr", s.AdminAddr},
		} {
			if err := checkPort(a.addr, a.setting == "gossip-addr"); err != nil {
				errs = append(errs, &PortInUseError{s.Name, a.setting, a.addr, err})
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errors.Join(append(errs, errNothingStarted)...)
}

func checkPort(addr string, udp bool) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil || !udp {
		return err
	}
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	return u.Close()
}

// Setting is one more line of the nodes' configuration files.
type Setting struct{ Name, Value string }

// settings are what distinguishes the node from one with no settings at all.
func (s Spec) settings(all []Spec, more []Setting) ([]Setting, error) {
	data, err := filepath.Abs(s.Data)
	if err != nil {
		return nil, err
	}
	var join []string
	for _, other := range all {
		if other.Name != s.Name {
			join = append(join, other.GossipAddr)
		}
	}
	list := []Setting{
		{"node", s.Name}, {"data", data}, {"mqtt-addr", s.MQTTAddr}, {"http-addr", s.HTTPAddr},
		{"peer-addr", s.PeerAddr}, {"gossip-addr", s.GossipAddr}, {"admin-addr", s.AdminAddr}, {"expect", strconv.Itoa(len(all))},
	}
	if len(join) > 0 {
		list = append(list, Setting{"join", strings.Join(join, ",")})
	}
	return append(list, more...), nil
}

// writeConfig writes the node's YAML file and returns what it sets.
func (s Spec) writeConfig(all []Spec, more []Setting) ([]Setting, error) {
	list, err := s.settings(all, more)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("# Written by flotilla at each start of the local cluster; changes are lost.\n")
	for _, l := range list {
		fmt.Fprintf(&b, "%s: %q\n", l.Name, l.Value)
	}
	return list, os.WriteFile(s.Config, []byte(b.String()), 0o644)
}
