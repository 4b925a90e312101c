package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

const (
	wantFile = "the path of a file"
	wantURL  = "a URL such as https://example.com/path"
)

var (
	httpURL    = regexp.MustCompile(`^https?://[^\s/?#]+[^\s]*$`)
	baseURL    = regexp.MustCompile(`^$|^https?://[^\s/?#@]+$`)
	urlOrNone  = regexp.MustCompile(`^$|^https?://[^\s/?#]+[^\s]*$`)
	ldapURL    = regexp.MustCompile(`^$|^(ldaps?|ldapi)://\S*$`)
	oneLine    = regexp.MustCompile(`^[^\x00-\x1f]*$`)
	outputPath = regexp.MustCompile(`^[^\x00-\x1f]*$`)
	entryName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)
	domain     = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$`)
	repos      = regexp.MustCompile(`^[a-z0-9*]([a-z0-9._*-]*[a-z0-9*])?(/[a-z0-9*]([a-z0-9._*-]*[a-z0-9*])?)*$`)
	tagPattern = regexp.MustCompile(`^[^:\s]+:[A-Za-z0-9_.*-]+$`)
	who        = regexp.MustCompile(`^(everyone|anonymous|authenticated|(user|group):[^\x00-\x1f]+|claim:[^\x00-\x1f=]+=[^\x00-\x1f]+|[^\x00-\x1f:]+)$`)
	claim      = regexp.MustCompile(`^[^\x00-\x1f=]+=[^\x00-\x1f]+$`)
	serviceID  = regexp.MustCompile(`^[A-Za-z0-9._:/-]+$`)
)

func file(p *string) *settings.Value { return settings.PathOrNone(p, wantFile) }

func line(p *string, want string) *settings.Value { return settings.Match(p, want, oneLine) }

func choice(p *string, names ...string) *settings.Value {
	var options []settings.Option[string]
	for _, n := range names {
		options = append(options, settings.Option[string]{Name: n, Value: n})
	}
	return settings.Choice(p, options)
}

func list(p *[]string, want string, valid func(string) bool) *settings.Value {
	return settings.List(p, want, valid)
}

func oneOf(names ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(names, s) }
}

// edgeKeys are about how clients reach the registry.
var edgeKeys = []settings.Key[Config]{
	{
		Path: "http.public_url",
		Doc:  "What clients call the registry, https://registry.example.com, where that cannot\nbe told from their requests; \"\" otherwise.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.HTTP.PublicURL, wantURL+`, without a path, or ""`, baseURL)
		},
	}, {
		Path:  "http.redirect_addr",
		Doc:   "Where plain HTTP is redirected to https, host:port such as :80; \"\" turns it off.",
		Value: func(c *Config) *settings.Value { return settings.AddressOrNone(&c.HTTP.RedirectAddr) },
	}, {
		Path: "http.trusted_proxies",
		Doc:  "Reverse proxies, by address or range (10.0.0.0/8), that are believed when they\nsay who the client is (X-Forwarded-For, X-Forwarded-Proto, Forwarded).",
		Value: func(c *Config) *settings.Value {
			return list(&c.HTTP.TrustedProxies, "a list of addresses or ranges such as 10.0.0.0/8", func(s string) bool { _, ok := parsePrefix(s); return ok })
		},
	}, {
		Path:  "http.proxy_protocol",
		Doc:   "Whether connections of trusted proxies begin with a header of the PROXY protocol.",
		Value: func(c *Config) *settings.Value { return settings.Boolean(&c.HTTP.ProxyProtocol) },
	}, {
		Path:  "http.tls.cert",
		Doc:   "The certificate, with those that lead to its authority, and its key: PEM files.\nThey are read again when they change.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.Cert) },
	}, {
		Path:  "http.tls.key",
		Doc:   "The key of http.tls.cert.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.Key) },
	}, {
		Path:  "http.tls.client_ca",
		Doc:   "Authorities of client certificates, a PEM file: a client may show one, and is\nwho auth.certificates says.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.ClientCA) },
	}, {
		Path: "http.tls.acme.domains",
		Doc:  "Names for which certificates are got by ACME (Let's Encrypt), instead of\nhttp.tls.cert. The authority must reach this server at port 443, or at port 80\nas http.redirect_addr. They are kept below storage.data.",
		Value: func(c *Config) *settings.Value {
			return list(&c.HTTP.TLS.ACME.Domains, "a list of domain names", func(s string) bool { return domain.MatchString(s) && len(s) <= 253 })
		},
	}, {
		Path:  "http.tls.acme.email",
		Doc:   "Where the authority writes to when something is wrong.",
		Value: func(c *Config) *settings.Value { return line(&c.HTTP.TLS.ACME.Email, "an e-mail address") },
	}, {
		Path: "http.tls.acme.directory",
		Doc:  "The authority's directory; \"\" is Let's Encrypt.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.HTTP.TLS.ACME.Directory, wantURL+`, or ""`, urlOrNone)
		},
	}, {
		Path:  "http.tls.acme.directory_ca",
		Doc:   "Authorities of the directory's own certificate, where the system does not know them.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.ACME.DirectoryCA) },
	},
}

// accessKeys are about who may do what.
var accessKeys = []settings.Key[Config]{
	{
		Path:  "auth.challenge",
		Doc:   "How clients are asked who they are: bearer (docker gets a token first; needed\nfor anonymous pulls by docker) or basic. Passwords and API keys are taken by\nBasic in any case.",
		Value: func(c *Config) *settings.Value { return choice(&c.Auth.Challenge, "bearer", "basic") },
	}, {
		Path:  "auth.oidc",
		Doc:   "Providers of OpenID Connect that people sign in with on the registry's pages,\nwhere they get API keys. Each goes by a name of your own, which their accounts\nbegin with: google/alice@example.com.",
		Named: oidc,
	}, {
		Path:  "auth.workload",
		Doc:   "Whose tokens of a provider of OpenID Connect stand for which account: those of\na job of GitHub Actions or GitLab, which needs no password then. The first entry\nwhose issuer, audience and claims match a token holds, in the order of names.",
		Named: workload,
	}, {
		Path:  "auth.htpasswd.file",
		Doc:   "A file of accounts, made by htpasswd -B. It is read again when it changes.",
		Value: func(c *Config) *settings.Value { return file(&c.Auth.Htpasswd) },
	}, {
		Path: "auth.tokens.service",
		Doc:  "What the registry calls itself in its tokens.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Auth.Tokens.Service, "a name without spaces", serviceID)
		},
	}, {
		Path:  "auth.tokens.ttl",
		Doc:   "How long a token is valid that a client gets for its password.",
		Value: func(c *Config) *settings.Value { return settings.Duration(&c.Auth.Tokens.TTL) },
	}, {
		Path:  "auth.tokens.refresh_ttl",
		Doc:   "How long a client can get new tokens without the password.",
		Value: func(c *Config) *settings.Value { return settings.Duration(&c.Auth.Tokens.RefreshTTL) },
	}, {
		Path:  "auth.tokens.rotate",
		Doc:   "How long a key signs tokens before a new one takes over.",
		Value: func(c *Config) *settings.Value { return settings.Duration(&c.Auth.Tokens.Rotate) },
	}, {
		Path: "auth.external.realm",
		Doc:  "The URL of another token server, which decides who may do what in place of this\none and its policy; \"\" for none.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Auth.External.Realm, wantURL+`, or ""`, urlOrNone)
		},
	}, {
		Path:  "auth.external.service",
		Doc:   "What that server calls this registry: the audience of its tokens.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.External.Service, "a name") },
	}, {
		Path:  "auth.external.issuer",
		Doc:   "What that server calls itself: the issuer of its tokens.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.External.Issuer, "a name") },
	}, {
		Path:  "auth.external.jwks",
		Doc:   "Its public keys, a JSON Web Key Set: a URL or a file.",
		Value: func(c *Config) *settings.Value { return file(&c.Auth.External.JWKS) },
	}, {
		Path:  "auth.external.ca",
		Doc:   "Authorities of the certificate at that URL, where the system does not know them.",
		Value: func(c *Config) *settings.Value { return file(&c.Auth.External.CA) },
	}, {
		Path: "auth.certificates.account",
		Doc:  "What of a client certificate is the account's name: cn, email, dns, uri, or none\nif client certificates say nothing.",
		Value: func(c *Config) *settings.Value {
			return choice(&c.Auth.Certificates.Account, "none", "cn", "email", "dns", "uri")
		},
	}, {
		Path:  "auth.certificates.groups",
		Doc:   "What of it are the account's groups: ou, o, or none.",
		Value: func(c *Config) *settings.Value { return choice(&c.Auth.Certificates.Groups, "none", "ou", "o") },
	}, {
		Path: "auth.ldap.url",
		Doc:  "A directory that knows accounts, ldaps://ldap.example.com; \"\" for none.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Auth.LDAP.URL, `a URL such as ldaps://ldap.example.com, or ""`, ldapURL)
		},
	}, {
		Path:  "auth.ldap.start_tls",
		Doc:   "Whether a connection to ldap:// is encrypted by StartTLS.",
		Value: func(c *Config) *settings.Value { return settings.Boolean(&c.Auth.LDAP.StartTLS) },
	}, {
		Path:  "auth.ldap.insecure",
		Doc:   "Whether passwords may cross the network without TLS.",
		Value: func(c *Config) *settings.Value { return settings.Boolean(&c.Auth.LDAP.Insecure) },
	}, {
		Path:  "auth.ldap.ca",
		Doc:   "Authorities of the directory's certificate, where the system does not know them.",
		Value: func(c *Config) *settings.Value { return file(&c.Auth.LDAP.CA) },
	}, {
		Path:  "auth.ldap.bind_dn",
		Doc:   "Who searches the directory; \"\" searches anonymously.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.LDAP.BindDN, "a distinguished name") },
	}, {
		Path:  "auth.ldap.bind_password",
		Doc:   "The password of bind_dn, or the file that it is in.",
		Value: func(c *Config) *settings.Value { return settings.Secret(&c.Auth.LDAP.BindPassword) },
	}, {
		Path:  "auth.ldap.bind_password_file",
		Doc:   "The file that the password of bind_dn is in.",
		Value: func(c *Config) *settings.Value { return file(&c.Auth.LDAP.BindPasswordFile) },
	}, {
		Path:  "auth.ldap.user_base",
		Doc:   "Below which entry accounts are, ou=people,dc=example,dc=com.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.LDAP.UserBase, "a distinguished name") },
	}, {
		Path:  "auth.ldap.user_filter",
		Doc:   "Which entry an account is; %s stands for the name that somebody gave.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.LDAP.UserFilter, "a filter with %s in it") },
	}, {
		Path:  "auth.ldap.account_attribute",
		Doc:   "The attribute of that entry which is the account's name.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.LDAP.Account, "the name of an attribute") },
	}, {
		Path:  "auth.ldap.group_base",
		Doc:   "Below which entry groups are; \"\" if none are looked up.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.LDAP.GroupBase, "a distinguished name") },
	}, {
		Path:  "auth.ldap.group_filter",
		Doc:   "Which groups an account is in; %s stands for its entry's name, %u for its own.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.LDAP.GroupFilter, "a filter with %s or %u in it") },
	}, {
		Path:  "auth.ldap.group_attribute",
		Doc:   "The attribute of a group's entry which is its name.",
		Value: func(c *Config) *settings.Value { return line(&c.Auth.LDAP.Group, "the name of an attribute") },
	}, {
		Path:  "auth.ldap.timeout",
		Doc:   "How long the directory may take.",
		Value: func(c *Config) *settings.Value { return settings.Duration(&c.Auth.LDAP.Timeout) },
	}, {
		Path:   "policy",
		Doc:    "Who may do what: the first rule that names the caller, the repository and the\naction decides, and if none does the answer is no. Without any rule, anybody who\nreaches the address may do anything.\n  who    NAME or user:NAME, group:NAME, claim:NAME=PATTERN, anonymous,\n         authenticated (signed in), everyone\n  repos  patterns: * is any part of a name between slashes, ** any number of parts;\n         ** alone is everything, the registry itself included\n  may    pull, push, delete, admin; or, to say no, may_not",
		Reload: true,
		Items:  policy,
	}, {
		Path:   "immutable",
		Doc:    "Tags that can be created and then neither moved nor removed, by patterns of\nrepository and tag: \"**:v*\".",
		Reload: true,
		Value: func(c *Config) *settings.Value {
			return list(&c.Immutable, `a list of REPOSITORY:TAG patterns such as "**:v*"`, func(s string) bool {
				repo, _, _ := strings.Cut(s, ":")
				return tagPattern.MatchString(s) && repos.MatchString(repo)
			})
		},
	}, {
		Path:   "limits.requests",
		Doc:    "How many requests a second one account may make, or one address that has not\nsigned in; 0 for any number.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Number(&c.Limits.Requests) },
	}, {
		Path:   "limits.burst",
		Doc:    "How many requests it may make at once before that counts.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Count(&c.Limits.Burst, 1) },
	}, {
		Path:   "limits.bandwidth",
		Doc:    "How many bytes a second it may send or receive, such as 100m; 0 for any number.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.SizeOrZero(&c.Limits.Bytes) },
	}, {
		Path:   "limits.blob",
		Doc:    "The greatest size of a blob, such as 20g; 0 for any.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.SizeOrZero(&c.Limits.Blob) },
	}, {
		Path:   "limits.manifest",
		Doc:    "The greatest size of a manifest; 0 for the 4 MiB that the specification allows.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.SizeOrZero(&c.Limits.Manifest) },
	}, {
		Path: "audit.output",
		Doc:  "Where a line is written for every push, deletion, move of a tag, login, refusal,\nand change of an account or token: a file, stdout, stderr; \"\" for nowhere.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Audit.Output, `a file, stdout, stderr or ""`, outputPath)
		},
	}, {
		Path:  "audit.max_size",
		Doc:   "How large that file becomes before a new one is begun.",
		Value: func(c *Config) *settings.Value { return settings.Size(&c.Audit.MaxSize) },
	}, {
		Path:  "audit.keep",
		Doc:   "How many old ones are kept.",
		Value: func(c *Config) *settings.Value { return settings.Count(&c.Audit.Keep, 0) },
	}, {
		Path:   "webhooks",
		Doc:    "Who is told of events, each at least once, by a name of your own.",
		Reload: true,
		Named:  webhooks,
	},
}

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

const policyExample = `- {who: [anonymous], repos: ["public/**"], may: [pull]}
- {who: [user:mallory], repos: ["**"], may_not: [pull, push, delete, admin]}
- {who: [group:dev, "claim:repository=acme/*"], repos: ["team/**"], may: [pull, push]}
- {who: [alice], repos: ["**"], may: [pull, push, delete, admin]}
`

// policy is a list of rules.
func policy(c *Config) *settings.Items {
	actions := oneOf("pull", "push", "delete", "admin")
	const wantActions = "a list of pull, push, delete, admin"
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
				{Name: "url", Value: settings.Match(&w.URL, wantURL, httpURL)},
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

// accessConflicts checks what concerns several keys of access.
func accessConflicts(c Config) []settings.Conflict {
	f := &conflictsFound{}
	f.tls(c)
	f.auth(c)
	for _, name := range slices.Sorted(maps.Keys(c.Auth.OIDC)) {
		o := c.Auth.OIDC[name]
		f.when(o.Issuer == "" || o.ClientID == "", "expected issuer and client_id for "+name, "auth.oidc")
		f.when(o.ClientSecret != "" && o.ClientSecretFile != "", "expected one of client_secret and client_secret_file for "+name, "auth.oidc")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Auth.Workload)) {
		w := c.Auth.Workload[name]
		f.when(w.Issuer == "" || w.Audience == "", "expected issuer and audience for "+name, "auth.workload")
		f.when(len(w.Claims) == 0, "expected claims for "+name+": without any, everybody whom the provider knows would be this account", "auth.workload")
	}
	for i, r := range c.Policy {
		n := fmt.Sprintf("rule %d", i+1)
		f.when(len(r.Who) == 0 || len(r.Repos) == 0, "expected who and repos in "+n, "policy")
		f.when((len(r.May) == 0) == (len(r.MayNot) == 0), "expected one of may and may_not in "+n, "policy")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks)) {
		w := c.Webhooks[name]
		f.when(w.URL == "" || len(w.Events) == 0, "expected url and events for "+name, "webhooks")
		f.when(w.Secret != "" && w.SecretFile != "", "expected one of secret and secret_file for "+name, "webhooks")
		f.when(w.Secret != "" && len(w.Secret) < 24, "expected a secret of at least 24 characters for "+name, "webhooks")
	}
	f.when(c.Limits.Manifest > 4<<20, "expected at most 4194304, which is all that the specification allows", "limits.manifest")
	return f.all
}

type conflictsFound struct{ all []settings.Conflict }

func (f *conflictsFound) when(wrong bool, message string, keys ...string) {
	if wrong {
		f.all = append(f.all, settings.Conflict{Keys: keys, Message: message})
	}
}

func (f *conflictsFound) tls(c Config) {
	t := c.HTTP.TLS
	f.when((t.Cert == "") != (t.Key == ""), "expected both http.tls.cert and http.tls.key, or neither", "http.tls.cert", "http.tls.key")
	f.when(t.Cert != "" && len(t.ACME.Domains) > 0, "expected one of http.tls.cert and http.tls.acme.domains", "http.tls.cert", "http.tls.acme.domains")
	f.when(!c.Encrypted() && t.ClientCA != "", "expected a certificate with it: http.tls.cert or http.tls.acme.domains", "http.tls.client_ca")
	f.when(!c.Encrypted() && c.HTTP.RedirectAddr != "", "expected a certificate with it: http.tls.cert or http.tls.acme.domains", "http.redirect_addr")
	f.when(settings.Overlap(c.HTTP.Addr, c.HTTP.RedirectAddr) || settings.Overlap(c.Metrics.Addr, c.HTTP.RedirectAddr),
		"expected an address that differs from http.addr and metrics.addr", "http.redirect_addr")
	f.when(c.HTTP.ProxyProtocol && len(c.HTTP.TrustedProxies) == 0, "expected http.trusted_proxies with it: whose headers are to be believed?", "http.proxy_protocol")
}

func (f *conflictsFound) auth(c Config) {
	a := c.Auth
	var sources []string // that make no sense without a policy
	for key, set := range map[string]bool{
		"auth.htpasswd.file": a.Htpasswd != "", "auth.ldap.url": a.LDAP.URL != "", "auth.oidc": len(a.OIDC) > 0,
		"auth.workload": len(a.Workload) > 0, "auth.certificates.account": a.Certificates.Account != "none",
		"auth.external.realm": a.External.Realm != "",
	} {
		if set {
			sources = append(sources, key)
		}
	}
	slices.Sort(sources)
	f.when(len(sources) > 0 && !c.Restricted(), `expected a policy with it, which says who may do what; for example policy: [{who: [authenticated], repos: ["**"], may: [pull, push, delete]}]`, append(sources, "policy")...)
	f.when(a.Certificates.Account != "none" && c.HTTP.TLS.ClientCA == "", "expected http.tls.client_ca with it", "auth.certificates.account")
	x := a.External
	f.when(x.Realm != "" && (x.Service == "" || x.Issuer == "" || x.JWKS == ""), "expected auth.external.service, auth.external.issuer and auth.external.jwks with it", "auth.external.realm")
	l := a.LDAP
	f.when(l.URL != "" && l.UserBase == "", "expected auth.ldap.user_base with it", "auth.ldap.url")
	f.when(l.BindPassword != "" && l.BindPasswordFile != "", "expected one of auth.ldap.bind_password and auth.ldap.bind_password_file", "auth.ldap.bind_password_file", "auth.ldap.bind_password")
	f.when(l.UserFilter != "" && !strings.Contains(l.UserFilter, "%s"), "expected %s in it, in place of the account", "auth.ldap.user_filter")
}
