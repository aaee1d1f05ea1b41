package websocket

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Options say which requests are accepted.
type Options struct {
	// Path is the path of the URL, such as /mqtt.
	Path string
	// Protocols are the sub-protocols, the preferred one first. A client must offer one.
	Protocols []string
	// Origins are the allowed values of the Origin header, which browsers send; empty:
	// any. Requests without the header are accepted always.
	Origins []string
}

// RefusedError is a request that was answered with an HTTP status other than 101.
type RefusedError struct {
	Status int // of HTTP
	Detail string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("websocket: request refused with %d: %s", e.Status, e.Detail)
}

// maxRequest bounds a request, in bytes.
const maxRequest = 16 << 10

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// Upgrade reads a client's request and answers it. ahead is what has been read behind
// the request: the first frames of a client that is quick. The error is a *RefusedError,
// or what reading or writing brought.
func Upgrade(rw io.ReadWriter, o Options) (ahead []byte, err error) {
	limited := &io.LimitedReader{R: rw, N: maxRequest}
	r := readers.Get().(*bufio.Reader)
	defer readers.Put(r)
	defer r.Reset(nil)
	r.Reset(limited)
	req, err := http.ReadRequest(r)
	switch {
	case err != nil && limited.N == 0:
		return nil, refuse(rw, http.StatusRequestHeaderFieldsTooLarge, "request too long")
	case err != nil:
		return nil, badRequest(rw, err)
	}
	protocol, refused := o.check(req)
	if refused != nil {
		return nil, refuse(rw, refused.Status, refused.Detail)
	}
	ahead, _ = r.Peek(r.Buffered()) // no error: they are there
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + acceptKey(req.Header.Get("Sec-WebSocket-Key")) + "\r\n" +
		"Sec-WebSocket-Protocol: " + protocol + "\r\n\r\n" // [MQTT-6.0.0-4]
	_, err = io.WriteString(rw, answer)
	return bytes.Clone(ahead), err
}

// check decides about a request.
func (o *Options) check(r *http.Request) (protocol string, refused *RefusedError) {
	no := func(status int, detail string) (string, *RefusedError) {
		return "", &RefusedError{Status: status, Detail: detail}
	}
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.URL.Path != o.Path:
		return no(http.StatusNotFound, "there is nothing at this path")
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1) || r.ContentLength != 0:
		return no(http.StatusBadRequest, "not a GET of HTTP/1.1 without a body")
	case !lists(r.Header, "Connection", "upgrade") || !lists(r.Header, "Upgrade", "websocket"):
		return no(http.StatusUpgradeRequired, "this is a WebSocket")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return no(http.StatusUpgradeRequired, "version of WebSocket other than 13")
	case err != nil || len(key) != 16:
		return no(http.StatusBadRequest, "Sec-WebSocket-Key that is not 16 bytes in base64")
	case len(o.Origins) > 0 && r.Header.Get("Origin") != "" && !slices.Contains(o.Origins, r.Header.Get("Origin")):
		return no(http.StatusForbidden, "origin not allowed")
	}
	for _, p := range o.Protocols {
		if slices.Contains(values(r.Header, "Sec-WebSocket-Protocol"), p) {
			return p, nil
		}
	}
	return no(http.StatusBadRequest, "sub-protocol "+strings.Join(o.Protocols, " or ")+" not offered [MQTT-6.0.0-3]")
}

// values are the elements of a header that is a list.
func values(h http.Header, name string) (list []string) {
	for _, line := range h.Values(name) {
		for v := range strings.SplitSeq(line, ",") {
			list = append(list, strings.TrimSpace(v))
		}
	}
	return list
}

// lists says whether a word, which knows no case, is in a list.
func lists(h http.Header, name, word string) bool {
	return slices.ContainsFunc(values(h, name), func(v string) bool { return strings.EqualFold(v, word) })
}

// acceptKey proves that the request was understood (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// badRequest refuses what is no request, unless the connection is at fault.
func badRequest(w io.Writer, err error) error {
	var timeout interface{ Timeout() bool }
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &timeout) {
		return err
	}
	return refuse(w, http.StatusBadRequest, "this is not HTTP")
}

// refuse answers a request with an error, which it returns.
func refuse(w io.Writer, status int, detail string) error {
	body := detail + "\n"
	_, err := fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nConnection: close, Upgrade\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
	return errors.Join(&RefusedError{Status: status, Detail: detail}, err)
}
