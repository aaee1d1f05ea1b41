package conformance

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proof/client"
	"github.com/flotilla-mqtt/flotilla/proof/history"
)

var types = func() map[string]byte {
	m := map[string]byte{}
	for t := byte(client.CONNECT); t <= client.AUTH; t++ {
		m[client.TypeName(t)] = t
	}
	return m
}()

// numbers and texts are the names of properties in tables.
var numbers = map[string]byte{
	"format": client.PropPayloadFormat, "expiry": client.PropMessageExpiry, "session-expiry": client.PropSessionExpiry,
	"server-keep-alive": client.PropServerKeepAlive, "problem-info": client.PropRequestProblemInfo,
	"will-delay": client.PropWillDelay, "response-request": client.PropRequestResponseInfo,
	"receive-maximum": client.PropReceiveMaximum, "alias-maximum": client.PropTopicAliasMaximum,
	"alias": client.PropTopicAlias, "max-qos": client.PropMaximumQoS, "retain-available": client.PropRetainAvailable,
	"max-packet": client.PropMaximumPacketSize, "wildcard-available": client.PropWildcardSubAvailable,
	"subid-available": client.PropSubscriptionAvailable, "shared-available": client.PropSharedSubAvailable,
}

var texts = map[string]byte{
	"content": client.PropContentType, "response": client.PropResponseTopic, "correlation": client.PropCorrelationData,
	"assigned": client.PropAssignedClientID, "auth-method": client.PropAuthMethod, "auth-data": client.PropAuthData,
	"response-info": client.PropResponseInfo, "server-reference": client.PropServerReference, "reason": client.PropReasonString,
}

// field is "name op value" of a step.
type field struct{ name, op, value string }

func parseField(s string) (field, bool) {
	for _, op := range []string{"<=", ">=", "="} {
		if name, value, ok := strings.Cut(s, op); ok {
			return field{name, op, value}, true
		}
	}
	return field{s, "", ""}, false
}

// packet builds a packet to send from a step's words.
func (c *conn) packet(words []string) (*client.Packet, error) {
	t, ok := types[words[0]]
	if !ok {
		return nil, fmt.Errorf("no packet type %q", words[0])
	}
	p := &client.Packet{Type: t}
	if t == client.CONNECT {
		p.Connect = &client.ConnectFields{Version: c.version, ClientID: c.scenario.own + string(c.letter), Clean: true}
	}
	var positional []string
	for _, w := range words[1:] {
		f, named := parseField(w)
		if !named {
			positional = append(positional, w)
			continue
		}
		f.value = c.scenario.fill(f.value)
		if err := c.set(p, f); err != nil {
			return nil, fmt.Errorf("%s: %w", w, err)
		}
	}
	return p, c.position(p, positional)
}

// position takes the words without name: topic and payload, filters, flags.
func (c *conn) position(p *client.Packet, words []string) error {
	switch p.Type {
	case client.PUBLISH:
		for i, w := range words {
			switch {
			case w == "retain":
				p.Retain = true
			case w == "dup":
				p.Dup = true
			case i == 0:
				p.Topic = c.scenario.fill(w)
			default:
				p.Payload = []byte(c.scenario.fill(w))
			}
		}
		return nil
	case client.SUBSCRIBE, client.UNSUBSCRIBE:
		for _, w := range words {
			f, err := parseFilter(w)
			if err != nil {
				return err
			}
			f.Filter = c.scenario.fill(f.Filter)
			p.Filters = append(p.Filters, f)
		}
		return nil
	}
	for _, w := range words {
		switch w {
		case "keep":
			p.Connect.Clean = false
		case "will-retain":
			p.Connect.Will.Retain = true
		default:
			return fmt.Errorf("what is %q?", w)
		}
	}
	return nil
}

// parseFilter reads FILTER, FILTER:QOS or FILTER:QOS:OPTION, options nl, rap, rh1, rh2.
func parseFilter(w string) (history.Filter, error) {
	parts := strings.Split(w, ":")
	f := history.Filter{Filter: parts[0]}
	for i, o := range parts[1:] {
		switch {
		case i == 0:
			q, err := strconv.ParseUint(o, 10, 8)
			if err != nil {
				return f, err
			}
			f.QoS = byte(q)
		case o == "nl":
			f.NoLocal = true
		case o == "rap":
			f.RetainAsPublished = true
		case o == "rh1":
			f.RetainHandling = 1
		case o == "rh2":
			f.RetainHandling = 2
		default:
			return f, fmt.Errorf("no option %q", o)
		}
	}
	return f, nil
}

func (c *conn) set(p *client.Packet, f field) error {
	number := func(bits int) uint64 { // a bad one is noticed at the first run
		v, err := strconv.ParseUint(f.value, 0, bits)
		if err != nil {
			panic(err)
		}
		return v
	}
	if p.Connect != nil {
		if done, err := setConnect(p, f, number); done || err != nil {
			return err
		}
	}
	switch f.name {
	case "id":
		p.ID = uint16(number(16))
	case "qos":
		p.QoS = byte(number(8))
	case "code":
		b, err := hex.DecodeString(f.value)
		if err != nil || len(b) != 1 {
			return errors.New("a code is two hex digits")
		}
		p.Code = b[0]
	case "size": // of the payload
		p.Payload = make([]byte, number(32))
	default:
		return setProperty(&p.Props, f, number)
	}
	return nil
}

func setConnect(p *client.Packet, f field, number func(int) uint64) (done bool, err error) {
	con := p.Connect
	if name, ok := strings.CutPrefix(f.name, "will-"); ok && name != "delay" {
		switch name {
		case "payload":
			con.Will.Payload = []byte(f.value)
		case "qos":
			con.Will.QoS = byte(number(8))
		default:
			return true, setProperty(&con.Will.Props, field{name, f.op, f.value}, number)
		}
		return true, nil
	}
	switch f.name {
	case "id":
		con.ClientID = f.value
	case "v":
		con.Version = byte(number(8))
	case "keep-alive":
		con.KeepAlive = uint16(number(16))
	case "will":
		con.Will = &client.Will{Topic: f.value}
	case "will-delay":
		con.Will.Delay = uint32(number(32))
	case "user":
		con.Username = f.value
	case "password":
		con.Password = []byte(f.value)
	case "node": // see conn.open
	default:
		return false, nil
	}
	return true, nil
}

func setProperty(p *client.Properties, f field, number func(int) uint64) error {
	switch id, isText := texts[f.name]; {
	case isText:
		if p.Text == nil {
			p.Text = map[byte]string{}
		}
		p.Text[id] = f.value
	case f.name == "prop": // name:value of a user property
		k, v, _ := strings.Cut(f.value, ":")
		p.User = append(p.User, [2]string{k, v})
	case f.name == "subid":
		p.SubscriptionIDs = append(p.SubscriptionIDs, uint32(number(32)))
	case numbers[f.name] != 0:
		p.Set(numbers[f.name], uint32(number(32)))
	default:
		return errors.New("no such field")
	}
	return nil
}

// describe names everything that a packet says, by the names of tables.
func (s *running) describe(p *client.Packet) map[string]string {
	m := map[string]string{}
	flag := func(b bool) string {
		if b {
			return "1"
		}
		return "0"
	}
	switch p.Type {
	case client.PUBLISH:
		m["topic"], m["payload"], m["qos"] = p.Topic, string(p.Payload), strconv.Itoa(int(p.QoS))
		m["retain"], m["dup"] = flag(p.Retain), flag(p.Dup)
	case client.CONNACK:
		m["present"] = flag(p.SessionPresent)
	case client.SUBACK, client.UNSUBACK:
		var codes []string
		for _, c := range p.Codes {
			codes = append(codes, fmt.Sprintf("%02x", c))
		}
		m["codes"] = strings.Join(codes, ",")
	}
	if p.ID != 0 {
		m["id"] = strconv.Itoa(int(p.ID))
	}
	m["code"] = fmt.Sprintf("%02x", p.Code)
	for name, id := range numbers {
		if v := p.Props.Get(id); v != nil {
			m[name] = strconv.FormatUint(uint64(*v), 10)
		}
	}
	for name, id := range texts {
		if v, ok := p.Props.Text[id]; ok {
			m[name] = v
		}
	}
	var pairs, ids []string
	for _, u := range p.Props.User {
		pairs = append(pairs, u[0]+":"+u[1])
	}
	slices.Sort(p.Props.SubscriptionIDs) // their order is not significant [MQTT-3.3.4-4]
	for _, id := range p.Props.SubscriptionIDs {
		ids = append(ids, strconv.Itoa(int(id)))
	}
	if pairs != nil {
		m["prop"] = strings.Join(pairs, ",")
	}
	if ids != nil {
		m["subid"] = strings.Join(ids, ",")
	}
	return m
}

// usual is what a field is when an expectation does not name it.
var usual = map[string]string{"code": "00", "qos": "0", "retain": "0", "dup": "0", "present": "0"}

// matches says in what a packet differs from the words of an expectation; "": nothing.
func (s *running) matches(p *client.Packet, words []string) string {
	if name := client.TypeName(p.Type); name != words[0] {
		return fmt.Sprintf("is %s %v", name, s.describe(p))
	}
	got := s.describe(p)
	want := map[string]field{}
	positional := []string{"topic", "payload"}
	for _, w := range words[1:] {
		f, named := parseField(w)
		switch {
		case w == "retain" || w == "dup":
			f = field{w, "=", "1"}
		case !named:
			f = field{positional[0], "=", w}
			positional = positional[1:]
		}
		f.value = s.fill(f.value)
		if f.name == "size" {
			f = field{"payload", "=", string(make([]byte, atoi(f.value)))}
		}
		want[f.name] = f
	}
	for name, value := range usual {
		if _, named := want[name]; !named {
			want[name] = field{name, "=", value}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v, there := got[name]; !fits(want[name], v, there) && (there || usual[name] == "") {
			return fmt.Sprintf("has %s=%q, want %s%s%.200q; it is %.600s", name, v, name, want[name].op, want[name].value, fmt.Sprint(got))
		}
	}
	if p.Type == client.PUBLISH {
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if _, named := want[name]; !named && name != "id" && name != "topic" && name != "payload" {
				return fmt.Sprintf("has %s=%q, which nobody asked for", name, got[name])
			}
		}
	}
	return ""
}

func fits(want field, value string, there bool) bool {
	switch {
	case want.value == "*":
		return there
	case want.value == "-":
		return !there
	case want.op == "<=":
		return there && atoi(value) <= atoi(want.value)
	case want.op == ">=":
		return there && atoi(value) >= atoi(want.value)
	}
	return there && value == want.value
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err) // of the table's author
	}
	return n
}

// rawBytes reads the bytes of "> raw".
func (s *running) rawBytes(text string) ([]byte, error) {
	out, rest, err := s.rawUntil(text, false)
	if err == nil && rest != "" {
		err = fmt.Errorf("%q is left", rest)
	}
	return out, err
}

func (s *running) rawUntil(text string, nested bool) (out []byte, rest string, err error) {
	for text != "" {
		switch text[0] {
		case ' ':
			text = text[1:]
		case '}':
			if !nested {
				return nil, "", errors.New("} without {")
			}
			return out, text[1:], nil
		case '{':
			in, rest, err := s.rawUntil(text[1:], true)
			if err != nil {
				return nil, "", err
			}
			out = append(binary.AppendUvarint(out, uint64(len(in))), in...)
			text = rest
		case '\'', '"':
			end := strings.IndexByte(text[1:], text[0])
			if end < 0 {
				return nil, "", errors.New("a quote does not end")
			}
			in := s.fill(text[1 : 1+end])
			if text[0] == '"' {
				out = binary.BigEndian.AppendUint16(out, uint16(len(in)))
			}
			out = append(out, in...)
			text = text[2+end:]
		default:
			if len(text) < 2 {
				return nil, "", errors.New("half a byte")
			}
			b, err := hex.DecodeString(text[:2])
			if err != nil {
				return nil, "", err
			}
			out, text = append(out, b...), text[2:]
		}
	}
	if nested {
		return nil, "", errors.New("{ without }")
	}
	return out, "", nil
}
