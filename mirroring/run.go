package mirroring

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
	"github.com/berth-registry/berth/storage"
)

const (
	// maxReason is how much of a failure is written down, in bytes.
	maxReason = 500
	// tellEvery is how often bytes are told of.
	tellEvery = 200 * time.Millisecond
)

// run is a run of a job.
type run struct {
	w      *Worker
	job    Job
	up     Upstream
	source copying.Reader // of up, slowed
	group  *copying.Group
	room   chan struct{} // for questions to the upstream
	dry    bool
	stop   context.CancelCauseFunc

	telling  sync.Mutex // held while progress is told
	progress func(Event)

	mu     sync.Mutex
	now    RunStatus
	waits  time.Time // until when the upstream is not asked
	paused int       // how often, since it last answered
	steps  int64
	done   int64
	sent   int64 // bytes, of blobs that are being copied
	told   time.Time
}

func newRun(j Job, up Upstream, w *Worker, progress func(Event)) *run {
	return &run{
		w: w, job: j, up: up, source: slowed(up.Source, j.Rate), group: copying.NewGroup(j.Jobs), room: make(chan struct{}, j.Jobs),
		progress: progress, now: RunStatus{Began: w.now()}, stop: func(error) {},
	}
}

// status says how far the run is.
func (r *run) status() RunStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.now
	s.Counts.Bytes += r.sent
	s.Failures = append([]Failure(nil), s.Failures...)
	if s.Waits = r.waits; !s.Waits.After(r.w.now()) {
		s.Waits = time.Time{}
	}
	return s
}

// tell tells progress of an event, with how far the run is.
func (r *run) tell(e Event) {
	if r.progress == nil {
		return
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	e.Counts, e.Steps, e.Done = r.now.Counts, r.steps, r.done
	e.Counts.Bytes += r.sent
	r.told = r.w.now()
	r.mu.Unlock()
	r.progress(e)
}

// count changes how far the run is.
func (r *run) count(change func(*Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.now.Counts)
}

// fail writes down what went wrong with tags, or with a repository if there are none.
func (r *run) fail(ctx context.Context, repo string, tags []string, err error) {
	if ctx.Err() != nil {
		return // the run was stopped, which is no fault of theirs
	}
	reason, ours := r.reason(ctx, err)
	if ours && fatal(err) {
		r.stop(errors.New(reason))
		return
	}
	if len(tags) == 0 {
		tags = []string{""}
	}
	for _, tag := range tags {
		f := Failure{Repo: repo, Tag: tag, Reason: reason}
		r.mu.Lock()
		r.now.Counts.Failed++
		if len(r.now.Failures) < maxFailures {
			r.now.Failures = append(r.now.Failures, f)
		}
		r.mu.Unlock()
		r.tell(Event{Failure: &f})
	}
}

// reason says an error to the user: of the store of this registry, ours, no more than
// that it failed.
func (r *run) reason(ctx context.Context, err error) (text string, ours bool) {
	if e := (*copying.SourceError)(nil); errors.As(err, &e) {
		return clip(err.Error()), false
	}
	kind := (*registry.Error)(nil)
	switch {
	case errors.As(err, &kind):
		return clip(err.Error()), true
	case errors.Is(err, storage.ErrNoSpace):
		return registry.ErrNoSpace.Message, true
	case errors.Is(err, storage.ErrReadOnly):
		return registry.ErrReadOnly.Message, true
	}
	r.w.log.ErrorContext(ctx, "images cannot be mirrored", "job", r.job.Name, "error", err)
	return registry.ErrUnavailable.Message, true
}

// fatal says that no other image will fare better.
func fatal(err error) bool {
	for _, kind := range []error{registry.ErrNoSpace, registry.ErrReadOnly, storage.ErrNoSpace, storage.ErrReadOnly, storage.ErrClosed} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

func clip(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// execute does it all, and says how it has ended, and when to go on if that is set.
func (r *run) execute(ctx context.Context) (s RunStatus, again time.Time) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r.stop = stop
	err := r.repos(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	s = r.status()
	s.Ended, s.Waits = r.w.now(), time.Time{}
	later := (*postponed)(nil)
	switch {
	case errors.As(err, &later):
		s.Outcome, again = Postponed, later.until
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrUnknownJob), errors.Is(err, errLost):
		s.Outcome = Interrupted
	case err != nil:
		s.Outcome = Failed
	case s.Counts.Failed > 0:
		s.Outcome, s.Reason = Failed, failedOf(s.Counts)
	default:
		s.Outcome = Good
	}
	if err != nil {
		s.Reason = clip(err.Error())
	}
	return s, again
}

func failedOf(c Counts) string {
	if c.Failed > c.Tags { // repositories
		return fmt.Sprintf("%d failed", c.Failed)
	}
	return fmt.Sprintf("%d of %d tags failed", c.Failed, c.Tags)
}

// repos goes through the repositories, some at once.
func (r *run) repos(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.job.Jobs)
	for repo, err := range r.names(ctx) {
		if err != nil {
			r.fail(ctx, repo, nil, err)
			continue
		}
		g.Go(func() error { return r.repo(ctx, repo) })
	}
	return g.Wait()
}

// repo does what is to be done about a repository. Only what stops the run is an
// error.
func (r *run) repo(ctx context.Context, from string) error {
	seen, err := r.look(ctx, from)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		r.fail(ctx, seen.Repo, nil, err)
		return nil
	}
	r.count(func(c *Counts) { c.Repos++ })
	manifests := newDigests()
	if err := r.perform(ctx, Plan(&r.job, seen), manifests); err != nil {
		return err
	}
	if !r.job.Referrers {
		return nil
	}
	more := Seen{Repo: seen.Repo, From: seen.From}
	if err := r.heads(ctx, &more, Attached(seen.Listed, manifests.all), true); err != nil {
		return err
	}
	return r.perform(ctx, Plan(&r.job, more), newDigests())
}
