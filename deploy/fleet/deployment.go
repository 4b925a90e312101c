package fleet

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

const (
	// maxTries is how often something is tried that does not fail by itself.
	maxTries = 3
	// tryPause is how long it takes until then at most: a registry of images that
	// restarts is to be there again.
	tryPause = 10 * time.Second
	// tryFirst has it take some seconds the first time.
	tryFirst = 4

	maxLogLines = 20
	maxLine     = 500 // bytes
)

// result is how a deployment went.
type result struct {
	digest   digest.Digest
	revision deploy.Revision
	err      error
}

// start has the manager deploy what a digest names.
func (l *loop) start(ctx context.Context, d digest.Digest) {
	if l.memory.Trying != d {
		l.memory.Trying, l.memory.Tries = d, 0
	}
	l.memory.Failed = failure{}
	l.memory.Tries++
	l.remember(ctx)
	if l.memory.Tries > maxTries {
		// The runner has ended each time.
		l.fail(ctx, d, failure{Error: "the runner did not live to see how it went, three times"})
		return
	}
	ctx, l.abort = context.WithCancel(ctx)
	l.started = true
	l.o.Log.InfoContext(ctx, "deploying", "digest", d, "before", l.now.running)
	l.running.Go(func() {
		rev, err := l.deploy(ctx, d)
		l.done <- result{d, rev, err}
	})
}

func (l *loop) deploy(ctx context.Context, d digest.Digest) (deploy.Revision, error) {
	req, err := l.source.Stack(ctx, d)
	if err != nil {
		return deploy.Revision{}, err
	}
	req.By, req.From = By, l.o.Ref+"@"+d.String()
	return l.manager.Deploy(ctx, req, func(e deploy.Event) {
		if e.Kind == deploy.EventStep {
			l.change(func(s *deploy.Following) { s.Step = e.Message })
		}
	})
}

// cancel has the manager take back what it deploys: the tag names it no more.
func (l *loop) cancel(ctx context.Context, d digest.Digest) {
	l.cancelling = true
	l.o.Log.InfoContext(ctx, "the tag has moved on: taking the deployment back", "digest", d, "tag", l.answer.Tag)
	if l.now.busy == unknown {
		l.abort() // if it has come to the manager meanwhile, that shows
		return
	}
	l.running.Go(func() {
		if err := l.manager.Cancel(ctx, l.o.Stack); err != nil && ctx.Err() == nil && !errors.Is(err, runner.ErrNotFound) {
			l.o.Log.WarnContext(ctx, "the deployment cannot be taken back", "error", err)
		}
	})
}

// collect takes the result of a deployment that has ended.
func (l *loop) collect(ctx context.Context) {
	select {
	case r := <-l.done:
		l.finish(ctx, r)
	default:
	}
}

// stop waits for the deployment that was started here, which ends with the context of
// Run. It is no failed try.
func (l *loop) stop() {
	if !l.started {
		return
	}
	r := <-l.done
	if r.err != nil && l.memory.Tries > 0 {
		l.memory.Tries--
	}
	l.remember(context.Background())
}

// finish makes out how a deployment went.
func (l *loop) finish(ctx context.Context, r result) {
	l.abort()
	l.started, l.cancelling, l.tryAgain = false, false, time.Time{}
	f, failed := errors.AsType[*deploy.Failure](r.err)
	if failed {
		r.revision = f.Revision
	}
	switch {
	case r.err == nil:
		l.o.Log.InfoContext(ctx, "deployed", "digest", r.digest, "revision", r.revision.Number)
		l.memory.Trying, l.memory.Tries = "", 0
		l.remember(ctx)
	case ctx.Err() != nil:
	case failed && f.Revision.Outcome == deploy.Cancelled, errors.Is(r.err, context.Canceled):
		l.o.Log.InfoContext(ctx, "the deployment was taken back", "digest", r.digest)
		l.memory.Trying, l.memory.Tries = "", 0
		l.remember(ctx)
	case errors.Is(r.err, runner.ErrConflict): // somebody else deploys
		l.memory.Tries--
		l.tryAgain = time.Now().Add(backoff(2, maxPause))
	case l.memory.Tries < maxTries && !byItself(r.err):
		l.o.Log.WarnContext(ctx, "cannot deploy: it is tried again", "digest", r.digest, "error", r.err)
		l.tryAgain = time.Now().Add(backoff(l.memory.Tries+tryFirst-1, tryPause))
	case failed:
		l.fail(ctx, r.digest, failure{Error: f.Error(), Log: f.Log})
	default:
		l.fail(ctx, r.digest, failure{Error: r.err.Error()})
	}
}

// byItself says whether an error is the version's own, which would come again.
func byItself(err error) bool {
	f, ok := errors.AsType[*deploy.Failure](err)
	return ok && f.Container != "" || errors.Is(err, runner.ErrInvalid)
}

// fail remembers that a version has failed.
func (l *loop) fail(ctx context.Context, d digest.Digest, f failure) {
	f.Digest, f.Attempt, f.At = d, l.answer.Rollout.Attempt, time.Now()
	f.Error = line(strings.Join(strings.Fields(f.Error), " "))
	f.Log = f.Log[max(0, len(f.Log)-maxLogLines):]
	for i, s := range f.Log {
		f.Log[i] = line(s)
	}
	l.memory = memory{Ref: l.o.Ref, Failed: f}
	l.remember(ctx)
	l.o.Log.ErrorContext(ctx, "the version has failed: it is not tried again until the tag names another, or the rollout is resumed",
		"digest", d, "error", f.Error)
}

// line cuts a line that is too long to be told.
func line(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}
