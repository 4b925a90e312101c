// Package remote is a registry over HTTP: Client speaks to any registry of the
// OCI distribution specification 1.1 and implements registry.Registry, so that
// whatever works on the local registry works on a remote one.
//
// It verifies what it reads against the digests, bounds what it keeps in
// memory, and turns the specification's error bodies back into the errors of
// package registry. It holds no credentials: the Doer that it is given adds
// them.
package remote

import (
	"context"
	_ "crypto/sha256" // the digests' algorithms
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/registry"
)

const (
	maxErrorBody = 64 << 10
	maxPage      = 32 << 20 // of a list: some registries ignore n and send all
	pageLength   = 1000     // the n that lists ask for
)

// Doer sends requests: an *http.Client, or one that authenticates, such as
// auth.Client of oras-go, for which the requests' contexts carry the scopes
// that they need.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Client is the registry at a URL. It differs from the local registry in two
// ways that the protocol imposes: lists come in the order in which the remote
// registry keeps them, which for an OCI registry is byte order, and an upload
// session at a registry that names sessions by URL is known to this Client
// only.
type Client struct {
	base *url.URL
	doer Doer

	mu       sync.Mutex
	sessions map[string]*url.URL // where uploads go on, if not at the usual URL
}

var _ registry.Registry = (*Client)(nil)

// New returns a client of the registry at base, such as
// "https://registry.example.org". A nil doer means http.DefaultClient.
func New(base string, doer Doer) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("registry URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("registry URL %q: want http://HOST[:PORT] or https://HOST[:PORT]", base)
	}
	if doer == nil {
		doer = http.DefaultClient
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return &Client{base: u, doer: doer, sessions: map[string]*url.URL{}}, nil
}

// Ping asks whether there is a registry at all that lets this client in.
func (c *Client) Ping(ctx context.Context) error {
	resp, err := c.do(ctx, request{method: http.MethodGet, url: c.url("v2/"), want: []int{http.StatusOK}})
	if err != nil {
		return err
	}
	return drain(resp)
}

// request is one exchange with the registry.
type request struct {
	method  string
	url     *url.URL
	scopes  []string // of the token that it needs
	header  http.Header
	body    *body
	missing *registry.Error // what a 404 means that does not say it
	want    []int           // statuses of success
}

// do sends r and returns the response if its status is one that r wants;
// otherwise the error that it stands for.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	ctx = auth.AppendScopesForHost(ctx, r.url.Host, r.scopes...)
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), nil)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, r.header)
	// Digests are of the bytes as stored: no transparent decompression.
	req.Header.Set("Accept-Encoding", "identity")
	if r.body != nil {
		r.body.attach(req)
		defer r.body.stop()
	}
	resp, err := c.doer.Do(req)
	if err != nil {
		if r.body != nil {
			if rerr := r.body.failure(); rerr != nil {
				return nil, rerr
			}
		}
		return nil, err
	}
	if slices.Contains(r.want, resp.StatusCode) {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, errorOf(resp, r.missing)
}

// url returns the URL of a path below the registry's, given unescaped.
func (c *Client) url(path string) *url.URL {
	u := *c.base
	u.Path += "/" + path
	return &u
}

func (c *Client) repoURL(repo, kind, name string) *url.URL {
	return c.url("v2/" + repo + "/" + kind + "/" + name)
}

func pulls(repo string) []string { return []string{auth.ScopeRepository(repo, auth.ActionPull)} }

func pushes(repo string) []string {
	return []string{auth.ScopeRepository(repo, auth.ActionPull, auth.ActionPush)}
}

func deletes(repo string) []string {
	return []string{auth.ScopeRepository(repo, auth.ActionPull, auth.ActionDelete)}
}

// drain ends a response whose body does not matter, so that its connection can
// be used again.
func drain(resp *http.Response) error {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorBody)) // if it fails, a new connection will do
	return resp.Body.Close()
}

// readAll reads at most limit bytes of a response and closes it.
func readAll(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errTooLong
	}
	return data, nil
}

var errTooLong = errors.New("the registry's answer is longer than any valid one")
