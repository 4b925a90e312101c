package mirroring

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/tagmatch"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
)

const (
	defaultJobs = copying.DefaultJobs
	maxJobs     = 64
	minEvery    = time.Minute
	maxLatest   = 10_000
)

// Spec is a job as a configuration has it.
type Spec struct {
	Name   string // of the job
	Mirror string // to copy from
	Prefix string // of the repositories here: what the upstream calls a/b is PREFIX/a/b; may be empty

	// Repos are repositories as the upstream calls them, or patterns of such ("team/**",
	// see auth.Match), for which it must have a catalog.
	Repos []string

	// A tag is copied if any of these selects it, and Exclude does not.

	Tags   []string // tags, and patterns with "*" for any characters
	Match  string   // regular expression that a tag must match as a whole, or empty
	Semver string   // range of versions, such as ">=1.20 <2", or empty
	Latest int      // so many of the greatest versions: those in Semver or, if that is empty, that are no pre-release; 0 for no limit
	// Exclude are tags and patterns like Tags.
	Exclude []string

	Platforms []string // such as linux/amd64 or linux/arm64/v8; empty for all
	Referrers bool     // copy what refers to an image, too: signatures, SBOMs
	Prune     bool     // remove tags that were copied and that the upstream has no more

	Every    time.Duration // after which it runs again, or 0
	Cron     string        // minute, hour, day of month, month and day of week when it runs, or empty
	TimeZone string        // of Cron, as "Europe/Paris"; empty is UTC

	Jobs int   // how many images, and how many blobs, are copied at once; 0 for the default
	Rate int64 // bytes per second at most, or 0
}

// Job is a Spec that is valid.
type Job struct {
	Spec
	match     *regexp.Regexp
	versions  *semver.Constraints
	platforms []copying.Platform
	schedule  schedule
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// NewJob checks a job. Its error says everything that is wrong with it.
func NewJob(s Spec) (Job, error) {
	s.Repos, s.Tags, s.Exclude, s.Platforms = slices.Clone(s.Repos), slices.Clone(s.Tags), slices.Clone(s.Exclude), slices.Clone(s.Platforms)
	j := Job{Spec: s}
	errs := []error{j.checkNames(), j.checkNumbers(), j.readTags()}
	for _, p := range s.Platforms {
		platform, err := copying.ParsePlatform(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("platforms: %w", err))
		}
		j.platforms = append(j.platforms, platform)
	}
	var err error
	if j.schedule, err = newSchedule(s); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return Job{}, err
	}
	if j.Jobs == 0 {
		j.Jobs = defaultJobs
	}
	return j, nil
}

func (j *Job) checkNames() error {
	var errs []error
	if !validName.MatchString(j.Name) {
		errs = append(errs, fmt.Errorf("name: %.100q is no name of a job: want lower-case letters, digits and \".\", \"_\" and \"-\" between them", j.Name))
	}
	if j.Mirror == "" {
		errs = append(errs, errors.New("mirror: say which one to copy from"))
	}
	if j.Prefix != "" && !registry.ValidRepository(j.Prefix) {
		errs = append(errs, fmt.Errorf("prefix: %.300q is no name of a repository", j.Prefix))
	}
	if len(j.Repos) == 0 {
		errs = append(errs, errors.New(`repos: say which repositories to copy: names such as "library/nginx", or patterns such as "team/**"`))
	}
	for _, r := range j.Repos {
		if !auth.ValidPattern(r) {
			errs = append(errs, fmt.Errorf(`repos: %.300q is neither a repository nor a pattern of some, such as "team/**"`, r))
		} else if !isPattern(r) && len(r)+len(j.Prefix) >= registry.MaxRepository {
			errs = append(errs, fmt.Errorf("repos: %.300q is too long behind the prefix", r))
		}
	}
	return errors.Join(errs...)
}

func (j *Job) checkNumbers() error {
	var errs []error
	if j.Latest < 0 || j.Latest > maxLatest {
		errs = append(errs, fmt.Errorf("latest: want 0 to %d", maxLatest))
	}
	if j.Jobs < 0 || j.Jobs > maxJobs {
		errs = append(errs, fmt.Errorf("jobs: want 1 to %d", maxJobs))
	}
	if j.Rate < 0 {
		errs = append(errs, errors.New("rate: want bytes per second, or 0 for no limit"))
	}
	return errors.Join(errs...)
}

func (j *Job) readTags() error {
	var errs []error
	for key, list := range map[string][]string{"tags": j.Tags, "exclude": j.Exclude} {
		for _, t := range list {
			if !registry.ValidTag(strings.ReplaceAll(t, "*", "x")) {
				errs = append(errs, fmt.Errorf(`%s: %.150q is neither a tag nor a pattern of some, such as "1.*"`, key, t))
			}
		}
	}
	var err error
	if j.match, err = tagmatch.Whole(j.Match); err != nil {
		errs = append(errs, fmt.Errorf("match: %w", err))
	}
	if j.versions, err = tagmatch.Range(j.Semver); err != nil {
		errs = append(errs, fmt.Errorf("semver: %w", err))
	}
	if len(j.Tags) == 0 && j.Match == "" && j.Semver == "" && j.Latest == 0 {
		errs = append(errs, errors.New(`it selects no tags: say tags ("*" for all), matching, semver or latest`))
	}
	return errors.Join(errs...)
}

func isPattern(s string) bool { return strings.Contains(s, "*") }

// lists says whether a list of the upstream's tags is needed to find what to copy.
func (j *Job) lists() bool {
	return j.match != nil || j.versions != nil || j.Latest > 0 || j.Prune || j.Referrers || slices.ContainsFunc(j.Tags, isPattern)
}

// target is the name here of a repository of the upstream.
func (j *Job) target(repo string) string {
	if j.Prefix == "" {
		return repo
	}
	return j.Prefix + "/" + repo
}
