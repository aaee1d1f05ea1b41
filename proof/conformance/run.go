package conformance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

// Broker is where scenarios run: the addresses of each node, by listener; "" is that of
// scenarios that name none.
type Broker struct {
	Nodes []map[string]string
	// Patience bounds each expectation; it is far above what a healthy broker needs.
	Patience time.Duration
}

// Result is what became of a scenario in one version.
type Result struct {
	Scenario string
	Version  byte
	Err      error // nil: passed
}

// Name tells results apart.
func (r Result) Name() string {
	return fmt.Sprintf("%s/%s", map[byte]string{3: "3.1", 4: "3.1.1", 5: "5.0"}[r.Version], r.Scenario)
}

// Run runs all scenarios, several at a time, and returns their results in order.
func Run(ctx context.Context, b Broker, scenarios []Scenario) []Result {
	var results []Result
	var runs []*running
	for i := range scenarios {
		for _, v := range scenarios[i].Versions {
			results = append(results, Result{Scenario: scenarios[i].Name, Version: v})
			// Topics must not meet those of other runs against the same broker.
			own := fmt.Sprintf("c%xn%d", time.Now().UnixNano()&0xffffffffff, len(results))
			runs = append(runs, &running{broker: b, scenario: &scenarios[i], version: v, own: own, conns: map[byte]*conn{}})
		}
	}
	var wg sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for i := range runs {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			results[i].Err = runs[i].run(ctx)
		})
	}
	wg.Wait()
	return results
}

// atOnce is how many scenarios run at a time. Most of them wait most of the time.
const atOnce = 24

// running is one scenario in one version.
type running struct {
	broker   Broker
	scenario *Scenario
	version  byte
	own      string // what % stands for
	conns    map[byte]*conn
	nextID   uint16
}

// fill puts in the scenario's own name. "~N" at the end makes the text N bytes long.
func (s *running) fill(text string) string {
	text = strings.ReplaceAll(text, "%", s.own)
	if rest, size, ok := strings.Cut(text, "~"); ok {
		return rest + strings.Repeat("x", atoi(size)-len(rest))
	}
	return text
}

// conn is one client of a scenario.
type conn struct {
	*client.Conn
	scenario *running
	letter   byte
	version  byte
}

func (s *running) run(ctx context.Context) (err error) {
	defer func() {
		for _, c := range s.conns {
			c.Abort()
		}
	}()
	for _, st := range s.scenario.Steps {
		if err := s.step(ctx, st); err != nil {
			return fmt.Errorf("line %d: %s: %w", st.Line, st.Text, err)
		}
	}
	return nil
}

func (s *running) step(ctx context.Context, st Step) error {
	if st.Verb == "wait" {
		d, err := time.ParseDuration(st.Args[0])
		if err != nil {
			return err
		}
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.broker.Patience)
	defer cancel()
	if st.Verb == "open" || st.Verb == "connect" {
		return s.connect(ctx, st)
	}
	c := s.conns[st.Client]
	if c == nil {
		return errors.New("no such client")
	}
	if want, only := strings.CutPrefix(st.Verb, "<"); only && (want == "5" && c.version < 5 || want == "3" && c.version >= 5) {
		return nil
	}
	switch st.Verb {
	case ">":
		if st.Raw != "" {
			b, err := s.rawBytes(st.Raw)
			if err != nil {
				return err
			}
			return c.SendRaw(b)
		}
		p, err := c.packet(st.Args)
		if err != nil {
			return err
		}
		return c.Send(p)
	case "<", "<5", "<3":
		return c.expect(ctx, st.Args)
	case "<<":
		_, err := c.Take(ctx, func(p *client.Packet) bool { return s.matches(p, st.Args) == "" })
		return err
	case "finds":
		return c.finds(ctx, st.Args)
	case "never":
		return c.never(ctx, st.Args)
	case "sub":
		return c.sub(ctx, st.Args)
	case "pub":
		return c.pub(ctx, st.Args)
	case "got":
		return c.got(ctx, st.Args)
	case "bye":
		return c.Disconnect(0, nil)
	case "drop":
		c.Abort()
		return nil
	}
	return fmt.Errorf("no verb %q", st.Verb)
}

// connect opens a connection to a node, and for "connect" makes a session.
func (s *running) connect(ctx context.Context, st Step) error {
	version, node := s.version, int(st.Client-'a')
	for _, w := range st.Args {
		switch f, _ := parseField(w); f.name {
		case "v":
			version = byte(atoi(f.value))
		case "node":
			node = atoi(f.value) - 1
		}
	}
	node %= len(s.broker.Nodes)
	addr, ok := s.broker.Nodes[node][s.scenario.Listener]
	if !ok {
		return fmt.Errorf("no listener %q", s.scenario.Listener)
	}
	if old := s.conns[st.Client]; old != nil && old.Err() == nil {
		return errors.New("connected already")
	}
	nc, err := client.Open(ctx, client.TCP, client.Target{Node: strconv.Itoa(node + 1), Addr: addr}, nil, client.Options{Version: version})
	if err != nil {
		return err
	}
	c := &conn{Conn: nc, scenario: s, letter: st.Client, version: version}
	s.conns[st.Client] = c
	if st.Verb == "open" {
		return nil
	}
	p, err := c.packet(append([]string{"CONNECT"}, st.Args...))
	if err != nil {
		return err
	}
	if err := c.Send(p); err != nil {
		return err
	}
	ack, err := c.Next(ctx)
	if err == nil && (ack.Type != client.CONNACK || ack.Code != 0) {
		err = fmt.Errorf("%s with code %02x instead of an accepting CONNACK", client.TypeName(ack.Type), ack.Code)
	}
	return err
}

// expect takes the next packet, or the end of the connection.
func (c *conn) expect(ctx context.Context, words []string) error {
	s := c.scenario
	if words[0] == "nothing" {
		if err := c.Send(&client.Packet{Type: client.PINGREQ}); err != nil {
			return err
		}
		words = []string{"PINGRESP"}
	}
	p, err := c.Next(ctx)
	switch {
	case words[0] == "closed" && errors.Is(err, client.ErrClosed):
		return nil
	case err != nil:
		return err
	case words[0] == "closed":
		return fmt.Errorf("the next packet is %s %v", client.TypeName(p.Type), s.describe(p))
	}
	if diff := s.matches(p, words); diff != "" {
		return fmt.Errorf("the next packet %s", diff)
	}
	return nil
}

// finds subscribes, again and again, until a message comes. It is for retained messages
// whose storing nobody has been told of.
func (c *conn) finds(ctx context.Context, words []string) error {
	for {
		if err := c.sub(ctx, words[:1]); err != nil {
			return err
		}
		soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		p, err := c.Take(soon, func(p *client.Packet) bool {
			return c.scenario.matches(p, append([]string{"PUBLISH"}, words[1:]...)) == ""
		})
		cancel()
		switch {
		case err == nil && p.QoS == 1:
			return c.Ack(client.PUBACK, p.ID, 0)
		case err == nil || ctx.Err() != nil || errors.Is(err, client.ErrClosed):
			return err
		}
	}
}

// never takes all that has come, and expects a packet not to be there.
func (c *conn) never(ctx context.Context, words []string) error {
	if err := c.Send(&client.Packet{Type: client.PINGREQ}); err != nil {
		return err
	}
	for {
		p, err := c.Next(ctx)
		switch {
		case err != nil:
			return err
		case p.Type == client.PINGRESP:
			return nil
		case c.scenario.matches(p, words) == "":
			return errors.New("it has come")
		}
	}
}

// id returns a new packet identifier.
func (s *running) id() uint16 {
	s.nextID++
	return 1000 + s.nextID
}

func (c *conn) sub(ctx context.Context, words []string) error {
	p, err := c.packet(append([]string{"SUBSCRIBE"}, words...))
	if err != nil {
		return err
	}
	p.ID = c.scenario.id()
	if err := c.Send(p); err != nil {
		return err
	}
	ack, err := c.Await(ctx, client.SUBACK, p.ID)
	if err != nil {
		return err
	}
	return granted(p.Filters, ack.Codes)
}

func granted(filters []history.Filter, codes []byte) error {
	if len(codes) != len(filters) {
		return fmt.Errorf("%d codes", len(codes))
	}
	for i, code := range codes {
		if code != filters[i].QoS {
			return fmt.Errorf("%q: code %02x", filters[i].Filter, code)
		}
	}
	return nil
}

// pub sends a PUBLISH and does its handshake.
func (c *conn) pub(ctx context.Context, words []string) error {
	p, err := c.packet(append([]string{"PUBLISH"}, words...))
	if err != nil {
		return err
	}
	if p.QoS > 0 {
		p.ID = c.scenario.id()
	}
	if err := c.Send(p); err != nil || p.QoS == 0 {
		return err
	}
	answers := []byte{client.PUBACK}
	if p.QoS == 2 {
		answers = []byte{client.PUBREC, client.PUBCOMP}
	}
	for _, t := range answers {
		ack, err := c.Await(ctx, t, p.ID)
		if err != nil {
			return err
		}
		if ack.Code >= 0x80 {
			return fmt.Errorf("%s with code %02x", client.TypeName(t), ack.Code)
		}
		if t == client.PUBREC {
			if err := c.Ack(client.PUBREL, p.ID, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// got takes the next PUBLISH and does its handshake.
func (c *conn) got(ctx context.Context, words []string) error {
	p, err := c.Await(ctx, client.PUBLISH, 0)
	if err != nil {
		return err
	}
	if diff := c.scenario.matches(p, append([]string{"PUBLISH"}, words...)); diff != "" {
		return fmt.Errorf("the next PUBLISH %s", diff)
	}
	switch p.QoS {
	case 1:
		return c.Ack(client.PUBACK, p.ID, 0)
	case 2:
		if err := c.Ack(client.PUBREC, p.ID, 0); err != nil {
			return err
		}
		if _, err := c.Await(ctx, client.PUBREL, p.ID); err != nil {
			return err
		}
		return c.Ack(client.PUBCOMP, p.ID, 0)
	}
	return nil
}
