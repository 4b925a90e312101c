// Package mirroring copies images from other registries before anybody asks for
// them: on a schedule, by jobs that say which repositories, tags and platforms.
//
// It promises that a tag never names an image that is not whole: what a manifest
// references comes before it, and tags move last. An image that is left out of an
// index because of its platform is absent; the index keeps its digest. A run that is
// cut short, at any point, loses nothing: the next one copies what is missing. An
// unchanged tag costs one HEAD request, and with Referrers a list of referrers for
// each of its manifests. One image that fails stops no other. How a job is outlives
// the process, and of several processes that share a store one runs a job at a time;
// their clocks must agree to within seconds.
//
// It does not hold credentials, make connections or know a configuration: an
// Upstream comes ready to be asked. It removes no tag that it has not copied.
package mirroring

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// Source is a registry to copy from; a remote.Client is one.
type Source interface {
	registry.Reader
	registry.Lister
}

// Target is the registry to copy into; a registry.Local is one.
type Target interface {
	registry.Reader
	registry.Writer
	Tags(ctx context.Context, repo, after string) iter.Seq2[string, error]
	DeleteTag(ctx context.Context, repo, tag string) error
	// Upstreamed is what was last learnt of a tag upstream. Only tags that it knows
	// are removed.
	Upstreamed(ctx context.Context, repo, tag string) (registry.Upstreamed, error)
	SetUpstreamed(ctx context.Context, repo, tag string, u registry.Upstreamed) error
}

var _ Target = (*registry.Local)(nil)

// Upstream is a mirror of the configuration: a registry to copy from.
//
// An error of Source with a method Header() http.Header whose answer has a
// Retry-After says that it is not to be asked before then.
type Upstream struct {
	Source Source
	// Unavailable returns such an error while the upstream is not to be asked; nil is
	// never.
	Unavailable func() error
	// Repo returns the upstream's own name of a repository, as "library/nginx" of
	// "nginx"; nil if it is what it is called.
	Repo func(string) string
}

// Options are what a Worker can be told.
type Options struct {
	// Now is time.Now if it is nil.
	Now func() time.Time
	// Log is told of runs and of what fails; nil is none.
	Log *slog.Logger
}

// Step is something to be done about tags of a repository that name the same image.
type Step struct {
	Action Action
	Repo   string        // here
	From   string        // what the upstream calls it
	Digest digest.Digest // of the image; of one to be removed, what the tag names here
	Tags   []string
}

// Action is what a step does.
type Action int

// The actions.
const (
	// Keep leaves tags as they are; with Referrers, what refers to the image is
	// copied if there is more of it.
	Keep Action = iota
	// Copy copies an image, or what is missing of it, and points tags at it.
	Copy
	// Remove removes tags that the upstream has no more.
	Remove
)

// String names the action.
func (a Action) String() string { return [...]string{"keep", "copy", "remove"}[a] }

// Event tells how far a run is, or what it would do.
type Event struct {
	// Step was done or, of a run that only plans, would be; nil if it is only Counts
	// that are new.
	Step *Step
	// Failure is what went wrong, nil for nothing.
	Failure *Failure
	// Waits is until when the upstream is not asked; zero if it is.
	Waits time.Time
	// Steps is how many steps are known so far that do something, Done how many of
	// them have ended.
	Steps, Done int64
	Counts      Counts
}
