// Package kube asks the Kubernetes API one thing: what the StatefulSet of this
// pod is to be. It needs the right to get that one object, and nothing but the
// standard library.
package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ServiceAccountDir is where a pod finds its token.
const ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// ErrNotInCluster says that this process is in no pod, or in one without a
// token.
var ErrNotInCluster = errors.New("this process is not in a pod with a service account's token")

// StatusError is an answer of the API other than 200.
type StatusError struct {
	Code    int    // of HTTP: 403 the role lacks something, 404 there is no such object
	Message string // of the API
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the Kubernetes API answers %d %s: %s", e.Code, http.StatusText(e.Code), e.Message)
}

// StatefulSet is what counts of one.
type StatefulSet struct {
	Replicas int  // how many pods there are to be
	Start    int  // the first ordinal
	Deleting bool // the whole set is being deleted
}

// Keeps reports whether the pod with this ordinal is to come back after it has
// ended. Where all pods end, all come back one day, with their disks: nobody is
// left to take over from them.
func (s StatefulSet) Keeps(ordinal int) bool {
	return s.Deleting || s.Replicas == 0 || s.Start <= ordinal && ordinal < s.Start+s.Replicas
}

// PodName splits the name of a StatefulSet's pod.
func PodName(pod string) (set string, ordinal int, err error) {
	i := strings.LastIndexByte(pod, '-')
	if i > 0 {
		ordinal, err = strconv.Atoi(pod[i+1:])
	}
	if i <= 0 || err != nil || ordinal < 0 {
		return "", 0, fmt.Errorf("%q is no name of a StatefulSet's pod: want NAME-ORDINAL, such as flotilla-0", pod)
	}
	return pod[:i], ordinal, nil
}

// Client asks the API on behalf of this pod.
type Client struct {
	base      string
	tokenFile string // read for each request: kubelet renews it
	namespace string
	http      *http.Client
}

// InCluster makes a Client from what Kubernetes gives each pod: two environment
// variables, and the files of dir (ServiceAccountDir).
func InCluster(lookup func(name string) string, dir string) (*Client, error) {
	host, port := lookup("KUBERNETES_SERVICE_HOST"), lookup("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, fmt.Errorf("%w: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set", ErrNotInCluster)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInCluster, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: no certificate in it", filepath.Join(dir, "ca.crt"))
	}
	namespace, err := os.ReadFile(filepath.Join(dir, "namespace"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInCluster, err)
	}
	return &Client{
		base: "https://" + net.JoinHostPort(host, port), tokenFile: filepath.Join(dir, "token"),
		namespace: strings.TrimSpace(string(namespace)),
		http: &http.Client{
			Timeout:   5 * time.Second, // of one request; the caller may ask again
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
			// The API does not redirect, and the token is for nobody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// StatefulSet reads the StatefulSet of this name in the pod's namespace.
func (c *Client) StatefulSet(ctx context.Context, name string) (StatefulSet, error) {
	var object struct {
		Metadata struct {
			DeletionTimestamp *string `json:"deletionTimestamp"`
		} `json:"metadata"`
		Spec *struct {
			Replicas *int `json:"replicas"`
			Ordinals struct {
				Start int `json:"start"`
			} `json:"ordinals"`
		} `json:"spec"`
	}
	path := "/apis/apps/v1/namespaces/" + url.PathEscape(c.namespace) + "/statefulsets/" + url.PathEscape(name)
	if err := c.get(ctx, path, &object); err != nil {
		return StatefulSet{}, err
	}
	if object.Spec == nil || object.Spec.Replicas == nil { // the API fills it in
		return StatefulSet{}, fmt.Errorf("the Kubernetes API does not say how many replicas StatefulSet %s has", name)
	}
	return StatefulSet{
		Replicas: *object.Spec.Replicas, Start: object.Spec.Ordinals.Start, Deleting: object.Metadata.DeletionTimestamp != nil,
	}, nil
}

// maxAnswer is more than the API stores for one object.
const maxAnswer = 4 << 20

func (c *Client) get(ctx context.Context, path string, into any) error {
	token, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotInCluster, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var status struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(body, &status) // a proxy's answer is no Status: the code says enough
		return &StatusError{Code: resp.StatusCode, Message: status.Message}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the answer of the Kubernetes API: %w", err)
	}
	return nil
}
