package mirroring

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/tagmatch"
	"github.com/berth-registry/berth/registry"
)

// Seen is what is known of a repository before it is planned what to do about it.
type Seen struct {
	Repo string // here
	From string // what the upstream calls it

	Upstream map[string]digest.Digest // what tags that the job selects name there
	Listed   []string                 // all tags that the upstream has, if they were asked for
	Here     map[string]Local         // tags here: those of Upstream that are there, and those that may have to go
}

// Local is a tag here.
type Local struct {
	Digest digest.Digest
	Whole  bool // all of the image that the job wants is there
	Copied bool // it is as it was copied from the upstream, by this or by pulls
}

// Select returns those of the upstream's tags that the job selects, without those
// that Attached would return, in their order. It is a function of what it is given.
func (j *Job) Select(tags []string) []string {
	latest := j.latest(tags)
	var selected []string
	for _, t := range tags {
		if !registry.ValidTag(t) || isAttached(t) || j.excludes(t) {
			continue
		}
		if latest[t] || j.selects(t) {
			selected = append(selected, t)
		}
	}
	return selected
}

// selects says whether the job is about a tag, leaving aside which are the latest.
func (j *Job) selects(tag string) bool {
	if slices.ContainsFunc(j.Tags, func(p string) bool { return auth.Glob(p, tag) }) {
		return true
	}
	if j.match != nil && j.match.MatchString(tag) {
		return true
	}
	return j.Latest == 0 && j.isVersion(tagmatch.Version(tag))
}

func (j *Job) excludes(tag string) bool {
	return slices.ContainsFunc(j.Exclude, func(p string) bool { return auth.Glob(p, tag) })
}

// isVersion says whether a version is one that the job is about.
func (j *Job) isVersion(v *semver.Version) bool {
	switch {
	case v == nil:
		return false
	case j.versions != nil:
		return j.versions.Check(v)
	default:
		return j.Latest > 0 && v.Prerelease() == ""
	}
}

// latest returns the tags of the greatest versions. Tags that differ in a "v" alone
// are one version.
func (j *Job) latest(tags []string) map[string]bool {
	if j.Latest == 0 {
		return nil
	}
	type version struct {
		*semver.Version
		tag string
	}
	var all []version
	for _, t := range tags {
		if v := tagmatch.Version(t); j.isVersion(v) && !j.excludes(t) {
			all = append(all, version{v, t})
		}
	}
	slices.SortFunc(all, func(a, b version) int {
		return cmp.Or(b.Compare(a.Version), strings.Compare(b.Metadata(), a.Metadata()), strings.Compare(a.tag, b.tag))
	})
	latest := map[string]bool{}
	for i, n := 0, 0; i < len(all); i++ {
		if i == 0 || all[i].String() != all[i-1].String() {
			n++
		}
		if n > j.Latest {
			break
		}
		latest[all[i].tag] = true
	}
	return latest
}

// attached is a tag that says what refers to a manifest: of cosign, or of clients of
// a registry that has no referrers (specification, "Referrers Tag Schema").
var attached = regexp.MustCompile(`^(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{64,128})(\.[a-z0-9]+)?$`)

func isAttached(tag string) bool { return attached.MatchString(tag) }

// Attached returns those of the upstream's tags that say what refers to one of the
// manifests.
func Attached(tags []string, of map[digest.Digest]bool) []string {
	named := make(map[string]bool, len(of))
	for d := range of {
		named[strings.ReplaceAll(string(d), ":", "-")] = true
	}
	var found []string
	for _, t := range tags {
		if base, _, _ := strings.Cut(t, "."); named[base] && isAttached(t) {
			found = append(found, t)
		}
	}
	return found
}

// Plan says what is to be done about a repository: what to copy, what to leave, and
// in the end what to remove, each in the order of the tags. It is a function of what
// it is given.
func Plan(j *Job, s Seen) []Step {
	type image struct {
		action Action
		digest digest.Digest
	}
	steps := map[image]*Step{}
	var order []*Step
	for _, tag := range slices.Sorted(maps.Keys(s.Upstream)) {
		d := s.Upstream[tag]
		key := image{Copy, d}
		if here := s.Here[tag]; here.Digest == d && here.Whole {
			key.action = Keep
		}
		if steps[key] == nil {
			steps[key] = &Step{Action: key.action, Repo: s.Repo, From: s.From, Digest: d}
			order = append(order, steps[key])
		}
		steps[key].Tags = append(steps[key].Tags, tag)
	}
	var plan []Step
	for _, step := range order {
		plan = append(plan, *step)
	}
	return append(plan, removals(j, s)...)
}

// removals says which tags are to be removed. An upstream that lists nothing at all
// has rather lost its list than its images.
func removals(j *Job, s Seen) (steps []Step) {
	if !j.Prune || len(s.Listed) == 0 {
		return nil
	}
	there := make(map[string]bool, len(s.Listed))
	for _, t := range s.Listed {
		there[t] = true
	}
	for _, tag := range slices.Sorted(maps.Keys(s.Here)) {
		if here := s.Here[tag]; !there[tag] && here.Copied && j.concerns(tag) {
			steps = append(steps, Step{Action: Remove, Repo: s.Repo, From: s.From, Digest: here.Digest, Tags: []string{tag}})
		}
	}
	return steps
}

// concerns says whether the job may once have copied a tag.
func (j *Job) concerns(tag string) bool {
	switch {
	case isAttached(tag):
		return j.Referrers
	case j.excludes(tag):
		return false
	}
	return j.selects(tag) || j.Latest > 0 && j.isVersion(tagmatch.Version(tag))
}
