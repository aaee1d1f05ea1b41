package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// Client asks a node's admin API.
type Client struct {
	addr string
	base string
	http http.Client
}

// NewClient returns a client of the node at addr (its --admin-addr). conf is nil where
// the node wants no certificate.
func NewClient(addr string, conf *tls.Config) *Client {
	c := &Client{addr: addr, base: "http://" + addr}
	tr := &http.Transport{TLSClientConfig: conf, Proxy: nil}
	if conf != nil {
		c.base = "https://" + addr
	}
	if path, ok := config.UnixSocket(addr); ok {
		c.base = "http://localhost"
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	c.http.Transport = tr
	return c
}

// RefusedError is what a node answered instead of what was asked for.
type RefusedError struct {
	Addr    string
	Status  int // of HTTP
	Message string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s (the node at %s)", e.Message, e.Addr)
}

// do sends a request and decodes the answer. send and into may be nil.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, send, into any) error {
	var data []byte
	if send != nil {
		var err error
		if data, err = json.Marshal(send); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path+"?"+query.Encode(), bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s is not an address of a node: %w", c.addr, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("no answer from the admin API at %s (--admin-addr): %w", c.addr, unwrapURL(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("no complete answer from the node at %s: %w", c.addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		var p Problem
		if json.Unmarshal(answer, &p) != nil || p.Error == "" {
			p.Error = "answers " + resp.Status + " to " + path
		}
		return &RefusedError{c.addr, resp.StatusCode, p.Error}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("what answers at %s is no flotilla node: %w", c.addr, err)
	}
	return nil
}

// unwrapURL leaves out what net/http repeats of the request.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Members lists the members of the cluster.
func (c *Client) Members(ctx context.Context) (m []Member, err error) {
	return m, c.do(ctx, http.MethodGet, "/api/v1/cluster/members", nil, nil, &m)
}

// Transfer hands the leadership of a partition to a node.
func (c *Client) Transfer(ctx context.Context, partition uint32, node string) error {
	return c.do(ctx, http.MethodPost, "/api/v1/cluster/transfer", nil, TransferRequest{partition, node}, nil)
}

// Drain takes a node out of use.
func (c *Client) Drain(ctx context.Context, node string, forget bool) error {
	return c.do(ctx, http.MethodPost, "/api/v1/cluster/drain", nil, DrainRequest{node, forget}, nil)
}

// Undrain takes a node into use again.
func (c *Client) Undrain(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodDelete, "/api/v1/cluster/drain", url.Values{"node": {node}}, nil, nil)
}

// DrainOf tells how far a node is out of use.
func (c *Client) DrainOf(ctx context.Context, node string) (d Drain, err error) {
	return d, c.do(ctx, http.MethodGet, "/api/v1/cluster/drain", url.Values{"node": {node}}, nil, &d)
}

// Remove forgets a node that is gone for good.
func (c *Client) Remove(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodDelete, "/api/v1/cluster/members", url.Values{"node": {node}}, nil, nil)
}

// Moves lists the moves that are due.
func (c *Client) Moves(ctx context.Context) (m []Move, err error) {
	return m, c.do(ctx, http.MethodGet, "/api/v1/cluster/moves", nil, nil, &m)
}

// Sessions asks for one page.
func (c *Client) Sessions(ctx context.Context, q SessionQuery) (p SessionPage, err error) {
	v := url.Values{"limit": {strconv.Itoa(q.Limit)}, "prefix": {q.Prefix}, "state": {q.State}}
	if !q.FromStart {
		v.Set("after", q.After)
	}
	return p, c.do(ctx, http.MethodGet, "/api/v1/sessions", v, nil, &p)
}

func client(id string) url.Values { return url.Values{"client_id": {id}} }

// Session asks for one session.
func (c *Client) Session(ctx context.Context, clientID string) (d *SessionDetail, err error) {
	return d, c.do(ctx, http.MethodGet, "/api/v1/session", client(clientID), nil, &d)
}

// Kick ends the connection of a session.
func (c *Client) Kick(ctx context.Context, clientID string) error {
	return c.do(ctx, http.MethodPost, "/api/v1/session/kick", client(clientID), nil, nil)
}

// DeleteSession ends a session.
func (c *Client) DeleteSession(ctx context.Context, clientID string) error {
	return c.do(ctx, http.MethodDelete, "/api/v1/session", client(clientID), nil, nil)
}

// Retained asks for one page of retained messages.
func (c *Client) Retained(ctx context.Context, filter, after string, limit int) (p RetainedPage, err error) {
	v := url.Values{"limit": {strconv.Itoa(limit)}, "filter": {filter}, "after": {after}}
	return p, c.do(ctx, http.MethodGet, "/api/v1/retained", v, nil, &p)
}

// ClearRetained removes retained messages and tells how many.
func (c *Client) ClearRetained(ctx context.Context, filter string) (int, error) {
	var n Cleared
	err := c.do(ctx, http.MethodDelete, "/api/v1/retained", url.Values{"filter": {filter}}, nil, &n)
	return n.Cleared, err
}

// LogLevel is the least severe level that the node logs.
func (c *Client) LogLevel(ctx context.Context) (string, error) {
	var l LogLevel
	err := c.do(ctx, http.MethodGet, "/api/v1/log-level", nil, nil, &l)
	return l.Level, err
}

// SetLogLevel changes it, until the node's next start.
func (c *Client) SetLogLevel(ctx context.Context, level string) error {
	return c.do(ctx, http.MethodPut, "/api/v1/log-level", nil, LogLevel{level}, nil)
}

// CheckDisk measures how fast the node's data folder is.
func (c *Client) CheckDisk(ctx context.Context) (d DiskCheck, err error) {
	return d, c.do(ctx, http.MethodPost, "/api/v1/disk/check", nil, nil, &d)
}
