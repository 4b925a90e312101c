package mirroring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

// ErrUnknownJob says that there is no job of a name.
var ErrUnknownJob = errors.New("no such job")

// Worker runs jobs. Its methods may be called concurrently.
type Worker struct {
	target Target
	meta   storage.Meta
	alone  bool   // no other process writes to meta
	owner  string // this process, among those that share meta
	now    func() time.Time
	log    *slog.Logger

	changed chan struct{} // jobs are others, or one has ended

	mu      sync.Mutex
	sources map[string]Upstream
	jobs    []Job
	since   map[string]time.Time // when a job was first known to this process
	running map[string]*live
}

// live is a run of this process.
type live struct {
	stop   context.CancelCauseFunc
	status func() RunStatus
}

// New makes a Worker that copies into target, and keeps how its jobs are in meta. It
// has no jobs before SetJobs, and runs none by itself before Run.
func New(sources map[string]Upstream, target Target, meta storage.Meta, o Options) *Worker {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	_, alone := meta.(storage.Versioner)
	return &Worker{
		target: target, meta: meta, alone: alone, owner: rand.Text(), now: o.Now, log: o.Log,
		changed: make(chan struct{}, 1), sources: sources, since: map[string]time.Time{}, running: map[string]*live{},
	}
}

// SetJobs sets other jobs, and the mirrors that they copy from, by name. Runs of jobs
// that are there no more are stopped; others end as they have begun. After an error
// all is as it was.
func (w *Worker) SetJobs(sources map[string]Upstream, jobs []Job) error {
	names := map[string]bool{}
	for _, j := range jobs {
		if _, ok := sources[j.Mirror]; !ok {
			return fmt.Errorf("job %s: there is no mirror %q", j.Name, j.Mirror)
		}
		if names[j.Name] {
			return fmt.Errorf("two jobs of the name %s", j.Name)
		}
		names[j.Name] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources, w.jobs = sources, slices.Clone(jobs)
	now := w.now()
	for name := range names {
		if _, ok := w.since[name]; !ok {
			w.since[name] = now
		}
	}
	for name := range w.since {
		if !names[name] {
			delete(w.since, name)
		}
	}
	for name, run := range w.running {
		if !names[name] {
			run.stop(fmt.Errorf("%w any more: the configuration has changed", ErrUnknownJob))
		}
	}
	notify(w.changed)
	return nil
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// all returns the jobs and their sources.
func (w *Worker) all() ([]Job, map[string]Upstream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.jobs, w.sources
}

// live says how far a run of this process is.
func (w *Worker) live(name string) (RunStatus, bool) {
	w.mu.Lock()
	run, ok := w.running[name]
	w.mu.Unlock()
	if !ok {
		return RunStatus{}, false
	}
	return run.status(), true
}

// RunNow runs a job whatever its schedule says, or with dryRun tells what it would do.
// progress, which may be nil, is told what happens, one event at a time. It fails with
// ErrUnknownJob or ErrRunning, or with what stopped the run; what failed of single
// images is told as events, and is an error in the end. To cancel ctx ends it: what
// was not done is done at the job's time.
func (w *Worker) RunNow(ctx context.Context, name string, dryRun bool, progress func(Event)) error {
	jobs, sources := w.all()
	i := slices.IndexFunc(jobs, func(j Job) bool { return j.Name == name })
	if i < 0 {
		return ErrUnknownJob
	}
	if !dryRun {
		defer notify(w.changed)
		return w.run(ctx, jobs[i], false, progress)
	}
	r := newRun(jobs[i], sources[jobs[i].Mirror], w, progress)
	r.dry = true
	status, _ := r.execute(ctx)
	return asError(ctx, status)
}

// run runs a job, unless it runs already. scheduled has it run only if it is due, and
// again soon if ctx ends before it does.
func (w *Worker) run(ctx context.Context, j Job, scheduled bool, progress func(Event)) error {
	_, sources := w.all()
	r := newRun(j, sources[j.Mirror], w, progress)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w.mu.Lock()
	_, taken := w.running[j.Name]
	if !taken {
		w.running[j.Name] = &live{stop, r.status}
	}
	w.mu.Unlock()
	if taken {
		return ErrRunning
	}
	defer func() {
		w.mu.Lock()
		delete(w.running, j.Name)
		w.mu.Unlock()
	}()
	if err := w.take(ctx, &j, scheduled); err != nil {
		return err
	}
	keeping, kept := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { w.keep(keeping, j.Name, r.status, stop) })
	status, again := r.execute(ctx)
	kept()
	keeper.Wait()
	if status.Outcome == Interrupted && scheduled {
		again = status.Ended
	}
	if err := w.end(j.Name, status, again); err != nil {
		return fmt.Errorf("write down how the job has ended: %w", err)
	}
	w.log.InfoContext(ctx, "mirrored", "job", j.Name, "outcome", status.Outcome, "reason", status.Reason, "tags", status.Counts.Tags, "copied", status.Counts.Copied,
		"removed", status.Counts.Removed, "failed", status.Counts.Failed, "bytes", status.Counts.Bytes)
	return asError(ctx, status)
}

// RunError is how a run has ended that did not do all it should.
type RunError struct{ RunStatus }

func (e *RunError) Error() string { return e.Reason }

func asError(ctx context.Context, s RunStatus) error {
	switch {
	case s.Outcome == Good:
		return nil
	case s.Outcome == Interrupted && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return &RunError{s}
}
