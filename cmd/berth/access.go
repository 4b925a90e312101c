package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/htpasswd"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/namespace"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/replicas"
	"github.com/berth-registry/berth/web"
)

// access is how a registry knows its callers and what they may do.
type access struct {
	policy   *auth.Live
	accounts *accounts.Store
	tokens   *tokens.Service
	gate     *gate.Gate
	pages    http.Handler // nil without a policy

	htpasswd  *htpasswd.File // or nil
	providers []*oidc.Provider
	runs      []func(context.Context) // until the registry ends
	observe   func(context.Context, registry.Record)
}

// accessOptions are what the rest of the server gives to its access.
type accessOptions struct {
	meta  storage.Meta
	base  func(*http.Request) string // where a request's client finds the registry
	audit audit.Recorder
	// observe is told of requests that the registry's server does not see.
	observe func(context.Context, registry.Record)
	members *replicas.Set
	log     *slog.Logger
}

// newAccess prepares everything that the configuration names. Without a policy
// there are still accounts, so that they can be made before the policy is.
func newAccess(ctx context.Context, c config.Config, o accessOptions) (a *access, err error) {
	a = &access{observe: o.observe}
	if a.accounts, err = accounts.New(ctx, o.meta, accounts.Options{Log: o.log}); err != nil {
		return nil, fmt.Errorf("prepare accounts: %w", err)
	}
	a.tokens, err = tokens.New(ctx, o.meta, tokens.Options{
		Service: c.Auth.Tokens.Service, TTL: c.Auth.Tokens.TTL, RefreshTTL: c.Auth.Tokens.RefreshTTL, Rotate: c.Auth.Tokens.Rotate, Log: o.log,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare tokens: %w", err)
	}
	a.runs = append(a.runs, a.accounts.Run, a.tokens.Run)
	rules, err := newRules(c)
	if err != nil {
		return nil, err
	}
	a.policy = auth.NewLive(rules.policy)
	g := gate.Options{
		Open: !c.Restricted(), Keys: a.accounts, Tokens: a.tokens, Authority: a.policy, Alias: namespace.Alias(namespaces(c)), Audit: o.audit,
		Basic: c.Auth.Challenge == "basic", Service: c.Auth.Tokens.Service, Base: o.base, Limits: gateLimits(c), Observe: o.observe, Log: o.log,
	}
	if err := a.sources(ctx, c, &g, o.log); err != nil {
		return nil, err
	}
	if _, alone := o.meta.(storage.Versioner); !alone {
		g.Meta, g.Replicas, g.Look, g.Stale = o.meta, o.members.Live, a.accounts.Look, a.accounts.Stale
	}
	a.gate = gate.New(g)
	a.runs = append(a.runs, o.members.Run, a.gate.Run)
	if c.Restricted() && g.External == nil {
		a.pages, err = a.newPages(o)
	}
	return a, err
}

// sources opens everything that vouches for somebody.
func (a *access) sources(ctx context.Context, c config.Config, g *gate.Options, log *slog.Logger) (err error) {
	g.Sources = []auth.Source{a.accounts}
	if path := c.Auth.Htpasswd; path != "" {
		if a.htpasswd, err = htpasswd.Open(ctx, path, htpasswd.Options{Log: log}); err != nil {
			return err
		}
		g.Sources = append(g.Sources, a.htpasswd)
	}
	if c.Auth.LDAP.URL != "" {
		directory, err := newLDAP(c.Auth.LDAP)
		if err != nil {
			return fmt.Errorf("auth.ldap: %w", err)
		}
		g.Sources = append(g.Sources, directory)
	}
	if a.providers, err = newProviders(c, log); err != nil {
		return fmt.Errorf("auth.oidc: %w", err)
	}
	for _, p := range a.providers {
		g.Sources = append(g.Sources, p.Source())
	}
	if len(c.Auth.Workload) > 0 {
		workload, err := newWorkload(c, log)
		if err != nil {
			return fmt.Errorf("auth.workload: %w", err)
		}
		g.Workload = workload
	}
	if how := c.Auth.Certificates; how.Account != "none" {
		if g.Certificate, err = gate.CertificateMapper(how.Account, orEmpty(how.Groups)); err != nil {
			return fmt.Errorf("auth.certificates: %w", err)
		}
	}
	if x := c.Auth.External; x.Realm != "" {
		external, err := tokens.NewExternal(tokens.ExternalOptions{Realm: x.Realm, Service: x.Service, Issuer: x.Issuer, JWKS: x.JWKS, CA: x.CA, Log: log})
		if err != nil {
			return fmt.Errorf("auth.external: %w", err)
		}
		g.External = external
		a.runs = append(a.runs, external.Run)
	}
	return nil
}

// routes puts the registry's API, the administration and the pages behind the gate.
// Without a policy there is nothing but the registry, and what is told of it to
// anybody: whoever reaches the address could administer it.
func (a *access) routes(c config.Config, api, administration http.Handler) http.Handler {
	api = a.gate.Handler(api)
	administration = a.gate.Identify(observed("administration", administration, a.observe))
	if !c.Restricted() {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if admin.ForAnybody(r) {
				administration.ServeHTTP(w, r)
				return
			}
			api.ServeHTTP(w, r)
		})
	}
	token, pages := a.gate.TokenHandler(), observed("page", a.pages, a.observe)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; { // not a ServeMux: the registry wants the path as the client sent it
		case strings.HasPrefix(path, "/v2/"), path == "/v2", strings.HasPrefix(path, "/v1/"):
			api.ServeHTTP(w, r)
		case path == "/token":
			token.ServeHTTP(w, r)
		case strings.HasPrefix(path, admin.Prefix):
			administration.ServeHTTP(w, r)
		case a.pages != nil:
			pages.ServeHTTP(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// reload reads the files of accounts again.
func (a *access) reload() error {
	if a.htpasswd == nil {
		return nil
	}
	return a.htpasswd.Reload()
}

// denialEvent is what the audit says of a request that policy has refused.
func denialEvent(d auth.Denial) audit.Event {
	e := audit.Event{Kind: audit.Access, Outcome: audit.Denied, Repo: d.Repo, Action: d.Action.String()}
	if strings.Contains(d.Ref, ":") {
		e.Digest = d.Ref
	} else {
		e.Tag = d.Ref
	}
	switch {
	case d.Insufficient:
		e.Reason = "the token's scope does not cover it"
	case d.Anonymous:
		e.Reason = "not signed in"
	case d.Rule >= 0:
		e.Reason = fmt.Sprintf("rule %d of the policy", d.Rule+1)
	default:
		e.Reason = "no rule of the policy allows it"
	}
	return e
}

// refusedEvent is what the audit says of a request that an immutable tag or a quota
// has refused, whatever policy allows.
func refusedEvent(r registry.Record) (e audit.Event, ok bool) {
	if !errors.Is(r.Err, registry.ErrTagImmutable) && !errors.Is(r.Err, registry.ErrQuota) {
		return e, false
	}
	return audit.Event{Kind: audit.Access, Outcome: audit.Denied, Repo: r.Repo, Action: r.Action, Reason: r.Err.Error()}, true
}

// trusted says whether who has a session on the pages still holds.
func (a *access) trusted(ctx context.Context, id *auth.Identity) bool {
	return !a.accounts.Stale() && a.gate.Holds(ctx, id)
}

// newPages makes the pages that people sign in on.
func (a *access) newPages(o accessOptions) (http.Handler, error) {
	var providers []web.Provider
	for _, p := range a.providers {
		providers = append(providers, p)
	}
	return web.New(web.Options{
		Providers: providers, Password: a.gate.Login, Sessions: a.tokens, Current: a.trusted,
		Keys: a.accounts, Base: o.base, Audit: o.audit, Log: o.log,
	})
}
