//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// network gives each node a namespace with one interface on a bridge, to which the clients'
// side, our own namespace, belongs too.
type network struct {
	tag    string
	subnet string // "198.18.7.": of the range for such tests [RFC 2544]
}

// clients is the last byte of our own address; that of node i is i+1.
const clients = 254

// newNetwork makes bridge and namespaces. On an error what it has made is left to sweep.
func newNetwork(tag string, nodes []string) (*network, error) {
	for _, tool := range []string{"ip", "nft", "tc", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("no %s on this machine", tool)
		}
	}
	w := &network{tag: tag}
	var err error
	if w.subnet, err = freeSubnet(); err != nil {
		return nil, err
	}
	steps := [][]string{
		{"ip", "link", "add", tag, "type", "bridge"},
		{"ip", "addr", "add", fmt.Sprintf("%s%d/24", w.subnet, clients), "dev", tag},
		{"ip", "link", "set", tag, "up"},
	}
	for i, node := range nodes {
		ns := w.namespace(node)
		steps = append(steps,
			[]string{"ip", "netns", "add", ns},
			[]string{"ip", "link", "add", ns, "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"ip", "link", "set", ns, "master", tag, "up"},
			[]string{"ip", "-n", ns, "addr", "add", w.ip(i) + "/24", "dev", "eth0"},
			[]string{"ip", "-n", ns, "link", "set", "eth0", "up"},
			[]string{"ip", "-n", ns, "link", "set", "lo", "up"})
	}
	for _, args := range steps {
		if err := command(args...); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func freeSubnet() (string, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for i := range 250 {
		subnet := fmt.Sprintf("198.18.%d.", (os.Getpid()+i)%250)
		free := true
		for _, a := range taken {
			free = free && !strings.HasPrefix(a.String(), subnet)
		}
		if free {
			return subnet, nil
		}
	}
	return "", errors.New("no free network in 198.18.0.0/16")
}

func (w *network) ip(i int) string { return fmt.Sprintf("%s%d", w.subnet, i+1) }

func (w *network) namespace(node string) string { return w.tag + node }

// inside is the beginning of a command that runs in a node's namespace. It becomes the
// command, so that pid and mounts stay.
func (w *network) inside(node string) []string {
	return []string{"nsenter", "--net=/run/netns/" + w.namespace(node), "--"}
}

// rules filters the packets of a node. Each rule is of an nft chain and should count.
func (w *network) rules(node string, in, out []string) error {
	chain := func(name, hook string, rules []string) string {
		return fmt.Sprintf("chain %s { type filter hook %s priority 0; policy accept;\n%s\n}\n", name, hook, strings.Join(rules, "\n"))
	}
	script := "table inet chaos {\n" + chain("in", "input", in) + chain("out", "output", out) + "}\n"
	_, err := output(script, append(w.inside(node), "nft", "-f", "-")...)
	return err
}

// dropped ends the rules of a node and returns how many packets they met.
func (w *network) dropped(node string) (int, error) {
	text, err := output("", append(w.inside(node), "nft", "list", "table", "inet", "chaos")...)
	if err != nil {
		return 0, err
	}
	return counters(text, packetCount), command(append(w.inside(node), "nft", "delete", "table", "inet", "chaos")...)
}

var packetCount, overlimits = regexp.MustCompile(`counter packets ([0-9]+)`), regexp.MustCompile(`(?:dropped|overlimits) ([0-9]+)`)

// counters sums all numbers that a pattern finds.
func counters(text string, pattern *regexp.Regexp) (sum int) {
	for _, m := range pattern.FindAllStringSubmatch(text, -1) {
		k, err := strconv.Atoi(m[1])
		if err == nil {
			sum += k
		}
	}
	return sum
}

// slow limits both directions of a node's link to a rate such as "2mbit".
func (w *network) slow(node, rate string) error {
	limit := []string{"root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms"}
	err := command(append([]string{"tc", "-n", w.namespace(node), "qdisc", "add", "dev", "eth0"}, limit...)...)
	return errors.Join(err, command(append([]string{"tc", "qdisc", "add", "dev", w.namespace(node)}, limit...)...))
}

// fast ends slow and returns how many packets had to wait or were dropped.
func (w *network) fast(node string) (int, error) {
	ns := w.namespace(node)
	var errs []error
	held := 0
	for _, link := range [][]string{{"tc", "-n", ns, "-s", "qdisc", "show", "dev", "eth0"}, {"tc", "-s", "qdisc", "show", "dev", ns}} {
		text, err := output("", link...)
		errs = append(errs, err)
		held += counters(text, overlimits)
	}
	errs = append(errs, command("tc", "-n", ns, "qdisc", "del", "dev", "eth0", "root"), command("tc", "qdisc", "del", "dev", ns, "root"))
	return held, errors.Join(errs...)
}
