// Package upstream is the HTTP client of one registry that Berth mirrors: its
// credentials, its limits and its faults.
//
// It promises that nobody waits for an upstream that is known not to answer:
// after a few failures, or when the upstream says to wait, requests fail at once
// until one that is let through succeeds. Every failure that is not the
// upstream's own word on what was asked (a 404) is an *Unavailable, whose text
// is fit for users: it names no URL, which may carry signatures, and no secret.
// Credentials go to the upstream and to the token server that it names, never
// to where it redirects; what it names or redirects to is not a host of a
// network nearer than its own.
//
// It keeps no content, verifies none (package remote does), and does not resume
// a transfer that broke off: it says that it broke.
package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/registry/remote"
)

// Upstream is one registry. Its methods may be called at the same time.
type Upstream struct {
	o       Options
	base    *url.URL
	client  *remote.Client
	auth    *auth.Client
	tokens  *tokenCache
	source  source
	pool    *http.Transport
	breaker *breaker
	counts  counts
	limits  limits
	proxies proxies
	near    nearness // of the upstream itself
}

// New returns the client of an upstream. It sends nothing yet. It fails if the
// options contradict each other, a file that they name cannot be read, or the
// credential helper is not installed.
func New(o Options) (*Upstream, error) { return newAt(o, endpoints{}) }

// newAt is New with the services of providers elsewhere.
func newAt(o Options, at endpoints) (*Upstream, error) {
	o = o.withDefaults()
	base, err := baseOf(o.URL)
	if err != nil {
		return nil, err
	}
	u := &Upstream{o: o, base: base, breaker: newBreaker(o.Kind, o.Name, o.Now), tokens: newTokenCache()}
	if ip, err := netip.ParseAddr(base.Hostname()); err == nil {
		u.near.set(distanceOf(ip))
	}
	if err := u.connect(); err != nil {
		return nil, err
	}
	u.source, err = u.newSource(at)
	if err != nil {
		return nil, err
	}
	u.auth = &auth.Client{
		Client:     &http.Client{Transport: &transport{u: u, base: u.pool}, CheckRedirect: checkRedirect},
		Header:     http.Header{"User-Agent": {o.UserAgent}},
		Credential: u.credential,
		Cache:      u.tokens,
		ClientID:   "berth",
		// Addresses are judged when they are dialled: a name may resolve to
		// another by then.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
	u.client, err = remote.New(base.String(), doer{u})
	return u, err
}

// credential is for the upstream itself, and no other host.
func (u *Upstream) credential(ctx context.Context, hostport string) (auth.Credential, error) {
	if hostport != u.base.Host {
		return auth.EmptyCredential, nil
	}
	cred, err := u.source.credential(ctx)
	if err == nil || ctx.Err() != nil {
		return cred, err
	}
	if _, ok := errors.AsType[*fault](err); ok {
		return cred, err
	}
	return cred, &fault{kind: failed, reason: "this registry's credentials cannot be had: " + err.Error()}
}

// Name is the mirror's name in the configuration.
func (u *Upstream) Name() string { return u.o.Name }

// String names the upstream, and none of its secrets.
func (u *Upstream) String() string { return u.o.String() }

// GoString is String.
func (u *Upstream) GoString() string { return u.o.String() }

// Client speaks to the upstream. Its methods fail with the errors of package
// registry where the upstream has the last word, with *Unavailable where it had
// none, and with the context's error if the caller gave up.
func (u *Upstream) Client() *remote.Client { return u.client }

// Unavailable is nil, or an *Unavailable if the upstream is not to be asked now.
func (u *Upstream) Unavailable() error {
	if e := u.breaker.state(); e != nil {
		return e
	}
	return nil
}

// Close ends the connections that are idle.
func (u *Upstream) Close() { u.pool.CloseIdleConnections() }

// sameOrigin says whether a URL is of the upstream itself.
func (u *Upstream) sameOrigin(other *url.URL) bool {
	return other.Scheme == u.base.Scheme && hostPort(other) == hostPort(u.base)
}

const (
	defaultDial   = 10 * time.Second
	defaultHeader = 30 * time.Second
	defaultIdle   = 30 * time.Second
)
