package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/berth-registry/berth/auth"
)

// maxExchanges is how many sign-ins at once ask a provider.
const maxExchanges = 16

// Options say how people sign in by a provider.
type Options struct {
	// Name is the provider's key in the configuration. It is in URLs and in the
	// source of identities, "oidc:" and the name.
	Name string
	// Issuer is the provider's URL, exactly as it names itself.
	Issuer string
	// ClientID and ClientSecret are what the provider knows the registry by; the
	// secret may be empty for a public client.
	ClientID, ClientSecret string
	// Scopes are asked for; openid, profile and email if there are none.
	Scopes []string
	// AccountClaim is the claim that names the account. If it is empty, that is
	// email if the provider has verified it, else sub. The claim email is never
	// taken unless it is verified: some providers let people write what they like.
	AccountClaim string
	// GroupsClaim is the claim that lists groups; groups if it is empty.
	GroupsClaim string
	// Prefix is put before the claim to make the account's name; the provider's
	// name and a slash if it is empty. It keeps people of one provider from having
	// the names of another's, or of local accounts.
	Prefix string
	// NoPrefix puts nothing before it. The provider can then sign in any account that
	// is of no source before it.
	NoPrefix bool
	// Claims must all match those of who signs in, as WorkloadOptions.Claims. None:
	// everybody may sign in whom the provider knows, which for a public one is the
	// world.
	Claims map[string]string
	// CA is a file with the certificates of authorities that may sign the
	// provider's; the system's are taken if it is empty.
	CA  string
	Log *slog.Logger     // nil: no log
	Now func() time.Time // nil: time.Now
}

// Provider signs people in. Its methods may be called concurrently.
type Provider struct {
	o      Options
	issuer *issuer
	epoch  string
	places places
}

// NewProvider checks options and makes a provider of them. It asks nobody.
func NewProvider(o Options) (*Provider, error) {
	fail := func(err error) (*Provider, error) { return nil, fmt.Errorf("oidc provider %s: %w", o.Name, err) }
	if err := checkName(o.Name); err != nil {
		return fail(err)
	}
	if o.ClientID == "" {
		return fail(errors.New("a client id is missing"))
	}
	switch {
	case o.NoPrefix && o.Prefix != "":
		return fail(errors.New("a prefix, and none, at once"))
	case !o.NoPrefix && o.Prefix == "":
		o.Prefix = o.Name + "/"
	}
	if c := strings.IndexFunc(o.Prefix, func(c rune) bool { return !inAccount(c) }); c >= 0 || len(o.Prefix) > maxAccount/2 {
		return fail(fmt.Errorf("prefix %q: no part of an account's name", o.Prefix))
	}
	if len(o.Scopes) == 0 {
		o.Scopes = []string{"profile", "email"}
	}
	if !slices.Contains(o.Scopes, oidc.ScopeOpenID) {
		o.Scopes = append([]string{oidc.ScopeOpenID}, o.Scopes...)
	}
	if o.GroupsClaim == "" {
		o.GroupsClaim = "groups"
	}
	o.Claims = maps.Clone(o.Claims)
	wanted, err := claimTexts(o.Claims)
	if err != nil {
		return fail(err)
	}
	is, err := newIssuer(o.Issuer, o.CA, o.Log, o.Now)
	if err != nil {
		return fail(err)
	}
	// Who was let in before does not hold once more is asked for.
	parts := append([]string{o.Issuer, o.ClientID}, wanted...)
	return &Provider{o: o, issuer: is, epoch: epoch(parts...), places: make(places, maxExchanges)}, nil
}

// epoch is a short text that differs if one of the parts does.
func epoch(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Name is the provider's key in the configuration.
func (p *Provider) Name() string { return p.o.Name }

// Source vouches for the identities of the provider, and takes no passwords.
func (p *Provider) Source() auth.Source { return source{p} }

// source is a Provider as an auth.Source.
type source struct{ p *Provider }

// Name is "oidc:" and the provider's name.
func (s source) Name() string { return "oidc:" + s.p.o.Name }

// Login knows nobody by a password.
func (s source) Login(context.Context, string, string) (*auth.Identity, error) {
	return nil, auth.ErrUnknown
}

// Current says whether an identity that the provider has vouched for still holds:
// it is of the provider that is configured now. One that signed in with an API
// key has no epoch, and holds as long as its key does.
func (s source) Current(id *auth.Identity) bool {
	return id.Source == s.Name() && (id.Epoch == s.p.epoch || id.Epoch == "" && id.Key != "")
}

// AuthURL is where a browser goes to sign in: it comes back to redirectURL with a
// code and with state. nonce will be in the token, and the code is of use only
// with verifier (RFC 7636, S256). It fails with ErrUnavailable.
func (p *Provider) AuthURL(ctx context.Context, redirectURL, state, nonce, verifier string) (string, error) {
	found, err := p.issuer.discovered(ctx)
	if err != nil {
		return "", err
	}
	config, err := p.config(found, redirectURL)
	if err != nil {
		return "", err
	}
	return config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), nil
}

func (p *Provider) config(found *discovered, redirectURL string) (*oauth2.Config, error) {
	endpoint := found.provider.Endpoint()
	if endpoint.AuthURL == "" || endpoint.TokenURL == "" {
		return nil, unavailable(p.o.Issuer, errors.New("it names no endpoints for people to sign in"))
	}
	return &oauth2.Config{
		ClientID: p.o.ClientID, ClientSecret: p.o.ClientSecret,
		Endpoint: endpoint, RedirectURL: redirectURL, Scopes: p.o.Scopes,
	}, nil
}

// Exchange returns who came back with a code. It fails with auth.ErrWrong if the
// code or what the provider says of it is not good, and with ErrUnavailable.
func (p *Provider) Exchange(ctx context.Context, redirectURL, code, nonce, verifier string) (*auth.Identity, error) {
	if code == "" {
		return nil, wrong("the browser came back without a code")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	if err := p.places.take(ctx); err != nil {
		return nil, unavailable(p.o.Issuer, err)
	}
	defer p.places.free()
	found, err := p.issuer.discovered(ctx)
	if err != nil {
		return nil, err
	}
	config, err := p.config(found, redirectURL)
	if err != nil {
		return nil, err
	}
	ctx = oidc.ClientContext(ctx, p.issuer.client)
	access, err := config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return nil, p.exchangeError(err)
	}
	c, err := p.verify(ctx, access, nonce)
	if err != nil {
		return nil, err
	}
	if err := p.complete(ctx, found, access, c); err != nil {
		return nil, err
	}
	return p.identity(c)
}

// exchangeError tells a code that is not good from a provider that is not.
func (p *Provider) exchangeError(err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		// The body of the answer may have anything in it, and is not told.
		if refused.ErrorCode == "invalid_grant" {
			return wrong("the provider does not know the code")
		}
		return unavailable(p.o.Issuer, fmt.Errorf("it refuses the registry: %s %s", refused.Response.Status, refused.ErrorCode))
	}
	return unavailable(p.o.Issuer, err)
}

// verify checks the ID token that came with an access token (OpenID Connect Core
// 1.0, section 3.1.3.7).
func (p *Provider) verify(ctx context.Context, access *oauth2.Token, nonce string) (claims, error) {
	raw, _ := access.Extra("id_token").(string)
	if raw == "" {
		return nil, wrong("the provider gave none")
	}
	t, c, err := p.issuer.verify(ctx, raw, p.o.ClientID)
	if err != nil {
		return nil, err
	}
	if nonce == "" || subtle.ConstantTimeCompare([]byte(t.Nonce), []byte(nonce)) == 0 {
		return nil, wrong("its nonce is another's")
	}
	if azp, ok := c["azp"]; ok && azp != p.o.ClientID {
		return nil, wrong("it was made for another client")
	}
	if t.AccessTokenHash != "" {
		if err := t.VerifyAccessToken(access.AccessToken); err != nil {
			return nil, wrong("%v", err)
		}
	}
	return c, nil
}

// complete asks the provider for the claims that an ID token may lack: by the
// standard, those of profile and email are there (OpenID Connect Core 1.0,
// sections 5.3 and 5.4).
func (p *Provider) complete(ctx context.Context, found *discovered, access *oauth2.Token, c claims) error {
	account := p.o.AccountClaim
	if account == "" {
		account = "email"
	}
	wanted := append(slices.Collect(maps.Keys(p.o.Claims)), account, p.o.GroupsClaim)
	missing := slices.ContainsFunc(wanted, func(name string) bool { _, has := c.lookup(name); return !has })
	if !missing || found.provider.UserInfoEndpoint() == "" {
		return nil
	}
	info, err := found.provider.UserInfo(ctx, oauth2.StaticTokenSource(access))
	if err != nil {
		return unavailable(p.o.Issuer, err)
	}
	more, err := readClaims(info)
	if err != nil {
		return unavailable(p.o.Issuer, err)
	}
	if info.Subject == "" || info.Subject != c["sub"] {
		return wrong("what the provider says more is of another subject")
	}
	for name, v := range more {
		if _, ok := c[name]; !ok {
			c[name] = v
		}
	}
	return nil
}

func (p *Provider) identity(c claims) (*auth.Identity, error) {
	if !c.match(p.o.Claims) {
		return nil, wrong("its claims are not those that the configuration wants")
	}
	account, err := p.account(c)
	if err != nil {
		return nil, wrong("%v", err)
	}
	groups, err := c.groups(p.o.GroupsClaim)
	if err != nil {
		return nil, wrong("%v", err)
	}
	flat, err := c.flat()
	if err != nil {
		return nil, wrong("%v", err)
	}
	return &auth.Identity{Account: account, Groups: groups, Claims: flat, Source: p.Source().Name(), Epoch: p.epoch}, nil
}

// account names the account of those whom the claims are of.
func (p *Provider) account(c claims) (string, error) {
	verified := false
	if v, ok := text(c["email_verified"]); ok {
		verified = v == "true" // some providers write it as text
	}
	name := p.o.AccountClaim
	switch {
	case name == "" && verified:
		name = "email"
	case name == "":
		name = "sub"
	case name == "email" && !verified:
		return "", errors.New("the provider has not verified the e-mail address")
	}
	v, _ := c.lookup(name)
	s, ok := text(v)
	if !ok || s == "" {
		return "", fmt.Errorf("it has no claim %s", name)
	}
	if name == "email" {
		s = strings.ToLower(s) // one address, however the provider writes it today
	}
	if len(p.o.Prefix)+len(s) > maxAccount || strings.ContainsFunc(s, func(c rune) bool { return !inAccount(c) }) ||
		p.o.NoPrefix && strings.ContainsRune(s, '/') {
		return "", fmt.Errorf("its claim %s cannot be an account's name", name)
	}
	return p.o.Prefix + s, nil
}

// inAccount says whether an account that a provider names may have a character
// in its name: those of e-mail addresses, and of the subjects that providers make
// up. There are no letters but ASCII's, of which others can look like copies.
func inAccount(c rune) bool { return isAlnum(c) || strings.ContainsRune("._-@/:+|=~", c) }
