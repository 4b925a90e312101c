package config

import (
	"maps"
	"slices"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

const oidcExample = `google:
  issuer: https://accounts.google.com
  client_id: ""           # got from the provider, for the redirect URL
  client_secret: ""       #   https://REGISTRY/oidc/google/callback
  client_secret_file: ""
  scopes: ["openid", "profile", "email"]
  account_claim: ""       # by default the e-mail address, if verified, or sub
  groups_claim: groups
  prefix: google/         # before the account's name
  no_prefix: false        # dangerous where users choose their names
  claims: ["hd=example.com"]  # all must match; [] lets in everybody whom the
                          #   provider knows: of a public one, the world
  ca: ""                  # authorities of its certificate
`

// oidc are providers by name.
func oidc(c *Config) *settings.Named {
	return &settings.Named{
		Want:    "names of providers",
		Example: oidcExample,
		Names:   slices.Sorted(maps.Keys(c.Auth.OIDC)),
		Entry: func(name string) []settings.Field {
			if !entryName.MatchString(name) {
				return nil
			}
			o := entry(&c.Auth.OIDC, name)
			return []settings.Field{
				{Name: "issuer", Value: settings.Match(&o.Issuer, wantURL, httpURL)},
				{Name: "client_id", Value: line(&o.ClientID, "a name")},
				{Name: "client_secret", Value: settings.Secret(&o.ClientSecret)},
				{Name: "client_secret_file", Value: file(&o.ClientSecretFile)},
				{Name: "scopes", Value: list(&o.Scopes, "a list of scopes", oneLine.MatchString)},
				{Name: "account_claim", Value: line(&o.AccountClaim, "the name of a claim")},
				{Name: "groups_claim", Value: line(&o.GroupsClaim, "the name of a claim")},
				{Name: "prefix", Value: line(&o.Prefix, "a text")},
				{Name: "no_prefix", Value: settings.Boolean(&o.NoPrefix)},
				{Name: "claims", Value: list(&o.Claims, "a list of NAME=PATTERN", claim.MatchString)},
				{Name: "ca", Value: file(&o.CA)},
			}
		},
	}
}

// entry returns the entry of a name, which it makes if it is not there.
func entry[V any](m *map[string]*V, name string) *V {
	if *m == nil {
		*m = map[string]*V{}
	}
	if (*m)[name] == nil {
		(*m)[name] = new(V)
	}
	return (*m)[name]
}

const workloadExample = `github-main:
  issuer: https://token.actions.githubusercontent.com
  audience: registry.example.com
  claims: ["repository=acme/*", "ref=refs/heads/main"]   # all must match
  account: ci/{repository}    # {claim} stands for its value
  groups: ["ci"]
  ca: ""
`

// workload are rules by name.
func workload(c *Config) *settings.Named {
	return &settings.Named{
		Want:    "names of rules",
		Example: workloadExample,
		Names:   slices.Sorted(maps.Keys(c.Auth.Workload)),
		Entry: func(name string) []settings.Field {
			if !entryName.MatchString(name) {
				return nil
			}
			w := entry(&c.Auth.Workload, name)
			return []settings.Field{
				{Name: "issuer", Value: settings.Match(&w.Issuer, wantURL, httpURL)},
				{Name: "audience", Value: line(&w.Audience, "a text")},
				{Name: "claims", Value: list(&w.Claims, "a list of NAME=PATTERN", claim.MatchString)},
				{Name: "account", Value: line(&w.Account, "a name such as ci/{repository}")},
				{Name: "groups", Value: list(&w.Groups, "a list of groups", oneLine.MatchString)},
				{Name: "ca", Value: file(&w.CA)},
			}
		},
	}
}

const policyExample = `- {who: [everyone], repos: ["public/**"], may: [pull]}
- {who: [user:mallory], repos: ["**"], may_not: [pull, push, delete, admin]}
- {who: [group:dev, "claim:repository=acme/*"], repos: ["team/**"], may: [pull, push]}
- {who: [alice], repos: ["**"], may: [pull, push, delete, admin]}
`

// policy is a list of rules.
func policy(c *Config) *settings.Items {
	actions := oneOf("pull", "push", "delete", "admin", "fetch")
	const wantActions = "a list of pull, push, delete, admin, fetch"
	return &settings.Items{
		Want:    "rules",
		Example: policyExample,
		Len:     len(c.Policy),
		Entry: func(i int) []settings.Field {
			if i == len(c.Policy) {
				c.Policy = append(slices.Clip(c.Policy), Rule{})
			}
			r := &c.Policy[i]
			return []settings.Field{
				{Name: "who", Value: list(&r.Who, "a list of NAME, user:NAME, group:NAME, claim:NAME=PATTERN, anonymous, authenticated or everyone", who.MatchString)},
				{Name: "repos", Value: list(&r.Repos, "a list of patterns such as team/**", repos.MatchString)},
				{Name: "may", Value: list(&r.May, wantActions, actions)},
				{Name: "may_not", Value: list(&r.MayNot, wantActions, actions)},
			}
		},
	}
}

const webhooksExample = `ci:
  url: https://ci.example.com/berth
  secret: ""               # signs what is sent (Standard Webhooks)
  secret_file: ""
  events: ["push", "delete"]   # of push, pull, delete, tag
  repos: ["team/**"]       # by default all
  ca: ""
  timeout: 10s
`

// webhooks are receivers by name.
func webhooks(c *Config) *settings.Named {
	return &settings.Named{
		Want:    "names of webhooks",
		Example: webhooksExample,
		Names:   slices.Sorted(maps.Keys(c.Webhooks)),
		Entry: func(name string) []settings.Field {
			if !entryName.MatchString(name) {
				return nil
			}
			fresh := c.Webhooks[name] == nil
			w := entry(&c.Webhooks, name)
			if fresh {
				w.Timeout = 10 * time.Second
			}
			return []settings.Field{
				{Name: "url", Value: settings.Hidden(settings.Match(&w.URL, wantURL, httpURL))},
				{Name: "secret", Value: settings.Secret(&w.Secret)},
				{Name: "secret_file", Value: file(&w.SecretFile)},
				{Name: "events", Value: list(&w.Events, "a list of push, pull, delete, tag", oneOf("push", "pull", "delete", "tag"))},
				{Name: "repos", Value: list(&w.Repos, "a list of patterns such as team/**", repos.MatchString)},
				{Name: "ca", Value: file(&w.CA)},
				{Name: "timeout", Value: settings.Duration(&w.Timeout)},
			}
		},
	}
}
