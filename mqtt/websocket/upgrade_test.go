package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// request is a good request with lines replaced, or removed where empty.
func request(change map[string]string) string {
	lines := []string{"GET /mqtt HTTP/1.1", "Host: broker", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: mqtt"}
	var b strings.Builder
	for _, l := range lines {
		name, _, _ := strings.Cut(l, ":")
		name, _, _ = strings.Cut(name, " /")
		if other, ok := change[name]; ok {
			l = other
		}
		if l != "" {
			b.WriteString(l + "\r\n")
		}
	}
	return b.String() + "\r\n"
}

type pipe struct {
	io.Reader
	bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }

func TestUpgrade(t *testing.T) {
	type change = map[string]string
	options := Options{Path: "/mqtt", Protocols: []string{"mqtt", "mqttv3.1"}}
	closed := options
	closed.Origins = []string{"https://plant.example"}
	for _, tt := range []struct {
		name     string
		o        Options
		raw      string
		status   int
		protocol string
	}{
		{"good", options, request(nil), 101, "mqtt"},
		{"query", options, request(change{"GET": "GET /mqtt?x=1 HTTP/1.1"}), 101, "mqtt"},
		{"several protocols", options, request(change{"Sec-WebSocket-Protocol": "Sec-WebSocket-Protocol: stomp\r\nsec-websocket-protocol: mqttv3.1 , mqtt"}), 101, "mqtt"}, // [MQTT-6.0.0-4]
		{"protocol of MQTT 3.1", options, request(change{"Sec-WebSocket-Protocol": "Sec-WebSocket-Protocol: mqttv3.1"}), 101, "mqttv3.1"},
		{"no protocol", options, request(change{"Sec-WebSocket-Protocol": ""}), 400, ""}, // [MQTT-6.0.0-3]
		{"other protocol", options, request(change{"Sec-WebSocket-Protocol": "Sec-WebSocket-Protocol: MQTT, mqtt5"}), 400, ""},
		{"other path", options, request(change{"GET": "GET /mqtt/ HTTP/1.1"}), 404, ""},
		{"POST", options, request(change{"GET": "POST /mqtt HTTP/1.1"}), 400, ""},
		{"HTTP/1.0", options, request(change{"GET": "GET /mqtt HTTP/1.0"}), 400, ""},
		{"with a body", options, request(change{"Host": "Host: broker\r\nContent-Length: 5"}), 400, ""},
		{"no upgrade", options, request(change{"Upgrade": ""}), 426, ""},
		{"no connection", options, request(change{"Connection": ""}), 426, ""},
		{"version 8", options, request(change{"Sec-WebSocket-Version": "Sec-WebSocket-Version: 8"}), 426, ""},
		{"no key", options, request(change{"Sec-WebSocket-Key": ""}), 400, ""},
		{"short key", options, request(change{"Sec-WebSocket-Key": "Sec-WebSocket-Key: YWJj"}), 400, ""},
		{"origin, any allowed", options, request(change{"Host": "Host: b\r\nOrigin: https://else.example"}), 101, "mqtt"},
		{"origin allowed", closed, request(change{"Host": "Host: b\r\nOrigin: https://plant.example"}), 101, "mqtt"},
		{"origin not allowed", closed, request(change{"Host": "Host: b\r\nOrigin: https://else.example"}), 403, ""},
		{"no origin", closed, request(nil), 101, "mqtt"},
		{"too long", options, request(change{"Host": "Host: b\r\nCookie: " + strings.Repeat("x", maxRequest)}), 431, ""},
		{"MQTT", options, "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\r\n\r\n", 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const behind = "\x82\x80abcd"
			p := &pipe{Reader: io.MultiReader(strings.NewReader(tt.raw + behind))}
			ahead, err := Upgrade(p, tt.o)
			res, parseErr := http.ReadResponse(bufio.NewReader(&p.Buffer), nil)
			if parseErr != nil {
				t.Fatal(parseErr)
			}
			if res.StatusCode != tt.status || res.Header.Get("Sec-WebSocket-Protocol") != tt.protocol {
				t.Errorf("answered %d with protocol %q, %v", res.StatusCode, res.Header.Get("Sec-WebSocket-Protocol"), err)
			}
			var refused *RefusedError
			switch {
			case tt.status != 101 && (!errors.As(err, &refused) || refused.Status != tt.status):
				t.Errorf("error %v", err)
			case tt.status != 101:
			case err != nil || string(ahead) != behind:
				t.Errorf("behind the request %q, error %v", ahead, err)
			case res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=": // RFC 6455, 1.3
				t.Errorf("accepted with %q", res.Header.Get("Sec-WebSocket-Accept"))
			}
		})
	}
}

// TestUpgradeOfAClosedConnection: nobody is there to be answered.
func TestUpgradeOfAClosedConnection(t *testing.T) {
	p := &pipe{Reader: strings.NewReader(request(nil)[:len("GET /mqtt HTTP/1.1\r\n")])}
	_, err := Upgrade(p, Options{Path: "/mqtt", Protocols: []string{"mqtt"}})
	if !errors.Is(err, io.ErrUnexpectedEOF) || p.Len() > 0 {
		t.Errorf("got %v and answered %q", err, p.String())
	}
}
