package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// telling is what was logged last, so that nothing is told twice in a row.
type telling struct {
	manager bool
	away    string
	polling bool
	reason  string
}

// tellManager logs that the manager of stacks does not answer.
func (l *loop) tellManager(ctx context.Context, err error) {
	if ctx.Err() == nil && !l.said.manager {
		l.said.manager = true
		l.o.Log.ErrorContext(ctx, "cannot find out what runs", "error", err)
	}
}

// tellAnswer publishes what the registry said, and logs it if it is not as before.
func (l *loop) tellAnswer(ctx context.Context, a runner.FollowAnswer, err error) {
	l.said.manager = false
	if err != nil {
		l.change(func(s *deploy.Following) { s.Away, s.Watched = line(err.Error()), false })
		if advice := advise(err); l.said.away != advice {
			l.said.away = advice
			l.o.Log.WarnContext(ctx, "the registry does not say what to run: what runs goes on", "error", err, "do", advice)
		}
		return
	}
	l.change(func(s *deploy.Following) {
		s.Away, s.Heard, s.Tag, s.Reason, s.Watched = "", time.Now(), a.Tag, a.Reason, !l.polling
	})
	if l.said.away != "" {
		l.said.away = ""
		l.o.Log.InfoContext(ctx, "the registry answers again")
	}
	if l.polling && !l.said.polling {
		l.o.Log.InfoContext(ctx, "the registry is no Berth, or has no such repository yet: it is asked what the tag names", "every", l.o.Poll.String())
	}
	if a.Reason != l.said.reason && a.Reason != "" {
		l.o.Log.InfoContext(ctx, "waiting", "tag", a.Tag, "reason", a.Reason)
	}
	l.said.polling, l.said.reason = l.polling, a.Reason
}

// advise says what to do about an error of the registry.
func advise(err error) string {
	for _, known := range []struct {
		kind   error
		advice string
	}{
		{runner.ErrUnauthorized, "see that username and password_file of this registry in the configuration are those of an account that may pull the stack"},
		{runner.ErrForbidden, "see that the account may pull the stack; if another account reports for a node of this name, choose another with report.name"},
		{runner.ErrConflict, "if another runner has this name, choose another with report.name"},
		{runner.ErrInvalid, "see that report.name, node.labels and node.interval are what the registry takes"},
	} {
		if errors.Is(err, known.kind) {
			return known.advice
		}
	}
	return "nothing, if it is back soon: it is tried again"
}
