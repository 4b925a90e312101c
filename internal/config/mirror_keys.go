package config

import (
	"regexp"
	"slices"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

// Mirror is another registry that is cached below a prefix.
type Mirror struct {
	Name           string
	Upstream       string   // URL
	Prefix         string   // of repositories; empty for Name
	Namespaces     []string // hosts that clients ask for with ?ns=; empty for the upstream's
	RegistryMirror bool     // names that the registry does not have are this mirror's
	Login          Login
	Revalidate     time.Duration // of what a tag names
	Negative       time.Duration // for which it is remembered that something is not there
	Patience       time.Duration // with the upstream, when there is something to serve
	Keep           time.Duration // of what nobody pulls; 0 for ever
	Quota          int64         // bytes; 0 for any number
}

// Login is how another registry is reached.
type Login struct {
	Username, Password, PasswordFile string
	Token, TokenFile                 string // sent as it is
	CredentialHelper                 string // docker-credential-NAME
	Provider                         string // ecr, gcr, acr, or none
	CA                               string // file
	Proxy                            string // URL
}

// Sync is a job that copies images of a mirror's upstream before anybody asks.
type Sync struct {
	Name, Mirror string
	Repos        []string // names or patterns, without the mirror's prefix
	Tags         []string // patterns
	Matching     string   // regular expression for the whole tag
	Semver       string   // range of versions
	Latest       int      // versions; 0 for all
	Exclude      []string // patterns of tags
	Platforms    []string // os/arch[/variant]
	Referrers    bool
	Every        time.Duration
	Cron         string
	TimeZone     string // of Cron
	Prune        bool   // tags that are gone upstream
	Jobs         int
	Rate         int64 // bytes a second; 0 for any number
}

// Replication is another registry that is pushed to on every push.
type Replication struct {
	Name, URL string
	Login     Login
	Repos     []string // patterns
	Tags      []string // patterns
	Strip     string   // taken from the front of names
	Prefix    string   // put before names
	Deletes   bool
	Jobs      int
	Rate      int64 // bytes a second; 0 for any number
}

var (
	urlOrEmpty = regexp.MustCompile(`^$|^(https?|socks5)://[^\s/?#]+[^\s]*$`)
	repoPrefix = regexp.MustCompile(`^$|^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)
	hostPort   = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]+)?$`)
	tagGlob    = regexp.MustCompile(`^[A-Za-z0-9_.*-]+$`)
	platform   = regexp.MustCompile(`^[a-z0-9._-]+/[a-z0-9._-]+(/[a-z0-9._-]+)?$`)
	helperName = regexp.MustCompile(`^$|^[A-Za-z0-9._-]+$`)
)

// mirrorKeys are about other registries.
var mirrorKeys = []settings.Key[Config]{
	{
		Path:  "mirrors",
		Doc:   "Other registries that are cached here, each below a prefix: hub/library/nginx is\nlibrary/nginx of the first one.",
		Items: mirrors,
	}, {
		Path:   "sync",
		Doc:    "What is copied from mirrors' upstreams before anybody asks for it.",
		Reload: true,
		Items:  syncs,
	}, {
		Path:  "replication",
		Doc:   "Other registries to which what is pushed here is pushed, too.",
		Items: replication,
	},
}

const mirrorsExample = `- name: hub
  upstream: https://registry-1.docker.io
  prefix: hub                 # by default the name
  namespaces: [docker.io]     # what containerd asks for with ?ns=; by default the
                              #   upstream's host
  registry_mirror: false      # whether it can be in Docker's registry-mirrors: names that
                              #   are not here are looked up there
  username: ""                # at the upstream: with a password,
  password: ""
  password_file: ""
  token: ""                   #   a bearer token that is sent as it is,
  token_file: ""
  credential_helper: ""       #   docker-credential-NAME,
  provider: none              #   or what the machine is known as to ecr, gcr or acr
  ca: ""                      # authorities of its certificate
  proxy: ""                   # URL; by default as HTTPS_PROXY says
  revalidate: 1m              # how often it is asked at most what a tag names
  negative: 30s               # how long it is remembered that something is not there
  patience: 2s                # how long it is waited for when there is something to serve
  keep: 0s                    # what nobody has pulled for so long goes; 0s keeps it
  quota: 0                    # bytes that may be cached; what was pulled longest ago goes
`

// mirrors are caches.
func mirrors(c *Config) *settings.Items {
	return &settings.Items{
		Want:    "mirrors",
		Example: mirrorsExample,
		Len:     len(c.Mirrors),
		Entry: func(i int) []settings.Field {
			if i == len(c.Mirrors) {
				c.Mirrors = append(slices.Clip(c.Mirrors), Mirror{
					Login: Login{Provider: "none"}, Revalidate: time.Minute, Negative: 30 * time.Second, Patience: 2 * time.Second,
				})
			}
			m := &c.Mirrors[i]
			return append(append([]settings.Field{
				{Name: "name", Value: settings.Match(&m.Name, "a name such as hub", entryName)},
				{Name: "upstream", Value: settings.Hidden(settings.Match(&m.Upstream, wantURL, baseURL))},
				{Name: "prefix", Value: settings.Match(&m.Prefix, "the beginning of a name such as hub", repoPrefix)},
				{Name: "namespaces", Value: list(&m.Namespaces, "a list of hosts such as docker.io", hostPort.MatchString)},
				{Name: "registry_mirror", Value: settings.Boolean(&m.RegistryMirror)},
			}, login(&m.Login)...),
				settings.Field{Name: "revalidate", Value: settings.DurationOrZero(&m.Revalidate)},
				settings.Field{Name: "negative", Value: settings.DurationOrZero(&m.Negative)},
				settings.Field{Name: "patience", Value: settings.Duration(&m.Patience)},
				settings.Field{Name: "keep", Value: settings.DurationOrZero(&m.Keep)},
				settings.Field{Name: "quota", Value: settings.SizeOrZero(&m.Quota)})
		},
	}
}

// login is how another registry is reached.
func login(l *Login) []settings.Field {
	return []settings.Field{
		{Name: "username", Value: line(&l.Username, "a name")},
		{Name: "password", Value: settings.Secret(&l.Password)},
		{Name: "password_file", Value: file(&l.PasswordFile)},
		{Name: "token", Value: settings.Secret(&l.Token)},
		{Name: "token_file", Value: file(&l.TokenFile)},
		{Name: "credential_helper", Value: settings.Match(&l.CredentialHelper, "the NAME of a docker-credential-NAME", helperName)},
		{Name: "provider", Value: choice(&l.Provider, "none", "ecr", "gcr", "acr")},
		{Name: "ca", Value: file(&l.CA)},
		{Name: "proxy", Value: settings.Hidden(settings.Match(&l.Proxy, "a URL such as http://proxy.example.com:3128", urlOrEmpty))},
	}
}

const syncExample = `- name: base-images
  mirror: hub
  repos: [library/nginx, library/alpine]  # as the upstream calls them; or patterns, if
                              #   it lists what it has
  tags: ["1.*", latest]       # patterns, "*" for all of them;
  matching: ""                # or a regular expression for the whole tag
  semver: ">=1.25.0"          # or a range of versions
  latest: 5                   # of the versions, only so many
  exclude: ["*-rc*"]
  platforms: [linux/amd64, linux/arm64]   # by default all
  referrers: true             # signatures and the like come along
  every: 6h                   # or
  cron: ""                    #   minute hour day month weekday, "0 3 * * *",
  time_zone: ""               #     by default UTC; or "Europe/Paris"
  prune: false                # remove tags that are gone upstream
  jobs: 2                     # images at once
  rate: 0                     # bytes a second; 0 for any number
`

// syncs are jobs.
func syncs(c *Config) *settings.Items {
	return &settings.Items{
		Want:    "jobs",
		Example: syncExample,
		Len:     len(c.Sync),
		Entry: func(i int) []settings.Field {
			if i == len(c.Sync) {
				c.Sync = append(slices.Clip(c.Sync), Sync{Referrers: true, Jobs: 2})
			}
			s := &c.Sync[i]
			return []settings.Field{
				{Name: "name", Value: settings.Match(&s.Name, "a name such as base-images", entryName)},
				{Name: "mirror", Value: settings.Match(&s.Mirror, "the name of a mirror", entryName)},
				{Name: "repos", Value: list(&s.Repos, "a list of names or patterns such as library/nginx", repos.MatchString)},
				{Name: "tags", Value: list(&s.Tags, "a list of patterns such as v1.*", tagGlob.MatchString)},
				{Name: "matching", Value: expression(&s.Matching)},
				{Name: "semver", Value: line(&s.Semver, "a range of versions such as >=1.0.0")},
				{Name: "latest", Value: settings.Count(&s.Latest, 0)},
				{Name: "exclude", Value: list(&s.Exclude, "a list of patterns such as *-rc*", tagGlob.MatchString)},
				{Name: "platforms", Value: list(&s.Platforms, "a list such as linux/amd64", platform.MatchString)},
				{Name: "referrers", Value: settings.Boolean(&s.Referrers)},
				{Name: "every", Value: settings.DurationOrZero(&s.Every)},
				{Name: "cron", Value: line(&s.Cron, "five fields such as 0 3 * * *")},
				{Name: "time_zone", Value: line(&s.TimeZone, "a time zone such as Europe/Paris")},
				{Name: "prune", Value: settings.Boolean(&s.Prune)},
				{Name: "jobs", Value: settings.Count(&s.Jobs, 1)},
				{Name: "rate", Value: settings.SizeOrZero(&s.Rate)},
			}
		},
	}
}

const replicationExample = `- name: paris
  url: https://registry.paris.example.com
  username: replicator        # at the other registry: as for mirrors
  password: ""
  password_file: ""
  token: ""
  token_file: ""
  credential_helper: ""
  provider: none
  ca: ""
  proxy: ""
  repos: ["team/**"]
  tags: []                    # patterns; by default all, and what has no tag
  strip: ""                   # taken from the front of names, with the slash
  prefix: ""                  # and put there instead
  deletes: false              # whether what is deleted here is deleted there
  jobs: 2                     # images at once
  rate: 0                     # bytes a second; 0 for any number
`

// replication are targets.
func replication(c *Config) *settings.Items {
	return &settings.Items{
		Want:    "registries",
		Example: replicationExample,
		Len:     len(c.Replication),
		Entry: func(i int) []settings.Field {
			if i == len(c.Replication) {
				c.Replication = append(slices.Clip(c.Replication), Replication{Login: Login{Provider: "none"}, Jobs: 2})
			}
			r := &c.Replication[i]
			return append(append([]settings.Field{
				{Name: "name", Value: settings.Match(&r.Name, "a name such as paris", entryName)},
				{Name: "url", Value: settings.Hidden(settings.Match(&r.URL, wantURL, baseURL))},
			}, login(&r.Login)...),
				settings.Field{Name: "repos", Value: list(&r.Repos, "a list of patterns such as team/**", repos.MatchString)},
				settings.Field{Name: "tags", Value: list(&r.Tags, "a list of patterns such as v1.*", tagGlob.MatchString)},
				settings.Field{Name: "strip", Value: settings.Match(&r.Strip, "the beginning of a name such as team", repoPrefix)},
				settings.Field{Name: "prefix", Value: settings.Match(&r.Prefix, "the beginning of a name such as backup", repoPrefix)},
				settings.Field{Name: "deletes", Value: settings.Boolean(&r.Deletes)},
				settings.Field{Name: "jobs", Value: settings.Count(&r.Jobs, 1)},
				settings.Field{Name: "rate", Value: settings.SizeOrZero(&r.Rate)})
		},
	}
}
