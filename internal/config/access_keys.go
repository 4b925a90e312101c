package config

import (
	"regexp"
	"slices"
	"strings"

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
			return settings.Hidden(settings.Match(&c.Auth.LDAP.URL, `a URL such as ldaps://ldap.example.com, or ""`, ldapURL))
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
		Doc:    "Who may do what: the first rule that names the caller, the repository and the\naction decides, and if none does the answer is no. Without any rule, anybody who\nreaches the address may do anything.\n  who    NAME or user:NAME, group:NAME, claim:NAME=PATTERN, anonymous (not\n         signed in), authenticated (signed in), everyone (both)\n  repos  patterns: * is any part of a name between slashes, ** any number of parts;\n         ** alone is everything, the registry itself included\n  may    pull, push, delete, admin; or, to say no, may_not. Who is signed in and\n         may pull from a mirror may have it fetch what it lacks, too; anonymous\n         callers need fetch for that, as it spends the mirror's credentials",
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
