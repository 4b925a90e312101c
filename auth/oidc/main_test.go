package oidc_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/e2e/berthtest"
)

// clock is the time, and what a test adds to it.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time        { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) pass(by time.Duration) { c.ahead.Add(int64(by)) }

// client is where a provider sends a browser back to: what a registry's pages do,
// no more.
type client struct {
	t        *testing.T
	provider *oidc.Provider
	server   *httptest.Server
	query    url.Values // of the browser that came back last
}

const (
	state    = "state-0123456789"
	nonce    = "nonce-0123456789"
	verifier = "verifier-0123456789-0123456789-0123456789-0123456789"
)

func newClient(t *testing.T, p *oidc.Provider) *client {
	t.Helper()
	c := &client{t: t, provider: p}
	c.server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c.query = r.URL.Query() }))
	t.Cleanup(c.server.Close)
	return c
}

func (c *client) redirect() string { return c.server.URL + "/oidc/test/callback" }

// signIn takes a browser to the provider and back, and returns the code.
func (c *client) signIn(idp *berthtest.IDP, user string) (code string) {
	c.t.Helper()
	to, err := c.provider.AuthURL(c.t.Context(), c.redirect(), state, nonce, verifier)
	if err != nil {
		c.t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	idp.SignIn(&http.Client{Jar: jar, Transport: idp.Transport()}, to, user)
	if got := c.query.Get("state"); got != state {
		c.t.Fatalf("came back with state %q: %v", got, c.query)
	}
	return c.query.Get("code")
}

func newProvider(t *testing.T, idp *berthtest.IDP, change func(*oidc.Options)) *oidc.Provider {
	t.Helper()
	o := oidc.Options{Name: "test", Issuer: idp.Issuer, ClientID: idp.ClientID, ClientSecret: idp.Secret, CA: idp.CA}
	if change != nil {
		change(&o)
	}
	p, err := oidc.NewProvider(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newWorkload(t *testing.T, rules ...oidc.WorkloadOptions) *oidc.Workload {
	t.Helper()
	w, err := oidc.NewWorkload(rules)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// wantError fails the test unless err is of a kind and tells a reason, and no
// secret.
func wantError(t *testing.T, err, kind error, reason string, secrets ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, other := range []error{auth.ErrWrong, auth.ErrUnknown, oidc.ErrUnavailable} {
		if !errors.Is(kind, other) && errors.Is(err, other) {
			t.Errorf("%v is %v too", err, other)
		}
	}
	if !strings.Contains(err.Error(), reason) {
		t.Errorf("error %q, want it to tell %q", err, reason)
	}
	if len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\r\x1b") {
		t.Errorf("error is no line for a log: %q", err)
	}
	for _, s := range secrets {
		if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("error tells a secret: %v", err)
		}
	}
}

func login(w *oidc.Workload, token string) (*auth.Identity, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	id, _, err := w.Login(ctx, token)
	return id, err
}
