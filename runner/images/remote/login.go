package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/registry"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berth-registry/berth/runner"
)

// Login tries credentials at the registry that they name, Docker Hub if none. A
// token service that knows identity tokens answers with one, to be kept instead
// of the password. Wrong credentials are runner.ErrUnauthorized.
func (c *Client) Login(ctx context.Context, login registry.AuthConfig) (registry.AuthResponse, error) {
	domain, err := loginDomain(login.ServerAddress)
	if err != nil {
		return registry.AuthResponse{}, err
	}
	cred, err := credential(&login)
	if err != nil {
		return registry.AuthResponse{}, err
	}
	server, err := c.registry(domain, hubRegistry)
	if err != nil {
		return registry.AuthResponse{}, fmt.Errorf("registry %s: %w", domain, err)
	}
	s := c.session(server, cred)
	base, err := s.base(ctx)
	if err != nil {
		return registry.AuthResponse{}, err
	}
	base.Path = "/v2/"
	tap := &tokenTap{next: oneChallenge{server.transport}, registry: base}
	s.auth.Client = &http.Client{Transport: tap}
	err = s.login(ctx)
	if isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusMethodNotAllowed) {
		// A token service that knows only OAuth 2.
		s = c.session(server, cred)
		s.auth.Client = &http.Client{Transport: tap}
		s.auth.ForceAttemptOAuth2 = true
		err = s.login(ctx)
	}
	if err != nil {
		return registry.AuthResponse{}, loginError(base, tap, err)
	}
	return registry.AuthResponse{Status: "Login Succeeded", IdentityToken: tap.refreshToken()}, nil
}

func (s *session) login(ctx context.Context) error {
	resp, err := s.retry(ctx, call{method: http.MethodGet, path: "v2/", ok: []int{http.StatusOK}})
	if err != nil {
		return err
	}
	drain(resp)
	return nil
}

// loginDomain is the registry of an address, which may be a URL.
func loginDomain(address string) (string, error) {
	host := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", hubIndex, hubRegistry, hubDomain:
		return hubDomain, nil
	}
	if !isDomain(host) {
		return "", runner.Errorf(runner.ErrInvalid, "invalid registry address %q", address)
	}
	return host, nil
}

// loginError words a refusal as Docker does, which tells apart who refused: the
// registry or its token service.
func loginError(base *url.URL, tap *tokenTap, err error) error {
	var resp *responseError
	switch {
	case errors.Is(err, errNoBasic):
		return runner.Errorf(runner.ErrUnauthorized, "%w", err)
	case !errors.As(err, &resp):
		return err
	}
	kind := runner.ErrUnauthorized
	if resp.status != http.StatusUnauthorized && resp.status != http.StatusForbidden {
		kind = runner.ErrUnavailable
	}
	if text := tap.refusal(); text != "" {
		return runner.Errorf(kind, "Get %q: %s", base, text)
	}
	return runner.Errorf(kind, "login attempt to %s failed with status: %d %s", base, resp.status, http.StatusText(resp.status))
}

// tokenTap has the token service asked for an identity token, and keeps what it
// answers: auth.Client does not do it.
type tokenTap struct {
	next     http.RoundTripper
	registry *url.URL

	mu      sync.Mutex
	refresh string
	refused string
}

// RoundTrip makes a request of the registry's or of the token service.
func (t *tokenTap) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == t.registry.Host && req.URL.Path == t.registry.Path {
		return t.next.RoundTrip(req)
	}
	req = req.Clone(req.Context())
	if err := askForRefreshToken(req); err != nil {
		return nil, err
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	data, err := readAll(resp.Body, 2*maxErrorBody)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	t.keep(resp, data)
	return resp, nil
}

func askForRefreshToken(req *http.Request) error {
	if req.Method != http.MethodPost {
		q := req.URL.Query()
		q.Set("offline_token", "true")
		q.Set("client_id", defaultAgent)
		req.URL.RawQuery = q.Encode()
		return nil
	}
	form, err := readAll(req.Body, maxErrorBody)
	req.Body.Close()
	if err != nil {
		return err
	}
	form = append(form, "&access_type=offline"...)
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(form)), int64(len(form))
	return nil
}

func (t *tokenTap) keep(resp *http.Response, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if resp.StatusCode == http.StatusOK {
		var answer struct {
			RefreshToken string `json:"refresh_token"`
		}
		if json.Unmarshal(data, &answer) == nil {
			t.refresh = answer.RefreshToken
		}
		t.refused = ""
		return
	}
	said := *resp
	said.Body = io.NopCloser(bytes.NewReader(data))
	e := newResponseError(&said)
	if len(e.errs) == 0 {
		e.errs = []errcode.Error{{Code: cmp.Or(http.StatusText(resp.StatusCode), "error")}}
	}
	t.refused = e.Error()
}

func (t *tokenTap) refreshToken() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refresh
}

// refusal is what the token service said last, if it refused.
func (t *tokenTap) refusal() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused
}
