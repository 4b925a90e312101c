package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/berth-registry/berth/internal/trust"
)

// How long what a provider says of itself is good for.
const (
	keep  = time.Hour      // then it is looked up again, and withdrawn keys are gone
	stale = 24 * time.Hour // until when it stands in while the provider is down
	pause = time.Second    // between two look-ups if they fail
)

// algorithms are those that only the owner of a private key can sign with; never
// "none", and never HMAC, whose key would be one that everybody knows.
func algorithms() []string {
	return []string{
		oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512,
		oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
	}
}

// issuer is a provider, as far as tokens go: where its endpoints are, and its keys.
type issuer struct {
	url    string
	client *http.Client
	log    *slog.Logger
	now    func() time.Time

	mu    sync.Mutex
	known *discovered   // nil until it is found
	tried time.Time     // when the last look-up started
	err   error         // why it failed
	busy  chan struct{} // closed when the look-up that is under way ends; nil if none is
}

// discovered is what a provider says of itself (OpenID Connect Discovery 1.0,
// section 3).
type discovered struct {
	provider *oidc.Provider
	keys     oidc.KeySet
	at       time.Time
}

func newIssuer(issuerURL, ca string, log *slog.Logger, now func() time.Time) (*issuer, error) {
	if err := checkIssuer(issuerURL); err != nil {
		return nil, err
	}
	client, err := newClient(ca)
	if err != nil {
		return nil, fmt.Errorf("certificates of %s: %w", issuerURL, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if now == nil {
		now = time.Now
	}
	return &issuer{url: issuerURL, client: client, log: log, now: now}, nil
}

// discovered returns what the provider says of itself. One look-up is under way
// at a time, whoever waits for it.
func (i *issuer) discovered(ctx context.Context) (*discovered, error) {
	i.mu.Lock()
	now := i.now()
	if i.known != nil && now.Sub(i.known.at) < keep {
		defer i.mu.Unlock()
		return i.known, nil
	}
	if i.busy == nil && now.Sub(i.tried) >= pause {
		i.tried, i.busy = now, make(chan struct{})
		go i.lookUp(context.WithoutCancel(ctx), now)
	}
	known, busy, err := i.known, i.busy, i.err
	i.mu.Unlock()
	if known != nil && now.Sub(known.at) < stale {
		return known, nil // the new will be there for those who come later
	}
	if busy == nil {
		return nil, unavailable(i.url, err)
	}
	select {
	case <-busy:
	case <-ctx.Done():
		return nil, unavailable(i.url, ctx.Err())
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err != nil {
		return nil, unavailable(i.url, i.err)
	}
	return i.known, nil
}

func (i *issuer) lookUp(ctx context.Context, now time.Time) {
	found, err := i.discover(ctx, now)
	if err != nil {
		i.log.WarnContext(ctx, "identity provider does not answer", "issuer", i.url, "error", clean(err.Error()))
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err = err; err == nil {
		i.known = found
	}
	close(i.busy)
	i.busy = nil
}

func (i *issuer) discover(ctx context.Context, now time.Time) (*discovered, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.url)
	if err != nil {
		return nil, err
	}
	var at struct {
		Keys     string `json:"jwks_uri"`
		UserInfo string `json:"userinfo_endpoint"`
	}
	if err := provider.Claims(&at); err != nil {
		return nil, err
	}
	endpoint := provider.Endpoint()
	for _, u := range []string{at.Keys, at.UserInfo, endpoint.AuthURL, endpoint.TokenURL} {
		if err := i.checkEndpoint(u); err != nil {
			return nil, err
		}
	}
	if at.Keys == "" {
		return nil, errors.New("it names no jwks_uri")
	}
	client := *i.client
	client.Transport = newSeldom(i.client.Transport, i.now)
	keys := oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), &client), at.Keys)
	return &discovered{provider: provider, keys: keys, at: now}, nil
}

// checkEndpoint refuses endpoints that are less safe than the issuer itself.
func (i *issuer) checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil // those who need it find out
	}
	u, err := url.Parse(endpoint)
	if err == nil && u.Host != "" && (u.Scheme == "https" ||
		u.Scheme == "http" && trust.IsLoopback(u.Hostname()) && strings.HasPrefix(i.url, "http:")) {
		return nil
	}
	return fmt.Errorf("it names an endpoint that is not on https: %q", endpoint)
}

// verify returns what a token says if it is the provider's, for the audience, and
// holds now. An empty audience leaves that to the caller.
func (i *issuer) verify(ctx context.Context, token, audience string) (*oidc.IDToken, claims, error) {
	if len(token) > maxToken {
		return nil, nil, wrong("it is longer than %d bytes", maxToken)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	found, err := i.discovered(ctx)
	if err != nil {
		return nil, nil, err
	}
	signature := &signature{keys: found.keys}
	t, err := oidc.NewVerifier(i.url, signature, &oidc.Config{
		ClientID:             audience,
		SkipClientIDCheck:    audience == "",
		SupportedSigningAlgs: algorithms(),
		Now:                  i.now,
	}).Verify(ctx, token)
	if signature.unknown != nil {
		return nil, nil, unavailable(i.url, signature.unknown)
	}
	if err != nil {
		return nil, nil, wrong("%v", err)
	}
	if t.Issuer != i.url {
		// The library takes a short form of Google's.
		return nil, nil, wrong("it is of another issuer")
	}
	c, err := readClaims(t)
	if err != nil {
		return nil, nil, wrong("%v", err)
	}
	return t, c, nil
}

// signature verifies one signature. It remembers if it could not because the
// provider's keys were not to be had: the library does not tell that from a wrong
// signature.
type signature struct {
	keys    oidc.KeySet
	unknown error
}

// VerifySignature implements oidc.KeySet.
func (s *signature) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := s.keys.VerifySignature(ctx, jwt)
	// Only errors of the look-up wrap another.
	if err != nil && errors.Unwrap(err) != nil && !errors.Is(err, errSeldom) {
		s.unknown = err
	}
	return payload, err
}
