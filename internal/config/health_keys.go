package config

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

// GC configures what is kept, and for how long.
type GC struct {
	Grace    time.Duration // before what is garbage goes
	Lease    time.Duration // for a client that was told of something
	Untagged bool          // whether manifests go that nothing names
	History  time.Duration // for which what a tag has named is kept
	Moves    int           // of a tag, what it named last is kept
	Interval time.Duration // between two looks at the queue
}

// Retention is a rule about which tags are kept.
type Retention struct {
	Repos        []string // patterns
	Tags         string   // regular expression that a tag must match as a whole; empty for any
	Last         int      // keep so many, by Order
	Order        string   // push, pull or semver
	PushedWithin time.Duration
	PulledWithin time.Duration
	Semver       string // keep versions in this range
	Matching     string // keep tags that match this regular expression as a whole
}

// Quota is how much the repositories that patterns match may hold together.
type Quota struct {
	Repos []string
	Bytes int64 // 0 for any number
	Tags  int   // 0 for any number
}

// Scrub configures how the stored bytes are read again to see whether they are
// what they should be.
type Scrub struct {
	Interval time.Duration // between two rounds; 0 for never
	Rate     int64         // bytes a second; 0 for any number
}

// healthKeys are about what is stored.
var healthKeys = []settings.Key[Config]{
	{
		Path:   "gc.grace",
		Doc:    "How long something must have been garbage before it is removed.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Duration(&c.GC.Grace) },
	}, {
		Path:   "gc.lease",
		Doc:    "How long a client that was told that something is there may take to use it.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Duration(&c.GC.Lease) },
	}, {
		Path:   "gc.untagged",
		Doc:    "Whether manifests are removed that no tag, index or subject leads to.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Boolean(&c.GC.Untagged) },
	}, {
		Path:   "gc.history",
		Doc:    "How long what a tag has named is kept, so that it can be moved back; 0s for not\nat all.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.DurationOrZero(&c.GC.History) },
	}, {
		Path:   "gc.moves",
		Doc:    "How many of the manifests that a tag has named last are kept, however long ago.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Count(&c.GC.Moves, 0) },
	}, {
		Path:   "gc.interval",
		Doc:    "How often it is looked whether anything is due.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Duration(&c.GC.Interval) },
	}, {
		Path:   "scrub.interval",
		Doc:    "How often all stored bytes are read again to see whether they are what they should\nbe; 0s for never.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.DurationOrZero(&c.Scrub.Interval) },
	}, {
		Path:   "scrub.rate",
		Doc:    "How many bytes a second are read for that, such as 20m; 0 for any number.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.SizeOrZero(&c.Scrub.Rate) },
	}, {
		Path:   "retention",
		Doc:    "Which tags are kept. The first rule whose repos and tags match a tag decides on it:\nit is kept if any of the rule's other fields says so, and otherwise removed.",
		Reload: true,
		Items:  retention,
	}, {
		Path:   "quota",
		Doc:    "How many bytes and tags repositories may hold together. What several of them hold\ncounts once. What mirrors cache is in none: see mirrors.quota.",
		Reload: true,
		Items:  quota,
	},
}

const retentionExample = `- repos: ["ci/**"]
  tags: "pr-.*"          # regular expression for the whole tag; by default any tag
  last: 5                # keep so many,
  order: push            #   by push, pull or semver
  pushed_within: 720h    # keep what was pushed, or pulled, lately
  pulled_within: 720h
  semver: ">=1.0.0"      # keep versions in a range
  matching: "stable|v.*" # keep tags that match
`

// retention is a list of rules.
func retention(c *Config) *settings.Items {
	return &settings.Items{
		Want:    "rules",
		Example: retentionExample,
		Len:     len(c.Retention),
		Entry: func(i int) []settings.Field {
			if i == len(c.Retention) {
				c.Retention = append(slices.Clip(c.Retention), Retention{Order: "push"})
			}
			r := &c.Retention[i]
			return []settings.Field{
				{Name: "repos", Value: list(&r.Repos, "a list of patterns such as team/**", repos.MatchString)},
				{Name: "tags", Value: expression(&r.Tags)},
				{Name: "last", Value: settings.Count(&r.Last, 0)},
				{Name: "order", Value: choice(&r.Order, "push", "pull", "semver")},
				{Name: "pushed_within", Value: settings.DurationOrZero(&r.PushedWithin)},
				{Name: "pulled_within", Value: settings.DurationOrZero(&r.PulledWithin)},
				{Name: "semver", Value: line(&r.Semver, "a range of versions such as >=1.0.0")},
				{Name: "matching", Value: expression(&r.Matching)},
			}
		},
	}
}

func expression(p *string) *settings.Value {
	return settings.Text(p, "a regular expression", func(s string) string { return s }, func(s string) (string, bool) {
		_, err := regexp.Compile(s)
		return s, err == nil
	})
}

const quotaExample = `- {repos: ["team/**"], bytes: 500g, tags: 10000}
`

// quota is a list of quotas.
func quota(c *Config) *settings.Items {
	return &settings.Items{
		Want:    "quotas",
		Example: quotaExample,
		Len:     len(c.Quota),
		Entry: func(i int) []settings.Field {
			if i == len(c.Quota) {
				c.Quota = append(slices.Clip(c.Quota), Quota{})
			}
			q := &c.Quota[i]
			return []settings.Field{
				{Name: "repos", Value: list(&q.Repos, "a list of patterns such as team/**", repos.MatchString)},
				{Name: "bytes", Value: settings.SizeOrZero(&q.Bytes)},
				{Name: "tags", Value: settings.Count(&q.Tags, 0)},
			}
		},
	}
}

// healthConflicts checks what concerns several fields of retention and quota.
func healthConflicts(c Config) []settings.Conflict {
	f := &conflictsFound{}
	for i, r := range c.Retention {
		n := fmt.Sprintf("rule %d", i+1)
		f.when(len(r.Repos) == 0, "expected repos in "+n, "retention")
		f.when(r.Last == 0 && r.PushedWithin == 0 && r.PulledWithin == 0 && r.Semver == "" && r.Matching == "",
			"expected something to be kept in "+n+": last, pushed_within, pulled_within, semver or matching", "retention")
	}
	for i, q := range c.Quota {
		n := fmt.Sprintf("quota %d", i+1)
		f.when(len(q.Repos) == 0, "expected repos in "+n, "quota")
		f.when(q.Bytes == 0 && q.Tags == 0, "expected bytes or tags in "+n, "quota")
	}
	return f.all
}
