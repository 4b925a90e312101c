package replicating

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// Spec is a rule as a configuration has it.
type Spec struct {
	// Name is what the rule is called: one component of a repository's name.
	Name string
	// URL is of the registry that is replicated to, for people to see.
	URL string
	// Repos are patterns of repositories (auth.ValidPattern). At least one must match.
	Repos []string
	// Tags are tags, in which "*" stands for any characters. None are all tags, and
	// manifests that were pushed by digest. Otherwise what has no such tag is
	// replicated only along with what does: what it references, and what refers to it,
	// also by a tag sha256-HASH.sig and the like.
	Tags []string
	// Strip is taken away from the front of names, with the "/" behind it, before
	// Prefix is put there. Every pattern of Repos must start with it.
	Strip string
	// Prefix is put before the names of repositories at the target, with a "/"
	// between; empty for none.
	Prefix string
	// Deletes says that what is deleted here is deleted there, too: tags, and
	// manifests with whatever tags the target has on them. A Resync removes tags there
	// that are not here. What a collection removes here stays there.
	Deletes bool
	// Jobs is how many tags or manifests are copied at once, and how many blobs of
	// each; 0 is DefaultJobs.
	Jobs int
	// Rate is how many bytes of blobs are sent a second at most, 4096 or more; 0 is no
	// limit.
	Rate int64
}

const (
	// DefaultJobs is how many tags or manifests are copied at once.
	DefaultJobs = 3
	// maxJobs keeps a mistake from opening connections without end.
	maxJobs = 64
	// minRate is what takes no longer than a target is patient.
	minRate = 4 << 10
	// minBurst is how many bytes are sent at once even if the rate is lower.
	minBurst = 64 << 10
)

// Rule is a Spec that was checked.
type Rule struct {
	name, url     string
	repos, tags   []string
	strip, prefix string
	deletes       bool
	jobs          int
	rate          int64
}

// NewRule checks a Spec. Its errors name the key that is wrong.
func NewRule(s Spec) (Rule, error) {
	r := Rule{
		name: s.Name, url: s.URL, repos: slices.Clone(s.Repos), tags: slices.Clone(s.Tags),
		strip: s.Strip, prefix: s.Prefix, deletes: s.Deletes, jobs: s.Jobs, rate: s.Rate,
	}
	if r.jobs == 0 {
		r.jobs = DefaultJobs
	}
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !registry.ValidRepository(s.Name) || strings.Contains(s.Name, "/") {
		wrong(`name: %q: want lower-case letters, digits, ".", "_" and "-"`, clip(s.Name))
	}
	if u, err := url.Parse(s.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		wrong("url: want https://HOST[:PORT], without a password") // which it may have: it is not shown
	}
	if len(s.Repos) == 0 {
		wrong(`repos: want at least one pattern of repositories, such as "team/**"`)
	}
	for _, p := range s.Repos {
		if !auth.ValidPattern(p) {
			wrong("repos: %q is no pattern of repositories, such as team/**", clip(p))
		} else if s.Strip != "" && !strings.HasPrefix(p, s.Strip+"/") {
			wrong("strip: the pattern %q of repos does not start with %q", clip(p), clip(s.Strip)+"/")
		}
	}
	for _, p := range s.Tags {
		if _, err := auth.NewTagPatterns([]string{"**:" + p}); err != nil {
			wrong(`tags: %q is no tag, in which "*" stands for any characters`, clip(p))
		}
	}
	if s.Strip != "" && !registry.ValidRepository(s.Strip) {
		wrong("strip: %q is no name of a repository", clip(s.Strip))
	}
	if s.Prefix != "" && !registry.ValidRepository(s.Prefix) {
		wrong("prefix: %q is no name of a repository", clip(s.Prefix))
	}
	if s.Jobs < 0 || s.Jobs > maxJobs {
		wrong("jobs: %d: want 1 to %d", s.Jobs, maxJobs)
	}
	if s.Rate != 0 && s.Rate < minRate {
		wrong("rate: %d: want at least %d bytes a second, or 0 for no limit", s.Rate, minRate)
	}
	return r, errors.Join(problems...)
}

// Name is what the rule is called.
func (r Rule) Name() string { return r.name }

// matches says whether a repository is replicated. mirrored is what its name starts
// with if it is a cache, or empty: only a pattern that starts with that means it.
func (r *Rule) matches(repo, mirrored string) bool {
	return slices.ContainsFunc(r.repos, func(p string) bool {
		if mirrored != "" && p != mirrored && !strings.HasPrefix(p, mirrored+"/") {
			return false
		}
		return auth.Match(p, repo)
	})
}

// wantsTag says whether a tag is one of those that are replicated.
func (r *Rule) wantsTag(tag string) bool {
	return len(r.tags) == 0 || slices.ContainsFunc(r.tags, func(p string) bool { return auth.Glob(p, tag) })
}

// there is the name of a repository at the target.
func (r *Rule) there(repo string) (string, error) {
	if r.strip != "" {
		repo = strings.TrimPrefix(repo, r.strip+"/")
	}
	if r.prefix != "" {
		repo = r.prefix + "/" + repo
	}
	if !registry.ValidRepository(repo) {
		return "", registry.ErrNameInvalid.With("the name of the repository would be too long at the target: %s", clip(repo))
	}
	return repo, nil
}

// attached are the tags by which clients without referrers attach something to a
// manifest: its digest, and one of these.
func attached() []string { return []string{".sig", ".att", ".sbom"} }

// attachedTag is the tag by which something is attached to a manifest.
func attachedTag(d digest.Digest, suffix string) string {
	return string(d.Algorithm()) + "-" + d.Encoded() + suffix
}

// attachedTo is the manifest that a tag attaches something to, if it does.
func attachedTo(tag string) (digest.Digest, bool) {
	for _, suffix := range attached() {
		if name, ok := strings.CutSuffix(tag, suffix); ok {
			d, err := registry.ParseDigest(strings.Replace(name, "-", ":", 1))
			return d, err == nil
		}
	}
	return "", false
}

// clip keeps what is shown short.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
