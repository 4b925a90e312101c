package main

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/ldap"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/edge"
)

// rules are what a configuration says of what may be done.
type rules struct {
	policy    *auth.Policy
	immutable *auth.TagPatterns
}

// isImmutable says whether a tag can be neither moved nor removed.
func (r rules) isImmutable(repo, tag string) bool {
	_, is := r.immutable.Match(repo, tag)
	return is
}

// newRules checks the rules of a configuration, and those of its jobs' accounts.
func newRules(c config.Config) (r rules, err error) {
	list, err := policyRules(c)
	if err != nil {
		return r, err
	}
	if r.policy, err = auth.NewPolicy(list); err != nil {
		return r, err
	}
	if r.immutable, err = auth.NewTagPatterns(c.Immutable); err != nil {
		return r, err
	}
	if _, err = retentionRules(c.Retention); err != nil {
		return r, err
	}
	if len(c.Auth.Workload) > 0 {
		_, err = newWorkload(c, slog.New(slog.DiscardHandler))
	}
	return r, err
}

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
		claims, err := claimPatterns(w.Claims)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		rules = append(rules, oidc.WorkloadOptions{
			Name: name, Issuer: w.Issuer, Audience: w.Audience, CA: w.CA, Claims: claims, Account: w.Account, Groups: w.Groups, Log: log,
		})
	}
	return oidc.NewWorkload(rules)
}

// claimPatterns reads claims of the form NAME=PATTERN.
func claimPatterns(list []string) (map[string]string, error) {
	claims := map[string]string{}
	for _, s := range list {
		claim, pattern, _ := strings.Cut(s, "=")
		if _, twice := claims[claim]; twice {
			return nil, fmt.Errorf("claim %s is there twice", claim)
		}
		claims[claim] = pattern
	}
	return claims, nil
}

// newProviders are the providers that people sign in with.
func newProviders(c config.Config, log *slog.Logger) (all []*oidc.Provider, err error) {
	for _, name := range slices.Sorted(maps.Keys(c.Auth.OIDC)) {
		p := c.Auth.OIDC[name]
		clientSecret, err := secret(p.ClientSecret, p.ClientSecretFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		claims, err := claimPatterns(p.Claims)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		provider, err := oidc.NewProvider(oidc.Options{
			Name: name, Issuer: p.Issuer, ClientID: p.ClientID, ClientSecret: clientSecret, Scopes: p.Scopes,
			AccountClaim: p.AccountClaim, GroupsClaim: p.GroupsClaim, Prefix: p.Prefix, NoPrefix: p.NoPrefix, Claims: claims, CA: p.CA, Log: log,
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, provider)
	}
	return all, nil
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
