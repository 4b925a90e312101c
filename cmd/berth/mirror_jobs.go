package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/mirroring"
	"github.com/berth-registry/berth/registry"
)

// mirrorJobs has the mirrors of a server and their jobs administered: it implements
// admin.Mirroring.
type mirrorJobs struct {
	worker *mirroring.Worker
	others *others
	caches *caching.Evictor
}

// tagsInLine is how many tags are told of in one line.
const tagsInLine = 1000

// MirrorJobs implements admin.Mirroring.
func (m mirrorJobs) MirrorJobs(ctx context.Context) ([]admin.MirrorJob, error) {
	all, err := m.worker.Status(ctx)
	jobs := make([]admin.MirrorJob, 0, len(all))
	for _, s := range all {
		job := admin.MirrorJob{
			Name: s.Name, Mirror: s.Mirror, Schedule: s.Schedule, Running: s.Running, Last: mirrorRun(s.Last),
			Good: pointTo(s.Good), Next: pointTo(s.Next),
		}
		if s.Running {
			job.Now = mirrorRun(s.Now)
		}
		jobs = append(jobs, job)
	}
	return jobs, err
}

// pointTo is nil for no time.
func pointTo(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func mirrorRun(s mirroring.RunStatus) *admin.MirrorRun {
	if s.Began.IsZero() {
		return nil
	}
	run := &admin.MirrorRun{
		Began: s.Began.UTC(), Ended: pointTo(s.Ended), Outcome: s.Outcome, Reason: s.Reason, Waits: pointTo(s.Waits), Counts: admin.MirrorCounts(s.Counts),
	}
	for _, f := range s.Failures {
		run.Failures = append(run.Failures, admin.MirrorFailure(f))
	}
	return run
}

// RunMirror implements admin.Mirroring.
func (m mirrorJobs) RunMirror(ctx context.Context, name string, dry bool, tell func(admin.MirrorStep) error) error {
	err := m.worker.RunNow(ctx, name, dry, func(e mirroring.Event) {
		for _, step := range mirrorSteps(e) {
			if tell(step) != nil {
				return // who tells has ended the run
			}
		}
	})
	ended := (*mirroring.RunError)(nil)
	switch {
	case errors.Is(err, mirroring.ErrUnknownJob):
		return admin.ErrMirrorUnknown.With("there is no job %q", name)
	case errors.Is(err, mirroring.ErrRunning):
		return admin.ErrMirrorRuns
	case errors.As(err, &ended) && ended.Outcome == mirroring.Postponed && !dry:
		return admin.ErrMirror.With("the rest is postponed: %s", ended.Reason)
	case errors.As(err, &ended):
		return admin.ErrMirror.With("%s", ended.Reason)
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("run job %s: %w", name, err)
	case err != nil:
		return registry.ErrUnavailable.With("the run was given up")
	}
	return nil
}

// mirrorSteps tells of an event, in lines that are not too long.
func mirrorSteps(e mirroring.Event) (steps []admin.MirrorStep) {
	step := admin.MirrorStep{Waits: pointTo(e.Waits), Steps: e.Steps, Ended: e.Done, Counts: admin.MirrorCounts(e.Counts)}
	if e.Failure != nil {
		f := admin.MirrorFailure(*e.Failure)
		step.Failure = &f
	}
	if e.Step == nil {
		return []admin.MirrorStep{step}
	}
	for tags := range slices.Chunk(e.Step.Tags, tagsInLine) {
		step.Done = &admin.MirrorAction{
			Action: e.Step.Action.String(), Repo: e.Step.Repo, From: e.Step.From, Digest: string(e.Step.Digest), Tags: tags,
		}
		steps = append(steps, step)
	}
	return steps
}
