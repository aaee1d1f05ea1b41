package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// maxAnswer bounds what is read of an answer: whatever listens at an address
// that was mistyped may never stop talking.
const maxAnswer = 64 << 20

// NotReadyError is the answer of a node that cannot serve yet.
type NotReadyError struct {
	Addr string
	Readiness
}

func (e *NotReadyError) Error() string {
	return fmt.Sprintf("the node at %s is not ready: %s", e.Addr, joinOr(e.Missing, "it does not say why"))
}

// GetStatus asks the node at addr (its --http-addr) for its status.
func GetStatus(ctx context.Context, addr string) (*Status, error) {
	var s Status
	if err := get(ctx, addr, "/api/v1/status", &s); err != nil {
		return nil, err
	}
	if s.Version != StatusVersion {
		return nil, fmt.Errorf("the node at %s answers with version %d of its status, this binary knows version %d", addr, s.Version, StatusVersion)
	}
	return &s, nil
}

// GetReady asks the node at addr whether it is ready: nil, a *NotReadyError,
// or that it could not be asked.
func GetReady(ctx context.Context, addr string) error {
	var r Readiness
	return get(ctx, addr, "/readyz", &r)
}

func get(ctx context.Context, addr, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return fmt.Errorf("%s is not an address of a node: %w", addr, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no answer from the node at %s: %w", addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("no complete answer from the node at %s: %w", addr, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		err = json.Unmarshal(body, into)
	case http.StatusServiceUnavailable:
		e := &NotReadyError{Addr: addr}
		if err = json.Unmarshal(body, &e.Readiness); err == nil {
			return e
		}
	default:
		return fmt.Errorf("the node at %s answers %s to %s", addr, resp.Status, path)
	}
	if err != nil {
		return fmt.Errorf("what answers at %s is no flotilla node: %w", addr, err)
	}
	return nil
}
