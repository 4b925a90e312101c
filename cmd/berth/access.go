package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/htpasswd"
	"github.com/berth-registry/berth/auth/ldap"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/edge"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/web"
)

// policyRules are the rules of a configuration.
func policyRules(c config.Config) ([]auth.Rule, error) {
	var rules []auth.Rule
	for i, r := range c.Policy {
		rule := auth.Rule{Who: r.Who, Repos: r.Repos}
		for _, set := range []struct {
			names []string
			to    *auth.Action
		}{{r.May, &rule.May}, {r.MayNot, &rule.MayNot}} {
			for _, name := range set.names {
				a, ok := auth.ParseAction(name)
				if !ok {
					return nil, fmt.Errorf("policy: rule %d: no such action: %q", i+1, name)
				}
				*set.to |= a
			}
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

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
}

// accessOptions are what the rest of the server gives to its access.
type accessOptions struct {
	meta  storage.Meta
	base  func(*http.Request) string // where a request's client finds the registry
	audit audit.Recorder
	log   *slog.Logger
}

// newAccess prepares everything that the configuration names. Without a policy
// there are still accounts, so that they can be made before the policy is.
func newAccess(ctx context.Context, c config.Config, o accessOptions) (a *access, err error) {
	a = &access{}
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
	rules, err := policyRules(c)
	if err != nil {
		return nil, err
	}
	policy, err := auth.NewPolicy(rules)
	if err != nil {
		return nil, err
	}
	a.policy = auth.NewLive(policy)
	g := gate.Options{
		Open: !c.Restricted(), Keys: a.accounts, Tokens: a.tokens, Authority: a.policy, Audit: o.audit,
		Basic: c.Auth.Challenge == "basic", Service: c.Auth.Tokens.Service, Base: o.base, Limits: gateLimits(c), Log: o.log,
	}
	if err := a.sources(ctx, c, &g, o.log); err != nil {
		return nil, err
	}
	a.gate = gate.New(g)
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

// orEmpty is the choice none as no choice.
func orEmpty(s string) string {
	if s == "none" {
		return ""
	}
	return s
}

func gateLimits(c config.Config) gate.Limits {
	return gate.Limits{RequestsPerSecond: c.Limits.Requests, Burst: c.Limits.Burst, BytesPerSecond: float64(c.Limits.Bytes)}
}

// routes puts the registry's API, the administration and the pages behind the gate.
// Without a policy there is nothing but the registry: whoever reaches the address
// could administer it.
func (a *access) routes(c config.Config, api, administration http.Handler) http.Handler {
	api = a.gate.Handler(api)
	if !c.Restricted() {
		return api
	}
	administration, token := a.gate.Identify(administration), a.gate.TokenHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; { // not a ServeMux: the registry wants the path as the client sent it
		case strings.HasPrefix(path, "/v2/"), path == "/v2", strings.HasPrefix(path, "/v1/"):
			api.ServeHTTP(w, r)
		case path == "/token":
			token.ServeHTTP(w, r)
		case strings.HasPrefix(path, admin.Prefix):
			administration.ServeHTTP(w, r)
		case a.pages != nil:
			a.pages.ServeHTTP(w, r)
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

func edgeOptions(c config.Config, log *slog.Logger) edge.Options {
	t := c.HTTP.TLS
	return edge.Options{
		Addr: c.HTTP.Addr, Patience: c.HTTP.BodyTimeout, Cert: t.Cert, Key: t.Key, ClientCA: t.ClientCA,
		ACME: edge.ACME{
			Domains: t.ACME.Domains, Email: t.ACME.Email, Directory: t.ACME.Directory, DirectoryCA: t.ACME.DirectoryCA,
			Storage: filepath.Join(c.Storage.Data, "acme"),
		},
		RedirectAddr: c.HTTP.RedirectAddr, PublicURL: c.HTTP.PublicURL,
		TrustedProxies: c.Proxies(), ProxyProtocol: c.HTTP.ProxyProtocol, Log: log,
	}
}

func newLDAP(c config.LDAP) (*ldap.Source, error) {
	password, err := secret(c.BindPassword, c.BindPasswordFile)
	if err != nil {
		return nil, err
	}
	return ldap.New(ldap.Options{
		URL: c.URL, StartTLS: c.StartTLS, Insecure: c.Insecure, CA: c.CA, BindDN: c.BindDN, BindPassword: password,
		UserBase: c.UserBase, UserFilter: c.UserFilter, AccountAttr: c.Account,
		GroupBase: c.GroupBase, GroupFilter: c.GroupFilter, GroupAttr: c.Group, Timeout: c.Timeout,
	})
}

func newWorkload(c config.Config, log *slog.Logger) (*oidc.Workload, error) {
	var rules []oidc.WorkloadOptions
	for _, name := range slices.Sorted(maps.Keys(c.Auth.Workload)) {
		w := c.Auth.Workload[name]
		claims := map[string]string{}
		for _, s := range w.Claims {
			claim, pattern, _ := strings.Cut(s, "=")
			if _, twice := claims[claim]; twice {
				return nil, fmt.Errorf("%s: claim %s is there twice", name, claim)
			}
			claims[claim] = pattern
		}
		rules = append(rules, oidc.WorkloadOptions{
			Name: name, Issuer: w.Issuer, Audience: w.Audience, CA: w.CA, Claims: claims, Account: w.Account, Groups: w.Groups, Log: log,
		})
	}
	return oidc.NewWorkload(rules)
}

// newProviders are the providers that people sign in with.
func newProviders(c config.Config, log *slog.Logger) (all []*oidc.Provider, err error) {
	for _, name := range slices.Sorted(maps.Keys(c.Auth.OIDC)) {
		p := c.Auth.OIDC[name]
		clientSecret, err := secret(p.ClientSecret, p.ClientSecretFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		provider, err := oidc.NewProvider(oidc.Options{
			Name: name, Issuer: p.Issuer, ClientID: p.ClientID, ClientSecret: clientSecret, Scopes: p.Scopes,
			AccountClaim: p.AccountClaim, GroupsClaim: p.GroupsClaim, Prefix: p.Prefix, NoPrefix: p.NoPrefix, CA: p.CA, Log: log,
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, provider)
	}
	return all, nil
}

// newPages makes the pages that people sign in on.
func (a *access) newPages(o accessOptions) (http.Handler, error) {
	var providers []web.Provider
	for _, p := range a.providers {
		providers = append(providers, p)
	}
	return web.New(web.Options{
		Providers: providers, Password: a.gate.Login, Sessions: a.tokens, Current: a.gate.Current,
		Keys: a.accounts, Base: o.base, Audit: o.audit, Log: o.log,
	})
}

// secret is a text that the configuration has, or the first line of a file that it
// names.
func secret(text, path string) (string, error) {
	if path == "" {
		return text, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a secret: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// webhookOptions are the webhooks of a configuration.
func webhookOptions(c config.Config) ([]audit.Webhook, error) {
	var hooks []audit.Webhook
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks)) {
		w := c.Webhooks[name]
		text, err := secret(w.Secret, w.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("webhooks: %s: %w", name, err)
		}
		hook := audit.Webhook{Name: name, URL: w.URL, Secret: text, CA: w.CA, Timeout: w.Timeout}
		for _, e := range w.Events {
			hook.Events = append(hook.Events, audit.Kind(e))
		}
		if len(w.Repos) > 0 {
			hook.Match = func(repo string) bool {
				return slices.ContainsFunc(w.Repos, func(pattern string) bool { return auth.Match(pattern, repo) })
			}
		}
		hooks = append(hooks, hook)
	}
	return hooks, nil
}
